"""Several processes on one problem: who does which part, and sums over all.

A thin layer on torch.distributed. Started by `torchrun`, each process is a rank; without it there is one. Work comes
in numbered pieces that depend on their number alone, so it does not matter which rank does which piece; integer sums
are exact, so it does not matter in which order ranks add up either.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process's place among those that work on one problem.

    Attributes:
        rank: From 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Joins the group that `torchrun` set up, if it did.

        By gloo; and by NCCL for tensors on CUDA devices, where every rank of this machine has one of its own.
        """
        if "RANK" not in os.environ:
            return cls()
        if not dist.is_initialized():
            if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
                dist.init_process_group("cpu:gloo,cuda:nccl")
            else:
                dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and speaks to the user."""
        return self.rank == 0

    def share(self, pieces: Sequence[int]) -> Sequence[int]:
        """The pieces that this rank does."""
        return pieces[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks, in place, known to all; of integers it is exact in any order."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: float) -> float:
        """The first rank's `value`, on all."""
        if self.size == 1:
            return value
        return float(self.sum(torch.tensor([value if self.first else 0.0], dtype=torch.float64)))

    def leave(self) -> None:
        """Leaves the group."""
        if self.size > 1:
            dist.destroy_process_group()


SINGLE = Processes()
