"""Newton's method on the smoothed semi-dual, for low dimension.

There the cells are a tessellation with few neighbours each and the model behind `sgd` is wrong; the semi-dual's
Hessian is a graph Laplacian over neighbouring cells, and errors of long range die only if it is inverted. Over a
fixed quasi-random sample of N(0, I), smoothed by ε,

    F_ε(h) = mean_z ε log Σ_i exp((⟨z, y_i⟩ + h_i)/ε) − Σ ν_i h_i,
    ∇F_ε = p − ν,   ∇²F_ε = (diag(p) − mean_z π(z) π(z)ᵀ)/ε,   π(z) = softmax of the scores over ε,  p = mean π,

is smooth and convex; damped steps solve it for ε falling by halves, each from the last one's solution. A direct solve
costs N³ and a Hessian n N², so this is for thousands of atoms, not more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from otprior.measures import DiscreteMeasure

__all__ = ["newton_path", "quasi_normal"]

ROWS_PER_BLOCK = 4096
# A coarse level is a stepping stone: few points and few steps do.
COARSE_DRAWS = 4096
STEPS_PER_LEVEL = 4
# Below this root-mean-square relative error of the masses a level is solved well enough to go on from.
LEVEL_TOLERANCE = 0.03
# exp(−40) is nothing, but its square is still a normal float32: products of denormal numbers are slow.
LOWEST_LOG_SHARE = -40.0


def quasi_normal(count: int, dim: int, seed: int) -> Tensor:
    """Scrambled Sobol points through the normal quantile: shape (count, dim), float64."""
    uniform = SobolEngine(dim, scramble=True, seed=seed % 2**31).draw(count, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(2.0**-53, 1 - 2.0**-53))


def newton_path(measure: DiscreteMeasure, draws: Tensor, levels: int) -> Iterator[Tensor]:
    """Yields the solution at each smoothing level, from coarse to fine.

    Arguments:
        measure: N distinct atoms with positive weights.
        draws: Fixed points of N(0, I), shape (n, d), float64.
        levels: How many times ε is halved, from the spread of the atoms down.

    Yields:
        h, shape (N,), float64, mean zero.
    """
    centred = measure.atoms.double() - measure.mean()
    smoothing = float(torch.linalg.vector_norm(centred, dim=1).median())
    atoms = centred.float()
    weights = measure.weights.to(atoms.device)
    draws = draws.to(atoms.device, atoms.dtype)
    h = -0.5 * (centred**2).sum(dim=1)
    for level in range(levels):
        # The finer the cells' edges are resolved, the more points it takes to see them.
        points = draws[: COARSE_DRAWS << max(0, level - levels // 3)]
        h = _solve_level(_Smoothed(atoms, weights, points, smoothing), h - h.mean())
        yield h
        smoothing /= 2


@dataclass(frozen=True)
class _Moments:
    """F_ε(h), the masses p (N,), and mean π πᵀ (N, N), at one h."""

    value: float
    masses: Tensor
    second: Tensor


@dataclass(frozen=True)
class _Smoothed:
    """The smoothed semi-dual over fixed points: atoms (N, d) and draws (n, d) float32, weights (N,) float64."""

    atoms: Tensor
    weights: Tensor
    draws: Tensor
    smoothing: float

    def moments(self, h: Tensor) -> _Moments:
        """One pass over the points."""
        total = 0.0
        masses = torch.zeros_like(h)
        second = self.atoms.new_zeros(len(h), len(h))
        for z in self.draws.split(ROWS_PER_BLOCK):
            scores = torch.addmm(h.to(z.dtype), z, self.atoms.T).div_(self.smoothing)
            log_normaliser = torch.logsumexp(scores, dim=1)
            total += float(log_normaliser.sum(dtype=torch.float64)) * self.smoothing
            share = scores.sub_(log_normaliser[:, None]).clamp_(min=LOWEST_LOG_SHARE).exp_()
            masses += share.sum(dim=0, dtype=torch.float64)
            second.addmm_(share.T, share)
        count = len(self.draws)
        return _Moments(total / count - float(self.weights @ h), masses / count, second.double() / count)

    def direction(self, at: _Moments) -> Tensor:
        """The Newton step −(∇²F)⁻¹ ∇F."""
        hessian = (torch.diag(at.masses) - at.second) / self.smoothing
        # Constants are in the kernel, and so is a cell that no point falls in: neither may run away.
        scale = 1 / (len(self.atoms) * self.smoothing)
        hessian += scale / len(self.atoms) + torch.diag(torch.full_like(at.masses, 1e-3 * scale))
        return torch.linalg.solve(hessian, self.weights - at.masses)


def _solve_level(problem: _Smoothed, h: Tensor) -> Tensor:
    at = problem.moments(h)
    for _ in range(STEPS_PER_LEVEL):
        error = at.masses - problem.weights
        if float((error**2 / problem.weights).sum()) < LEVEL_TOLERANCE**2:
            break
        direction = problem.direction(at)
        slope = float(error @ direction)
        length = 1.0
        # Armijo's rule: the step is halved until the convex objective falls as its slope promises.
        while length > 1e-3:
            trial = problem.moments(h + length * direction)
            if trial.value <= at.value + 1e-4 * length * slope:
                break
            length /= 2
        else:
            break
        h, at = h + length * direction, trial
    return h - h.mean()
