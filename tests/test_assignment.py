"""Pairs against the best pairing, turned maps, skew probes, codes' paths: against closed forms and other solvers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from otprior.diffusion.code_paths import interpolate, nearest_codes
from otprior.diffusion.denoisers import GaussianDenoiser
from otprior.diffusion.flow import Scales, probability_flow
from otprior.error.spectrum import low_passed, radial_coherence
from otprior.transport.assignment import best_partners, pairing
from otprior.transport.gaussian import gaussian_code, gaussian_map
from otprior.transport.moments import Spectrum
from otprior_studies.claims.power import NOT_CAUGHT, TurnedMap, rotate
from otprior_studies.claims.skew import light, own_skew, probed_skew


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _spectrum(dim: int) -> Spectrum:
    basis = torch.linalg.qr(_normal(dim, dim, seed=5))[0]
    return Spectrum(
        _normal(dim, seed=6), basis[:, :3], torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64), 0.25
    )


@pytest.mark.parametrize(("count", "dim"), [(2, 1), (30, 3), (80, 12)])
def test_best_pairing_is_that_of_another_solver(count: int, dim: int) -> None:
    x, c = _normal(count, dim), _normal(count, dim, seed=1)
    _, columns = linear_sum_assignment((x @ c.T).numpy(), maximize=True)
    assert np.array_equal(best_partners(x, c).numpy(), columns)
    found = pairing(x, c)
    best = float(((x - c[torch.from_numpy(columns)]) ** 2).sum()) / count
    assert found.best == pytest.approx(best, rel=1e-12)
    assert found.cost == pytest.approx(float(((x - c) ** 2).sum()) / count, rel=1e-12)
    assert found.excess == pytest.approx(found.cost / best - 1, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_points_changes_nothing(scale: float) -> None:
    x, c = _normal(40, 3), _normal(40, 3, seed=1)
    found, expected = pairing(scale * x, c), pairing(x, c)
    assert torch.equal(best_partners(scale * x, c), best_partners(x, c))
    for name in ("lost", "moved", "crossed", "crossed_near", "longest_cycle"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9), name


def test_an_optimal_map_pairs_best_whatever_its_points() -> None:
    """The gradient of a convex function, at points that are not distributed like anything."""
    x = _normal(60, 5) ** 3
    found = pairing(x, x + x.abs().sqrt() * x.sign() + 3)
    assert (found.excess, found.lost, found.moved, found.crossed, found.crossed_near) == (0, 0, 0, 0, 0)
    assert found.longest_cycle == 1


def test_equal_images_are_each_others_partners() -> None:
    z = _normal(40, 4)
    atoms = _normal(3, 4, seed=2)
    # Semi-discrete: every seed to the atom of largest product, which is optimal onto its own masses.
    found = pairing(atoms[(z @ atoms.T).argmax(dim=1)], z)
    assert (found.excess, found.moved, found.crossed) == (0, 0, 0)


def test_shifts_change_nothing_and_two_swapped_points_are_found() -> None:
    x = _normal(20, 6)
    c = 2 * x.clone()
    c[[3, 7]] = c[[7, 3]]
    for shift in (0.0, 50.0):
        found = pairing(x, c + shift)
        assert found.moved == pytest.approx(2 / 20)
        assert found.longest_cycle == 2
        assert found.crossed == pytest.approx(1 / 190)
        # Exchanging them back gains 2 |x_3 − x_7|² in Σ ⟨x, c⟩.
        gain = 2 * float(((x[3] - x[7]) ** 2).sum())
        centred = x - x.mean(dim=0)
        assert found.lost == pytest.approx(gain / (2 * float((centred**2).sum())), rel=1e-9)


def test_a_random_pairing_loses_all_of_the_gain() -> None:
    """Its mean is that of all pairs: over 40 shuffles the mean of `lost` is 1 within five standard errors."""
    x = _normal(30, 8)
    c = x + 0.1 * _normal(30, 8, seed=1)
    lost = torch.tensor(
        [
            pairing(x, c[torch.randperm(30, generator=torch.Generator().manual_seed(k))]).lost
            for k in range(40)
        ]
    )
    assert abs(float(lost.mean()) - 1) < 5 * float(lost.std()) / 40**0.5


def test_pairs_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="x and c must be of equal shape"):
        pairing(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="points must be at least two"):
        pairing(torch.zeros(1, 2), torch.zeros(1, 2))


def test_power_is_that_of_the_ring() -> None:
    """m points on a ring, turned: exchanged in a cycle from half their spacing on, in pairs from 90° on."""
    for m in (6, 12):
        angles = torch.arange(m, dtype=torch.float64) * 2 * math.pi / m
        ring = torch.stack([angles.cos(), angles.sin()], dim=1)
        turned = TurnedMap(ring, ring, seed=0)
        assert turned.smallest("excess") == pytest.approx(180 / m, rel=0.04)
        assert turned.smallest("moved") == turned.smallest("excess")
        assert turned.smallest("crossed") == NOT_CAUGHT


def test_a_turned_map_looks_like_its_own_turn() -> None:
    x = _normal(150, 2)
    turned = TurnedMap(x, 2 * x, seed=3)
    generator = torch.Generator().manual_seed(9)
    # Another frame: in the plane every frame turns alike, but perhaps the other way round.
    found = pairing(x, rotate(2 * x, 25.0, generator))
    assert turned.smallest("lost", found.lost) == pytest.approx(25.0, rel=0.04)


def test_gaussian_code_inverts_the_map_and_is_optimal() -> None:
    z, spectrum = _normal(50, 7), _spectrum(7)
    x = gaussian_map(z, spectrum, 0.9, 0.4)
    torch.testing.assert_close(gaussian_code(x, spectrum, 0.9, 0.4), z, rtol=1e-12, atol=1e-12)
    assert pairing(x, z).excess == 0


def test_skew_of_a_gradient_is_zero_and_of_a_turn_its_tangent() -> None:
    points = _normal(6, 2, 4)
    generator = torch.Generator().manual_seed(1)
    # (Central differences of quadratics are exact.)
    potential = probed_skew(lambda x: x + 0.1 * x**2, points, generator)
    assert float(potential.max()) < 1e-9
    # Turned in every plane: J = c I + s S with S skew and orthogonal, |J − Jᵀ|/|J + Jᵀ| = s/c at every probe.
    planes = torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)] * 4)
    for degrees in (1.0, 30.0):
        angle = math.radians(degrees)
        matrix = math.cos(angle) * torch.eye(8, dtype=torch.float64) + math.sin(angle) * planes
        found = probed_skew(lambda x, m=matrix: (x.flatten(1) @ m).reshape(x.shape), points, generator)
        assert found.tolist() == pytest.approx([math.tan(angle)] * 6, rel=1e-9)


def test_flow_of_a_gaussian_has_no_skew_nor_has_its_denoiser() -> None:
    law = GaussianDenoiser(torch.ones(3), torch.tensor([[2.0, 1.4, 0], [1.4, 1.5, 0.2], [0, 0.2, 1.0]]))
    start, end = Scales.vp(0.1), Scales.vp(0.99)

    def flow(z: Tensor) -> Tensor:
        return probability_flow(light(law), z, start, end, steps=8).x

    generator = torch.Generator().manual_seed(1)
    # Linear: the difference is exact but for rounding over a step of 0.02.
    assert float(probed_skew(flow, _normal(4, 3), generator).max()) < 1e-9
    own = own_skew(law, _normal(4, 3), [start, end], generator)
    assert own.shape == (4, 2)
    assert float(own.max()) < 1e-9


# Paths and neighbours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["spherical", "straight"])
def test_paths_end_where_they_should_in_any_shape(path: str) -> None:
    a, b = _normal(3, 1, 4, 4), 2 * _normal(3, 1, 4, 4, seed=1)
    found = interpolate(a, b, 5, path)
    assert found.shape == (3, 5, 1, 4, 4)
    torch.testing.assert_close(found[:, 0], a)
    torch.testing.assert_close(found[:, -1], b)
    torch.testing.assert_close(interpolate(b, a, 5, path), found.flip(1))


def test_spherical_paths_keep_angle_and_length_even() -> None:
    a, b = _normal(4, 50), 3 * _normal(4, 50, seed=1)
    found = interpolate(a, b, 9)
    lengths = found.norm(dim=2)
    torch.testing.assert_close(lengths.diff(dim=1), (b.norm(dim=1) - a.norm(dim=1))[:, None].expand(4, 8) / 8)
    directions = found / lengths[..., None]
    steps = (directions[:, 1:] * directions[:, :-1]).sum(dim=2).arccos()
    torch.testing.assert_close(steps, steps[:, :1].expand(4, 8))
    # The straight one leaves the shell: half-way between independent codes by about √½.
    middle = interpolate(a, b / 3, 3, "straight")[:, 1].norm(dim=1) / a.norm(dim=1)
    assert float((middle - 0.5**0.5).abs().max()) < 0.2


def test_a_code_to_itself_stays_and_opposite_codes_are_refused() -> None:
    a = _normal(2, 6)
    torch.testing.assert_close(interpolate(a, a, 4)[:, 2], a)
    with pytest.raises(ValueError, match="not opposite to one another"):
        interpolate(a, -a, 4)
    with pytest.raises(ValueError, match="of equal shape"):
        interpolate(a, a[:1], 4)


def test_displacement_paths_between_partners_do_not_cross() -> None:
    """At any time the displaced points are paired best with where they began (McCann)."""
    a, b = _normal(40, 2), _normal(40, 2, seed=1) + 3
    partners = best_partners(a, b)
    assert sorted(partners.tolist()) == list(range(40))
    paths = interpolate(a, b[partners], 5, "straight")
    for k in range(1, 5):
        assert pairing(a, paths[:, k]).excess == 0


def test_nearest_codes_are_those_of_smallest_angle() -> None:
    codes = _normal(30, 1, 3, 3)
    queries = 5 * codes[[4, 9]] + 0.01 * _normal(2, 1, 3, 3, seed=1)
    cosines, index = nearest_codes(queries, codes, 3)
    assert index[:, 0].tolist() == [4, 9]
    flat = torch.nn.functional.normalize(codes.flatten(1))
    exact = torch.nn.functional.normalize(queries.flatten(1)) @ flat.T
    torch.testing.assert_close(cosines, exact.topk(3, dim=1).values, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="codes must be other than 0"):
        nearest_codes(queries, torch.zeros(2, 1, 3, 3, dtype=torch.float64))


# Layout -----------------------------------------------------------------------------------------------------


def test_coherence_is_one_for_equal_images_and_by_frequency() -> None:
    x, y = _normal(200, 1, 8, 8), _normal(200, 1, 8, 8, seed=1)
    torch.testing.assert_close(radial_coherence(x, 3 * x), torch.ones(7, dtype=torch.float64))
    # Of unrelated noise: within five standard errors of 0, 200 independent images.
    assert float(radial_coherence(x, y).abs().max()) < 5 / 200**0.5
    mixed = low_passed(x, 2) + (y - low_passed(y, 2))
    found = radial_coherence(x, mixed)
    torch.testing.assert_close(found[:3], torch.ones(3, dtype=torch.float64))
    assert float(found[3:].abs().max()) < 5 / 200**0.5


def test_low_pass_keeps_waves_below_the_cutoff_alone() -> None:
    place = torch.arange(16, dtype=torch.float64) / 16 * 2 * math.pi
    slow, quick = (2 * place).cos()[None, None, :, None], (5 * place).cos()[None, None, None, :]
    images = (slow + quick).expand(1, 1, 16, 16) + 4
    torch.testing.assert_close(low_passed(images, 3), (slow + 4).expand(1, 1, 16, 16))
