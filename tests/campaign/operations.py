"""Counts the changes that a process makes to files of its folder, and does something before one of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

# Events of Python's audit by which files change; the path is their first argument. (`renameat2` is called through
# ctypes: its being looked up stands for it.)
EVENTS = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)


def before_operation(number: int | None, action: Callable[[], None], counted: int | None = None) -> None:
    """Calls `action` before the change with this number, the first being 1; None counts alone.

    Arguments:
        number: Which.
        action: Kills, or raises.
        counted: A descriptor that gets a letter for each change.
    """
    here, seen = os.getcwd(), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        elif event == "ctypes.dlsym":
            changes = arguments[1] == "renameat2"
        else:
            changes = event in EVENTS
        if not changes or (event != "ctypes.dlsym" and not _is_within(arguments[0], here)):
            return
        seen += 1
        if counted is not None:
            os.write(counted, b".")
        if seen == number:
            action()

    sys.addaudithook(hook)


def _is_within(path: Any, here: str) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return True  # a file that is open already
    return os.path.abspath(os.fsdecode(path)).startswith(here + os.sep)
