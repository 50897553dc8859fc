"""A claim of a paper, put to the test: what is said, what was found, and a verdict by one rule.

A claim is turned into a number (the statistic) such that the claim says "statistic ≤ threshold". What was found is
the statistic with an interval, and the verdict follows from the interval alone:

    whole interval at or below the threshold     holds, if the interval is rounding and solver error only;
                                                 holds within error, if it is a statistical one (95 %)
    whole interval above the threshold           does not hold
    otherwise                                    not distinguishable

A *test* is different, where the statistic is zero if the claim holds and may be zero although it does not (a map
that is not optimal can look optimal on few points in high dimension). It has a power: the smallest rotation of the
map that it would have caught. Zero then reads "holds within error" only if that rotation is small, else "not
distinguishable".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import torch
from torch import Tensor

from otprior.utils.validation import require

T = TypeVar("T")

# Degrees. A test that would have missed a larger rotation than this does not let a claim hold.
LARGEST_UNSEEN_ROTATION = 1.0


class Verdict(StrEnum):
    """What a claim comes to."""

    HOLDS = "holds"
    WITHIN_ERROR = "holds within error"
    FAILS = "does not hold"
    UNDECIDED = "not distinguishable"


@dataclass(frozen=True)
class Effort:
    """How much work a claim may make, and its random numbers.

    Attributes:
        fast: Whether to stay within some seconds a claim.
        seed: Of every draw.
    """

    fast: bool = False
    seed: int = 0

    def of(self, full: T, fast: T) -> T:
        """`fast` or `full`, as is wanted."""
        return fast if self.fast else full

    def generator(self, stream: str) -> torch.Generator:
        """Random numbers that no other stream has."""
        digest = hashlib.sha256(f"{self.seed}/{stream}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """N(0, I) draws, float64."""
        return torch.randn(*shape, generator=self.generator(stream), dtype=torch.float64)


@dataclass(frozen=True)
class Curves:
    """What a plot shows, as data.

    Attributes:
        name: Of the file.
        title, x, y: What is plotted, and the axes.
        series: Points (x, y) by legend.
        log: Which axes are logarithmic: "", "x", "y" or "xy".
        points: Whether to draw points rather than lines.
    """

    name: str
    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log: str = ""
    points: bool = False


@dataclass(frozen=True)
class Finding:
    """What came out.

    Attributes:
        statistic: Oriented such that the claim says statistic ≤ threshold.
        interval: 95 %, or rounding and solver error where nothing is random.
        threshold: See statistic.
        verdict: By `judge` or `judge_test`.
        why: One or two sentences: what decides it, and why it came out so.
        power: What a test would have caught; None where nothing was tested.
        details: Further figures, JSON values.
        curves: For plots.
    """

    statistic: float
    interval: tuple[float, float]
    threshold: float
    verdict: Verdict
    why: str
    power: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    curves: tuple[Curves, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and the computation that tests it.

    Attributes:
        id: Short name, unique.
        paper: arXiv identifier, with "(abstract)" where the statement is known from the abstract alone.
        statement: What is claimed, in a sentence.
        run: The test.
    """

    id: str
    paper: str
    statement: str
    run: Callable[[Effort], Finding]


def judge(interval: tuple[float, float], threshold: float, *, exact: bool = False) -> Verdict:
    """Whether "statistic ≤ threshold" holds.

    Arguments:
        interval: Of the statistic.
        threshold: Of the claim.
        exact: Whether the interval is rounding and solver error rather than a statistical one.
    """
    low, high = interval
    require(low <= high, "interval", "(low, high) with low <= high", interval)
    if high <= threshold:
        return Verdict.HOLDS if exact else Verdict.WITHIN_ERROR
    return Verdict.FAILS if low > threshold else Verdict.UNDECIDED


def judge_test(interval: tuple[float, float], threshold: float, unseen_rotation: float) -> Verdict:
    """The same for a test that may see nothing.

    Arguments:
        interval: Of the statistic.
        threshold: What rounding alone can produce.
        unseen_rotation: Degrees; the smallest rotation of the map that would have been caught.
    """
    verdict = judge(interval, threshold)
    if verdict is Verdict.WITHIN_ERROR and unseen_rotation > LARGEST_UNSEEN_ROTATION:
        return Verdict.UNDECIDED
    return verdict
