"""Solving the semi-discrete transport problem from N(0, I_d) to atoms: one door, `solve_semidiscrete`.

Which method runs follows from the problem: the monotone map on the line (`sorting`), Newton in low dimension
(`newton`), averaged and preconditioned stochastic gradient elsewhere (`sgd`), and Newton again where that fails on
few atoms. All are judged alike, by the unbiased χ² of the cell masses on draws that the method has not seen, and stop
when its upper 95 % limit is below `tol`.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from otprior.draws import normal_block, seed_from
from otprior.measures import DiscreteMeasure
from otprior.newton import newton_path, quasi_normal
from otprior.semidual import BrenierPotential, ChiSquared, chi_squared
from otprior.sgd import AveragedSgd
from otprior.sorting import monotone_potential
from otprior.validation import check_integer, require

__all__ = ["ConvergenceError", "Outcome", "Progress", "Solution", "solve_semidiscrete"]

logger = logging.getLogger(__name__)

TEST_BLOCK = 2048
# Newton at once where the cells are a tessellation (few dimensions), and only where its N x N solve is cheap.
NEWTON_DIMENSIONS = 3
NEWTON_ATOMS = 3000
# Beyond this the scores' squares and products leave the range of float32.
LARGEST_ATOM = 1e30
NEWTON_LEVELS = 16


class Outcome(enum.Enum):
    """How a solve ended; `remedy` says what to do about it."""

    CONVERGED = "converged"
    BUDGET_SPENT = "budget spent"
    DIVERGED = "diverged"

    @property
    def remedy(self) -> str:
        """What to change, in a sentence."""
        return _REMEDIES[self]


_REMEDIES = {
    Outcome.CONVERGED: "Nothing to do.",
    Outcome.BUDGET_SPENT: "Raise max_draws (the error falls like 1/draws), raise tol, or use fewer atoms.",
    Outcome.DIVERGED: "Check the atoms for extreme outliers and the weights for extreme ratios, or rescale the atoms.",
}


class ConvergenceError(RuntimeError):
    """Raised by `solve_semidiscrete(throw=True)` when the tolerance was not reached; carries `.solution`."""

    def __init__(self, solution: Solution, tol: float) -> None:
        self.solution = solution
        chi2 = solution.chi2
        super().__init__(
            f"semi-discrete solve {solution.outcome.value}: χ² = {chi2.value:.3g} ± {chi2.standard_error:.2g} "
            f"after {solution.stats['draws']:,} draws, where tol = {tol:g}. {solution.outcome.remedy} "
            "(throw=False returns the solution as it is.)"
        )


@dataclass(frozen=True)
class Progress:
    """What a solve reports on the way: draws so far, draws expected at the present estimate, the last χ²."""

    draws: int
    expected_draws: int
    chi2: ChiSquared | None


@dataclass(frozen=True)
class Solution:
    """The potential of a semi-discrete problem, and how good it is.

    Attributes:
        potential: h of u(z) = max_i ⟨z, y_i⟩ + h_i, one for each atom given, shape (M,), float64; mean zero over
            the distinct atoms of positive weight; a duplicate carries its representative's value (ties go to the
            lowest index), an atom of zero weight −∞.
        chi2: χ² of the cell masses on fresh draws, with its standard error.
        outcome: How it ended.
        removed: Indices of the atoms of zero weight, shape (R,).
        stats: method, atoms, dim, draws, seconds, seed.
    """

    potential: Tensor
    chi2: ChiSquared
    outcome: Outcome
    removed: Tensor
    stats: dict[str, Any] = field(default_factory=dict)


def solve_semidiscrete(
    atoms: Tensor,
    weights: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    tol: float = 0.05,
    max_draws: int | None = None,
    throw: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """The optimal transport map from N(0, I_d) to Σ ν_i δ_{y_i}, for the cost |z − y|²/2.

    Arguments:
        atoms: y, shape (M, d), float32 or float64; the device decides where the work is done.
        weights: ν, shape (M,), nonnegative, sum 1; uniform by default.
        generator: Seeds all draws; None stands for a fixed seed.
        tol: The upper 95 % limit of χ² to reach; 0.05 is a root-mean-square error of cell masses of 22 %.
        max_draws: When to give up; by default ten times the N/tol draws without which no method reaches tol.
        throw: Whether an unsolved problem raises `ConvergenceError` or is returned.
        progress: Called now and then with a `Progress`.

    Raises:
        ValueError: On bad atoms, weights, tol or max_draws.
        ConvergenceError: If tol is not reached and `throw` is true.
    """
    require(isinstance(tol, int | float) and 0 < tol < float("inf"), "tol", "a positive number", repr(tol))
    if max_draws is not None:
        check_integer("max_draws", max_draws, 1)
    measure = DiscreteMeasure.build(atoms, weights)
    largest = float(measure.atoms.abs().max())
    require(largest <= LARGEST_ATOM, "atoms", f"of entries up to {LARGEST_ATOM:g} in size", f"{largest:.3g}")
    started = time.perf_counter()
    seed = seed_from(generator)
    judge = _Judge(measure, tol, seed)
    budget = max_draws if max_draws is not None else max(200_000, int(10 * len(measure) / tol))

    few = len(measure) <= NEWTON_ATOMS
    if len(measure) == 1:
        method, run = "one atom", _exact(torch.zeros(1, dtype=torch.float64), judge)
    elif measure.dim == 1:
        method, run = "sorting", _exact(monotone_potential(measure), judge)
    elif measure.dim <= NEWTON_DIMENSIONS and few:
        method, run = "newton", _run_newton(measure, judge, budget, progress)
    else:
        method, run = "sgd", _run_sgd(measure, judge, budget, few, progress)
        if few and run.outcome is not Outcome.CONVERGED and run.draws < budget:
            second = _run_newton(measure, judge, budget - run.draws, progress)
            method, draws = "sgd, then newton", run.draws + second.draws
            run = replace(min(run, second, key=lambda r: r.chi2.upper), draws=draws)

    stats = {
        "method": method,
        "atoms": len(measure),
        "dim": measure.dim,
        "draws": run.draws,
        "seconds": time.perf_counter() - started,
        "seed": seed,
    }
    potential = measure.spread_out(run.potential, fill=float("-inf"))
    solution = Solution(potential, run.chi2, run.outcome, measure.removed, stats)
    logger.info("semi-discrete solve %s: χ² %.4f, %s", run.outcome.value, run.chi2.value, stats)
    if throw and run.outcome is not Outcome.CONVERGED:
        raise ConvergenceError(solution, tol)
    return solution


@dataclass(frozen=True)
class _Run:
    potential: Tensor
    chi2: ChiSquared
    outcome: Outcome
    draws: int


class _Judge:
    """Measures χ² on draws of its own; every verdict uses blocks that no earlier one has seen."""

    def __init__(self, measure: DiscreteMeasure, tol: float, seed: int) -> None:
        self._measure = measure
        self.tol = tol
        self.seed = seed
        self._next_block = 0
        # At masses equal to ν the estimate's standard deviation is √(2N)/n: a fifteenth of tol.
        self._blocks = max(4, round((2 * len(measure)) ** 0.5 / (tol / 15) / TEST_BLOCK))

    def verdict(self, potential: Tensor) -> ChiSquared:
        """χ² of a potential (N,) on fresh draws."""
        measure = self._measure
        brenier = BrenierPotential.build(measure.atoms, potential)
        counts = torch.zeros(len(measure), dtype=torch.int64, device=measure.atoms.device)
        for block in range(self._next_block, self._next_block + self._blocks):
            z = normal_block(self.seed, "test", block, TEST_BLOCK, measure.dim)
            cells = brenier.assign(z.to(measure.atoms.device, measure.atoms.dtype))
            counts += torch.bincount(cells, minlength=len(measure))
        self._next_block += self._blocks
        return chi_squared(counts, measure.weights)

    def accepts(self, chi2: ChiSquared) -> bool:
        """Whether the upper limit is within the tolerance."""
        return chi2.upper <= self.tol


def _exact(potential: Tensor, judge: _Judge) -> _Run:
    return _Run(potential, judge.verdict(potential), Outcome.CONVERGED, 0)


def _run_newton(
    measure: DiscreteMeasure, judge: _Judge, budget: int, progress: Callable[[Progress], None] | None
) -> _Run:
    # χ² of an optimum over n fixed points is N/n if they are random, less if they are spread evenly; more if some
    # masses are tiny, and then it takes more points.
    count = min(budget, 1 << max(13, (4 * int(len(measure) / judge.tol)).bit_length() - 1))
    used, best, lowest = 0, torch.zeros_like(measure.weights), math.inf
    while used + count <= budget:
        points = quasi_normal(count, measure.dim, judge.seed)
        used += count
        for level, potential in enumerate(newton_path(measure, points, NEWTON_LEVELS)):
            chi2 = judge.verdict(potential)
            if progress:
                share = (level + 1) / NEWTON_LEVELS
                progress(Progress(used - count + int(share * count), used, chi2))
            if chi2.value < lowest:
                best, lowest = potential, chi2.value
            if judge.accepts(chi2):
                chi2 = judge.verdict(potential)
                if judge.accepts(chi2):
                    return _Run(potential, chi2, Outcome.CONVERGED, used)
        count *= 4
    return _Run(best, judge.verdict(best), Outcome.BUDGET_SPENT, used)


def _run_sgd(
    measure: DiscreteMeasure,
    judge: _Judge,
    budget: int,
    newton_follows: bool,
    progress: Callable[[Progress], None] | None,
) -> _Run:
    # Averaged index-only gradients use about half of each draw: χ² ≈ 2 N/draws.
    expected = int(2 * len(measure) / judge.tol)
    planned = min(budget, expected)
    if newton_follows:
        budget = max(planned, budget // 2)
    sgd = AveragedSgd(measure, judge.seed, planned)
    state = sgd.init()
    first = chi2 = judge.verdict(state.average)
    next_check = 0
    if progress:
        progress(Progress(0, planned, first))
    while True:
        done = state.step * sgd.block_size
        if done >= min(next_check, budget):
            if done:
                chi2 = judge.verdict(state.average)
            if judge.accepts(chi2):
                # What made it stop is not what it reports: a lucky estimate does not come twice.
                chi2 = judge.verdict(state.average)
                if judge.accepts(chi2):
                    return _Run(state.average, chi2, Outcome.CONVERGED, done)
            if done >= budget:
                worse = done >= expected and chi2.value > 2 * max(first.value, judge.tol)
                outcome = Outcome.DIVERGED if worse else Outcome.BUDGET_SPENT
                return _Run(state.average, chi2, outcome, done)
            next_check = max(planned, int(done * min(max(1.05 * chi2.upper / judge.tol, 1.1), 2.0)))
        if progress and state.step % 8 == 7:
            progress(Progress(done, min(budget, next_check), chi2))
        state = sgd.step(state)
