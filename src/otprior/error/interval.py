"""The interval of a prior's error: two ends, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from otprior.utils.validation import require


@dataclass(frozen=True)
class Bound:
    """A bound on W2.

    Attributes:
        value: At least 0; math.inf for an upper bound where none is known.
        how: Name of the bound, see docs/prior-error.md.
        level: Probability with which it holds; None where it holds for certain, up to rounding.
        note: Numbers of draws or terms that it rests on, in words.

    Raises:
        ValueError: If the value is negative.

    Examples:
        >>> Bound(1.5, "gelbrich", level=0.95).value
        1.5
    """

    value: float
    how: str
    level: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        require(self.value >= 0, "a bound", "at least 0", self.value)


@dataclass(frozen=True)
class ErrorInterval:
    """W2 between p_t and the law of a prior's starts lies between `lower` and `upper`.

    Attributes:
        target: "data" (p_t of the given images) or "population" (p_t of the law that held-out images come from).
        lower, upper: The best of each kind.
        others: All bounds that were computed, the best ones included.

    Examples:
        >>> found = ErrorInterval("data", Bound(1.0, "gelbrich"), Bound(1.2, "cells"))
        >>> found.upper.value / found.lower.value
        1.2
    """

    target: str
    lower: Bound
    upper: Bound
    others: tuple[Bound, ...] = field(default=())

    @property
    def ratio(self) -> float:
        """upper/lower: 1 where the error is known, infinite where one side has no bound."""
        if self.upper.value == self.lower.value:
            return 1.0
        return self.upper.value / self.lower.value if self.lower.value > 0 else math.inf


def best(target: str, lower: list[Bound], upper: list[Bound]) -> ErrorInterval:
    """The interval of the largest lower and the smallest upper bound.

    Bounds that hold with a probability should hold together with the level that each states: k of them computed on the
    same draws each need the level 1 − δ/k.
    """
    low = max(lower, key=lambda bound: bound.value, default=Bound(0.0, "none"))
    high = min(upper, key=lambda bound: bound.value, default=Bound(math.inf, "no upper bound known"))
    if high.value < low.value:
        # One of two estimates missed by a little (or by rounding). An upper bound may always be raised.
        high = replace(high, value=low.value)
    return ErrorInterval(target, low, high, (*lower, *upper))


def combined(target: str, parts: list[ErrorInterval], weights: list[float]) -> ErrorInterval:
    """The interval of √Σ w_c W2²_c over classes: W2 between laws of (latent, label) by plans that keep the label."""
    low = math.sqrt(sum(w * part.lower.value**2 for w, part in zip(weights, parts)))
    high = math.sqrt(sum(w * part.upper.value**2 for w, part in zip(weights, parts)))
    levels = [bound.level for part in parts for bound in (part.lower, part.upper) if bound.level is not None]
    # Ends that miss with probability δ_c each miss together with at most their sum.
    level = 1 - sum(1 - each for each in levels) if levels else None
    return ErrorInterval(target, Bound(low, "by class", level), Bound(high, "by class", level))
