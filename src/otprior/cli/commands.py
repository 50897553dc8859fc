"""Commands that are imported when they are asked for, and the form of their help.

A command is a module: its docstring's first line reads "`otprior NAME`: what it does", a function called NAME has the
options, and `EXAMPLES` are command lines; `COMMAND`, if there is one, is the class that parses them. The library's
commands are modules of `otprior.cli`; other packages add theirs by an entry point of the group `otprior.commands` that
names the module. `otprior --help` reads first lines and imports no command.

Help is asked for in `parse_args`, before typer loads what converts values (pydantic, half of the time of a help).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from otprior import __version__

LIBRARY = ("demo", "fit", "sample", "evaluate", "compare", "tune", "encode", "audit", "app")
ENTRY_POINTS = "otprior.commands"
HELP_OPTIONS = ("-h", "--help")

# Columns of the left side of help, of 80; and shorter words for what typer calls the types there.
OPTION_COLUMNS = 24
_TYPES = (
    (r"<(str|path)>", "TEXT"),
    (r"<int( range)?>|INTEGER( RANGE)?", "N"),
    (r"<float( range)?>|FLOAT( RANGE)?", "X"),
)


class Commands(Mapping[str, TyperCommand]):
    """Commands by name: the library's first, then those of other packages."""

    @cached_property
    def added(self) -> dict[str, str]:
        """Modules of other packages' commands, by the command's name."""
        # (This alone takes a third of the time of `otprior --help`.)
        from importlib.metadata import entry_points

        found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
        return {name: module for name, module in found.items() if name not in LIBRARY}

    def __iter__(self) -> Iterator[str]:
        yield from LIBRARY
        yield from self.added

    def __len__(self) -> int:
        return len(LIBRARY) + len(self.added)

    def __getitem__(self, name: str) -> TyperCommand:
        module = self.module(name)
        try:
            return _build(name, import_module(module))
        except Exception as error:
            if name in LIBRARY:
                raise
            message = f"the command {name} of {module} cannot be loaded: {type(error).__name__}: {error}"
            raise typer.BadParameter(message) from error

    def module(self, name: str) -> str:
        """The module of a command; raises KeyError where there is none."""
        return f"otprior.cli.{name}" if name in LIBRARY else self.added[name]


class Command(TyperCommand):
    """A command whose help keeps its panels, without the time that rich takes."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes a section for each panel."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            kind = "Arguments" if param.param_type_name == "argument" else "Options"
            if record is not None:
                rows = panels.setdefault(getattr(param, "rich_help_panel", None) or kind, [])
                left = record[0].split()[0] if kind == "Arguments" else record[0]
                rows.append((_left_side(left), _right_side(record[1])))
        for title, rows in panels.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=OPTION_COLUMNS)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Answers a call for help wherever it stands."""
        if not {*HELP_OPTIONS}.isdisjoint(args):
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What follows the command's name."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


class Root(TyperGroup):
    """`otprior` itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": None})
        self.commands = Commands()  # type: ignore[assignment]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Answers --version and a call for help."""
        first = args[0] if args else None
        if first == "--version" or first in HELP_OPTIONS:
            typer.echo(f"otprior {__version__}" if first == "--version" else ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Lists the commands by their modules' first lines."""
        commands: Any = self.commands
        with formatter.section("Options"):
            formatter.write_dl(
                [("--version", "Show the version."), (", ".join(HELP_OPTIONS), "Show this message.")]
            )
        for title, names in (("Commands", LIBRARY), ("Studies", tuple(commands.added))):
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, _summary(name, commands.module(name))) for name in names])


def _build(name: str, module: Any) -> TyperCommand:
    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    lines = "\n".join(f"  {line}" for line in getattr(module, "EXAMPLES", ()))
    one.command(
        name,
        cls=getattr(module, "COMMAND", Command),
        # \b keeps the lines as they are.
        epilog=f"\b\nExample:\n{lines}" if lines else None,
        context_settings={"help_option_names": [*HELP_OPTIONS]},
    )(getattr(module, name.replace("-", "_")))
    command: Any = typer.main.get_command(one)
    command.no_args_is_help = any(param.required for param in command.params)
    return command


def _left_side(text: str) -> str:
    for pattern, short in _TYPES:
        text = re.sub(pattern, short, text)
    return text.ljust(OPTION_COLUMNS)


def _right_side(text: str) -> str:
    """Help as typer gives it, less the brackets around words for a default, the limits 0 and 1, and very high ones."""
    text = re.sub(r"\[default: \((.*)\)", r"[default: \1", text)
    return re.sub(r" *\[\]$", "", re.sub(r"(; )?(x>=[01]|[01]<=x<=\d{3,})\]$", "]", text))


def _summary(name: str, module: str) -> str:
    """What a command does, by the first line of its module; nothing is imported but the packages it is in."""
    try:
        spec = find_spec(module)
        with open(spec.origin if spec else "", encoding="utf-8") as file:  # type: ignore[arg-type]
            line = file.readline()
    except (ImportError, OSError, TypeError, ValueError):
        return ""
    text = re.sub(rf"`otprior {re.escape(name)}`: ", "", line.strip().strip('r"'))
    return text[:1].upper() + text[1:]
