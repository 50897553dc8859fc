"""The command line: `otprior COMMAND`, a file a command.

Modules here import torch, diffusers and matplotlib inside functions, so that help and the refusal of a missing path
come at once. A command is a function of the same name as its module, which also holds `EXAMPLES` for its help.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Annotated

import typer

from otprior import __version__

__all__ = ["app", "main"]

# In the order in which help lists them.
_COMMANDS = (
    "demo",
    "fit",
    "sample",
    "evaluate",
    "compare",
    "tune",
    "encode",
    "audit",
)

app = typer.Typer(
    name="otprior",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: otprior fit bundled bundled --out prior\n\n"
    "         otprior COMMAND --help shows one for each command.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"otprior {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Optimal-transport priors for diffusion models: sample in few network evaluations, with nothing retrained."""


def _register(name: str, module: ModuleType, panel: str | None = None) -> None:
    lines = "\n\n".join(f"  {line}" for line in module.EXAMPLES)
    app.command(
        name,
        epilog=f"Example:\n\n{lines}",
        no_args_is_help=name not in ("demo", "compare", "verify"),
        rich_help_panel=panel,
    )(getattr(module, name))


for _name in _COMMANDS:
    _register(_name, import_module(f"otprior.cli.{_name}"))
for _entry in entry_points(group="otprior.commands"):
    _register(_entry.name, _entry.load(), "Studies")


def main() -> None:
    """Entry point of the `otprior` program."""
    app()
