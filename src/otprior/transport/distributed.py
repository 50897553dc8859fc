"""Several processes on one problem: how they share the work, and sums over all.

A thin layer on torch.distributed. `torchrun` starts several processes; otherwise there is one. Work comes in numbered
pieces that depend on their number alone, so it does not matter which process does which piece; integer sums are exact,
so the order of adding does not matter either.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from otprior.utils.processes import under_torchrun


@dataclass(frozen=True)
class Processes:
    """The processes that work on one problem, and which of them this one is.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.

    Examples:
        >>> Processes().size
        1
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Joins the group that `torchrun` set up, if it did.

        Sums go through gloo; and through NCCL for tensors on CUDA devices, if there is a device for every process of
        this machine.
        """
        if not under_torchrun():
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
        """Whether this is the process that writes files and reports to the user."""
        return self.rank == 0

    def share(self, pieces: Sequence[int]) -> Sequence[int]:
        """Selects the pieces that this process does."""
        return pieces[self.rank :: self.size]

    def sum(self, values: Tensor) -> Tensor:
        """Sums `values` over all processes, in place, on all of them; for integers exactly, in any order."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The `value` of each rank, in their order, known to all."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def agree(self, value: float) -> float:
        """Returns the first process's `value` on all."""
        if self.size == 1:
            return value
        return float(self.sum(torch.tensor([value if self.first else 0.0], dtype=torch.float64)))

    def leave(self) -> None:
        """Leaves the group."""
        if self.size > 1:
            dist.destroy_process_group()


SINGLE = Processes()
