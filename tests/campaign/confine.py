"""Takes from a process, for good, the right to write anywhere but in some folders: Landlock, of Linux 5.19 and later.

A command that is given `--out /dev/null` by chance, as root, must not be able to do what it is told. Without
Landlock nothing is run as root.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CREATE, ADD, RESTRICT = 444, 445, 446  # system calls
NO_NEW_PRIVILEGES = 38
# Of the rights to files: writing (1), and 4 to 14: removing, making each kind, moving and linking, truncating.
WRITE, TRUNCATE = 1 << 1, 1 << 14
CHANGES = WRITE | sum(1 << k for k in range(4, 15))


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def available() -> bool:
    """Whether this system can confine: the third version of Landlock or later."""
    return ctypes.CDLL(None, use_errno=True).syscall(CREATE, None, 0, 1) >= 3


def confine(*folders: Path) -> None:
    """Lets this process, and those that it will start, write below these folders only, and to /dev/null."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not available():
        if os.geteuid() == 0:
            raise PermissionError(
                "without Landlock the campaign does not run as root: it could replace devices"
            )
        return
    handled = ctypes.c_uint64(CHANGES)
    rules = _check(libc.syscall(CREATE, ctypes.byref(handled), ctypes.sizeof(handled), 0))
    for path, allowed in [*((folder, CHANGES) for folder in folders), (Path("/dev/null"), WRITE | TRUNCATE)]:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = _Rule(allowed, opened)
        _check(libc.syscall(ADD, rules, 1, ctypes.byref(rule), 0))
        os.close(opened)
    _check(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _check(libc.syscall(RESTRICT, rules, 0))
    os.close(rules)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock: " + os.strerror(ctypes.get_errno()))
    return result
