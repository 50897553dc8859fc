"""Every command on a disk that fills up, of several sizes, and on one that can only be read (Linux, as root).

The disks are tmpfs in a mount namespace of this process: nobody else sees them, and they are gone when it ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign.inputs import garbage, write_earlier
from campaign.material import JOBS, ONE_OF_EACH, copy
from campaign.running import forked, listing

NEW_NAMESPACE, PRIVATE, READ_ONLY, DETACH = 0x20000, (1 << 18) | (1 << 14), 1 | 32, 2
SIZES = (12, 24, 48, 96, 200, 800)  # KiB; 0 is read-only


@dataclass(frozen=True)
class Disk:
    """A command on a disk of so many KiB, or on a read-only one (0), and what was wrong."""

    number: int
    done: str
    code: int | None
    fault: str | None
    said: str


def main(material: Path, work: Path, seed: int, first: int) -> Iterator[Disk]:
    """Runs the cases from the `first` on."""
    _call("unshare", NEW_NAMESPACE)
    _call("mount", b"none", b"/", None, PRIVATE, None)
    cases = [(name, size) for name in ONE_OF_EACH for size in (*SIZES, 0)]
    for number, (name, size) in enumerate(cases):
        if number < first:
            continue
        folder = work / "disks"
        shutil.rmtree(folder, ignore_errors=True)
        disk = copy(material, folder) / "disk"
        disk.mkdir()
        options = f"size={size or 200}k".encode()
        _call("mount", b"tmpfs", os.fsencode(disk), b"tmpfs", 0, options)
        try:
            yield _run(folder, number, name, size)
        finally:
            _call("umount2", os.fsencode(disk), DETACH)


def _run(folder: Path, number: int, name: str, size: int) -> Disk:
    disk = folder / "disk"
    write_earlier(disk / "out")
    if not size:
        _call("mount", b"none", os.fsencode(disk), None, READ_ONLY, None)
    before = listing(disk)
    outcome = forked([*JOBS[name][0].split(), "--out", "disk/out", "--overwrite"], folder, seconds=60)
    after = listing(disk)
    fault = outcome.fault(60)
    if fault is None and outcome.code == 0:
        fault = "succeeded on a read-only disk" if not size else next(garbage(disk / "out"), None)
    elif fault is None:
        changed = [path for path, facts in before.items() if after.get(path) != facts]
        # (Pieces of work that are whole are kept for the next run.)
        new = [path for path in after if path not in before and not path.startswith("out.work")]
        fault = f"changed: {changed[:3]}" if changed else f"left behind: {new[:3]}" if new else None
    done = f"{name} on a disk of {size} KiB" if size else f"{name} on a read-only disk"
    if fault:
        print(f"{number}: {fault}: {done}", file=sys.stderr, flush=True)
    return Disk(number, done, outcome.code, fault, outcome.err.strip()[-300:])


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(
            ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}; disks need Linux and root"
        )
