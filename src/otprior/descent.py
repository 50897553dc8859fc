"""Running `sgd` until the `judge` is content: plan, looks on the way, checkpoints, several processes.

How far to go is known beforehand to within a few percent: averaged gradients leave χ² of about 1.45 N/n after n draws.
So the first look comes when the tolerance should be met, and what it shows says when the next one is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from otprior.checkpoint import load_checkpoint, save_checkpoint
from otprior.judge import Judge
from otprior.ranks import Ranks
from otprior.semidual import ChiSquared
from otprior.sgd import AveragedSgd, SgdState

__all__ = ["DRAWS_PER_ATOM_AND_TOL", "Checkpoint", "Descent", "descend"]

# Draws planned are this many N/tol: 1.45 to bring χ² to tol, and the margin that its upper limit takes.
DRAWS_PER_ATOM_AND_TOL = 1.9
CHECKPOINT_SECONDS = 120.0
PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class Checkpoint:
    """Where to keep a descent's state, and what problem it belongs to (see `checkpoint.fingerprint`)."""

    path: Path
    problem: str


@dataclass
class Descent:
    """A descent on its way, or at its end.

    Attributes:
        state: Of the iteration.
        chi2: The last verdict; None before the first.
        next_check: The number of draws at which to look next.
        earlier_seconds: Spent by the processes whose checkpoint this one went on from.
        converged: Whether two verdicts in a row accepted `state.average`.
    """

    state: SgdState
    chi2: ChiSquared | None
    next_check: int
    earlier_seconds: float = 0.0
    converged: bool = False


def descend(
    sgd: AveragedSgd,
    judge: Judge,
    budget: int,
    planned: int,
    ranks: Ranks,
    checkpoint: Checkpoint | None,
    report: Callable[[int, int, ChiSquared | None], None] | None,
) -> Descent:
    """Descends until the judge accepts or the budget is spent.

    Arguments:
        sgd: The iteration.
        judge: Of its averages.
        budget: Draws after which to give up.
        planned: Draws after which to look first.
        ranks: The processes that share each step.
        checkpoint: Gone on from if its file is there; kept every two minutes and when something stops the run.
        report: Called now and then with draws done, draws expected, last verdict.

    Raises:
        ValueError: If the checkpoint is damaged or of another problem.
    """
    run = Descent(sgd.init(), None, min(planned, budget))
    if checkpoint is not None and checkpoint.path.exists():
        run = _load(checkpoint, judge)
    started = saved = reported = time.perf_counter()
    if report:
        report(run.state.step * sgd.block_size, run.next_check, run.chi2)
    try:
        while True:
            done = run.state.step * sgd.block_size
            if done >= run.next_check:
                run.chi2 = judge.verdict(run.state.average)
                if judge.accepts(run.chi2):
                    # What made it stop is not what it reports: a lucky estimate does not come twice.
                    run.chi2 = judge.verdict(run.state.average)
                    run.converged = judge.accepts(run.chi2)
                if report:
                    report(done, run.next_check, run.chi2)
                if run.converged or done >= budget:
                    return run
                ahead = min(max(1.05 * run.chi2.upper / judge.tol, 1.1), 2.0)
                run.next_check = min(int(done * ahead) + 1, budget)
            now = time.perf_counter()
            if report and now - reported > PROGRESS_SECONDS:
                report(done, run.next_check, run.chi2)
                reported = now
            if checkpoint and now - saved > CHECKPOINT_SECONDS:
                _save(checkpoint, run, judge, ranks, now - started)
                saved = now
            counts = sgd.counts(run.state, ranks.share(range(sgd.sets_per_step)))
            run.state = sgd.update(run.state, ranks.sum(counts))
    finally:
        if checkpoint:
            _save(checkpoint, run, judge, ranks, time.perf_counter() - started)


def _save(checkpoint: Checkpoint, run: Descent, judge: Judge, ranks: Ranks, seconds: float) -> None:
    if not ranks.first:
        return
    numbers = {
        "step": run.state.step,
        "next_set": judge.next_set,
        "next_check": run.next_check,
        "chi2": asdict(run.chi2) if run.chi2 else None,
        "seconds": run.earlier_seconds + seconds,
    }
    tensors = {"iterate": run.state.iterate, "average": run.state.average}
    save_checkpoint(checkpoint.path, checkpoint.problem, tensors, numbers)


def _load(checkpoint: Checkpoint, judge: Judge) -> Descent:
    tensors, numbers = load_checkpoint(checkpoint.path, checkpoint.problem)
    device = judge.device
    state = SgdState(numbers["step"], tensors["iterate"].to(device), tensors["average"].to(device))
    judge.next_set = numbers["next_set"]
    chi2 = ChiSquared(**numbers["chi2"]) if numbers["chi2"] else None
    return Descent(state, chi2, numbers["next_check"], numbers["seconds"])
