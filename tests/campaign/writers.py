"""Two processes that write one output at the same time, with and without an earlier result there.

Each ends well or says in one line that the other is writing; what stands there in the end is one of them, whole.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from campaign.inputs import garbage, write_earlier
from campaign.material import JOBS, ONE_OF_EACH, copy
from campaign.running import Outcome, forked

PAIRS = 5


@dataclass(frozen=True)
class Pair:
    """Two commands: their exit codes, and what was wrong."""

    number: int
    done: str
    codes: list[int | None]
    fault: str | None
    said: list[str]


def main(material: Path, work: Path, seed: int, first: int) -> Iterator[Pair]:
    """Runs the pairs from the `first` on."""
    chance = random.Random(seed)
    cases = [
        (name, chance.choice((0.0, 0.0, 0.02, 0.2)), k % 2 == 0) for name in ONE_OF_EACH for k in range(PAIRS)
    ]
    for number, (name, delay, earlier) in enumerate(cases):
        if number < first:
            continue
        folder = work / "writers"
        shutil.rmtree(folder, ignore_errors=True)
        copy(material, folder)
        if earlier:
            write_earlier(folder / "out")
        words = [*JOBS[name][0].split(), "--out", "out", *(["--overwrite"] if earlier else [])]
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(2, context) as pool:
            running = [pool.submit(_run, words, folder, delay * k, str(k)) for k in range(2)]
            outcomes = [each.result() for each in running]
        fault = _wrong(folder, outcomes)
        done = f"two of {name}, {delay} s apart{', over an earlier result' if earlier else ''}"
        if fault:
            print(f"{number}: {fault}: {done}", file=sys.stderr, flush=True)
        codes = [outcome.code for outcome in outcomes]
        yield Pair(number, done, codes, fault, [outcome.err.strip()[-300:] for outcome in outcomes])


def _run(words: list[str], folder: Path, delay: float, label: str) -> Outcome:
    time.sleep(delay)
    return forked(words, folder, seconds=60, label=label)


def _wrong(folder: Path, outcomes: list[Outcome]) -> str | None:
    for outcome in outcomes:
        if outcome.fault(60):
            return outcome.fault(60)
    hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    if hidden:
        return f"left behind: {hidden}"
    out = folder / "out"
    if any(outcome.code == 0 for outcome in outcomes):
        return next(garbage(out), None) if out.is_dir() else "a success without an output"
    kept = not out.exists() or "keep me" in (out / "report.json").read_text()
    return None if kept else "both failed, and the earlier result is gone"
