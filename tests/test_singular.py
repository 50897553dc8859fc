"""Draws near the singular set: angles by hand, leading cells by sorting, the law of what a filter keeps."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from otprior.transport.potential import BrenierPotential
from otprior_studies.papers.dpm_ot.singular import (
    AngleFilter,
    cell_angles,
    leading_cells,
    lifted_angles,
    smallest_angle,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_angles_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0], [1.0, 0.0], [3.0, 4.0], [1e-9, 0.0]], dtype=torch.float64)
    # (1, 0, −1)·(0, 1, −1) = 1 over √2 √2; (0, 0, −1) and (1, 0, −1) enclose half a right angle.
    expected = torch.tensor([math.pi / 3, math.pi / 4, 0.0, 1e-9], dtype=torch.float64)
    torch.testing.assert_close(lifted_angles(a, b), expected, rtol=1e-7, atol=1e-15)


def test_leading_cells_are_those_of_a_sort() -> None:
    atoms, offsets, z = normal(50, 6), normal(50, seed=1).double(), normal(200, 6, seed=2)
    potential = BrenierPotential.build(atoms, offsets)
    scores = z.double() @ atoms.double().T + offsets
    found = leading_cells(potential, z, 5)
    assert torch.equal(found, scores.argsort(dim=1, descending=True)[:, :5])
    assert torch.equal(found[:, 0], potential.assign(z))
    assert leading_cells(potential, z, 50).sort(dim=1).values.equal(torch.arange(50).expand(200, -1))


def test_ties_go_to_the_lower_index() -> None:
    atoms = torch.tensor([[1.0], [2.0], [2.0], [1.0]])
    potential = BrenierPotential.build(atoms, torch.zeros(4, dtype=torch.float64))
    assert leading_cells(potential, torch.ones(1, 1), 4).tolist() == [[1, 2, 0, 3]]


@pytest.mark.parametrize("k", [0, 6])
def test_more_neighbours_than_atoms_are_refused(k: int) -> None:
    potential = BrenierPotential.build(normal(5, 2), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"k must be an integer in \[1, 5\]"):
        leading_cells(potential, normal(3, 2), k)


def test_the_smallest_angle_is_that_of_all_pairs() -> None:
    atoms = normal(40, 5)
    pairs = torch.combinations(torch.arange(40))
    least = float(lifted_angles(atoms[pairs[:, 0]], atoms[pairs[:, 1]]).min())
    assert smallest_angle(atoms) == pytest.approx(least, rel=1e-12)
    # Equal atoms are one.
    assert smallest_angle(torch.cat([atoms, atoms[:7]])) == pytest.approx(least, rel=1e-12)


def test_what_is_kept_has_the_law_of_its_region() -> None:
    """On the line: pieces −z, ½ and 2 z, whose normals enclose 45° and 63.4°; within 50° are the draws below 0."""
    atoms = torch.tensor([[-1.0], [0.0], [2.0]])
    potential = BrenierPotential.build(atoms, torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64))
    count = 40_000
    cells = leading_cells(potential, normal(count, 1), 3)
    angles = cell_angles(atoms, cells)
    half = AngleFilter(2, math.radians(50))
    kept = half.kept(angles)
    within = 5 * 0.5 / math.sqrt(count)
    assert float(kept.double().mean()) == pytest.approx(0.5, abs=within)
    outer = norm.cdf(-0.5)
    for cell, mass in enumerate([outer, 0.5 - outer, 0.0]):
        share = float((cells[kept, 0] == cell).double().mean())
        assert share == pytest.approx(mass / 0.5, abs=2 * within)
    # With the third piece too, draws in the middle cell (down to −½, up to ¼) are always within 50°.
    both = AngleFilter(3, math.radians(50)).kept(angles)
    assert float(both.double().mean()) == pytest.approx(norm.cdf(0.25), abs=within)
    assert not AngleFilter(2, math.radians(40)).kept(angles).any()
    assert AngleFilter(2, math.radians(64)).kept(angles).all()


@pytest.mark.parametrize(("topk", "threshold"), [(1, 0.5), (2, 0.0), (2, 3.2)])
def test_bad_filters_are_refused(topk: int, threshold: float) -> None:
    with pytest.raises(ValueError, match="must be an"):
        AngleFilter(topk, threshold)
