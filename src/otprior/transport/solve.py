"""Solving the semi-discrete transport problem from N(0, I_d), or another source: one door, `solve_semidiscrete`.

The problem decides on the method (`choose`): the monotone map on the line, Newton's method on exact cells in the plane
and in space, averaged and preconditioned stochastic gradients where a trial on few atoms goes well, and Newton's method
on blocks of draws elsewhere. All stop by one rule (`stopping`): the unbiased χ² of the cell masses, on draws that the
method has not seen, has an upper 95 % limit below `tol`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from otprior.transport.cells.entropic import EntropicCells
from otprior.transport.cells.search import LaguerreCells, fast_bfloat16
from otprior.transport.distributed import SINGLE, Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods import Method, Problem, block_newton, exact_cells, monotone, newton, sgd
from otprior.transport.run import Checkpoint, Run, Runner
from otprior.transport.solution import ConvergenceError, Outcome, Progress, Solution, SolveStats
from otprior.transport.source import Sampler, Source
from otprior.transport.stopping import StoppingRule
from otprior.utils.arrays import fingerprint
from otprior.utils.random import seed_from
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_choice, check_integer, plain_numbers, require

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16")
# Beyond this the scores' squares and products leave the range of float32.
LARGEST_ATOM = 1e30
# A budget without end.
MOST_DRAWS = 1 << 60
# More than the χ² of all mass in one cell, N − 1, unless there are more atoms.
MOST_TOL = 1e6


@plain_numbers
@plain_torch()
def solve_semidiscrete(
    atoms: Tensor | DiscreteMeasure,
    weights: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    tol: float = 0.05,
    max_draws: int | None = None,
    throw: bool = True,
    progress: Callable[[Progress], None] | None = None,
    precision: str = "auto",
    checkpoint: str | Path | None = None,
    processes: Processes | None = None,
    source: str | Sampler = "normal",
    entropy: float = 0.0,
) -> Solution:
    """The optimal transport map from N(0, I_d) to Σ ν_i δ_{y_i}, for the cost |z − y|²/2.

    Arguments:
        atoms: y, shape (M, d), float32 or float64, on the device that computes; may be mapped from a file. Or a
            measure that has been built from them, with its weights.
        weights: ν, shape (M,), nonnegative, sum 1; uniform by default.
        generator: Seeds all draws; None stands for a fixed seed.
        tol: The upper 95 % limit of χ² to reach; 0.05 is a root-mean-square error of cell masses of 22 %.
        max_draws: When to give up; by default max(200,000, 10 N/tol), ten times what independent counting takes.
        throw: Whether to raise if the tolerance is not reached, rather than return the solution as it is.
        progress: Called now and then.
        precision: "bfloat16" screens the products with the atoms in it and scores candidates again; "auto" does so
            where that is much faster (`fast_bfloat16`).
        checkpoint: A file that keeps the state of a long solve, and from which a solve goes on as if never stopped.
        processes: Those that share the work, all given the same problem: `Processes.join()` under torchrun.
        source: "normal"; "uniform" on the cube [−½, ½]^d; or a function of count, d and a CPU generator that returns
            (count, d) independent draws.
        entropy: ε > 0 regularises: the mean shares of the softmax over ε are ν (see `cells.entropic`), and χ² theirs.

    Raises:
        ValueError: On bad atoms, weights, options or source, or a checkpoint of another problem.
        ConvergenceError: If tol is not reached and `throw` is true.

    Source: Mérigot & Thibert, 2020, https://arxiv.org/abs/2003.00855, section 4; docs/solver.md has the methods

    Examples:
        >>> solution = solve_semidiscrete(torch.randn(20, 3), tol=0.05)
        >>> solution.outcome.name, solution.potential.shape
        ('CONVERGED', torch.Size([20]))
    """
    processes = processes or SINGLE
    _check_options(tol, max_draws, precision, entropy, processes)
    given = DiscreteMeasure.of(atoms, weights)
    started, seed = time.perf_counter(), seed_from(generator)
    hard = _laguerre_cells(given, Source.build(source, given.dim, seed), seed, precision, entropy, processes)
    problem = Problem(
        EntropicCells(hard, float(entropy)) if entropy else hard, tol, max_draws or _budget(given, tol)
    )
    kept = None if checkpoint is None else Checkpoint(Path(checkpoint), _fingerprint(problem))
    method, run = _run(problem, kept, progress)
    solution = _solution(given, problem, method, run, time.perf_counter() - started, hard.screen is not None)
    logger.info("semi-discrete solve %s: χ² %.4f, %s", run.outcome.value, run.chi2.value, solution.stats)
    if throw and run.outcome is not Outcome.CONVERGED:
        raise ConvergenceError(solution, tol)
    return solution


def choose(problem: Problem) -> list[Method]:
    """The methods to try, in turn, until one is accepted."""
    if monotone.suits(problem):
        return [monotone]
    # Newton's steps follow where another method fails, and come first where gradients would.
    kinds: tuple[Method, ...] = (newton, block_newton)
    newtons = [method for method in kinds if method.suits(problem)][:1]
    if exact_cells.suits(problem):
        return [exact_cells, *(newtons or [sgd])]
    in_few_dimensions = newtons == [newton] and problem.measure.dim <= newton.FEW_DIMENSIONS
    if newtons and (in_few_dimensions or not sgd.suits(problem)):
        return newtons
    return [sgd, *newtons]


def _run(
    problem: Problem, checkpoint: Checkpoint | None, progress: Callable[[Progress], None] | None
) -> tuple[str, Run]:
    """The names of the methods that found a potential, and the best run, with the draws of all."""
    rule = StoppingRule(problem.cells, problem.tol)
    methods, left = choose(problem), problem.max_draws
    runs: dict[str, Run] = {}
    for method in methods:
        draws = left
        if method is sgd and method is not methods[-1]:
            # Something is left for the other.
            draws = max(min(left, sgd.expected_draws(problem)), left // 2)
        run = Runner(method, replace(problem, max_draws=draws), rule, checkpoint, progress).run()
        if run is None:
            continue
        runs[method.name] = run
        left -= run.draws
        if run.outcome is Outcome.CONVERGED or left <= 0:
            break
    best = min(runs.values(), key=lambda run: run.chi2.upper)
    return ", then ".join(runs), replace(best, draws=sum(run.draws for run in runs.values()))


def _check_options(
    tol: float, max_draws: int | None, precision: str, entropy: float, processes: Processes
) -> None:
    known = isinstance(tol, int | float) and 0 < tol <= MOST_TOL
    require(known, "tol", f"a positive number up to {MOST_TOL:g}", repr(tol))
    if max_draws is not None:
        check_integer("max_draws", max_draws, 1)
    check_choice("precision", precision, PRECISIONS)
    nonnegative = isinstance(entropy, int | float) and 0 <= entropy < float("inf")
    require(nonnegative, "entropy", "a nonnegative number", repr(entropy))
    require(not entropy or processes.size == 1, "entropy", "0 with several processes", entropy)


def _budget(measure: DiscreteMeasure, tol: float) -> int:
    return max(200_000, int(min(10 * len(measure) / tol, MOST_DRAWS)))


def _laguerre_cells(
    given: DiscreteMeasure, law: Source, seed: int, precision: str, entropy: float, processes: Processes
) -> LaguerreCells:
    """The cells of the atoms, brought to the scale at which `law` draws."""
    largest = max(-float(given.atoms.min()), float(given.atoms.max()))
    require(largest <= LARGEST_ATOM, "atoms", f"of entries up to {LARGEST_ATOM:g} in size", f"{largest:.3g}")
    measure = replace(given, atoms=law.scaled(given.atoms))
    bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16(measure.atoms.device))
    # (Screening finds the largest score; shares need all of them.)
    screened, copied = bfloat16 and not entropy, bool(entropy)
    return LaguerreCells.build(measure, seed, screened, source=law, processes=processes, centre=copied)


def _fingerprint(problem: Problem) -> str:
    cells, measure = problem.cells, problem.measure
    # (A sampler is known by what the seed makes it draw.)
    pilot = cells.source.block(cells.seed, "pilot", 0, 16, measure.dim)
    law = (cells.source.name, pilot, float(cells.entropy))
    return fingerprint(measure.atoms, measure.weights, cells.seed, problem.tol, *law)


def _solution(
    given: DiscreteMeasure, problem: Problem, method: str, run: Run, seconds: float, bfloat16: bool
) -> Solution:
    """The run's result on the atoms as they were given."""
    cells = problem.cells
    stats = SolveStats(
        method=method,
        atoms=len(given),
        dim=given.dim,
        draws=run.draws,
        seconds=run.earlier_seconds + seconds,
        seed=cells.seed,
        source=cells.source.name,
        entropy=float(cells.entropy),
        precision="bfloat16" if bfloat16 else "float32",
        processes=cells.processes.size,
    )
    offsets = cells.source.offsets(run.potential, given.atoms)
    potential = given.spread_out(offsets, fill=float("-inf"))
    return Solution(potential, run.chi2, run.outcome, given.removed, stats, given)
