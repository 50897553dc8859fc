"""The adjacency of cells: faces and conditional means of known cells, and of the plane's by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from generators.line import line
from generators.mixtures import mixture
from generators.symmetric import cross_polytope
from scipy.stats import norm
from torch import Tensor

from otprior import Solution, solve_semidiscrete
from otprior.transport import potential
from otprior.transport.cells import circles
from otprior.transport.methods.exact_cells import _Cells
from otprior.transport.potential import BrenierPotential


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def solved(atoms: Tensor, weights: Tensor | None = None) -> Solution:
    return solve_semidiscrete(atoms, weights, tol=0.02)


def corners(dim: int) -> Tensor:
    """The 2^d corners of a cube; their cells are the orthants."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * dim).reshape(-1, dim).double()


def test_two_half_spaces() -> None:
    """One face through the origin: every circle crosses it twice, so that nothing is left to chance."""
    y = normal(2, 40, seed=1)
    distance = float((y[0] - y[1]).norm())
    solution = solved(torch.stack([y[0], y[1]]))
    found = solution.adjacency(512)
    if abs(float(solution.potential[0])) < 1e-12:  # the solver may leave it off centre by a hair
        assert found.values.tolist() == pytest.approx([norm.pdf(0) / distance])
    assert found.values.tolist() == pytest.approx([norm.pdf(0) / distance], rel=0.05)
    assert found.pairs.tolist() == [[0, 1]]


def test_intervals_on_the_line() -> None:
    truth = line(7, ratio=8.0)
    found = solved(truth.atoms, truth.weights).adjacency(30_000)
    inner = norm.pdf(truth.boundaries[1:-1])
    y = truth.atoms.numpy().reshape(-1)[truth.order]
    dense = np.zeros((7, 7))
    dense[truth.order[:-1], truth.order[1:]] = inner / np.diff(y)
    dense += dense.T
    i, j = found.pairs.numpy().T
    assert len(i) == 6
    off = np.abs(found.values.numpy() - dense[i, j])
    # (A boundary next to the origin is crossed twice by almost every circle, so that its error is next to nothing.)
    assert np.all(off < 4 * found.standard_errors.numpy() + 1e-3 * dense[i, j])
    assert found.masses.numpy() == pytest.approx(truth.weights.numpy(), abs=0.01)
    density = norm.pdf(truth.boundaries)
    means = np.empty(7)
    means[truth.order] = (density[:-1] - density[1:]) / truth.weights.numpy()[truth.order]
    estimate, error = found.conditional_means()
    # Masses are off by 1 % as well, which the error of the means leaves out.
    assert np.all(np.abs(estimate.numpy()[:, 0] - means) < 4 * error.numpy() + 0.02 * np.abs(means))


def test_orthants() -> None:
    """Neighbours across a side of the cube share a face of mass φ(0) 2^{1 − d}; across a diagonal none."""
    found = solved(corners(3)).adjacency(40_000)
    h, error = found.matrix().toarray(), found.standard_errors
    apart = (torch.cdist(corners(3), corners(3)).numpy() / 2) ** 2
    sides = np.isclose(apart, 1)
    assert h[sides] == pytest.approx(norm.pdf(0) / 4 / 2, abs=5 * float(error.max()))
    # Edges and corners have no area; the solver's offsets are only nearly equal, which opens faces as narrow.
    assert h[~sides].max() < 0.02 * h[sides].mean()
    means, off = found.conditional_means()
    expected = math.sqrt(2 / math.pi) * corners(3)
    assert float((means - expected).norm(dim=1).max()) < 4 * float(off.max()) + 0.02


def test_a_cross_in_many_dimensions() -> None:
    """Cells of ±e_k in d = 200, where draws are mixed: by symmetry H is φ-mass over √2, equal for all that meet."""
    dim = 200
    solution = solved(cross_polytope(dim))
    found = solution.adjacency(20_000)
    means, error = found.conditional_means()
    z = normal(40_000, dim, seed=5).double()
    top = float(z.abs().amax(dim=1).mean())  # E max |z_k| is the mean along the own axis
    along = (means * cross_polytope(dim)).sum(dim=1)
    assert float(along.mean()) == pytest.approx(top, rel=0.02)
    # Off the axis the mean is zero: what is left is the error that was stated.
    off = means - along[:, None] * cross_polytope(dim)
    ratio = float((off.square().sum(dim=1) / error.square()).mean().sqrt())
    assert 0.5 < ratio < 1.5


def test_the_plane() -> None:
    """Faces, masses and means against cells that are constructed, and the standard errors against the spread."""
    y = normal(40, 2).double()
    solution = solved(y)
    found = solution.adjacency(40_000)
    centred = (y - y.mean(dim=0)).numpy()
    mass, hessian = _Cells.build(centred, 1).moments(solution.potential.numpy())
    truth = -hessian.toarray()
    np.fill_diagonal(truth, 0)
    i, j = found.pairs.numpy().T
    often = truth[i, j] > 0.01  # a face that is crossed a few times only has no normal error
    off = ((found.values.numpy() - truth[i, j]) / found.standard_errors.numpy())[often]
    assert np.abs(off).max() < 4.5  # of about a hundred
    assert 0.75 < np.sqrt((off**2).mean()) < 1.25
    assert float(found.values.sum()) == pytest.approx(truth.sum() / 2, rel=0.02)
    assert found.laplacian().sum() == pytest.approx(0, abs=1e-12)
    assert found.masses.numpy() == pytest.approx(mass, abs=0.004)
    means, error = found.conditional_means()
    expected = torch.from_numpy(truth.sum(axis=1)[:, None] * centred - truth @ centred) / mass[:, None]
    assert float(((means - expected).norm(dim=1) / error).square().mean().sqrt()) < 1.5


def test_means_are_those_of_draws() -> None:
    """In d = 30, averaged over cells: the mean of draws agrees within its error, cell by cell."""
    atoms = mixture(60, 30).double()
    solution = solved(atoms)
    means, _ = solution.adjacency(40_000).conditional_means()
    z = normal(120_000, 30, seed=3).double()
    cell = BrenierPotential.build(atoms, solution.potential).assign(z)
    number = torch.bincount(cell, minlength=60)[:, None]
    brute = torch.zeros(60, 30).double().index_add_(0, cell, z) / number
    # 30 coordinates of variance about 1 each, from some 2,000 draws, and as much again for the adjacency's error.
    assert float((means - brute).square().sum(dim=1).mean().sqrt()) < 1.6 * (30 / 2000) ** 0.5


def test_arcs_find_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crossings agree with winners on a fine grid, whatever the size of blocks."""
    a, b = normal(16, 50, seed=1), normal(16, 50, seed=2)
    h = normal(50, seed=3).double()
    found = circles.find_crossings(a, b, h)
    angle = torch.arange(40_000).double() * (2 * math.pi / 40_000) - circles.HALF_ARC
    value = h[:, None, None] + a.T[..., None] * angle.cos() + b.T[..., None] * angle.sin()
    winner = value.argmax(dim=0)
    changes = (winner != winner.roll(-1, dims=1)).sum()
    assert len(found.left) == int(changes)
    assert torch.equal(found.first, winner[:, 0])
    monkeypatch.setattr(circles, "SCORES_PER_BLOCK", 1 << 10)
    again = circles.find_crossings(a, b, h)
    assert sorted(again.angle.tolist()) == sorted(found.angle.tolist())


def test_results_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from otprior.transport import adjacency

    solution = solved(normal(30, 3))
    found = solution.adjacency(1024, generator=torch.Generator().manual_seed(4))
    monkeypatch.setattr(adjacency, "SCORES_PER_BLOCK", 600)
    again = solution.adjacency(1024, generator=torch.Generator().manual_seed(4))
    assert torch.equal(found.pairs, again.pairs)
    assert torch.equal(found.values, again.values)
    other = solution.adjacency(1024, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(found.masses, other.masses)
    assert potential.SCORES_PER_BLOCK != 600


def test_equal_and_weightless_atoms() -> None:
    y = torch.tensor([[-1.0], [1.0], [-1.0], [5.0]])
    found = solved(y, torch.tensor([0.25, 0.5, 0.25, 0.0])).adjacency(2000)
    assert found.pairs.tolist() == [[0, 1]]
    assert found.matrix().shape == (4, 4)
    means, error = found.conditional_means()
    assert torch.equal(means[0], means[2])
    assert bool(means[3].isnan().all())
    assert bool(error[3].isnan())
    assert means[:2, 0].tolist() == pytest.approx([-math.sqrt(2 / math.pi), math.sqrt(2 / math.pi)])


def test_one_atom_has_no_neighbour() -> None:
    found = solved(torch.ones(1, 3)).adjacency(512)
    assert len(found.pairs) == 0
    assert found.masses.tolist() == [1.0]
    assert found.conditional_means()[0].tolist() == [[0.0, 0.0, 0.0]]


def test_what_has_no_adjacency() -> None:
    with pytest.raises(ValueError, match="draws must be an integer >= 512; got 100"):
        solved(corners(1)).adjacency(100)
    uniform = solve_semidiscrete(corners(2), source="uniform")
    with pytest.raises(ValueError, match="adjacency must be asked of a solve from N"):
        uniform.adjacency(1000)
    smooth = solve_semidiscrete(corners(2), entropy=0.5)
    with pytest.raises(ValueError, match="adjacency must be asked of a solve without entropy"):
        smooth.adjacency(1000)
