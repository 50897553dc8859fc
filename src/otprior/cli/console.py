"""The consoles that commands print to; names are printed so that none can steer a terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from otprior.cli.session import fail
from otprior.utils.text import printable


class PrintableConsole(Console):
    """A console whose text, but for rich's own codes, is printable."""

    def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
        for text, style, control in super().render(*args, **options):
            yield Segment(text if control else printable(text), style, control)


class Results(PrintableConsole):
    """Where results go: one that cannot be shown, as on a full disk, ends the command with one line that says so."""

    def print(self, *values: Any, **options: Any) -> None:
        try:
            super().print(*values, **options)
        except OSError as error:
            with contextlib.suppress(OSError, ValueError):
                # Otherwise Python tries again as it ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
            raise fail(f"the result is written, but cannot be shown: {error}", 1) from None
