"""Progress of long work: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from otprior.cli.session import stderr

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# Seconds between lines in a log file.
LINE_INTERVAL = 10.0

# Told what is being done, the share that is done (None if that is not known), and a note.
ProgressListener = Callable[[str, float | None, str], None]
_LISTENER: ContextVar[ProgressListener | None] = ContextVar("listener", default=None)


class Bar:
    """One piece of work; `update` it as often as you like.

    Build it with `progress_bar`.
    """

    def __init__(self, description: str, console: Console, progress: Progress | None) -> None:
        self._description = description
        self._console = console
        self._progress = progress
        self._task = progress.add_task(description, total=None, note="") if progress is not None else None
        self._started = time.monotonic()
        self._printed = float("-inf")
        self._done = self._share = 0.0

    def update(
        self, done: float, total: float | None, note: str = "", description: str | None = None
    ) -> None:
        """Says how far the work is; a total that grows does not take back a share that was shown.

        Arguments:
            done: In any unit.
            total: What `done` will be at the end, as far as is known now; None if nothing is known.
            note: A few words about the state of things.
            description: What is being done, if that changed.
        """
        if description not in (None, self._description) or done < self._done:
            if description not in (None, self._description):
                self._printed = float("-inf")
            # (Otherwise the same work begins anew, for other material.)
            self._description = description or self._description
            self._started = time.monotonic()
            self._done = self._share = 0.0
            if self._progress is not None and self._task is not None:
                self._progress.reset(self._task)
        self._done = done
        self._share = max(self._share, min(done / total, 1.0) if total else 0.0)
        if self._progress is not None and self._task is not None:
            shown = self._share * total if total else done
            self._progress.update(
                self._task, completed=shown, total=total, note=note, description=self._description
            )
            return
        now = time.monotonic()
        if now - self._printed >= LINE_INTERVAL:
            self._printed = now
            parts = [self._description, *self._forecast(total, now - self._started), note]
            self._console.print(", ".join(filter(None, parts)), soft_wrap=True, markup=False, highlight=False)

    def _forecast(self, total: float | None, elapsed: float) -> list[str]:
        if not total:
            return []
        parts = [f"{self._share:.0%}"]
        if self._share > 0:
            parts.append(f"{elapsed * (1 - self._share) / self._share:.0f} s left")
        return parts


class _Told(Bar):
    """Progress that is told to a listener, and shown nowhere."""

    def __init__(self, description: str, listen: ProgressListener) -> None:
        self._description, self._listen = description, listen

    def update(
        self, done: float, total: float | None, note: str = "", description: str | None = None
    ) -> None:
        self._description = description or self._description
        self._listen(self._description, min(done / total, 1.0) if total else None, note)


@contextlib.contextmanager
def progress_told_to(listen: ProgressListener) -> Iterator[None]:
    """Within the block, every `progress_bar` of this thread tells the listener; what it raises ends the work."""
    token = _LISTENER.set(listen)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Bar]:
    """A bar on standard error that disappears when the block ends."""
    listen = _LISTENER.get()
    if listen is not None:
        told = _Told(description, listen)
        told.update(0, None)
        yield told
        return
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = stderr()
    if not console.is_terminal:
        bar = Bar(description, console, None)
        bar.update(0, None)
        yield bar
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(description, console, progress)
