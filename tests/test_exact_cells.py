"""Exact cells: masses against sampling, derivatives against differences, solutions against products and symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generators.line import line
from generators.mixtures import clusters, mixture, unequal_weights
from generators.pushforward import product_of_lines
from generators.symmetric import polygon, simplex
from torch import Tensor

from otprior import solve_semidiscrete
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods.exact_cells import _Cells, newton_steps
from otprior.transport.potential import BrenierPotential


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def solved(atoms: Tensor, weights: Tensor | None = None) -> tuple[Tensor, float]:
    *_, (offsets, chi2) = newton_steps(DiscreteMeasure.build(atoms, weights))
    return torch.from_numpy(offsets), chi2


@pytest.mark.parametrize("dim", [2, 3])
def test_masses_are_frequencies_and_hessian_their_derivative(dim: int) -> None:
    atoms = normal(60, dim).double()
    offsets = -0.4 * (atoms**2).sum(dim=1) + 0.05 * normal(60, seed=1).double()
    cells = _Cells.build(atoms.numpy(), 400)
    masses, hessian = cells.moments(offsets.numpy())
    assert masses.sum() == pytest.approx(1, abs=1e-12)
    z = normal(200_000, dim, seed=2).double()
    hits = torch.bincount(BrenierPotential.build(atoms, offsets).assign(z), minlength=60).numpy() / len(z)
    # 60 frequencies, each within 4.5 standard errors; 400 slices are exact to much less.
    assert np.all(np.abs(masses - hits) < 4.5 * np.sqrt(np.maximum(masses, 1e-6) / len(z)))
    change = 1e-5 * normal(60, seed=3).double().numpy()
    after, _ = cells.moments(offsets.numpy() + change)
    before, _ = cells.moments(offsets.numpy() - change)
    # Central differences are off by change²; in space a cell that just appears in a slice adds a little.
    np.testing.assert_allclose(
        (after - before) / 2, hessian @ change, rtol=0, atol=1e-3 * np.abs(after - before).max()
    )


@pytest.mark.parametrize("ratio", [1.0, 100.0])
def test_the_plane_is_solved_to_rounding(ratio: float) -> None:
    """A grid of 30 x 29: cells meet four at a corner, and rows of atoms are collinear."""
    truth = product_of_lines((30, 29), ratio=ratio)
    offsets, chi2 = solved(truth.atoms, truth.weights)
    assert chi2 < 1e-9
    torch.testing.assert_close(offsets, truth.potential, rtol=0, atol=1e-5)


@pytest.mark.parametrize("atoms", [polygon(3), polygon(9), polygon(64), simplex(2)])
def test_cells_that_all_meet_at_the_origin(atoms: Tensor) -> None:
    offsets, chi2 = solved(atoms)
    assert chi2 < 1e-9
    assert float(offsets.abs().max()) < 1e-6  # by symmetry zero, but for OFF_CENTRE


def test_weights_a_million_to_one() -> None:
    atoms, weights = mixture(1500, 2), unequal_weights(1500, 1e6)
    solution = solve_semidiscrete(atoms, weights)
    assert solution.stats["method"] == "exact cells"
    _, chi2 = solved(atoms, weights)
    assert chi2 < 1e-9


@pytest.mark.parametrize("width", [0.1, 0.01])
def test_clusters_in_the_plane(width: float) -> None:
    assert solved(clusters(1000, 2, centres=8, width=width))[1] < 1e-9


def test_thousands_of_atoms_in_the_plane() -> None:
    solution = solve_semidiscrete(normal(4000, 2))
    assert solution.stats["method"] == "exact cells"
    assert solution.stats["draws"] == 0
    # Nothing but the chance of the measurement's draws is left.
    assert abs(solution.chi2.value) < 4 * solution.chi2.standard_error


def test_space_by_slices() -> None:
    solution = solve_semidiscrete(normal(1000, 3), tol=0.02)
    assert solution.stats["method"] == "exact cells"
    assert solution.chi2.upper <= 0.02


@pytest.mark.parametrize("dim", [2, 3])
def test_degenerate_cells_are_solved_by_another_method(dim: int) -> None:
    """Atoms on a line: their cells are strips, known from the line itself."""
    truth = line(40, ratio=4.0)
    direction = torch.nn.functional.normalize(torch.arange(1.0, dim + 1).double(), dim=0)
    solution = solve_semidiscrete(truth.atoms * direction, truth.weights, tol=0.01)
    assert solution.stats["method"] == "newton"
    z = normal(5000, dim, seed=1).double()
    cells = BrenierPotential.build(truth.atoms * direction, solution.potential).assign(z)
    # Masses off by 10 %, root mean square, move half of that; few draws lie there.
    assert float((cells == truth.cell(z @ direction[:, None])).double().mean()) > 0.9
