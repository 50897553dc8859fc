"""Options that a prior declares, on the command line of `otprior fit`.

The prior that `--prior` names says which options it has. It is imported only if one of them is given, or its help is
asked for; so the other options are checked, and `otprior fit --help` answers, without waiting for torch.
"""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.commands import HELP_OPTIONS, Command
from otprior.cli.session import fail
from otprior.utils.plugins import PRIORS, plugins
from otprior.utils.validation import require

if TYPE_CHECKING:
    from otprior.priors import Prior
    from otprior.priors.options import Option

DEFAULT = "semidiscrete"
# What earlier versions had, and what to type now.
_TUNE = (
    "type `otprior tune MODEL DATA --steps N --out DIR`, which also takes --validation and --extractor; "
    "the prior is DIR/prior"
)
_SAMPLE = (
    "type `otprior sample MODEL --prior none --steps 50 --seeds 1000000-1009999 --out drawn`, then "
    "`otprior fit MODEL drawn --out PRIOR`; a label for no class is --null-label of sample"
)
REPLACED = {
    "--auto": _TUNE,
    "--validation": _TUNE,
    "--extractor": _TUNE,
    "--from-model": _SAMPLE,
    "--model-steps": _SAMPLE,
    "--null-label": _SAMPLE,
}
_KEY = "otprior.prior options"


class PriorCommand(Command):
    """A command with the options of the prior that `--prior` names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Adds the prior's options if one of them, or help about them, is asked for."""
        options = args[: args.index("--")] if "--" in args else args
        names = [arg.split("=")[0] for arg in options if arg.startswith("--")]
        for name in names:
            if name in REPLACED:
                raise fail(f"{name} no longer exists: {REPLACED[name]}", 2)
        known = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        helped = not {*HELP_OPTIONS}.isdisjoint(args)
        kind = _named(options)
        unknown = [name for name in names if name not in known and name not in HELP_OPTIONS]
        if unknown or (helped and kind is not None):
            self.params = [*self.params, *_params(kind or DEFAULT, known, unknown)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Keeps the prior's options apart from those of the command itself."""
        own = {
            param.name
            for param in self.params
            if getattr(param, "rich_help_panel", None) == _panel(ctx.params)
        }
        ctx.meta[_KEY] = {name: value for name in own if (value := ctx.params.pop(name)) not in (None, False)}
        return super().invoke(ctx)


def given_options(ctx: typer.Context) -> dict[str, str | bool]:
    """The options of the prior that were given: their texts, True for flags, by the names of `fit`'s arguments."""
    return dict(ctx.meta.get(_KEY, {}))


def read_options(kind: type[Prior], given: dict[str, str | bool]) -> dict[str, Any]:
    """The values of options that were given as text.

    Raises:
        ValueError: If a text stands for no value, or values do not go together.
        FileNotFoundError: If it names a file that is not there.
    """
    declared = kind.Options.declared()
    values = {
        name: not declared[name].default if text is True else declared[name].parse(str(text))
        for name, text in given.items()
    }
    kind.Options.make(values)
    return values


def find_fittable(name: str) -> type[Prior]:
    """The kind of prior of that name, if such priors are fitted to images.

    Raises:
        ValueError: If there is none, or if such priors are made from others.
    """
    from otprior.priors import find_prior

    kind = find_prior(name)
    rule = f"fitted to images; {name} priors are made from a {kind.made_from} one, in comparisons"
    require(kind.made_from == name, "--prior", rule, name)
    return kind


def prior_names() -> str:
    """The kinds of priors that are installed, for help."""
    return ", ".join(entry.name for entry in plugins(PRIORS))


def _named(args: list[str]) -> str | None:
    """What --prior names: the last one, as for every option that is given twice."""
    name = None
    for place, arg in enumerate(args):
        if arg.startswith("--prior="):
            name = arg.removeprefix("--prior=")
        elif arg == "--prior" and place + 1 < len(args):
            name = args[place + 1]
    return name


def _params(name: str, known: set[str], unknown: list[str]) -> list[Any]:
    try:
        declared = find_fittable(name).Options.declared().values()
    except ValueError as error:
        raise fail(str(error), 2) from None
    own = [option.on_command_line for option in declared]
    for option in unknown:
        if option not in own:
            has = f"which has {', '.join(own)}" if own else "which has none of its own"
            raise fail(f"{option} is an option neither of this command nor of --prior {name}, {has}", 2)
    taken = sorted(known.intersection(own))
    require(not taken, f"options of {name}", "named otherwise than the command's own", ", ".join(taken))
    return _made_by_typer([_parameter(option, name) for option in declared])


def _parameter(option: Option, prior: str) -> Parameter:
    """The argument of a command's function that typer makes this option from. All but flags are text."""
    flag = option.type is bool
    text = "|".join(option.choices) or option.metavar or {int: "N", float: "X"}.get(option.type, "TEXT")
    shown = typer.Option(
        option.on_command_line,
        help=option.help,
        metavar=None if flag else text,
        show_default=False if flag or option.default is None else str(option.default),
        rich_help_panel=_panel({"prior": prior}),
    )
    annotation: Any = Annotated[bool if flag else str | None, shown]
    return Parameter(
        option.name, Parameter.KEYWORD_ONLY, default=False if flag else None, annotation=annotation
    )


def _made_by_typer(parameters: list[Parameter]) -> list[Any]:
    def command(**options: Any) -> None:
        """Has the parameters as its own."""

    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(command)
    made: Any = typer.main.get_command(app)
    return list(made.params)


def _panel(params: dict[str, Any]) -> str:
    return f"Options of --prior {params.get('prior') or DEFAULT}"
