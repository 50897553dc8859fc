"""What surrounds every command: its log, and errors said in one line.

| what happened | exit code |
|---|---|
| something the user gave is wrong, missing, or in the way | 2 |
| the work itself did not succeed: not converged, disk full | 1 |
| Ctrl-C | 130 |
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

# What torch says, on a CPU and on a GPU.
_OUT_OF_MEMORY = re.compile("not enough memory|can't allocate memory|out of memory")
# The library names its arguments; here they are options.
_AS_OPTIONS = (
    (r"value_range=\(([^,()]+), ([^,()]+)\)", r"--value-range \1,\2"),
    (r"value_range=None", "--value-range none"),
    (r"null_class_label= to from_pipe or from_pretrained", "--null-label"),
    (r"\bnull_class_label\b", "--null-label"),
    (r"\bnum_inference_steps\b", "--steps"),
    (r"\bguidance_scale\b", "--guidance-scale"),
    (r"^(scheduler|spacing|seeds) must be", r"--\1 must be"),
    (r"\bclass_labels\b", "--class-labels"),
    (r"\bmax_draws\b", "--max-draws"),
    (r" \(throw=False returns the solution as it is\.\)", " (--keep-unconverged saves it as it is.)"),
    (r"pass timesteps= or use", "use --spacing grid:karras or"),
    (r"resize=, crop= and convert=", "--resize, --crop and --convert"),
    (r'convert="RGB" or "L"', "--convert RGB or L"),
    (r"by class, and pass condition=", "by class (--conditional), and name a class by --label"),
)


def stdout() -> Console:
    """Where results go; at least 100 columns wide where it is not a terminal."""
    from otprior.cli.console import Results

    # (Names may hold brackets, which would be eaten as markup.)
    plain: Any = {"markup": False, "highlight": False}
    console = Results(**plain)
    return console if console.is_terminal else Results(width=max(console.width, 100), **plain)


def say(*lines: str) -> None:
    """Prints results as they are, however long their lines."""
    for line in lines:
        stdout().print(line, soft_wrap=True)


def stderr() -> Console:
    """Where progress, warnings and errors go."""
    from otprior.cli.console import PrintableConsole

    return PrintableConsole(stderr=True)


def fail(message: str, code: int) -> typer.Exit:
    """Prints an error in one line, and returns what to raise."""
    line = _as_options(" ".join(message.split()))
    console = stderr()
    console.print("[bold red]error:[/] ", end="")
    console.print(line, soft_wrap=True, markup=False, highlight=False)
    return typer.Exit(code)


def _as_options(text: str) -> str:
    for pattern, option in _AS_OPTIONS:
        text = re.sub(pattern, option, text)
    return text


class _OptionsFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _as_options(super().format(record))


@contextlib.contextmanager
def session(verbose: bool, debug: bool, out: Path | None = None) -> Iterator[None]:
    """Runs a command's body: sets up its log, and turns the errors a user can do something about into one line.

    Arguments:
        verbose: Whether to log at INFO rather than WARNING.
        debug: Whether errors keep their traceback.
        out: The output folder, to say that it was left as it was.
    """
    _set_up_log(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    except KeyboardInterrupt:
        left = f"; nothing was written, and {out} is as it was" if out is not None else ""
        stderr().print(f"stopped{left}", soft_wrap=True, markup=False, highlight=False)
        raise typer.Exit(130) from None
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        if debug:
            raise
        raise fail(str(error), 2) from None
    except OSError as error:
        if debug:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            left = f" {out} is as it was." if out is not None else ""
            message = f"no space is left on the disk.{left} Free some, or name another --out"
            raise fail(message, 1) from None
        raise fail(str(error), 1) from None
    except Exception as error:
        # (typer ends commands by exceptions of its own.)
        if debug or isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "show"):
            raise
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
            left = "" if out is None else f"; {out} is as it was"
            reason = (str(error).splitlines() or [""])[0]
            raise fail(f"the memory is not enough{left}. {reason}".rstrip(), 1) from None
        message = f"unexpected {type(error).__name__}: {error}. --debug shows where; please report it"
        raise fail(message, 1) from None


def _set_up_log(level: int) -> None:
    from rich.logging import RichHandler

    logger = logging.getLogger("otprior")
    logger.setLevel(level)
    for handler in [handler for handler in logger.handlers if isinstance(handler, RichHandler)]:
        logger.removeHandler(handler)
    handler = RichHandler(console=stderr(), show_time=False, show_path=False)
    handler.setFormatter(_OptionsFormatter("%(message)s"))
    logger.addHandler(handler)
