"""Copy, source and duplicate rates on samples whose answer is known by construction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from otprior.metrics import Atoms, copy_mask, duplicate_rate, neighbours
from otprior.metrics.copying import ALTERATION, below_quantile, copy_power, first_equal, source_mask

LEVEL = 2.0 / 255.0


def images(n: int, seed: int = 0) -> Tensor:
    """8-bit images mapped to [-1, 1], shape (n, 1, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 8, 8), generator=generator).float() * LEVEL - 1.0


def noise(like: Tensor, scale: float, seed: int = 9) -> Tensor:
    return scale * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def test_copies_are_found_and_strangers_are_not() -> None:
    atoms = Atoms.build(images(200))
    copies, strangers = images(200)[:30] + noise(images(30), 0.05), images(30, seed=1)
    distances, indices = atoms.nearest(torch.cat([copies, strangers]), 2)
    assert copy_mask(distances)[:30].all()
    assert not copy_mask(distances)[30:].any()
    assert torch.equal(indices[:30, 0], torch.arange(30))


def test_the_ratio_is_strict_at_one_and_a_half() -> None:
    # Atoms at 0 and at 5 on a line; at 2 the distances are 2 and 3, exactly 1.5 apart.
    atoms = Atoms.build(torch.tensor([[0.0, 0.0], [5.0, 0.0]]))
    distances, _ = atoms.nearest(torch.tensor([[2.0, 0.0], [1.99, 0.0], [0.0, 0.0]]), 2)
    assert copy_mask(distances).tolist() == [False, True, True]


def test_a_copy_of_a_duplicated_atom_is_a_copy() -> None:
    """Unmerged, its two nearest atoms would be equally far, and the copy would go unseen."""
    unique = images(50)
    atoms = Atoms.build(torch.cat([unique, unique[:20], unique[:20]]))
    assert len(atoms.images) == 50
    assert torch.equal(atoms.representative[50:], torch.arange(20).repeat(2))
    distances, _, near = atoms.nearest_and_twins(unique[:20] + noise(unique[:20], 0.05), 2)
    assert copy_mask(distances).all()
    # Whichever of the equal atoms a start was built on, it is the sample's source.
    for sources in (torch.arange(20), torch.arange(50, 70), torch.arange(70, 90)):
        assert source_mask(near, sources, atoms).all()
    assert not source_mask(near, torch.arange(20).roll(1), atoms).any()


@pytest.mark.parametrize("levels", [0.5, 1, 2, 4, 8])
@pytest.mark.parametrize("twins", [1, 3])
def test_near_twins_hide_no_copies(levels: float, twins: int) -> None:
    unique = images(100)
    near = [unique + noise(unique, levels * LEVEL, seed=k) for k in range(twins)]
    atoms = Atoms.build(torch.cat([unique, *near]))
    copies, strangers = unique[:60] + noise(unique[:60], 0.05), images(60, seed=1)
    assert copy_mask(atoms.nearest(copies, 2)[0]).all()
    assert not copy_mask(atoms.nearest(strangers, 2)[0]).any()
    # Whichever of the twins a start was built on, it is the sample's source.
    near = atoms.nearest_and_twins(copies, 2)[2]
    for twin in range(twins + 1):
        assert source_mask(near, torch.arange(60) + 100 * twin, atoms).all()
    assert not source_mask(near, torch.arange(60).roll(1), atoms).any()
    assert (atoms.nearest_and_twins(strangers, 2)[2][:, 1:] == -1).all()


def test_an_image_between_two_atoms_is_no_copy_of_either() -> None:
    # On a line, atoms at 0 and 1, and others from 1.9 on: seen from 0.5 the two are nearer, but as wide apart.
    atoms = Atoms.build(torch.tensor([[0.0], [1.0], *([1.9 + k] for k in range(12))]).repeat(1, 2))
    assert not copy_mask(atoms.nearest(torch.tensor([[0.5, 0.5]]), 2)[0]).any()


def test_in_few_dimensions_groups_add_what_theory_says() -> None:
    # Uniform in 3 dimensions: P(1.5 d_j < d_{j+1}) = 1.5^(-3 j). So 0.30 by j = 1; with the groups at most 0.41.
    generator = torch.Generator().manual_seed(0)
    atoms = Atoms.build(torch.rand(4000, 3, generator=generator))
    points = torch.rand(3000, 3, generator=generator) * 0.8 + 0.1
    plain = copy_mask(neighbours.nearest(points, atoms.images, 2)[0]).double().mean()
    groups = copy_mask(atoms.nearest(points, 2)[0]).double().mean()
    # Standard errors of 0.008.
    assert float(plain) == pytest.approx(1.5**-3, abs=0.03)
    assert float(plain) <= float(groups) < sum(1.5 ** (-3 * j) for j in range(1, 11)) + 0.03


def test_indices_are_those_of_the_given_atoms() -> None:
    given = images(10)[[0, 0, 1, 1, 2, 3]]
    atoms = Atoms.build(given)
    assert atoms.indices.tolist() == [0, 2, 4, 5]
    assert atoms.nearest(given, 1)[1][:, 0].tolist() == [0, 0, 2, 2, 4, 5]


@pytest.mark.parametrize("entries", [2**22, 300, 1])
def test_frozen_starts_are_duplicates_at_any_batch_rounding(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deterministic solver from 12 starts, run in batches whose rounding differs by up to 1e-3."""
    monkeypatch.setattr(neighbours, "_BLOCK_ENTRIES", entries)
    start = torch.randint(12, (100,), generator=torch.Generator().manual_seed(3))
    samples = images(12)[start] + noise(images(100), 1e-3)
    # 8-bit rounding would find hardly any: pixels on an edge between levels fall on either side.
    eight_bit = ((samples - LEVEL / 2 + 1.0) / LEVEL).round().flatten(1)
    assert len(torch.unique(eight_bit, dim=0)) > 90
    assert duplicate_rate(samples) == pytest.approx((100 - len(start.unique())) / 100, abs=1e-12)
    first = first_equal(samples)
    assert torch.equal(start[first], start)
    assert all(int(first[i]) == int((start == start[i]).nonzero()[0]) for i in range(100))


def test_different_images_are_not_duplicates() -> None:
    samples = images(100)
    assert duplicate_rate(samples) == 0.0
    assert torch.equal(first_equal(samples), torch.arange(100))
    # One level in every pixel is twice the tolerance; one level in every fifth pixel is just below it.
    shifted = samples[:1] + LEVEL
    assert duplicate_rate(torch.cat([samples[:1], shifted])) == 0.0
    sparse = samples[:1].clone()
    sparse.view(-1)[::5] += LEVEL
    assert duplicate_rate(torch.cat([samples[:1], sparse])) == 0.5


def test_chains_lead_to_the_earliest() -> None:
    # Steps of 0.9 tolerances: each equals its predecessor only.
    line = torch.arange(5)[:, None] * torch.ones(1, 4) * 0.9 / 255.0
    assert first_equal(line).tolist() == [0, 0, 0, 0, 0]
    assert first_equal(line[[4, 0, 2]]).tolist() == [0, 1, 2]


def test_below_quantile_of_held_out_distances() -> None:
    reference = torch.arange(101.0)
    assert below_quantile(torch.tensor([0.0, 0.99, 1.0, 50.0]), reference).tolist() == [
        True,
        True,
        False,
        False,
    ]
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 20000, generator=generator)
    # Standard error of the share 1e-3, half from the quantile and half from the share.
    assert float(below_quantile(a, b).float().mean()) == pytest.approx(0.01, abs=3e-3)


def test_refuses_bad_input() -> None:
    atoms = Atoms.build(images(5))
    with pytest.raises(ValueError, match=r"sources must be in \[0, 5\); got \[-1, 1\]"):
        source_mask(torch.tensor([[0], [1]]), torch.tensor([-1, 1]), atoms)
    with pytest.raises(ValueError, match="sources must be of shape"):
        source_mask(torch.tensor([[0], [1]]), torch.tensor([1]), atoms)
    with pytest.raises(ValueError, match="k >= 2"):
        copy_mask(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="q must be in"):
        below_quantile(torch.zeros(3), torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="tolerance must be positive"):
        first_equal(images(2), 0.0)
    with pytest.raises(ValueError, match="Map 8-bit images"):
        Atoms.build(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))


def test_power_is_that_of_the_distances_between_atoms() -> None:
    """An atom altered by r is found where its neighbour is δ away, r² + δ² > (1.5 r)²: from δ = 1.12 r on."""
    for apart, found in ((2.0, 1.0), (1.5, 1.0), (0.9, 0.0)):
        # The corners of a simplex, all as far from each other; |noise| is within 4 % of ALTERATION √400.
        atoms = torch.eye(400) * apart * ALTERATION * 400**0.5 / 2**0.5
        assert copy_power(Atoms.build(atoms)) == pytest.approx(found, abs=0.02)


def test_flat_images_have_no_power() -> None:
    flat = torch.linspace(-1, 1, 256)[:, None].expand(256, 64)
    assert copy_power(Atoms.build(flat)) < 0.1
