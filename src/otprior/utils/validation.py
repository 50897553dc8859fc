"""One form for every complaint about user input: what, the rule, what came.

`assert` stays for invariants of our own; what a user passes is checked here and raises `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch import Tensor


ENTRIES_AT_ONCE = 1 << 20
P = ParamSpec("P")
T = TypeVar("T")


def invalid(name: str, rule: str, got: Any, hint: str = "") -> ValueError:
    """A `ValueError` reading "`name` must be `rule`; got `got`. `hint`".

    Examples:
        >>> invalid("mode", "'up' or 'down'", "sideways")
        ValueError("mode must be 'up' or 'down'; got sideways")
    """
    message = f"{name} must be {rule}; got {got}"
    return ValueError(f"{message}. {hint}" if hint else message)


def require(condition: bool, name: str, rule: str, got: Any, hint: str = "") -> None:
    """Raises `invalid(...)` unless `condition` holds.

    Examples:
        >>> require(True, "factor", "positive", 2)
    """
    if not condition:
        raise invalid(name, rule, got, hint)


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Requires that `value` is one of `choices`.

    Raises:
        ValueError: If it is not; the message names the argument, the rule, and what came.

    Examples:
        >>> check_choice("mode", "up", ("up", "down"))
    """
    require(value in choices, name, "one of " + ", ".join(map(repr, choices)), repr(value))


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> None:
    """Requires an integer (NumPy's too, but no bool) in [`minimum`, `maximum`].

    Raises:
        ValueError: As `check_choice`.

    Examples:
        >>> check_integer("steps", 5, minimum=1)
    """
    rule = f"an integer >= {minimum}" if maximum is None else f"an integer in [{minimum}, {maximum}]"
    right_type = isinstance(value, Integral) and not isinstance(value, bool)
    in_range = right_type and value >= minimum and (maximum is None or value <= maximum)
    require(in_range, name, rule, repr(value))


def check_number(name: str, value: Any) -> float:
    """Requires one real number, of Python, NumPy or torch, but no bool; returns it as a float."""
    number = plain_number(value)
    right = isinstance(number, Real) and not isinstance(number, bool)
    require(right, name, "a number", f"{str(number)[:40]!r}, a {type(number).__name__}")
    try:
        return float(number)
    except OverflowError as error:
        raise invalid(name, "a number that a float can hold", "a larger one") from error


def check_tensor(name: str, value: Any) -> None:
    """Requires a tensor."""
    import torch

    require(isinstance(value, torch.Tensor), name, "a torch.Tensor", type(value).__name__)


def check_generator(value: Any, name: str = "generator") -> None:
    """Requires a `torch.Generator`."""
    import torch

    require(isinstance(value, torch.Generator), name, "a torch.Generator", type(value).__name__)


def as_numbers(name: str, values: Any) -> Tensor:
    """A tensor, without a graph, of a tensor, an array or a sequence of numbers."""
    import torch

    try:
        return torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise invalid(name, "a tensor, an array or a sequence of numbers", type(values).__name__) from error


def plain_number(value: Any) -> Any:
    """A number of NumPy's or torch's as Python's, which files can hold; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def plain_numbers(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function so that it is given Python's numbers for those of NumPy and torch."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        own: Any = tuple(map(plain_number, args))
        named: Any = {name: plain_number(value) for name, value in kwargs.items()}
        return function(*own, **named)

    return called


def check_finite(name: str, value: Tensor) -> None:
    """Requires that no entry is NaN or infinite, and names the first row that has one."""
    # Imported here, so that a command line is checked without waiting for torch.
    import torch

    if not value.is_floating_point() or not value.numel():
        return
    rows = value.reshape(len(value) if value.ndim else 1, -1)
    # (By blocks: the test takes more memory than what it looks at.)
    blocks = rows.split(max(1, ENTRIES_AT_ONCE // rows.shape[1]))
    if all(bool(torch.isfinite(block).all()) for block in blocks):
        return
    bad = torch.cat(
        [
            torch.nonzero(~torch.isfinite(block).all(dim=1)).reshape(-1) + k * len(blocks[0])
            for k, block in enumerate(blocks)
        ]
    )
    raise invalid(
        name, "finite", f"NaN or infinity in {len(bad)} of {len(rows)} rows, first in row {int(bad[0])}"
    )
