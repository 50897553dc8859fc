"""The command line: `otprior COMMAND`, a file a command.

Modules here import torch, diffusers, rich and matplotlib inside functions, so that help and the refusal of a missing
path come at once. `otprior.cli.commands` says what a command's module holds.
"""

from __future__ import annotations

import io
import sys

import typer

from otprior.cli.commands import Root

__all__ = ["main", "program"]

program = typer.Typer(
    name="otprior",
    cls=Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_help_option=False,
    epilog="\b\nExample:\n  otprior fit bundled bundled --out prior\n\notprior COMMAND --help shows more of them.",
)


@program.callback()
def _root() -> None:
    """Optimal-transport priors for diffusion models: sample in few network evaluations, with nothing retrained."""


def main() -> None:
    """Entry point of the `otprior` program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without χ or ± shows "?" for them.
            stream.reconfigure(errors="replace")
    program(prog_name="otprior")
