"""Methods that compute a potential, one a file. `otprior.transport.solve` chooses, `otprior.transport.run` runs them.

A method is a module (or any object) with the three members of `Method`. It is given a `Problem` and yields an `Iterate`
after each of its steps, as long as it can improve the potential. It knows nothing of stopping: the runner measures χ²
on draws of its own, and takes no more iterates once that is within the tolerance. Checkpoints, progress and several
processes are the runner's concern too: a method counts draws through `Problem.cells`, which all processes do together,
and names in `Iterate.state` the tensors from which it can go on.

To add one: write its file here, put it into `choose` in `solve.py`, and test it against the generators in
`tests/generators`, whose potentials are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from otprior.transport.cells import Cells
from otprior.transport.measure import DiscreteMeasure


@dataclass(frozen=True)
class Problem:
    """What a method is given.

    Attributes:
        cells: Counts draws by cell, for any offsets. Its `measure`, `source`, `seed` and `entropy` are the problem's.
        tol: The χ² that is wanted.
        max_draws: Draws that the method may take. It is stopped there; a method that fixes their number beforehand
            takes no more.
    """

    cells: Cells
    tol: float
    max_draws: int

    @property
    def measure(self) -> DiscreteMeasure:
        """The target: N distinct atoms of positive weight."""
        return self.cells.measure


@dataclass(frozen=True)
class Iterate:
    """A potential that a method has arrived at.

    Attributes:
        potential: h, shape (N,), float64, on the atoms' device; free up to a constant.
        draws: Draws taken so far.
        unused: Of these, the draws that the method has still to work through; for progress.
        expected_draws: Draws after which the method now expects to reach the tolerance: the plan for the first
            measurement.
        step: Number of steps so far.
        complete: Whether a stage of the method ends here, so that χ² is to be measured whatever the plan says. Of
            complete iterates the best is kept, otherwise the last.
        known_chi2: χ² as the method itself computes it, where it needs no draws for that; 0 if the potential is exact.
        state: From which, together with `step`, the method can go on in another process; None if it cannot.
    """

    potential: Tensor
    draws: int = 0
    unused: int = 0
    expected_draws: int = 1
    step: int = 0
    complete: bool = False
    known_chi2: float | None = None
    state: Mapping[str, Tensor] | None = None


class Method(Protocol):
    """A way to compute a potential.

    Attributes:
        name: What `Solution.stats` calls it.
    """

    name: str

    def suits(self, problem: Problem) -> bool:
        """Whether the method can solve this problem, within reason."""

    def iterates(
        self, problem: Problem, step: int = 0, state: Mapping[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        """Yields the potential after each step.

        Arguments:
            problem: See `Problem`.
            step, state: Those of an iterate of the same problem to go on from; its own first iterate is that one.
        """
