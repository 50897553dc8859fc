"""Newton's method on the smoothed semi-dual over points spread evenly, for few atoms.

In few dimensions the cells are a tessellation with few neighbours each and the model that `sgd` rests on is wrong; the
semi-dual's Hessian is a graph Laplacian over neighbouring cells, and errors of long range die only if it is inverted.
Over a fixed quasi-random sample of N(0, I), smoothed by ε,

    F_ε(h) = mean_z ε log Σ_i exp((⟨z, y_i⟩ + h_i)/ε) − Σ ν_i h_i,
    ∇F_ε = p − ν,   ∇²F_ε = (diag(p) − mean_z π(z) π(z)ᵀ)/ε,   π(z) = softmax of the scores over ε,  p = mean π,

is smooth and convex; damped steps solve it for ε falling by halves, each from the last one's solution. As ε falls a
point is shared by fewer cells, and π becomes sparse; a direct solve still costs N³, so this is for thousands of atoms,
not more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from scipy.sparse import csr_array
from torch import Tensor

from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods import Iterate, Problem

name = "newton"

# Beyond so many atoms the N x N solve takes long.
MOST_ATOMS = 3000
LEVELS = 16
# In few dimensions it is better than `sgd`; in more it is taken where that has failed. Its points are Sobol's, which
# have so many dimensions at most, and all of them are held, in float64.
FEW_DIMENSIONS = 3
SOBOL_DIMENSIONS = 21_201
MOST_ENTRIES = 1 << 27
ROWS_PER_BLOCK = 4096
# A coarse level is a stepping stone: few points and few steps do.
COARSE_DRAWS = 4096
STEPS_PER_LEVEL = 6
# Below this root-mean-square relative error of the masses a level is solved well enough to go on from; and below this
# share of the χ² that is looked for.
LEVEL_TOLERANCE, LEVEL_SHARE = 0.03, 0.04
# A cell's share of a point below exp(−20) is left out. (That also keeps denormal numbers, which are slow, away.)
LOWEST_LOG_SHARE = -20.0
# Where fewer of the shares than this are left, they are multiplied as sparse matrices.
SPARSE_BELOW = 0.05


def suits(problem: Problem) -> bool:
    """Few atoms, in few dimensions or of entropic cells, and as many points as the tolerance takes fit into memory."""
    dim = problem.measure.dim
    small = dim <= SOBOL_DIMENSIONS and first_points(problem) * dim <= MOST_ENTRIES
    few = len(problem.measure) <= MOST_ATOMS
    return few and (dim <= FEW_DIMENSIONS or (small and problem.cells.entropy > 0))


def first_points(problem: Problem) -> int:
    """How many points to take first, if the budget allows: a power of two, some 2 to 4 N/tol.

    χ² of an optimum over n fixed points is N/n if they are random, less if they are spread evenly; more if some masses
    are tiny, and then it takes more points.
    """
    return 1 << max(13, (4 * int(len(problem.measure) / problem.tol)).bit_length() - 1)


def iterates(problem: Problem, step: int = 0, state: Mapping[str, Tensor] | None = None) -> Iterator[Iterate]:
    """Yields the solution at each level of smoothing, for more and more points."""
    measure, cells = problem.measure, problem.cells
    count, used = min(problem.max_draws, first_points(problem)), 0
    while count:
        points = cells.source.points(count, measure.dim, cells.seed)
        path = newton_path(measure, points, LEVELS, problem.tol, cells.entropy)
        for level, potential in enumerate(path, 1):
            unused = count - int(level / LEVELS * count)
            yield Iterate(potential, used + count, unused, used + count, complete=True)
        used += count
        # (Fewer points than have been tried would find nothing better.)
        more = min(4 * count, problem.max_draws - used)
        count = more if more > count else 0


def newton_path(
    measure: DiscreteMeasure, draws: Tensor, levels: int, tol: float, entropy: float = 0.0
) -> Iterator[Tensor]:
    """Yields the solution at each smoothing level, from coarse to fine.

    Arguments:
        measure: N distinct atoms with positive weights.
        draws: Fixed points of the source, shape (n, d), float64, of mean near 0 and spread near 1.
        levels: How many times ε is halved, from the spread of the atoms down.
        tol: χ² that is looked for in the end.
        entropy: Where it stops falling, if it gets there.

    Yields:
        h, shape (N,), float64, mean zero.
    """
    centred = measure.atoms.double() - measure.mean()
    square_norms = (centred**2).sum(dim=1)
    weights = measure.weights.to(centred.device)
    # The potential of the map z ↦ s z, s the spread of the atoms in each direction.
    h = -0.5 * square_norms / (weights @ square_norms / measure.dim).sqrt()
    smoothing = float(square_norms.sqrt().median())
    atoms = centred.float()
    draws = draws.to(atoms.device, atoms.dtype)
    enough = min(LEVEL_TOLERANCE**2, LEVEL_SHARE * tol)
    for level in range(levels):
        # The finer the cells' edges are resolved, the more points it takes to see them.
        points = draws[: COARSE_DRAWS << max(0, level - levels // 3)]
        if smoothing <= entropy:
            yield _solve_level(_Smoothed(atoms, weights, draws, entropy), h - h.mean(), enough)
            return
        h = _solve_level(_Smoothed(atoms, weights, points, smoothing), h - h.mean(), enough)
        yield h
        smoothing /= 2


@dataclass(frozen=True)
class _Smoothed:
    """The smoothed semi-dual over fixed points: atoms (N, d) and draws (n, d) float32, weights (N,) float64."""

    atoms: Tensor
    weights: Tensor
    draws: Tensor
    smoothing: float

    def moments(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The masses p = mean π, shape (N,), and mean π πᵀ, shape (N, N), at offsets h; float64."""
        masses = torch.zeros_like(h)
        second = torch.zeros(len(h), len(h), dtype=h.dtype, device=h.device)
        for z in self.draws.split(ROWS_PER_BLOCK):
            scores = torch.addmm(h.to(z.dtype), z, self.atoms.T).div_(self.smoothing)
            scores.sub_(scores.max(dim=1, keepdim=True).values)
            near = scores > LOWEST_LOG_SHARE
            if int(near.sum()) < SPARSE_BELOW * near.numel():
                row, cell = torch.nonzero(near, as_tuple=True)
                share = scores[row, cell].double().exp_()
                share /= share.new_zeros(len(z)).index_add_(0, row, share)[row]
                masses.index_add_(0, cell, share)
                entries = (share.cpu().numpy(), (row.cpu().numpy(), cell.cpu().numpy()))
                sparse = csr_array(entries, shape=tuple(near.shape))
                second += torch.from_numpy((sparse.T @ sparse).toarray()).to(h.device)
            else:
                share = scores.masked_fill_(~near, float("-inf")).softmax(dim=1)
                masses += share.sum(dim=0, dtype=h.dtype)
                second += share.T @ share
        return masses / len(self.draws), second / len(self.draws)

    def direction(self, masses: Tensor, second: Tensor) -> Tensor:
        """The Newton step −(∇²F)⁻¹ ∇F."""
        hessian = (torch.diag(masses) - second) / self.smoothing
        # Constants are in the kernel, and so is a cell that no point falls in: neither may run away.
        size = max(float(hessian.diagonal().mean()), 1e-6 / (len(masses) * self.smoothing))
        hessian += size / len(masses)
        hessian += torch.diag(1e-3 * size * len(masses) * self.weights)
        return torch.linalg.solve(hessian, self.weights - masses)


def _solve_level(problem: _Smoothed, h: Tensor, enough: float) -> Tensor:
    """The level's solution, up to a χ² over its own points."""
    masses, second = problem.moments(h)
    for _ in range(STEPS_PER_LEVEL):
        error = masses - problem.weights
        if float((error**2 / problem.weights).sum()) < enough:
            break
        direction = problem.direction(masses, second)
        slope = float(error @ direction)
        length = 1.0
        # Halved until the convex objective, seen along the step, no longer rises steeply at its end. (Its slope
        # is a difference of masses and precise, where its value would drown in float32 rounding.)
        while length > 1e-2:
            masses, second = problem.moments(h + length * direction)
            if float((masses - problem.weights) @ direction) <= 0.5 * abs(slope):
                break
            length /= 2
        else:
            masses, second = problem.moments(h + length * direction)
        h = h + length * direction
    return h - h.mean()
