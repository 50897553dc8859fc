"""Commands under `torchrun`: one process speaks and writes, and a lost one is explained."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from otprior.cli.session import fail
from otprior.utils.processes import under_torchrun

if TYPE_CHECKING:
    from otprior.transport.distributed import Processes

STATES = "map-*.safetensors"


def is_first() -> bool:
    """Whether this process writes files and speaks to the user, by what `torchrun` says."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def check_work_dir(work: Path, resume: bool, overwrite: bool) -> None:
    """Refuses to begin anew over an unfinished solve's state unless told to, or to go on where there is none.

    Raises:
        FileExistsError: If `work` has content, and neither `resume` nor `overwrite` is true.
        FileNotFoundError: If `resume` is true and there is no state.
    """
    states = any(work.glob(STATES))
    if resume and not states:
        raise FileNotFoundError(
            f"--resume: there is no state of a solve in {work}; leave --resume out to begin"
        )
    if states and not (resume or overwrite):
        raise FileExistsError(
            f"{work} holds the state of an unfinished solve; pass --resume to go on, or --overwrite to begin anew"
        )


def drop_states(work: Path) -> None:
    """Removes the states of solves, and the folder if it held nothing else."""
    for state in work.glob(STATES):
        # (Processes of one job come here one after another, and the first of them does it.)
        state.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        work.rmdir()


@contextlib.contextmanager
def several_processes(work: Path) -> Iterator[Processes]:
    """This process's place under torchrun, if it was started so; a rank that dies ends all with one explanation."""
    from torch.distributed import DistError

    from otprior.transport.distributed import Processes

    ranks = Processes.join()
    try:
        yield ranks
    except (DistError, RuntimeError) as error:
        # gloo reports a closed connection as a plain RuntimeError.
        if ranks.size == 1 or "onnection" not in str(error):
            raise
        message = (
            f"rank {ranks.rank} of {ranks.size} lost another one. The last state of the solve, if it took minutes, "
            f"is in {work}; start the same command with --resume"
        )
        raise fail(message, 1) from None
    finally:
        ranks.leave()
