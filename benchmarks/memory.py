"""Peak and growth of memory, above that of the process before: fit, sample, evaluate, and many calls of a pipeline.

    python benchmarks/memory.py
    python benchmarks/memory.py --atoms 1000 --samples 500 --calls 20

On the bundled network and images (1 x 28 x 28): a gaussian and a semidiscrete prior are fitted to `--atoms` images,
`--samples` images are sampled by `otprior sample` and evaluated by `otprior evaluate`, and one pipeline is called
`--calls` times with a batch of 16. Each job has a process of its own. Fits and sampling do a tiny job of their kind
first, so that imports and buffers are not counted; `evaluate` has none. Peak is the largest resident set while the job
runs, growth what is still held when it has ended, both above the resident set before it. For the calls growth is that
from call 20 % to the last.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 1 << 20
BATCH = 16


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Watch:
    """The largest resident set within a block, looked at 100 times a second."""

    def __enter__(self) -> Watch:
        gc.collect()
        self.before = self.peak = resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        gc.collect()
        self.after = resident()


def command(*words: object) -> None:
    """Runs a command of the command line in this process."""
    from typer.testing import CliRunner

    from otprior.cli import program

    result = CliRunner().invoke(program, [str(word) for word in words])
    if result.exit_code != 0:
        raise RuntimeError(result.output)


def fit(kind: str, folder: Path, asked: argparse.Namespace) -> Callable[[int], None]:
    """Fits a prior to so many of the bundled images."""

    def job(count: int) -> None:
        out = folder / kind
        command("fit", "bundled", "bundled", "--prior", kind, "--limit", count, "--out", out, "--overwrite")

    return job


def sample(folder: Path, asked: argparse.Namespace) -> Callable[[int], None]:
    """Samples so many images into one file."""

    def job(count: int) -> None:
        words = ("--prior", folder / "gaussian", "--seeds", f"0-{count - 1}", "--steps", 5, "--format", "npz")
        command("sample", "bundled", *words, "--out", folder / "samples", "--overwrite")

    return job


def evaluate(folder: Path, asked: argparse.Namespace) -> Callable[[int], None]:
    """Evaluates the samples; the number is of no matter."""
    return lambda _: command("evaluate", folder / "samples", "--out", folder / "evaluation", "--overwrite")


def calls(asked: argparse.Namespace) -> dict[str, float]:
    """Calls one pipeline over and over."""
    from otprior import GaussianPrior, OTPriorPipeline, bundled, seeds_to_generators

    prior = GaussianPrior.fit(bundled.atoms(), bundled.load_scheduler())
    pipe: Any = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), prior=prior, null_class_label=10)
    pipe.set_progress_bar_config(disable=True)
    held = []
    with Watch() as watch:
        for number in range(asked.calls):
            pipe(BATCH, generator=seeds_to_generators(range(BATCH)), num_inference_steps=5, output_type="np")
            held.append(resident())
            del number
    growth = held[-1] - held[len(held) // 5]
    return {"peak": (watch.peak - watch.before) / MIB, "growth": growth / MIB}


def measure(name: str, folder: Path, asked: argparse.Namespace) -> dict[str, float]:
    """One job, in this process."""
    started = time.perf_counter()
    if name == "calls":
        return calls(asked) | {"seconds": time.perf_counter() - started}
    kind = name.removeprefix("fit ")
    job = {"sample": sample, "evaluate": evaluate}.get(name)
    run = job(folder, asked) if job is not None else fit(kind, folder, asked)
    if name != "evaluate":
        run(100)
    started = time.perf_counter()
    with Watch() as watch:
        run(asked.samples if name == "sample" else asked.atoms)
    seconds = time.perf_counter() - started
    return {
        "peak": (watch.peak - watch.before) / MIB,
        "growth": (watch.after - watch.before) / MIB,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--atoms", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        print(json.dumps(measure(asked.job, asked.folder, asked)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for job in ("fit gaussian", "fit semidiscrete", "sample", "evaluate", "calls"):
            words = [sys.executable, __file__, "--job", job, "--folder", folder]
            words += [
                "--atoms",
                str(asked.atoms),
                "--samples",
                str(asked.samples),
                "--calls",
                str(asked.calls),
            ]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{job:17s} peak {found['peak']:6.0f} MiB, growth {found['growth']:5.0f} MiB, "
                f"{found['seconds']:5.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
