"""Commands killed at each change of a file and at random times: what stood there stays, and the next run ends well.

The next run has to give what a run that was never killed gives, to the byte. What differs between two runs that were
not killed (seconds, in JSON) is not compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from campaign.inputs import write_earlier
from campaign.material import JOBS, copy
from campaign.operations import before_operation
from campaign.running import TRAINING, Outcome, forked

# The command line, and what goes on with it after a kill.
KILLED = {
    "encode": JOBS["encode"][0],
    "fit": "fit model data.npz --tol 0.05",
    "train": TRAINING,
    # (What a search that its time ends has tried depends on the load of the machine.)
    "tune": JOBS["tune"][0].replace("--minutes 0.01", "--minutes 30"),
    "compare": JOBS["compare"][0],
}
KILLS, STOPS = 100, 40
Content = dict[str, Any]


@dataclass(frozen=True)
class Kill:
    """A kill: its number, the job, the signal, when (a change's number, or seconds), and what was wrong after it."""

    number: int
    job: str
    signal: str
    when: float
    done: str
    code: int | None
    fault: str | None
    said: str = ""


def content(folder: Path) -> Content:
    """Every file below a folder: its bytes; of JSON its values by their places."""
    found: Content = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            continue
        if path.suffix == ".json":
            found |= {f"{name} {place}": leaf for place, leaf in _leaves(json.loads(path.read_bytes()))}
        elif path.suffix not in (".html", ".svg"):  # they show seconds
            found[name] = path.read_bytes()
        else:
            found[name] = "there"
    return found


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, f"{place}/{key}")
    else:
        yield place, value


class Job:
    """A job in a folder, and what it leaves when nobody kills it."""

    def __init__(self, material: Path, work: Path, name: str) -> None:
        self.material, self.folder, self.name = material, work / "killed", name
        first, second, other = self.run_once(), self.run_once(), self.run_once()
        self.unsure = {key for key in first if not first[key] == second.get(key) == other.get(key)}
        # (What goes on has an option more.)
        self.unsure |= {key for key in first if key.startswith("report.json /command")}
        self.whole = {key: value for key, value in first.items() if key not in self.unsure}

    def fresh(self, earlier: bool) -> None:
        """An untouched folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        copy(self.material, self.folder)
        if earlier and self.name != "train":  # (a training goes on in its folder)
            write_earlier(self.folder / "out")

    def run(self, *, again: bool = False, before: Any = None, during: Any = None) -> Outcome:
        words = KILLED[self.name].split()
        if self.name != "train":
            words += ["--out", "out", "--overwrite"]
        if again and self.name == "fit" and any((self.folder / "out.work").glob("map-*.safetensors")):
            words.append("--resume")

        def first() -> None:
            from otprior.transport import run

            run.KEPT_FROM_SECONDS = run.CHECKPOINT_SECONDS = 0.0
            if before is not None:
                before()

        return forked(words, self.folder, before=first, during=during, seconds=60)

    def run_once(self) -> Content:
        """Runs it without a kill: what is in its output, and which other files there are then."""
        self.fresh(earlier=True)
        count = self.folder.with_name("count")
        count.unlink(missing_ok=True)
        started = time.monotonic()
        descriptor = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        outcome = self.run(before=lambda: before_operation(None, lambda: None, descriptor))
        os.close(descriptor)
        assert outcome.code == 0, outcome
        self.seconds = time.monotonic() - started
        self.operations = count.stat().st_size
        self.names = {path.name for path in self.folder.iterdir()}
        return content(self.folder / "out")

    def wrong_after(self, outcome: Outcome, earlier: bool) -> str | None:
        """What is wrong after a kill, and after the run that follows it."""
        out = self.folder / "out"
        if self.name != "train":
            kept = not out.exists() if not earlier else _is_earlier(out)
            if not kept and not (out.is_dir() and self._is_whole(out)):
                return (
                    f"output is neither the earlier nor the new one: {sorted(map(str, out.rglob('*')))[:5]}"
                )
        stopped = outcome.code == 130
        if stopped and any(path.name.startswith(".out") for path in self.folder.iterdir()):
            return "stopped, and left a hidden folder"
        if outcome.code not in (0, 130, -9, -15):
            return f"ended with {outcome.code}"
        if outcome.code == 130 and "Traceback" in outcome.err:
            return "traceback of Ctrl-C"
        again = self.run(again=True)
        if again.fault(60) or again.code != 0:
            return f"the next run: {again.code}, {again.fault(60)}: {again.err.strip()[-300:]}"
        if not self._is_whole(out):
            now = content(out)
            keys = (self.whole.keys() | now.keys()) - self.unsure
            other = [key for key in keys if now.get(key) != self.whole.get(key)]
            return f"the next run gives something else: {sorted(other)[:5]}"
        litter = {path.name for path in self.folder.iterdir()} - self.names
        return f"litter: {sorted(litter)}" if litter else None

    def _is_whole(self, out: Path) -> bool:
        try:
            now = content(out)
        except ValueError:
            return False
        sure = {key: value for key, value in now.items() if not key.startswith("report.json /command")}
        return {key: value for key, value in sure.items() if key not in self.unsure} == self.whole


def _is_earlier(out: Path) -> bool:
    return {path.name for path in out.iterdir()} == {"report.json", ".otprior"} and "keep me" in (
        out / "report.json"
    ).read_text()


def plan(seed: int, jobs: dict[str, Job]) -> Iterator[tuple[int, Job, int, float, bool]]:
    """Kills and stops: half of them at changes of files, spread evenly, half at random times.

    Yields:
        Number; job; signal; the change's number, or minus the seconds; whether an earlier output is there.
    """
    chance, number = random.Random(seed), 0
    for count, signals in ((KILLS, [signal.SIGKILL]), (STOPS, [signal.SIGINT, signal.SIGTERM])):
        for k in range(count):
            job = list(jobs.values())[k % len(jobs)]
            share = (k // len(jobs) + chance.random()) / (count // len(jobs))
            at_change = (k // len(jobs)) % 4 != 3
            when = 1 + int(share * job.operations) if at_change else -chance.uniform(0.01, job.seconds)
            yield number, job, signals[(k // len(jobs)) % len(signals)], when, chance.random() < 0.7
            number += 1


def main(material: Path, work: Path, seed: int, first: int) -> Iterator[Kill]:
    """Makes the kills from the `first` on."""
    jobs = {name: Job(material, work, name) for name in KILLED}
    for job in jobs.values():
        print(
            f"{job.name}: {job.operations} changes of files, {job.seconds:.1f} s, of {len(job.whole)} facts compared; "
            f"not the same without a kill: {sorted(job.unsure)[:6]}",
            file=sys.stderr,
            flush=True,
        )
    for number, job, sent, when, earlier in plan(seed, jobs):
        if number < first:
            continue
        job.fresh(earlier)
        if when > 0:
            kill = partial(os.kill, 0, sent)  # its group: itself
            outcome = job.run(before=partial(before_operation, int(when), kill))
        else:
            outcome = job.run(during=partial(_kill_later, sent, -when))
        fault = job.wrong_after(outcome, earlier)
        name = signal.Signals(sent).name
        done = f"{name} of {job.name} " + (
            f"at change {int(when)} of {job.operations}" if when > 0 else f"after {-when:.2f} s"
        )
        if fault:
            print(f"{number}: {fault}: {done}", file=sys.stderr, flush=True)
        yield Kill(
            number, job.name, name, when, done, outcome.code, fault, outcome.err[-1000:] if fault else ""
        )


def _kill_later(sent: int, seconds: float, child: int) -> None:
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, sent)
