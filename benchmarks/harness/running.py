"""Having a run done and measured, and keeping the result as a file, so that a benchmark that was cut off goes on.

A run is given so many seconds for its first target, once that is reached so many for the next, and ends when a target
is not reached in its time. It sends a checkpoint every 9 % of time; every fourth is measured (or only the last), and
where one has reached a target the first that did is looked for among those before it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from peers import Settings

from harness.measuring import ChiSquaredMeter
from otprior.utils.files import read_json, write_json

BENCHMARKS = Path(__file__).resolve().parents[1]
MEASURE_EVERY = 4
# The first checkpoint comes this many octaves before the first limit.
OCTAVES = 9
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """A run.

    Attributes:
        peer: Which solver.
        variant: What the run is for: "door", "curve", "tuning", "tuned", "default".
        settings: Of the solver.
        seed: Of its draws.
        limits: Targets of χ² in falling order, each with the second by which it has to be reached.
        measure_last_only: Whether only the end is of interest.
    """

    peer: str
    variant: str
    settings: Settings
    seed: int
    limits: tuple[tuple[float, float], ...]
    measure_last_only: bool = False

    @property
    def name(self) -> str:
        """For the file of its result."""
        text = json.dumps([self.settings, self.limits, self.measure_last_only], sort_keys=True)
        return f"{self.peer}-{self.variant}-{self.seed}-{sha256(text.encode()).hexdigest()[:10]}"


class Runner:
    """Does jobs on the problem in a folder.

    Arguments:
        folder: Where atoms.npy is, and results go.
        meter: Measures χ² of that problem.
        threads: Of each run.
    """

    def __init__(self, folder: Path, meter: ChiSquaredMeter, threads: int) -> None:
        self._folder, self._meter, self._threads = folder, meter, threads

    def __call__(self, job: Job) -> dict[str, Any]:
        """The job's result, from its file if it was done before.

        Raises:
            RuntimeError: If the process failed; says where its messages are.
        """
        path = self._folder / f"{job.name}.json"
        if not path.is_file():
            write_json(path, self._do(job, path))
        return read_json(path)

    def _do(self, job: Job, path: Path) -> dict[str, Any]:
        order = path.with_suffix(".job")
        order.write_text(json.dumps(self._order(job)), encoding="utf-8")
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(self._threads))
        environment["PYTHONPATH"] = os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")])
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        log = path.with_suffix(".log")
        began = time.perf_counter()
        with open(log, "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "harness.contender", str(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
            with process:
                try:
                    result = self._follow(job, process)
                except BaseException:
                    process.kill()
                    raise
        if process.returncode or result is None:
            raise RuntimeError(
                f"{job.name} failed with exit code {process.returncode}; its messages are in {log}"
            )
        order.unlink()
        log.unlink()
        facts = {"load_before": load, "wall_seconds": time.perf_counter() - began}
        return {"job": asdict(job)} | result | facts

    def _order(self, job: Job) -> dict[str, Any]:
        stop = job.limits[0][1]
        return {
            "peer": job.peer,
            "settings": job.settings,
            "seed": job.seed,
            "threads": self._threads,
            "folder": str(self._folder),
            "first": stop / 2**OCTAVES,
            "stop": stop,
        }

    def _follow(self, job: Job, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """Answers a run until it ends; None if it ended early."""
        assert process.stdin is not None
        progress = _Progress(job, self._meter)
        for record, offsets in _messages(process):
            if offsets is None:
                return progress.result() | record
            stop = progress.see(record, offsets)
            process.stdin.write(f"{stop}\n".encode())
            process.stdin.flush()
        return None


def _messages(process: subprocess.Popen[bytes]) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
    """Checkpoints with their offsets, and at the end a record without."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        record = json.loads(line)
        size = 8 * record.get("size", 0)
        content = process.stdout.read(size)
        if len(content) < size:
            return
        yield record, np.frombuffer(content) if size else None


class _Progress:
    """What is known of a run so far."""

    def __init__(self, job: Job, meter: ChiSquaredMeter) -> None:
        self._measure_last_only, self._meter = job.measure_last_only, meter
        self._limits = list(job.limits)
        self._unmeasured: list[tuple[dict[str, Any], np.ndarray]] = []
        self._curve: list[dict[str, Any]] = []
        self._reached: dict[str, dict[str, Any]] = {}
        self._diverged = False

    def see(self, record: dict[str, Any], offsets: np.ndarray) -> float:
        """Takes a checkpoint; the second at which the run is to end."""
        self._unmeasured.append((record, offsets))
        if record["last"] or (len(self._unmeasured) >= MEASURE_EVERY and not self._measure_last_only):
            self._look()
        return self._limits[0][1] if self._limits and not self._diverged else 0.0

    def result(self) -> dict[str, Any]:
        """What goes into the file."""
        return {"curve": self._curve, "reached": self._reached, "diverged": self._diverged}

    def _look(self) -> None:
        """Measures the last checkpoint, and where it reaches a target looks for the first that did."""
        *earlier, last = self._unmeasured
        self._unmeasured = []
        while True:
            target = self._limits[0][0]
            point = self._measure(*last, target)
            self._diverged = point["chi2"] is None
            if self._diverged or point["upper"] > target:
                break
            self._limits.pop(0)
            self._reached[str(target)] = self._first(earlier, target) or point
            if not self._limits:
                break
        self._curve.append(point)

    def _first(
        self, checkpoints: list[tuple[dict[str, Any], np.ndarray]], target: float
    ) -> dict[str, Any] | None:
        """The first of the checkpoints, in the order of time, that reaches a target; found by bisection."""
        first, below, above = None, 0, len(checkpoints)
        while below < above:
            middle = (below + above) // 2
            point = self._measure(*checkpoints[middle], target)
            if point["chi2"] is not None and point["upper"] <= target:
                first, above = point, middle
            else:
                below = middle + 1
        return first

    def _measure(self, record: dict[str, Any], offsets: np.ndarray, target: float) -> dict[str, Any]:
        chi2 = self._meter(offsets, target)
        point = {key: record[key] for key in ("seconds", "cpu_seconds", "draws")}
        if chi2 is None:
            return point | dict.fromkeys(("chi2", "upper", "standard_error"))
        return point | {"chi2": chi2.value, "upper": chi2.upper, "standard_error": chi2.standard_error}
