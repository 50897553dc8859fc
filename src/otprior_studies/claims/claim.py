"""A claim of a paper, put to the test: what is said, what was found, and a verdict by one rule.

A claim is turned into a number, the statistic, such that the claim says "statistic ≤ threshold". A finding is the
statistic with an interval, and the verdict follows from the interval alone:

    whole interval at or below the threshold     holds, if the interval is rounding and solver error only;
                                                 holds within error, if it is a statistical one (95 %)
    whole interval above the threshold           does not hold
    otherwise                                    not distinguishable

Some statistics are zero if the claim holds and may be zero although it does not: a map that is not optimal can look
optimal on few points in high dimension. Such a test has a power: the smallest rotation of the map that it would have
caught. Zero then reads "holds within error" only if that rotation is small, else "not distinguishable".
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

# The papers, as reports name them. "(abstract)" says that a statement is taken from the paper's abstract: its theorem
# may carry assumptions or a norm that the abstract does not mention.
#
# Wang et al., Solving prior distribution mismatch in diffusion models via optimal transport: two versions that differ.
PRIOR_V1 = "arXiv:2410.13431v1 (abstract)"
PRIOR_V2 = "arXiv:2410.13431v2 (abstract)"
# Khrulkov et al., Understanding DDPM latent codes through optimal transport (ICLR 2023).
CODES = "arXiv:2202.07477 (abstract)"
# A sharper or opposite statement than the paper's, derived in docs/claims.md.
DERIVED = "docs/claims.md, after arXiv:2410.13431"

# Degrees. A test that would have missed a larger rotation than this does not let a claim hold.
LARGEST_UNSEEN_ROTATION = 1.0


class Verdict(StrEnum):
    """The outcome of a claim's test."""

    HOLDS = "holds"
    WITHIN_ERROR = "holds within error"
    FAILS = "does not hold"
    UNDECIDED = "not distinguishable"


@dataclass(frozen=True)
class Effort:
    """How much work a claim may do, and its random numbers.

    Attributes:
        fast: Whether to stay within a few seconds for each claim.
        seed: Seed of every draw.
        device: Where networks compute; the rest is done on the CPU.
    """

    fast: bool = False
    seed: int = 0
    device: str = "cpu"

    def choose(self, full: T, fast: T) -> T:
        """Returns `fast` if this effort is fast, else `full`."""
        return fast if self.fast else full

    def generator(self, stream: str) -> torch.Generator:
        """A random generator of its own for each name of a stream."""
        digest = hashlib.sha256(f"{self.seed}/{stream}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """N(0, I) draws, float64."""
        return torch.randn(*shape, generator=self.generator(stream), dtype=torch.float64)


@dataclass(frozen=True)
class Curves:
    """A plot, as data.

    Attributes:
        name: Name of the file, without its ending.
        title: Title of the plot.
        x, y: Labels of the axes.
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
    """The result of a claim's test.

    Attributes:
        statistic: Oriented such that the claim says statistic ≤ threshold.
        interval: Of the statistic: 95 %, or rounding and solver error where nothing is random.
        threshold: The largest statistic that the claim allows.
        why: One or two sentences: what decides the verdict, and why the result is as it is.
        exact: Whether the interval is rounding and solver error rather than a statistical one.
        unseen_rotation: Degrees; the smallest rotation of the map that a test would have caught. None where the
            statistic cannot miss anything.
        power_note: Words added to `power`.
        details: Further figures, JSON values.
        curves: Plots.
    """

    statistic: float
    interval: tuple[float, float]
    threshold: float
    why: str
    exact: bool = False
    unseen_rotation: float | None = None
    power_note: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    curves: tuple[Curves, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict on the claim, by the rule of this module."""
        return judge(self.interval, self.threshold, self.exact, self.unseen_rotation or 0.0)

    @property
    def power(self) -> str | None:
        """The smallest rotation that the test would have caught, in words; None where it cannot miss anything."""
        if self.unseen_rotation is None:
            return None
        return f"rotation of {self.unseen_rotation:.2g}° or more{self.power_note}"


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and the computation that tests it.

    Attributes:
        id: Short name, unique.
        paper: arXiv identifier, with "(abstract)" where the statement is known from the abstract alone.
        statement: The claim, in a sentence.
        run: The test.
    """

    id: str
    paper: str
    statement: str
    run: Callable[[Effort], Finding]


def claim(id: str, paper: str, statement: str) -> Callable[[Callable[[Effort], Finding]], Claim]:
    """Decorates the function that tests a claim; the name in the module is then the `Claim`."""
    return lambda run: Claim(id, paper, statement, run)


def judge(
    interval: tuple[float, float], threshold: float, exact: bool = False, unseen_rotation: float = 0.0
) -> Verdict:
    """The verdict on "statistic ≤ threshold".

    Arguments:
        interval: Of the statistic.
        threshold: Of the claim; for a test that can miss something, what rounding alone can produce.
        exact: Whether the interval is rounding and solver error rather than a statistical one.
        unseen_rotation: Degrees; the smallest rotation of the map that would have been caught.

    Raises:
        ValueError: If the interval's ends are in the wrong order.
    """
    low, high = interval
    require(low <= high, "interval", "(low, high) with low <= high", interval)
    if high <= threshold:
        if unseen_rotation > LARGEST_UNSEEN_ROTATION:
            return Verdict.UNDECIDED
        return Verdict.HOLDS if exact else Verdict.WITHIN_ERROR
    return Verdict.FAILS if low > threshold else Verdict.UNDECIDED
