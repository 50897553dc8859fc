"""Numbered pairs as a data set for training: the same stream whatever the number of workers and processes.

Step s of a stream has the pairs of numbers s B … (s + 1) B − 1, B the batch of all processes together. Process r of R
takes the r-th of R equal parts of each step, and worker w of W takes each W-th step, in which order a `DataLoader`
hands them on. A pair is a function of the seed and its number; so all that a resume needs is the number of the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from otprior.priors.coupling.pairs import Pairs
from otprior.utils.arrays import fingerprint
from otprior.utils.validation import check_integer, plain_numbers, require

if TYPE_CHECKING:
    from otprior.priors.coupling.pairs import SemiDiscreteCoupling


class PairStream(IterableDataset[Pairs]):
    """Batches of numbered pairs; give it to a `DataLoader` with `batch_size=None`.

    With workers, pairs are found beside the training, on the CPU; without, on the coupling's device. It shares the work
    among processes itself, so `Accelerator.prepare` must not. One stream is a whole training: passed through again, it
    has no second epoch of other pairs.

    Arguments:
        coupling: Where pairs come from; on the CPU if there are to be workers.
        batch_size: Pairs of a step, B, of all processes together; a multiple of `ranks`.
        seed: Of the stream, a nonnegative integer.
        steps: Where it ends, or None.
        rank, ranks: This process, and how many there are.

    Attributes:
        step: The next step to be handed out; iterating begins here.

    Examples:
        >>> stream = coupling.stream(256, seed=0)
        >>> for noise, images, labels, source in DataLoader(stream, batch_size=None, num_workers=1):
        ...     ...
    """

    @plain_numbers
    def __init__(
        self,
        coupling: SemiDiscreteCoupling,
        batch_size: int,
        seed: int = 0,
        *,
        steps: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_integer("seed", seed, 0)
        check_integer("ranks", ranks, 1)
        check_integer("rank", rank, 0, ranks - 1)
        check_integer("batch_size", batch_size, 1)
        require(batch_size % ranks == 0, "batch_size", f"a multiple of ranks, {ranks}", batch_size)
        if steps is not None:
            check_integer("steps", steps, 1)
        self.coupling, self.batch_size, self.seed, self.steps = coupling, batch_size, seed, steps
        self.rank, self.ranks = rank, ranks
        self.step = 0

    def __iter__(self) -> Iterator[Pairs]:
        worker = get_worker_info()
        on_gpu = self.coupling.device.type != "cpu"
        require(worker is None or not on_gpu, "num_workers", "0 with a coupling on a GPU", "workers")
        ahead, apart = (0, 1) if worker is None else (worker.id, worker.num_workers)
        step = self.step + ahead
        part = self.batch_size // self.ranks
        while self.steps is None or step < self.steps:
            first = step * self.batch_size + self.rank * part
            pairs = self.coupling.draw(self.seed, range(first, first + part))
            step += apart
            if worker is None:
                self.step = step
            yield pairs

    @plain_numbers
    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """What a resume needs.

        Arguments:
            step: The number of steps that the training has taken. It may be left out where there are no workers: a
                stream does not see how many of their batches have been used.
        """
        step = self.step if step is None else step
        check_integer("step", step, 0)
        maps = self.coupling.maps
        map_digest = fingerprint(maps.potential, maps.classes, maps.entropy)
        known = {"seed": self.seed, "batch_size": self.batch_size, "map": map_digest}
        return {"step": step, **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a stream of the same pairs was.

        Raises:
            ValueError: If that stream had another map, seed or batch size, or it is no state.
        """
        require(isinstance(state, dict), "state", "a dict of `state_dict`", type(state).__name__)
        own = self.state_dict()
        others = [name for name in ("seed", "batch_size", "map") if state.get(name) != own[name]]
        require(
            not others, "state", "that of a stream of the same map, seed and batch size", f"another {others}"
        )
        check_integer("state['step']", state.get("step"), 0)
        self.step = state["step"]
