"""Work shared out among processes.

On a CPU several processes of one thread sample faster than one process of several: the network's layers are too
small to share out.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from otprior.experiments.study import Listener, StageProgress
from otprior.utils.validation import invalid


@dataclass
class _State:
    """How this process shares work out.

    Attributes:
        kept: The processes that `kept_processes` keeps; none outside of it.
        compiled: Whether networks are compiled.
    """

    kept: list[ProcessPoolExecutor]
    compiled: bool = False


_state = _State([])


def compiles_networks() -> bool:
    """Whether networks are compiled here: in the processes of `kept_processes(compiled=True)` and in their owner."""
    return _state.compiled


@dataclass(frozen=True)
class Piece:
    """Work whose result goes into a file.

    Attributes:
        path: The file or folder. If it exists, the work is done: it has to be written whole or not at all.
        work: The function that writes it.
        args: Its arguments; with other processes, what can be pickled.
        cost: In any unit, for the progress.
        note: What it is, for the progress.
    """

    path: Path
    work: Callable[..., Any]
    args: tuple[Any, ...] = ()
    cost: float = 1
    note: str = ""

    @property
    def done(self) -> bool:
        """Whether the result is there. (A loss of power may leave a file of no length.)"""
        return self.path.is_file() and self.path.stat().st_size > 0


def run_pieces(
    pieces: Sequence[Piece], stage: str, listen: Listener, workers: int = 0, threads: int = 1
) -> None:
    """Does the pieces that are not done yet, in their order.

    Arguments:
        pieces: All of a stage.
        stage: Its name, for the progress.
        listen: Called before the first piece, and after each.
        workers: Processes that do them; 0 to do them in this one.
        threads: Threads of each process.
    """
    missing = [piece for piece in pieces if not piece.done]
    total = sum(piece.cost for piece in pieces)
    done = total - sum(piece.cost for piece in missing)
    listen(StageProgress(stage, done, total, missing[0].note if missing else ""))

    def finished(piece: Piece) -> None:
        nonlocal done
        done += piece.cost
        listen(StageProgress(stage, done, total, piece.note))

    if missing:
        run_in_processes(
            [(_do, (piece,)) for piece in missing], min(workers, len(missing)), threads, finished
        )


def _do(piece: Piece) -> Piece:
    piece.work(*piece.args)
    return Piece(piece.path, _do, cost=piece.cost, note=piece.note)  # without the arguments, for the way back


def run_in_processes(
    tasks: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]],
    workers: int,
    threads: int,
    finished: Callable[[Any], None],
) -> None:
    """Calls functions in `workers` fresh processes of `threads` threads; `finished` gets each result.

    Inside `kept_processes` its processes do it instead. With 0 workers this process does it, one call after another.

    The first error ends the run: what is waiting is dropped, what runs is waited for, and the error is raised.
    Ctrl-C does the same.

    Raises:
        ChildProcessError: If a process was ended from outside.
    """
    if not workers:
        for function, args in tasks:
            finished(function(*args))
        return
    with contextlib.ExitStack() as stack:
        pool = _state.kept[-1] if _state.kept else stack.enter_context(_processes(workers, threads))
        with _interrupts_held():
            waiting: set[Future[Any]] = {pool.submit(function, *args) for function, args in tasks}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    finished(future.result())
        except BaseException as error:
            # (A task that went on would write into folders which the caller is about to remove.)
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                hint = "perhaps for want of memory: use fewer workers. What is finished is kept"
                raise ChildProcessError(f"a process that samples was ended from outside, {hint}") from error
            raise


@contextlib.contextmanager
def kept_processes(workers: int, threads: int = 1, *, compiled: bool = False) -> Iterator[None]:
    """Lets all work inside be done by the same processes, which then read network, priors and images only once.

    Arguments:
        workers: Processes.
        threads: Threads of each.
        compiled: Whether networks are compiled, by `torch.compile`: a minute or two, then a quarter to a half faster
            on a CPU. Images change as rounding does.

    Raises:
        ValueError: If nothing can be compiled here.
    """
    if compiled:
        _check_compiler()
    before = _state.compiled
    with _processes(workers, threads, compiled) as pool:
        _state.kept.append(pool)
        _state.compiled = compiled
        try:
            yield
        finally:
            _state.kept.pop()
            _state.compiled = before


def _check_compiler() -> None:
    """Compiles next to nothing: torch finds its compilers in more ways than can be asked for."""
    try:
        torch.compile(torch.neg)(torch.ones(2))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise invalid(
            "--compile", "used where torch.compile works, which takes a C++ compiler", reason
        ) from error


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds Ctrl-C back, for good in processes that are started inside: while they import they would print where."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _processes(workers: int, threads: int, compiled: bool = False) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(threads, compiled))


def _start_process(threads: int, compiled: bool) -> None:
    # (A terminal's Ctrl-C goes to all processes; the parent ends these.)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _state.compiled = compiled
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


def _end_with_parent() -> None:
    """Ends this process with its parent: a result would have no reader."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
