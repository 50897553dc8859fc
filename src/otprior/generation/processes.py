"""Work shared out among processes.

On a CPU several processes of one thread sample faster than one process of several: the network's layers are too
small to share out.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import torch

__all__ = ["kept_processes", "run_in_processes"]

# The processes that `kept_processes` keeps; none outside of it.
_kept: list[ProcessPoolExecutor] = []


def run_in_processes(
    tasks: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]],
    workers: int,
    threads: int,
    finished: Callable[[Any], None],
) -> None:
    """Calls functions in `workers` fresh processes of `threads` threads; `finished` gets each result.

    Inside `kept_processes` its processes do it instead.

    The first error ends the run: what is waiting is dropped, what runs is waited for, and the error is raised.
    Ctrl-C does the same.
    """
    with contextlib.ExitStack() as stack:
        pool = _kept[-1] if _kept else stack.enter_context(_processes(workers, threads))
        waiting: set[Future[Any]] = {pool.submit(function, *args) for function, args in tasks}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    finished(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def kept_processes(workers: int, threads: int = 1) -> Iterator[None]:
    """Lets all work inside be done by the same processes, which then read network, priors and images only once."""
    with _processes(workers, threads) as pool:
        _kept.append(pool)
        try:
            yield
        finally:
            _kept.pop()


def _processes(workers: int, threads: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(threads,))


def _start_process(threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


def _end_with_parent() -> None:
    """A process whose parent was killed would go on sampling for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
