"""Running `sgd` until the `judge` is content: plan, looks on the way, checkpoints, several processes.

How far to go is known beforehand to within a few percent: averaged gradients leave χ² of about 1.45 N/n after n draws.
So the first look comes when the tolerance should be met, and what it shows says when the next one is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from otprior.transport.checkpoint import load_checkpoint, save_checkpoint
from otprior.transport.distributed import Ranks
from otprior.transport.methods.sgd import AveragedSgd, SgdState
from otprior.transport.potential import ChiSquared
from otprior.transport.stopping import Judge

# Draws planned are this many N/tol: 1.45 to bring χ² to tol, and the margin that its upper limit takes.
DRAWS_PER_ATOM_AND_TOL = 1.9
PROGRESS_SECONDS = 0.5
# A long solve keeps its state, and shows a small look at χ², this often.
CHECKPOINT_SECONDS = 120.0
# Looks at millions of atoms take long: they are this many times their own duration apart, or more.
LOOKS_APART = 30.0
# A solve shorter than this is sooner done again than looked for.
KEPT_FROM_SECONDS = 20.0


@dataclass(frozen=True)
class Checkpoint:
    """Where to keep a descent's state, and what problem it belongs to (see `checkpoint.fingerprint`)."""

    path: Path
    problem: str


@dataclass(frozen=True)
class Descent:
    """A descent on its way, or at its end.

    Attributes:
        state: Of the iteration.
        next_check: The number of draws at which the judge looks next.
        next_set: The first set of draws that the judge has not used.
        chi2: The last verdict; None before the first.
        converged: Whether two verdicts in a row accepted `state.average`.
        earlier_seconds: Spent by the processes whose checkpoint this one went on from.
    """

    state: SgdState
    next_check: int
    next_set: int = 0
    chi2: ChiSquared | None = None
    converged: bool = False
    earlier_seconds: float = 0.0


def descend(
    sgd: AveragedSgd,
    start: Callable[[], Tensor],
    judge: Judge,
    budget: int,
    planned: int,
    ranks: Ranks,
    checkpoint: Checkpoint | None,
    report: Callable[[int, int, ChiSquared | None], None],
) -> Descent:
    """Descends until the judge accepts or the budget is spent.

    Arguments:
        sgd: The iteration.
        start: Makes its first offsets, shape (N,), where there is no checkpoint.
        judge: Of its averages.
        budget: Draws after which to give up.
        planned: Draws after which to look first.
        ranks: The processes that share each step.
        checkpoint: Gone on from if its file is there; kept every two minutes, and when a run ends or is stopped,
            unless it was short. The result is that of a run that was never stopped.
        report: Called now and then with draws done, draws expected, and χ²: of the last look or verdict.

    Raises:
        ValueError: If the checkpoint is damaged or of another problem.
    """
    started = saved = reported = next_look = time.perf_counter()
    resumed = checkpoint is not None and checkpoint.path.exists()
    if checkpoint is not None and resumed:
        run = _load(checkpoint, judge)
        # (The budget may be another one now.)
        run = replace(run, next_check=min(run.next_check, budget))
    else:
        report(0, min(planned, budget), None)
        run = Descent(sgd.init(start()), min(planned, budget))
    seen = run.chi2
    report(run.state.step * sgd.block_size, run.next_check, seen)
    try:
        while not run.converged:
            done = run.state.step * sgd.block_size
            if done >= run.next_check:
                run = _checked(run, judge, done, budget)
                seen = run.chi2
                report(done, run.next_check, seen)
                if run.converged or done >= budget:
                    break
            counts = sgd.counts(run.state, ranks.share(range(sgd.sets_per_step)))
            run = replace(run, state=sgd.update(run.state, ranks.sum(counts)))
            now = time.perf_counter()
            if now - reported > PROGRESS_SECONDS:
                report(run.state.step * sgd.block_size, run.next_check, seen)
                reported = now
            # (Ranks look together, so they must agree on when.)
            if ranks.agree(now - saved) > CHECKPOINT_SECONDS:
                if ranks.agree(now - next_look) > 0:
                    seen = judge.look(run.state.average)
                    next_look = time.perf_counter() + LOOKS_APART * (time.perf_counter() - now)
                if checkpoint:
                    _save(checkpoint, run, ranks, now - started)
                saved = time.perf_counter()
    finally:
        spent = time.perf_counter() - started
        if checkpoint and (resumed or spent >= KEPT_FROM_SECONDS):
            _save(checkpoint, run, ranks, spent)
    return run


def _checked(run: Descent, judge: Judge, done: int, budget: int) -> Descent:
    """The run after a verdict on its average, and a second one if that accepts."""
    chi2 = judge.verdict(run.state.average)
    converged = False
    if judge.accepts(chi2):
        # What made it stop is not what it reports: a lucky estimate does not come twice.
        chi2 = judge.verdict(run.state.average)
        converged = judge.accepts(chi2)
    ahead = min(max(1.05 * chi2.upper / judge.tol, 1.1), 2.0)
    next_check = min(int(done * ahead) + 1, budget)
    return replace(run, chi2=chi2, converged=converged, next_check=next_check, next_set=judge.next_set)


def _save(checkpoint: Checkpoint, run: Descent, ranks: Ranks, seconds: float) -> None:
    if not ranks.first:
        return
    numbers = {
        "step": run.state.step,
        "next_check": run.next_check,
        "next_set": run.next_set,
        "chi2": asdict(run.chi2) if run.chi2 else None,
        "converged": run.converged,
        "earlier_seconds": run.earlier_seconds + seconds,
    }
    tensors = {"iterate": run.state.iterate, "average": run.state.average}
    save_checkpoint(checkpoint.path, checkpoint.problem, tensors, numbers)


def _load(checkpoint: Checkpoint, judge: Judge) -> Descent:
    tensors, numbers = load_checkpoint(checkpoint.path, checkpoint.problem)
    device = judge.device
    state = SgdState(numbers.pop("step"), tensors["iterate"].to(device), tensors["average"].to(device))
    chi2 = numbers.pop("chi2")
    judge.next_set = numbers["next_set"]
    return Descent(state=state, chi2=ChiSquared(**chi2) if chi2 else None, **numbers)
