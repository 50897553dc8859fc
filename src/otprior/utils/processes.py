"""Whether a launcher of several processes started this one."""

from __future__ import annotations

import os

# What torch.distributed needs of the environment. (Job schedulers set RANK alone.)
_OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """Whether `torchrun`, or what sets the same variables, started this process."""
    return all(name in os.environ for name in _OF_A_LAUNCHER)
