"""Assignment against float64 brute force, χ² against simulation, the dual against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from generators.line import line
from generators.mixtures import mixture, unequal_weights
from generators.pushforward import product_of_lines
from generators.symmetric import cross_polytope
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otprior.transport import chi_squared as chi_squared_module
from otprior.transport import potential as module
from otprior.transport.chi_squared import chi_squared, chi_squared_of_sets
from otprior.transport.near_maximum import near_maximum
from otprior.transport.potential import (
    BrenierPotential,
    dual_value,
    natural_quantile,
    natural_scale,
    product_roundoff,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(potential: BrenierPotential, z: Tensor) -> Tensor:
    scores = z.double() @ potential.atoms.double().T + potential.offsets
    return scores.argmax(dim=1)


# Assignment ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), dim=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_assign_is_the_float64_argmax(count: int, dim: int, seed: int) -> None:
    potential = BrenierPotential.build(normal(count, dim, seed=seed), normal(count, seed=seed + 1).double())
    z = normal(50, dim, seed=seed + 2)
    # A tie in float64 has probability 1e-13 here; ties are tested below.
    assert torch.equal(potential.assign(z), brute_force(potential, z))


@pytest.mark.parametrize("gap", [1e-4, 1e-6, 1e-9, 1e-12])
def test_near_ties_are_settled_in_float64(gap: float) -> None:
    """All atoms equal up to `gap`, in the offsets, far below float32's resolution of scores near 30."""
    atoms = normal(1, 64).expand(40, 64).contiguous()
    offsets = 30 + gap * torch.randperm(40, generator=torch.Generator().manual_seed(0)).double()
    potential = BrenierPotential.build(atoms, offsets)
    expected = int(offsets.argmax())
    assert potential.assign(normal(20, 64, seed=1)).tolist() == [expected] * 20


def test_near_ties_between_different_atoms() -> None:
    """Points moved to within 1e-6 of a cell boundary, on a known side of it."""
    y = normal(2, 32).double()
    z = normal(200, 32, seed=1).double()
    difference = y[1] - y[0]
    side = torch.where(torch.arange(200) % 2 == 0, 1.0, -1.0).double()
    z = z - ((z @ difference - 1e-6 * side) / (difference @ difference))[:, None] * difference
    potential = BrenierPotential.build(y.float(), torch.zeros(2))
    assert torch.equal(potential.assign(z.float()), brute_force(potential, z.float()))


def test_exact_ties_go_to_the_lowest_index() -> None:
    y = normal(5, 16)
    potential = BrenierPotential.build(torch.cat([y, y, y]), torch.zeros(15))
    assert int(potential.assign(normal(100, 16, seed=1)).max()) < 5
    corners = BrenierPotential.build(cross_polytope(3).float(), torch.zeros(6))
    assert corners.assign(torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0], [0.0, 0.0, 0.0]])).tolist() == [
        0,
        1,
        0,
    ]


def test_an_atom_with_offset_minus_infinity_gets_no_point() -> None:
    offsets = torch.tensor([0.0, -math.inf, 0.0])
    potential = BrenierPotential.build(torch.tensor([[1.0], [100.0], [-1.0]]), offsets)
    assert potential.assign(torch.tensor([[5.0], [-5.0]])).tolist() == [0, 2]


@pytest.mark.parametrize("outlier", [1e3, 1e6, 1e12])
def test_an_outlier_costs_time_not_truth(outlier: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It widens the error bound until every atom is a candidate, and candidates are scored in blocks."""
    y = normal(30, 8)
    y[7] *= outlier
    potential = BrenierPotential.build(y, normal(30, seed=1).double())
    z = normal(64, 8, seed=2)
    expected = brute_force(potential, z)
    assert torch.equal(potential.assign(z), expected)
    monkeypatch.setattr(module, "EXACT_PER_BLOCK", 100)
    assert torch.equal(potential.assign(z), expected)


@pytest.fixture
def two_threads_allowed() -> object:
    before = torch.get_num_threads()
    yield None
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads_allowed")
def test_a_row_depends_on_nothing_but_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 1, 7 and all, blocks of any size, one thread or two."""
    y = normal(300, 64)
    y[150:] = y[:150] + 1e-5 * normal(150, 64, seed=1)  # near duplicates: rounding would decide
    potential = BrenierPotential.build(y, normal(300, seed=2).double() * 1e-5)
    z = normal(140, 64, seed=3)
    together = potential.assign(z)
    for size in (1, 7):
        assert torch.equal(torch.cat([potential.assign(part) for part in z.split(size)]), together)
    torch.set_num_threads(2)
    assert torch.equal(potential.assign(z), together)
    monkeypatch.setattr(module, "SCORES_PER_BLOCK", 1000)
    monkeypatch.setattr(module, "ATOMS_PER_BLOCK", 70)
    assert torch.equal(potential.assign(z), together)
    assert torch.equal(together, brute_force(potential, z))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_lower_matmul_precision_changes_no_cell(precision: str) -> None:
    """The error bound follows torch's setting, whether or not this machine has a faster product to offer."""
    potential = BrenierPotential.build(normal(50, 16), normal(50, seed=1).double())
    z = normal(100, 16, seed=2)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(potential.assign(z), brute_force(potential, z))
    finally:
        torch.set_float32_matmul_precision(before)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), count=st.integers(1, 90), width=st.floats(0, 3), seed=st.integers(0, 10**6))
def test_near_maximum_finds_all_and_nothing_else(rows: int, count: int, width: float, seed: int) -> None:
    scores = normal(rows, count, seed=seed)
    scores[:, ::7] = scores[:, :1].clone()  # ties
    row, column, value = near_maximum(scores, torch.full((rows,), width))
    near = scores >= scores.amax(dim=1, keepdim=True) - width
    found = torch.zeros_like(near)
    found[row, column] = True
    assert torch.equal(found, near)
    assert len(row) == int(near.sum())
    assert torch.equal(value, scores[row, column])


def test_near_maximum_in_pieces() -> None:
    """What two halves give, each with the best so far, holds all that the whole gives."""
    scores, width = normal(8, 200), torch.full((8,), 0.5)
    best = torch.full((8,), -math.inf)
    pieces = [near_maximum(half.contiguous(), width, best) for half in scores.split(100, dim=1)]
    assert torch.equal(best, scores.amax(dim=1))
    found = {(int(r), int(c) + 100 * k) for k, piece in enumerate(pieces) for r, c in zip(*piece[:2])}
    row, column, _ = near_maximum(scores, width)
    assert {(int(r), int(c)) for r, c in zip(row, column)} <= found


# The smoothed potential ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense_above", [0.0, 1.0])
@pytest.mark.parametrize("smoothing", [0.05, 0.5, 5.0])
def test_the_barycentre_is_the_gradient_of_the_smoothed_potential(
    smoothing: float, dense_above: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """∇_z ε log Σ exp(score/ε), by autograd. 60 shares below exp(−16) are left out."""
    monkeypatch.setattr(module, "DENSE_ABOVE", dense_above)
    atoms, offsets = normal(60, 3).double(), normal(60, seed=2).double()
    z = normal(50, 3, seed=1).double().requires_grad_()
    (smoothing * torch.logsumexp((z @ atoms.T + offsets) / smoothing, dim=1)).sum().backward()
    potential = BrenierPotential.build(atoms, offsets)
    assert z.grad is not None
    torch.testing.assert_close(potential.barycentre(z.detach(), smoothing), z.grad, rtol=0, atol=60 * 2e-7)


def test_the_gradient_of_the_dual_is_the_error_of_the_masses() -> None:
    """F(h) = mean u − Σ ν h over fixed points is piecewise linear: a small step meets no kink, and the difference
    quotient is exact."""
    atoms, z, weights = normal(8, 4).double(), normal(400, 4, seed=1).double(), unequal_weights(8, 10)
    h = 0.3 * normal(8, seed=2).double()

    def value(at: Tensor) -> float:
        return float(BrenierPotential.build(atoms, at).value(z).mean() - weights @ at)

    masses = torch.bincount(BrenierPotential.build(atoms, h).assign(z), minlength=8).double() / len(z)
    for i in range(8):
        step = torch.zeros(8, dtype=torch.float64)
        step[i] = 1e-7
        slope = (value(h + step) - value(h - step)) / 2e-7
        assert slope == pytest.approx(float(masses[i] - weights[i]), abs=1e-7)


def test_barycentre_tends_to_the_map_and_to_the_mean() -> None:
    atoms, z = normal(20, 5).double(), normal(30, 5, seed=1).double()
    potential = BrenierPotential.build(atoms, torch.zeros(20))
    torch.testing.assert_close(potential.barycentre(z, 1e-6), atoms[potential.assign(z)])
    torch.testing.assert_close(
        potential.barycentre(z, 1e9), atoms.mean(dim=0).expand(30, 5), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("smoothing", [0.05, 5.0])
def test_barycentre_and_cell_do_not_depend_on_blocks(
    smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = BrenierPotential.build(normal(40, 8), torch.zeros(40))
    z = normal(100, 8, seed=1)
    cell, mean = potential.assign_and_barycentre(z, smoothing)
    monkeypatch.setattr(module, "SCORES_PER_BLOCK", 40 * 9)
    monkeypatch.setattr(module, "ATOMS_PER_BLOCK", 13)
    again = potential.assign_and_barycentre(z, smoothing)
    assert torch.equal(again[0], cell)
    torch.testing.assert_close(again[1], mean, rtol=0, atol=1e-6)  # float32 atoms of size 1
    assert torch.equal(potential.assign(z), cell)


# χ² --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.0, 30.0])
@pytest.mark.parametrize("error", [0.0, 0.3])
def test_chi_squared_is_unbiased_and_states_its_error(ratio: float, error: float) -> None:
    """2,000 multinomial samples, as many draws an atom as the solver takes: the mean is χ² within 4 standard errors
    of the mean. The standard error that samples state has, root mean square, the spread of the values (which 2,000
    fix to about 2 %), and up to 15 % more where p = ν, since a variance estimated below zero counts as zero."""
    nu = unequal_weights(30, ratio)
    random = torch.Generator().manual_seed(0)
    p = nu * (1 + error * torch.randn(30, generator=random, dtype=torch.float64)).clamp(min=0)
    p /= p.sum()
    truth = float(((p - nu) ** 2 / nu).sum())
    estimates = []
    for _ in range(2000):
        hits = torch.multinomial(p, 2000, replacement=True, generator=random)
        estimates.append(chi_squared(torch.bincount(hits, minlength=30), nu))
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / len(values) ** 0.5
    stated = sum(estimate.standard_error**2 for estimate in estimates) / len(estimates)
    assert 0.95 < stated**0.5 / float(values.std()) < 1.15
    covered = sum(estimate.upper >= truth for estimate in estimates) / len(estimates)
    assert covered > 0.93  # 0.95 for a normal variable; χ² is skewed, and stated errors vary
    # The plug-in estimate would be off by about N/n = 0.015, a dozen standard errors of the mean.
    assert float(values.std()) / len(values) ** 0.5 < 0.015 / 12


def test_chi_squared_by_hand() -> None:
    """Of the 6 ordered pairs among the draws {0, 0, 1}, two agree, on an atom of mass 1/2."""
    estimate = chi_squared(torch.tensor([2, 1]), torch.tensor([0.5, 0.5]))
    assert estimate.value == pytest.approx(2 / 6 / 0.5 - 1)
    assert estimate.draws == 3
    with pytest.raises(ValueError, match="counts must be of at least 3 draws; got 2"):
        chi_squared(torch.tensor([2, 0]), torch.tensor([0.5, 0.5]))


def test_chi_squared_of_an_empty_cell_is_its_mass() -> None:
    """p = (1/2, 1/2, 0) for ν = 1/3 each: χ² = 2 (1/6)² 3 + 1/3 = 1/2; counts in exact proportion find it to 1/n."""
    estimate = chi_squared(torch.tensor([50_000, 50_000, 0]), torch.full((3,), 1 / 3))
    assert estimate.value == pytest.approx(0.5, abs=3e-5)


# The dual value --------------------------------------------------------------------------------------------


def test_dual_value_is_w2_squared_on_the_line() -> None:
    truth = line(20)
    potential = BrenierPotential.build(truth.atoms, truth.potential)
    value, error = dual_value(potential, truth.weights, normal(40_000, 1).double())
    assert abs(value - truth.w2_squared) < 4 * error
    assert error < 0.05 * truth.w2_squared


def test_dual_value_is_w2_squared_for_a_product() -> None:
    truth = product_of_lines((5, 4, 3))
    potential = BrenierPotential.build(truth.atoms, truth.potential)
    z = normal(40_000, 3).double()
    value, error = dual_value(potential, truth.weights, z)
    assert abs(value - truth.w2_squared) < 4 * error
    assert torch.equal(potential.assign(z[:2000]), truth.cell(z[:2000]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0.01, 3))
def test_dual_value_is_a_lower_bound_at_any_offsets(seed: int, size: float) -> None:
    """On the same points, so that nothing is left to chance but what both values share."""
    truth = product_of_lines((4, 4))
    z = normal(4000, 2).double()
    best, error = dual_value(BrenierPotential.build(truth.atoms, truth.potential), truth.weights, z)
    offsets = truth.potential + size * normal(16, seed=seed).double()
    value, _ = dual_value(BrenierPotential.build(truth.atoms, offsets), truth.weights, z)
    assert value <= best + 4 * error
    assert value <= truth.w2_squared + 4 * error


# Scales ----------------------------------------------------------------------------------------------------


def test_natural_scale_follows_the_atoms() -> None:
    y, w = mixture(50, 32), unequal_weights(50, 20)
    tau = natural_scale(y, w)
    torch.testing.assert_close(natural_scale(5 * y, w), 5 * tau)
    torch.testing.assert_close(natural_scale(y.double() + 3.0, w), natural_scale(y.double(), w))
    torch.testing.assert_close(
        tau * natural_quantile(w), torch.linalg.vector_norm(y.double() - w @ y.double(), dim=1)
    )


def test_natural_scale_has_a_floor_at_the_mean_that_an_outlier_does_not_lift() -> None:
    y = torch.cat([normal(20, 8), torch.zeros(1, 8)])
    y = torch.cat([y, -y])  # so that the mean is 0, and two atoms are there
    w = torch.full((42,), 1 / 42, dtype=torch.float64)
    assert float(natural_scale(y, w).min()) > 0
    far = y.clone()
    far[0], far[21] = 1e5, -1e5
    torch.testing.assert_close(natural_scale(far, w)[1:21], natural_scale(y, w)[1:21], rtol=1e-6, atol=1e-3)


def test_chi_squared_does_not_depend_on_the_blocks_of_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = torch.randint(7, (50, 4), generator=torch.Generator().manual_seed(0))
    weights = torch.full((7,), 1 / 7)
    whole = chi_squared_of_sets(cells, weights)
    monkeypatch.setattr(chi_squared_module, "SETS_PER_BLOCK", 8)
    parts = chi_squared_of_sets(cells, weights)
    # Sums in another order.
    assert parts.value == pytest.approx(whole.value, abs=1e-12)
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


@pytest.mark.parametrize("dim", [3, 64, 768, 3072])
@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_rounding_of_products_stays_below_its_bound(dim: int, mean: float) -> None:
    """Atoms of one sign round alike, which is the hardest case; 40,000 products, exceeded with probability 1e-6."""
    generator = torch.Generator().manual_seed(dim)
    z, y = torch.randn(2, 200, dim, generator=generator).unbind()
    y = y * torch.arange(1, dim + 1) ** -0.5 + mean
    error = (z @ y.T - z.double() @ y.double().T).abs() / (z.norm(dim=1)[:, None] * y.norm(dim=1))
    bound = product_roundoff(dim, torch.float32)
    assert float(error.max()) < bound
    assert bound <= dim * 2.0**-24
