"""Running a method until the stopping rule accepts: the plan of measurements, progress, checkpoints.

A method says after how many draws it expects to reach the tolerance. The first measurement comes then, and its result
says when the next one is due. One that was planned beforehand, from draws of its own, decides alone, and so does one of
a potential that the method computes without draws. Of a series of measurements some are lucky: after a first that did
not accept, a potential has to be accepted twice, since a lucky estimate does not come twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from otprior.transport.checkpoint import load_checkpoint, save_checkpoint
from otprior.transport.chi_squared import ChiSquared
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.methods import Iterate, Method, Problem
from otprior.transport.solution import Outcome, Progress
from otprior.transport.stopping import StoppingRule
from otprior.utils.validation import require

PROGRESS_SECONDS = 0.5
# A long solve keeps its state, and measures a rough χ², this often.
CHECKPOINT_SECONDS = 120.0
# Over millions of atoms that χ² takes long: measurements are this many times their own duration apart, or more.
ROUGH_APART = 30.0
# A solve shorter than this is repeated sooner than its checkpoint is looked for.
KEPT_FROM_SECONDS = 20.0


@dataclass(frozen=True)
class Checkpoint:
    """Where to keep a run's state, and what problem it belongs to (see `checkpoint.fingerprint`)."""

    path: Path
    problem: str

    def __post_init__(self) -> None:
        # (Its folder is made when it is first kept, which may be after minutes.)
        above = next((each for each in self.path.parents if each.exists()), Path())
        require(above.is_dir(), "checkpoint", "a file in a folder", f"{self.path}, where {above} is a file")


@dataclass(frozen=True)
class Run:
    """How a method ended.

    Attributes:
        potential: h, shape (N,), float64.
        chi2: Of it, on fresh draws.
        outcome: How it ended.
        draws: Draws that the method took.
        earlier_seconds: Spent by the processes whose checkpoint this one went on from.
    """

    potential: Tensor
    chi2: ChiSquared
    outcome: Outcome
    draws: int
    earlier_seconds: float = 0.0


class Runner:
    """Runs one method on one problem: `Runner(...).run()`.

    Arguments:
        method: What computes potentials.
        problem: With the budget of draws.
        rule: Accepts potentials.
        checkpoint: A run goes on from it if its file is there, and keeps it: every two minutes, and when it ends or is
            stopped, unless it was short. The result is that of a run that was never stopped.
        progress: Called now and then.
    """

    def __init__(
        self,
        method: Method,
        problem: Problem,
        rule: StoppingRule,
        checkpoint: Checkpoint | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._method, self._problem, self._rule = method, problem, rule
        self._checkpoint, self._progress = checkpoint, progress
        self._processes = problem.cells.processes
        self._resumed = False
        self._converged = False
        self._next_check = 1  # draws at which χ² is measured next
        self._planned: int | None = None  # the same, once it has been measured
        self._chi2: ChiSquared | None = None  # the last that counts
        self._shown: ChiSquared | None = None  # the last of any kind
        self._last: Iterate | None = None
        self._best: tuple[float, Iterate] | None = None  # of complete iterates
        self._next_set = rule.next_set  # of the rule, after the last measurement
        self._earlier_seconds = 0.0
        self._started = self._saved = self._reported = self._next_rough = time.perf_counter()

    def run(self) -> Run | None:
        """The run; None if the method computes its own χ² and found nothing that is accepted.

        Raises:
            ValueError: If the checkpoint is damaged or of another problem.
        """
        step, state = self._load()
        try:
            for iterate in self._method.iterates(self._problem, step, state):
                self._follow(iterate)
                if self._converged or iterate.draws - iterate.unused >= self._problem.max_draws:
                    break
        finally:
            spent = time.perf_counter() - self._started
            if self._resumed or spent >= KEPT_FROM_SECONDS:
                self._save(spent)
        return self._result()

    def _follow(self, iterate: Iterate) -> None:
        """Takes the next iterate: measures it if that is due, reports, keeps the state."""
        first, self._last = self._last is None, iterate
        # (On going on from a checkpoint the budget may be another one.)
        self._next_check = min(self._planned or iterate.expected_draws, self._problem.max_draws)
        now = time.perf_counter()
        if first or now - self._reported > PROGRESS_SECONDS:
            self._report(iterate)
            self._reported = now
        # (All processes measure together, so they must agree on when.)
        if not first and self._processes.agree(now - self._saved) > CHECKPOINT_SECONDS:
            self._keep(iterate, now)
        if not self._converged and (iterate.complete or iterate.draws >= self._next_check):
            self._check(iterate)
            self._report(iterate)

    def _check(self, iterate: Iterate) -> None:
        """Measures χ² and plans the next measurement."""
        rule = self._rule
        chi2 = rule.chi_squared(iterate.potential)
        if iterate.known_chi2 is not None:
            self._converged = iterate.known_chi2 == 0 or rule.accepts(chi2)
        else:
            if iterate.complete and (self._best is None or chi2.value < self._best[0]):
                self._best = (chi2.value, iterate)
            if rule.accepts(chi2) and (self._planned or iterate.complete):
                # What made it stop is not what it reports: a lucky estimate does not come twice.
                chi2 = rule.chi_squared(iterate.potential)
            self._converged = rule.accepts(chi2)
        self._chi2 = self._shown = chi2
        self._next_set = rule.next_set
        ahead = min(max(1.15 * chi2.upper / rule.tol, 1.1), 2.0)
        self._planned = self._next_check = min(int(iterate.draws * ahead) + 1, self._problem.max_draws)

    def _result(self) -> Run | None:
        last, chi2, rule = self._last, self._chi2, self._rule
        if last is None or chi2 is None or (last.known_chi2 is not None and not self._converged):
            return None
        outcome = Outcome.CONVERGED if self._converged else Outcome.BUDGET_SPENT
        potential = last.potential
        if not self._converged and self._best is not None:
            potential = self._best[1].potential
            chi2 = rule.chi_squared(potential)
        elif not self._converged and last.draws >= last.expected_draws:
            measure = self._problem.measure
            # Worse than offsets that take no draws.
            start = rule.chi_squared(independent_score_start(measure.atoms, measure.weights))
            if chi2.value > 2 * max(start.value, rule.tol):
                outcome = Outcome.DIVERGED
        return Run(potential, chi2, outcome, last.draws, self._earlier_seconds)

    def _report(self, iterate: Iterate) -> None:
        if self._progress:
            expected = iterate.expected_draws if iterate.complete else self._next_check
            self._progress(Progress(iterate.draws - iterate.unused, expected or 1, self._shown))

    def _keep(self, iterate: Iterate, now: float) -> None:
        """Saves the state, after measuring a rough χ² where that takes little of the time."""
        if self._processes.agree(now - self._next_rough) > 0:
            self._shown = self._rule.rough_chi_squared(iterate.potential)
            self._next_rough = time.perf_counter() + ROUGH_APART * (time.perf_counter() - now)
        self._save(now - self._started)
        self._saved = now

    def _load(self) -> tuple[int, dict[str, Tensor] | None]:
        """Step and state to go on from; None where there is no checkpoint of this method."""
        if self._checkpoint is None or not self._checkpoint.path.exists():
            return 0, None
        tensors, numbers = load_checkpoint(self._checkpoint.path, self._checkpoint.problem)
        if numbers.get("method", "sgd") != self._method.name:
            return 0, None
        self._resumed = True
        self._planned, self._converged = numbers["next_check"], numbers["converged"]
        self._rule.next_set = self._next_set = numbers["next_set"]
        self._chi2 = self._shown = ChiSquared(**numbers["chi2"]) if numbers["chi2"] else None
        self._earlier_seconds = numbers["earlier_seconds"]
        return numbers["step"], tensors

    def _save(self, seconds: float) -> None:
        last = self._last
        if self._checkpoint is None or last is None or last.state is None or not self._processes.first:
            return
        numbers = {
            "method": self._method.name,
            "step": last.step,
            "next_check": self._planned,
            "next_set": self._next_set,
            "chi2": asdict(self._chi2) if self._chi2 else None,
            "converged": self._converged,
            "earlier_seconds": self._earlier_seconds + seconds,
        }
        save_checkpoint(self._checkpoint.path, self._checkpoint.problem, dict(last.state), numbers)
