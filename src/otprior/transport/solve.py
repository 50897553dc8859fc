"""Solving the semi-discrete transport problem from N(0, I_d), or another source: one door, `solve_semidiscrete`.

Which method runs follows from the problem: the monotone map on the line (`sorting`), Newton on exact cells in the plane
and in space (`tessellation`), averaged and preconditioned stochastic gradient elsewhere (`sgd`), and Newton on sampled
points (`newton`) where one of them fails on few atoms. All are judged alike (`judge`), by the unbiased χ² of the cell
masses on draws that the method has not seen, and stop when its upper 95 % limit is below `tol`.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from scipy.spatial import QhullError
from torch import Tensor

from otprior.transport.cells.entropic import SmoothedFinder
from otprior.transport.cells.search import CellFinder, fast_bfloat16
from otprior.transport.checkpoint import fingerprint
from otprior.transport.distributed import Ranks
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods.descent import DRAWS_PER_ATOM_AND_TOL, Checkpoint, descend
from otprior.transport.methods.exact_cells import tessellation_path
from otprior.transport.methods.monotone import monotone_potential
from otprior.transport.methods.newton import newton_path
from otprior.transport.methods.sgd import AveragedSgd, independent_score_start
from otprior.transport.methods.warm_start import coarse_start
from otprior.transport.potential import ChiSquared, natural_scale
from otprior.transport.source import Sampler, Source
from otprior.transport.stopping import Judge
from otprior.utils.random import seed_from
from otprior.utils.validation import check_choice, check_integer, require

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16")
# Newton on sampled points at once where the cells are a tessellation, and only where its N x N solve is cheap.
NEWTON_DIMENSIONS = 3
NEWTON_ATOMS = 3000
# Newton on exact cells: in the plane as good as exact in a step or two more; in space to a small part of the tolerance,
# with more slices where those do not do.
PLANE_CHI2 = 1e-9
SPACE_SHARE = 0.02
REFINEMENTS = (1, 2, 4)
# Beyond this the scores' squares and products leave the range of float32.
LARGEST_ATOM = 1e30
NEWTON_LEVELS = 16
# Its points are Sobol's, of so many dimensions at most; and they are all held, in float64.
SOBOL_DIMENSIONS = 21_201
MOST_ENTRIES = 1 << 27


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
    precision: str = "auto",
    checkpoint: str | Path | None = None,
    ranks: Ranks | None = None,
    source: str | Sampler = "normal",
    entropy: float = 0.0,
) -> Solution:
    """The optimal transport map from N(0, I_d) to Σ ν_i δ_{y_i}, for the cost |z − y|²/2.

    Arguments:
        atoms: y, shape (M, d), float32 or float64; the device decides where the work is done. They may be mapped
            from a file (`torch.from_file`, or `torch.from_numpy` of a memory map).
        weights: ν, shape (M,), nonnegative, sum 1; uniform by default.
        generator: Seeds all draws; None stands for a fixed seed.
        tol: The upper 95 % limit of χ² to reach; 0.05 is a root-mean-square error of cell masses of 22 %.
        max_draws: When to give up; by default ten times the N/tol draws that independent counting would take, and
            200,000 at least.
        throw: Whether an unsolved problem raises `ConvergenceError` or is returned.
        progress: Called now and then with a `Progress`.
        precision: Of the products with the atoms: "bfloat16" screens in it and scores what matters again; "auto"
            does so where that is much faster (`mixing.fast_bfloat16`).
        checkpoint: A file that keeps the state of a long solve. If it is there, the solve goes on from it, as if it
            had never stopped.
        ranks: The processes that share the work (`Ranks.join()` under torchrun); all must be given the same problem.
        source: "normal"; "uniform" on the cube [−½, ½]^d; or a sampler, called with a count, d and a CPU generator,
            which returns (count, d) independent draws that depend on nothing else.
        entropy: ε > 0 solves the regularised problem instead: shares of the softmax over ε have mean ν (see
            `smoothed`; `BrenierPotential.barycentre` at smoothing ε is the mean of its plan). χ² is that of the shares.

    Raises:
        ValueError: On bad atoms, weights, options or source, or a checkpoint of another problem.
        ConvergenceError: If tol is not reached and `throw` is true.
    """
    require(isinstance(tol, int | float) and 0 < tol < float("inf"), "tol", "a positive number", repr(tol))
    if max_draws is not None:
        check_integer("max_draws", max_draws, 1)
    check_choice("precision", precision, PRECISIONS)
    nonnegative = isinstance(entropy, int | float) and 0 <= entropy < float("inf")
    require(nonnegative, "entropy", "a nonnegative number", repr(entropy))
    ranks = ranks or Ranks()
    require(not entropy or ranks.size == 1, "entropy", "0 with several processes", entropy)
    given = DiscreteMeasure.build(atoms, weights)
    largest = float(given.atoms.abs().max())
    require(largest <= LARGEST_ATOM, "atoms", f"of entries up to {LARGEST_ATOM:g} in size", f"{largest:.3g}")
    started = time.perf_counter()
    seed = seed_from(generator)
    law = Source.build(source, given.dim, seed)
    measure = replace(given, atoms=law.scaled(given.atoms))
    problem = _Problem.build(measure, tol, seed, precision, law, float(entropy), ranks, checkpoint, progress)
    budget = max_draws if max_draws is not None else max(200_000, int(10 * len(measure) / tol))

    few = len(measure) <= NEWTON_ATOMS
    cells = None
    if law.mixes and not entropy and measure.dim in (2, 3) and len(measure) > measure.dim:
        cells = _run_tessellation(problem)
    if cells:
        method, run = "tessellation", cells
    elif len(measure) == 1:
        alone = torch.zeros(1, dtype=torch.float64, device=measure.atoms.device)
        method, run = "one atom", _exact(alone, problem.judge)
    elif measure.dim == 1 and law.quantiles and not entropy:
        method, run = "sorting", _exact(monotone_potential(measure, law.quantiles), problem.judge)
    elif measure.dim <= NEWTON_DIMENSIONS and few:
        method, run = "newton", _run_newton(problem, budget)
    else:
        method, run = "sgd", _run_sgd(problem, budget, few)
        small = measure.dim <= SOBOL_DIMENSIONS and first_points(measure, tol) * measure.dim <= MOST_ENTRIES
        if few and small and run.outcome is not Outcome.CONVERGED and run.draws < budget:
            second = _run_newton(problem, budget - run.draws)
            method, draws = "sgd, then newton", run.draws + second.draws
            run = replace(min(run, second, key=lambda r: r.chi2.upper), draws=draws)

    stats = {
        "method": method,
        "atoms": len(measure),
        "dim": measure.dim,
        "draws": run.draws,
        "seconds": run.earlier_seconds + time.perf_counter() - started,
        "seed": seed,
        "source": law.name,
        "entropy": float(entropy),
        "precision": "float32" if problem.finder.screen is None else "bfloat16",
        "processes": problem.ranks.size,
    }
    potential = measure.spread_out(law.offsets(run.potential, given.atoms), fill=float("-inf"))
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
    earlier_seconds: float = 0.0  # spent before this process went on from a checkpoint


@dataclass(frozen=True)
class _Problem:
    """What all methods are given."""

    measure: DiscreteMeasure
    finder: CellFinder
    masses: CellFinder | SmoothedFinder  # the same, of smoothed cells where there is entropy
    judge: Judge
    ranks: Ranks
    checkpoint: Checkpoint | None
    progress: Callable[[Progress], None] | None

    @classmethod
    def build(
        cls,
        measure: DiscreteMeasure,
        tol: float,
        seed: int,
        precision: str,
        source: Source,
        entropy: float,
        ranks: Ranks,
        checkpoint: str | Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> _Problem:
        bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16(measure.atoms.device))
        # (Screening is for the largest score; shares need them all.)
        finder = CellFinder.build(measure, seed, bfloat16 and not entropy, source=source)
        masses = SmoothedFinder(finder, entropy) if entropy else finder
        kept = None
        if checkpoint is not None:
            # (A sampler is known by what the seed makes it draw.)
            law = (source.name, source.block(seed, "pilot", 0, 16, measure.dim), entropy)
            kept = Checkpoint(Path(checkpoint), fingerprint(measure.atoms, measure.weights, seed, tol, *law))
        return cls(measure, finder, masses, Judge(measure, masses, tol, ranks), ranks, kept, progress)

    def report(self, draws: int, expected: int, chi2: ChiSquared | None) -> None:
        if self.progress:
            self.progress(Progress(draws, expected, chi2))


def _exact(potential: Tensor, judge: Judge) -> _Run:
    return _Run(potential, judge.verdict(potential), Outcome.CONVERGED, 0)


def _run_tessellation(problem: _Problem) -> _Run | None:
    """The solution by exact cells; None where they are degenerate, or lie so tight that slices miss them."""
    measure, judge = problem.measure, problem.judge
    enough = PLANE_CHI2 if measure.dim == 2 else SPACE_SHARE * judge.tol
    for refinement in REFINEMENTS[: 1 if measure.dim == 2 else None]:
        try:
            for step in tessellation_path(measure, refinement):
                offsets, remaining = step
                problem.report(0, 1, ChiSquared(remaining, 0.0, 0))
                if remaining <= enough:
                    break
        except QhullError:
            return None
        potential = torch.from_numpy(offsets).to(judge.device)
        if remaining <= judge.tol and judge.accepts(chi2 := judge.verdict(potential)):
            return _Run(potential, chi2, Outcome.CONVERGED, 0)
    return None


def _run_newton(problem: _Problem, budget: int) -> _Run:
    measure, judge = problem.measure, problem.judge
    # χ² of an optimum over n fixed points is N/n if they are random, less if they are spread evenly; more if some
    # masses are tiny, and then it takes more points.
    count = min(budget, first_points(measure, judge.tol))
    used, best, lowest = 0, torch.zeros_like(measure.weights), math.inf
    while count:
        points = problem.finder.source.points(count, measure.dim, problem.finder.seed)
        used += count
        path = newton_path(measure, points, NEWTON_LEVELS, judge.tol, problem.masses.entropy)
        for level, potential in enumerate(path):
            chi2 = judge.verdict(potential)
            problem.report(used - count + int((level + 1) / NEWTON_LEVELS * count), used, chi2)
            if chi2.value < lowest:
                best, lowest = potential, chi2.value
            if judge.accepts(chi2):
                chi2 = judge.verdict(potential)
                if judge.accepts(chi2):
                    return _Run(potential, chi2, Outcome.CONVERGED, used)
        # (Fewer points than have been tried would find nothing better.)
        more = min(4 * count, budget - used)
        count = more if more > count else 0
    return _Run(best, judge.verdict(best), Outcome.BUDGET_SPENT, used)


def first_points(measure: DiscreteMeasure, tol: float) -> int:
    """How many points Newton's method first takes, if it may: a power of two, some 2 to 4 N/tol."""
    return 1 << max(13, (4 * int(len(measure) / tol)).bit_length() - 1)


def _start(problem: _Problem) -> Tensor:
    entropy = problem.masses.entropy
    if not entropy:
        return coarse_start(problem.measure, problem.finder)
    weights = problem.measure.weights.to(problem.judge.device)
    tau = natural_scale(problem.measure.atoms, weights)
    if entropy < float(tau.median()):
        return independent_score_start(tau, weights)
    # Above τ a share is hardly ever near 1, and its mean is that of exp((⟨z, y_i⟩ + h_i)/ε) over a constant.
    return entropy * weights.log() - (problem.finder.atoms.double() ** 2).sum(dim=1) / (2 * entropy)


def _run_sgd(problem: _Problem, budget: int, newton_follows: bool) -> _Run:
    judge = problem.judge
    expected = int(DRAWS_PER_ATOM_AND_TOL * len(problem.measure) / judge.tol)
    if newton_follows:
        budget = max(min(budget, expected), budget // 2)
    sgd = AveragedSgd(problem.measure, problem.masses)
    run = descend(
        sgd,
        lambda: _start(problem),
        judge,
        budget,
        expected,
        problem.ranks,
        problem.checkpoint,
        problem.report,
    )
    assert run.chi2 is not None
    draws = run.state.step * sgd.block_size
    outcome = Outcome.CONVERGED if run.converged else Outcome.BUDGET_SPENT
    if not run.converged and draws >= expected:
        start = judge.verdict(sgd.init().average)
        if run.chi2.value > 2 * max(start.value, judge.tol):
            outcome = Outcome.DIVERGED
    return _Run(run.state.average, run.chi2, outcome, draws, run.earlier_seconds)
