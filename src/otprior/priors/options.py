"""The options of priors, each declared once: for `fit`, for the command line, for settings files and for reports.

A prior's options are a frozen dataclass that derives from `PriorOptions`. Its fields are made by `option`:

    @dataclass(frozen=True)
    class TiltedOptions(PriorOptions):
        tilt: float = option(0.0, "Angle of the start's noise, in radians.", of_start=True)

Options *of the start* can be changed after the fit (`Prior.with_options`); the others decide what is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Self

from otprior.utils.validation import check_choice, invalid, plain_number, require

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name.

    Attributes:
        name: The argument of `fit`.
        default: Its default; None if it is worked out from the data.
        help: A sentence or two for `--help`.
        type: Type of its value: str, int, float or bool. The command line offers a bool as a flag that sets what is not
            the default.
        choices: The values that it may have, if they are few.
        minimum: The least value of a number.
        of_start: Whether it can be changed after the fit.
        flag: The option's name on the command line, without dashes; by default that of the argument.
        metavar: What `--help` calls the value.
        read: Makes the value from its text, such as the content of a file from a path; by default `type`.
    """

    name: str
    default: Any
    help: str
    type: type
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    of_start: bool = False
    flag: str = ""
    metavar: str | None = None
    read: Callable[[str], Any] | None = None

    @property
    def on_command_line(self) -> str:
        """Its name there, with dashes."""
        return "--" + (self.flag or self.name.replace("_", "-"))

    def parse(self, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            ValueError: If it stands for none.
        """
        if self.read is not None:
            return self.read(text)
        if self.type is bool:
            require(text in ("true", "false"), self.name, "true or false", text)
            return text == "true"
        try:
            return self.type(text)
        except ValueError:
            article = "a whole number" if self.type is int else "a number"
            raise invalid(self.name, article, repr(text)) from None


def option(default: Any, help: str, *, type: type | None = None, **details: Any) -> Any:
    """A field of a prior's options; see `Option` for the details. Without `type` it is the default's.

    Examples:
        >>> @dataclass(frozen=True)
        ... class TiltedOptions(PriorOptions):
        ...     tilt: float = option(0.0, "Angle of the start's noise, in radians.")
        >>> TiltedOptions().tilt
        0.0
    """
    known = {"help": help, "type": type or default.__class__, **details}
    return field(default=default, metadata={_KEY: known})


@dataclass(frozen=True)
class PriorOptions:
    """The options of a prior that has none; base of those of all others.

    Raises:
        ValueError: If a value is none of its option's choices, or is below its minimum.

    Examples:
        >>> find_prior("identity").Options()
        PriorOptions()
    """

    def __post_init__(self) -> None:
        for each in self.declared().values():
            value: Any = getattr(self, each.name)
            if each.choices:
                check_choice(each.name, value, each.choices)
            if each.minimum is not None and value is not None:
                in_range = (
                    isinstance(value, Integral if each.type is int else Real) and float(value) >= each.minimum
                )
                rule = f"{'an integer' if each.type is int else 'a number'} >= {each.minimum:g}"
                require(in_range, each.name, rule, repr(value))
        self.check()

    def check(self) -> None:
        """Refuses values that do not go together; for subclasses to override.

        Raises:
            ValueError: If some do not.
        """

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """The options by name, in the order of their declaration."""
        return {
            each.name: Option(each.name, each.default, **each.metadata[_KEY])
            for each in fields(cls)
            if _KEY in each.metadata
        }

    @classmethod
    def of_start(cls) -> list[str]:
        """Names of those that can be changed after the fit."""
        return [each.name for each in cls.declared().values() if each.of_start]

    @classmethod
    def make(cls, given: Mapping[str, Any]) -> Self:
        """The options of these values, the others at their defaults.

        Raises:
            ValueError: If one is not declared, or a value is not allowed.
        """
        known = cls.declared()
        unknown = sorted(set(given) - set(known))
        rule = "among " + ", ".join(known) if known else "left out: this prior has none"
        require(not unknown, "options", rule, ", ".join(unknown))
        return cls(**{name: plain_number(value) for name, value in given.items()})

    def changed(self) -> dict[str, Any]:
        """The values that are not at their defaults, by name."""
        return {
            name: value
            for name, value in self.values().items()
            if value is not self.declared()[name].default and value != self.declared()[name].default
        }

    def values(self) -> dict[str, Any]:
        """All values by name."""
        return {name: getattr(self, name) for name in self.declared()}
