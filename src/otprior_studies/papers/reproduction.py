"""What a reproduction is: a function from what was asked for to reports.

Nothing heavy is imported here, so that a command line is checked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprior.utils.validation import (
    check_choice,
    check_integer,
    invalid,
    require,
)

if TYPE_CHECKING:
    from otprior.experiments.comparison import Listener
    from otprior.report import ReportImages


@dataclass(frozen=True)
class Part:
    """A report in the form of `report.schema.json`, and the images that go with it."""

    report: dict[str, Any]
    images: Sequence[ReportImages] = ()


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        settings: Of the reproduction's own class; checked already.
        samples: Images of a row.
        work: Folder for the pieces; what is there is gone on with.
        fast: Whether this is a rehearsal of a few minutes, whose figures mean nothing.
        workers: Processes that sample, of one thread each.
        listen: Called as work proceeds.
    """

    settings: Any
    samples: int
    work: Path
    fast: bool = False
    workers: int = 1
    listen: Listener = field(default=lambda _: None)


@dataclass(frozen=True)
class Reproduction:
    """A paper's experiments.

    Attributes:
        paper: Its title and number.
        summary: In a sentence, for lists.
        settings: A frozen dataclass whose fields all have defaults, checked when it is built.
        fast: Settings of a rehearsal, by name.
        running: The module whose `run(request)` does the work; imported late, so that settings are checked at once.
        samples: Images of a row, unless others are asked for; in full and in a rehearsal.
        minutes: How long that takes on two cores, in words.
    """

    paper: str
    summary: str
    settings: type
    fast: dict[str, Any]
    running: str
    samples: tuple[int, int]
    minutes: str

    def run(self, request: Request) -> dict[str, Part]:
        """Reports by name, the main one under ""."""
        parts: dict[str, Part] = import_module(self.running).run(request)
        return parts

    def request(
        self, work: Path, samples: int | None, fast: bool, given: Sequence[str], **others: Any
    ) -> Request:
        """What `run` takes, from what a command line says.

        Arguments:
            given: Settings as "NAME=VALUE".

        Raises:
            ValueError: On an unknown name, a value of another kind, or settings that do not fit one another.
        """
        named = read_settings(self.settings, given)
        settings = self.settings(**{**(self.fast if fast else {}), **named})
        count = samples if samples is not None else self.samples[int(fast)]
        check_integer("samples", count, 12)
        return Request(settings, count, work, fast, **others)


def read_settings(kind: type, given: Sequence[str]) -> dict[str, Any]:
    """Settings written as "NAME=VALUE", each read as what its default is: a number, a truth value or text.

    Raises:
        ValueError: Naming the setting, the rule, and what came.
    """
    defaults = {entry.name: entry.default for entry in fields(kind)}
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        require(bool(sign), "--set", "NAME=VALUE", repr(text))
        check_choice("the NAME of --set", name, tuple(defaults))
        wanted: Any = type(defaults[name])
        try:
            found[name] = {"true": True, "false": False}[value.lower()] if wanted is bool else wanted(value)
        except (KeyError, ValueError):
            kinds = {bool: "true or false", int: "a whole number", float: "a number"}
            raise invalid(f"--set {name}", kinds.get(wanted, wanted.__name__), repr(value)) from None
    return found
