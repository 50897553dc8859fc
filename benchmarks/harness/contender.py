"""A run's own process: one solver, one problem, a clock that stands still while the potential is measured.

    python -m harness.contender JOB.json

Alone in its process, a run has a peak of memory that is its own and a number of threads that nothing else changes. It
writes checkpoints to its standard output, a line of JSON and then the bytes of h, and waits for an answer each time: a
line with the second of its own clock at which to end. So it is idle while the other process measures h.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from peers import load

from harness import atom_sets

# Checkpoints are this far apart in time: a target is noticed 9 % late at most.
CHECKPOINT_RATIO = 2**0.125


class TimeIsUp(Exception):
    """Ends a run."""


class Timer:
    """The clock of a run (`peers.Clock`), and the channel to the process that measures.

    Arguments:
        first: Second of the first checkpoint; the following ones are at ratios of `CHECKPOINT_RATIO`.
        stop: Second at which to end, until an answer says otherwise.
        send: Takes a record and h, and returns the second at which to end.
    """

    def __init__(
        self, first: float, stop: float, send: Callable[[dict[str, Any], np.ndarray], float]
    ) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self._due, self._stop, self._send = first, stop, send

    def start(self) -> None:
        self._resumed, self._cpu_resumed = time.perf_counter(), time.process_time()

    def __call__(self, draws: int, offsets: Callable[[], np.ndarray], last: bool = False) -> None:
        elapsed = self.seconds + time.perf_counter() - self._resumed
        if elapsed < self._due and elapsed < self._stop and not last:
            return
        self.seconds = elapsed
        self.cpu_seconds += time.process_time() - self._cpu_resumed
        spent = {"seconds": elapsed, "cpu_seconds": self.cpu_seconds, "draws": draws}
        record = spent | {"last": last or elapsed >= self._stop}
        self._stop = self._send(record, np.ascontiguousarray(offsets(), dtype=np.float64))
        if last:
            return
        if elapsed >= self._stop:
            raise TimeIsUp
        while self._due <= elapsed:
            self._due *= CHECKPOINT_RATIO
        self.start()


def memory_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process, in MiB; NaN where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    """Forgets the peak of memory so far (of imports, of reading files)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def pin(threads: int) -> None:
    """Leaves this process `threads` cores, so that thread pools that no variable governs (XLA's) are as large."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main(path: str) -> None:
    # What libraries print must not end up between the checkpoints.
    channel: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    pin(job["threads"])
    peer = load(job["peer"])
    problem = atom_sets.read(Path(job["folder"]))
    if peer.requires[0] != "ott":
        _wake_torch(job["threads"])

    def write(record: dict[str, Any]) -> None:
        channel.write(json.dumps(record).encode() + b"\n")

    def send(record: dict[str, Any], offsets: np.ndarray) -> float:
        write(record | {"size": len(offsets)})
        channel.write(offsets.tobytes())
        channel.flush()
        return float(sys.stdin.readline())

    reset_peak()
    before = memory_mib("VmRSS")
    timer = Timer(job["first"], job["stop"], send)
    facts = None
    with contextlib.suppress(TimeIsUp):
        facts = peer.run(problem, job["settings"], job["seed"], timer)
    peak = memory_mib("VmHWM")
    memory = {"peak_mib": peak, "solve_mib": peak - before}
    write({"seconds": timer.seconds, "cpu_seconds": timer.cpu_seconds, **memory, "facts": facts or {}})
    channel.flush()


def _wake_torch(threads: int) -> None:
    """Thread pool and matrix library up before the clock starts, as OTT's compiled functions are."""
    import torch

    torch.set_num_threads(threads)
    # Shares of a softmax that are no normal numbers would slow a peer down for nothing.
    torch.set_flush_denormal(True)
    torch.randn(256, 256) @ torch.randn(256, 256)


if __name__ == "__main__":
    main(sys.argv[1])
