"""A study: a question, the settings that a user may change, and a function from a request to reports.

`otprior compare --preset NAME` and `otprior reproduce NAME` run studies. A package adds one by an entry point of the
group `otprior.studies`, whose value is "module:NAME" of a `Study`. Nothing heavy is imported here, so a command line
is checked at once; the module that does the work is imported when the study runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from otprior.utils.plugins import find_plugin, load_plugin, plugins
from otprior.utils.validation import check_choice, check_integer, invalid, require

if TYPE_CHECKING:
    from otprior.report import ReportImages, SamplingReport

GROUP = "otprior.studies"


@dataclass(frozen=True)
class StageProgress:
    """How far a stage of work is: what is done of what, in any unit."""

    stage: str
    done: float
    total: float
    note: str = ""


Listener = Callable[[StageProgress], None]


def ignore(_: StageProgress) -> None:
    """A listener that does nothing."""


@dataclass(frozen=True)
class Part:
    """A report, and the images that go with it.

    Examples:
        >>> features, reference = {"name": None, "dim": None}, {"n": None, "fid_floor": None, "copy_rate": None}
        >>> report = SamplingReport.from_json({"features": features, "reference": reference, "ot": None, "rows": []})
        >>> Part(report).images
        ()
    """

    report: SamplingReport
    images: Sequence[ReportImages] = ()

    def with_report(self, **changes: Any) -> Self:
        """The same with other values of some fields of the report."""
        return replace(self, report=self.report.replace(**changes))


@dataclass(frozen=True)
class Size:
    """How much a run measures.

    Attributes:
        samples: Images of a start.
        settings: Settings that differ from their defaults, by name.
    """

    samples: int
    settings: Mapping[str, Any] = field(default_factory=dict)


SizeName = Literal["usual", "fast", "full"]


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        settings: An instance of the study's own class, checked.
        samples: Images of a start.
        work: Folder of the pieces of work; a run takes up the pieces that it finds there.
        workers: Processes that sample, of one thread each.
        listen: Called as work proceeds.
        device: Where networks sample.

    Examples:
        >>> Request(settings=find_study("headline").settings(), samples=48, work=Path("work")).workers
        1
    """

    settings: Any
    samples: int
    work: Path
    workers: int = 1
    listen: Listener = ignore
    device: str = "cpu"

    def resolved(self) -> Request:
        """The request with every setting "auto" as the precision that it means on this machine."""
        from otprior.experiments.sampling import network_precision

        auto = [entry.name for entry in fields(self.settings) if getattr(self.settings, entry.name) == "auto"]
        return replace(
            self, settings=replace(self.settings, **dict.fromkeys(auto, network_precision("auto")))
        )


@dataclass(frozen=True)
class Study:
    """A question and the module that answers it.

    Attributes:
        title: What is compared, or which paper is reproduced.
        summary: One sentence, for lists.
        module: Its function `run(request)` returns a `Part` for each report by name, the main one under "".
        settings: A frozen dataclass whose fields all have defaults, and which checks itself when it is built.
        usual: The size of a run.
        fast: A rehearsal of a few minutes, whose figures mean nothing.
        full: The size with all parts that take hours; None if there is no such size.
        minutes: How long the sizes take, in words.

    Examples:
        >>> find_study("headline").module
        'otprior_studies.comparisons.headline'
    """

    title: str
    summary: str
    module: str
    settings: type
    usual: Size
    fast: Size
    full: Size | None = None
    minutes: str = ""

    def run(self, request: Request) -> dict[str, Part]:
        """Does the work: reports by name, the main one under ""."""
        parts: dict[str, Part] = import_module(self.module).run(request.resolved())
        return parts

    def request(
        self,
        work: Path,
        size: SizeName = "usual",
        samples: int | None = None,
        settings: Mapping[str, Any] | None = None,
        workers: int = 1,
        listen: Listener = ignore,
        device: str = "cpu",
    ) -> Request:
        """What `run` takes.

        Arguments:
            work: Folder of the pieces of work.
            size: Which of the study's sizes.
            samples: Images of a start, if not those of the size.
            settings: Settings that differ from those of the size: values, or text as a command line has it.
            workers: Processes that sample.
            listen: Called as work proceeds.
            device: Where networks sample.

        Raises:
            ValueError: On an unknown name, a value of another kind, or settings that do not fit one another.
        """
        chosen = getattr(self, size)
        require(chosen is not None, f"size {size}", "one that the study has", "none")
        count = chosen.samples if samples is None else samples
        check_integer("samples", count, 12)
        given = self._read({**chosen.settings, **(settings or {})})
        return Request(given, count, work, workers, listen, device)

    def _read(self, given: Mapping[str, Any]) -> Any:
        from pydantic import TypeAdapter, ValidationError

        names = tuple(entry.name for entry in fields(self.settings))
        for name in given:
            check_choice("the NAME of --set", name, names)
        try:
            return TypeAdapter(self.settings).validate_python(dict(given))
        except ValidationError as error:
            found = error.errors()[0]
            own = found.get("ctx", {}).get("error")
            if isinstance(own, ValueError):  # raised by the class itself
                raise own from None
            rule = found["msg"].removeprefix("Input should be ").split(",")[0]
            raise invalid(f"--set {found['loc'][0]}", rule, repr(found["input"])) from None


def read_pairs(given: Sequence[str]) -> dict[str, str]:
    """Settings written as "NAME=VALUE", by name.

    Raises:
        ValueError: If there is no "=".
    """
    pairs = [text.partition("=") for text in given]
    for text, (_, sign, _) in zip(given, pairs):
        require(bool(sign), "--set", "NAME=VALUE", repr(text))
    return {name: value for name, _, value in pairs}


def study_names() -> tuple[str, ...]:
    """The names of all studies that are installed."""
    return tuple(dict.fromkeys(entry.name for entry in plugins(GROUP)))


def find_study(name: str, argument: str = "study") -> Study:
    """The study of that name.

    Arguments:
        name: Of the study.
        argument: What an error calls it.

    Raises:
        ValueError: If there is none, more than one, or its package cannot be imported.

    Examples:
        >>> find_study("headline").usual.samples
        4000
    """
    check_choice(argument, name, study_names())
    entry = find_plugin(GROUP, name)
    assert entry is not None
    found: Study = load_plugin(entry)
    return found
