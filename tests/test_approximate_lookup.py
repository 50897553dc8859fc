"""The index against the exact search."""

from __future__ import annotations

import pytest
import torch
from approximate_lookup import CellIndex, lookup_quality
from generators.mixtures import mixture
from torch import Tensor

from otprior import solve_semidiscrete
from otprior.transport.potential import BrenierPotential

pytest.importorskip("hnswlib")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def solved() -> BrenierPotential:
    atoms = mixture(500, 16)
    return BrenierPotential.build(atoms, solve_semidiscrete(atoms, tol=0.1).potential)


def test_finds_what_the_exact_search_finds(solved: BrenierPotential) -> None:
    """With as many candidates as atoms nothing that the graph connects is missed."""
    z = normal(2000, 16, seed=1)
    quality = lookup_quality(CellIndex(solved, effort=500), solved, torch.full((500,), 1 / 500), z)
    assert quality.recall > 0.99
    assert quality.mean_loss < 0.01


def test_less_effort_costs_recall_and_says_so(solved: BrenierPotential) -> None:
    z, weights = normal(5000, 16, seed=1), torch.full((500,), 1 / 500)
    poor = lookup_quality(CellIndex(solved, effort=1, links=2, build_effort=2), solved, weights, z)
    good = lookup_quality(CellIndex(solved, effort=200), solved, weights, z)
    assert poor.recall < good.recall
    assert poor.mean_loss > good.mean_loss
    assert poor.chi2.value > good.chi2.value
    assert good.exact_chi2 == poor.exact_chi2
    assert good.worst_loss >= good.mean_loss


def test_a_rows_cell_does_not_depend_on_its_batch_and_removed_atoms_are_not_found(
    solved: BrenierPotential,
) -> None:
    offsets = solved.offsets.clone()
    offsets[::2] = -torch.inf
    index = CellIndex(BrenierPotential.build(solved.atoms, offsets), effort=50)
    z = normal(64, 16, seed=2)
    found = index.assign(z)
    assert bool((found % 2 == 1).all())
    assert torch.equal(found, torch.cat([index.assign(row) for row in z.split(1)]))


def test_bad_input(solved: BrenierPotential) -> None:
    with pytest.raises(ValueError, match="effort must be an integer >= 1; got 0"):
        CellIndex(solved, effort=0)
