"""Records: what reports are made of, checked when they are read and written as the JSON of report.json.

A record is frozen and refuses names that it does not have. Rates lie in [0, 1], intervals are 95 %, what was not
measured is None. The JSON Schema of a report follows from its record: see `otprior.report.report_schema`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from otprior.utils.validation import invalid

T = TypeVar("T")


def _check_order(limits: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = limits
    if low is not None and high is not None and low > high:
        raise ValueError("[low, high] with low <= high")
    return limits


def _check_finite(value: T) -> T:
    """Refuses what JSON cannot hold, at any depth."""
    if isinstance(value, dict):
        for child in value.values():
            _check_finite(child)
    elif isinstance(value, list | tuple):
        for child in value:
            _check_finite(child)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("an object of finite numbers, with null where nothing was measured")
    return value


# A list or a tuple, kept as a tuple.
Many = Annotated[tuple[T, ...], Strict(False)]
# (low, high); None for an end that the data did not limit.
Limits = Annotated[tuple[float | None, float | None], Strict(False), AfterValidator(_check_order)]
Rate = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
# Names and values of any depth.
Facts = Annotated[dict[str, Any], AfterValidator(_check_finite)]


class Record(BaseModel):
    """A part of a report."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_by_name=True
    )

    # Fields that are written even where they were not given.
    always_written: ClassVar[frozenset[str]] = frozenset()

    def model_post_init(self, _: Any) -> None:
        self.model_fields_set.update(self.always_written)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Reads a record.

        Arguments:
            values: As JSON has them. Parts may be records already. Of names that are no UTF-8, which JSON cannot
                hold, the bytes become numbers.

        Raises:
            ValueError: With the place of the first mistake, the rule, and what came.
        """
        try:
            return cls.model_validate(_writable(values))
        except ValidationError as error:
            raise _explained(error) from None

    @classmethod
    def build(cls, **values: Any) -> Self:
        """The record of these values, where a list may stand for a tuple; raises as `from_json` does."""
        return cls.from_json(values)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; what was not given is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def replace(self, **changes: Any) -> Self:
        """The same record with other values of some fields, checked again."""
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        return self.from_json(kept | changes)


class Curves(Record):
    """One plot of named curves.

    Attributes:
        name: Of its file, without a suffix.
        title, x, y: Title and labels of the axes.
        series: Points (x, y) by legend.
        log: The logarithmic axes.
        points: Whether points are drawn, not lines.

    Examples:
        >>> series = {"mixture": ((300, 8.1), (400, 7.5))}
        >>> curves = Curves(name="fid", title="FID", x="t*", y="FID", series=series, log="", points=True)
        >>> curves.series["mixture"]
        ((300.0, 8.1), (400.0, 7.5))
    """

    name: str
    title: str
    x: str
    y: str
    series: dict[str, Many[Annotated[tuple[float, float], Strict(False)]]]
    log: Literal["", "x", "y", "xy"]
    points: bool


class Report(Record):
    """What every report.json holds beside its results.

    Attributes:
        format_version: Of the form of report.json.
        settings: What was asked for.
        environment: Versions and machine.
        timings: Seconds by stage.
        command: What was typed, or the list of its words.
    """

    format_version: Literal[1] = 1
    settings: Facts | None = None
    environment: Facts | None = None
    timings: Facts | None = None
    command: str | Many[str] | None = None

    always_written = frozenset({"format_version"})


def _writable(value: Any) -> Any:
    """The values with every text as UTF-8 can hold it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_writable(name): _writable(part) for name, part in value.items()}
    return type(value)(map(_writable, value)) if type(value) in (list, tuple) else value


def _explained(error: ValidationError) -> ValueError:
    """The first mistake in our own words: its place, the rule, and what came."""
    first, *others = error.errors(include_url=False)
    *parents, last = first["loc"] or ("",)
    match first["type"]:
        case "missing":
            name = "as many values" if isinstance(last, int) else f"{last} (null where nothing was measured)"
            place, rule = parents, f"given with {name}"
        case "extra_forbidden":
            place, rule = parents, f"given without {last}, a name that is not known"
        case _:
            place = [*parents, last]
            rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    names = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place if part != "")
    shown = repr(first["input"])
    hint = f"{len(others)} more mistakes follow" if others else ""
    return invalid("report" + names, rule, shown if len(shown) <= 80 else shown[:77] + "...", hint)
