r"""Confidence intervals, each for the kind of figure that it is valid for.

- *Means and proportions* over independent samples: the bootstrap; exact binomial limits where events are too few
  to resample.
- *Figures of a whole set* (Fréchet and kernel distance): not the bootstrap, since a resampled set repeats
  rows and is therefore itself further from the reference than the set. Disjoint blocks instead, or
  independent sets of samples.
- *Sets of seeds*: Student's t over the sets; differences are taken within a set first, ratios by Fieller's
  theorem.

Intervals within one set keep the reference images, the atoms and the fitted prior fixed: they describe the
variation over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_choice, check_integer, require

# Below so many events (or non-events) the quantiles of a bootstrapped proportion are too coarse.
FEW_EVENTS = 10
# Resampled indices held at once: 32 MB.
_BLOCK_ENTRIES = 2**22


@dataclass(frozen=True)
class Interval:
    """A confidence interval with its estimate.

    Arguments:
        lo: Lower limit; −inf for an upper limit alone.
        hi: Upper limit; inf where the data give none.
        estimate: The figure itself.
        level: Probability with which such intervals contain the true value.

    Raises:
        ValueError: If `lo` is above `hi`, or the level is not in (0, 1).

    Examples:
        >>> Interval(0.1, 0.3, 0.2)
        Interval(lo=0.1, hi=0.3, estimate=0.2, level=0.95)
    """

    lo: float
    hi: float
    estimate: float
    level: float = 0.95

    def __post_init__(self) -> None:
        require(0.0 < self.level < 1.0, "level", "in (0, 1)", self.level)
        require(self.lo <= self.hi, "lo", f"at most hi ({self.hi})", self.lo)

    def limits(self) -> list[float | None]:
        """[lo, hi] as JSON values: None for an infinite limit."""
        return [value if math.isfinite(value) else None for value in (self.lo, self.hi)]


@plain_torch()
def bootstrap_mean(
    values: Tensor, generator: torch.Generator, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Computes the percentile-bootstrap interval of a mean over independent samples.

    Arguments:
        values: Shape (N,), N >= 2. Of dtype bool it is a proportion: with fewer than 10 events, or fewer
            than 10 others, the interval is the exact binomial one of Clopper and Pearson, since resampling
            no event at all would give an interval of length 0.
        generator: Draws the resamples, on the CPU.
        resamples: Number of resampled means.
        level: Probability of the interval.

    Source: Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 13

    Raises:
        ValueError: If there are fewer than two values, or fewer than 100 resamples.

    Examples:
        >>> share = bootstrap_mean(torch.rand(500) < 0.1, generator)
        >>> share.lo < share.estimate < share.hi
        True
    """
    flat = torch.from_numpy(_sample("values", values))
    check_integer("resamples", resamples, 100)
    n, estimate, tail = len(flat), float(flat.mean()), (1.0 - level) / 2.0
    if values.dtype == torch.bool:
        events = int(flat.sum())
        if min(events, n - events) < FEW_EVENTS:
            return binomial_interval(events, n, level)
        # The number of events in a resample is binomial.
        counts = torch.full((resamples,), float(n), dtype=torch.float64)
        means = torch.binomial(counts, torch.full_like(counts, estimate), generator=generator) / n
    else:
        sizes = torch.arange(resamples).split(max(1, _BLOCK_ENTRIES // n))
        means = torch.cat(
            [flat[torch.randint(n, (len(part), n), generator=generator)].mean(dim=1) for part in sizes]
        )
    lo, hi = np.quantile(means.numpy(), [tail, 1.0 - tail])
    return Interval(float(lo), float(hi), estimate, level)


def binomial_interval(events: int, n: int, level: float = 0.95) -> Interval:
    """Computes Clopper and Pearson's exact interval of a proportion: `events` of `n` independent samples."""
    check_integer("events", events, 0, n)
    found = stats.binomtest(events, n).proportion_ci(level, "exact")
    return Interval(float(found.low), float(found.high), events / n, level)


def seed_set_interval(values: Sequence[float] | Tensor, level: float = 0.95, side: str = "both") -> Interval:
    """Computes the Student-t interval of the mean of one figure over independent sets of seeds.

    Arguments:
        values: One figure a set, two or more, shape (n,).
        level: Probability of the interval.
        side: "both", or "upper" for an upper limit alone (`lo` is −inf).

    Examples:
        >>> seed_set_interval([6.0, 6.5, 6.25]).estimate
        6.25
    """
    flat = _sample("values", values)
    mean, error = float(flat.mean()), float(flat.std(ddof=1)) / math.sqrt(len(flat))
    half = _student(level, side, len(flat) - 1) * error
    return Interval(-math.inf if side == "upper" else mean - half, mean + half, mean, level)


@plain_torch()
def paired_difference(
    a: Sequence[float] | Tensor, b: Sequence[float] | Tensor, level: float = 0.95, side: str = "both"
) -> Interval:
    """Computes the Student-t interval of the mean of a − b, whose entries share a seed or a set of seeds.

    Arguments:
        a, b: One figure a seed, or a set of seeds, two or more, shape (n,), in the same order.
        level: Probability of the interval.
        side: "both", or "upper" for an upper limit alone (`lo` is −inf).

    Examples:
        >>> paired_difference([6.0, 6.5, 6.25], [8.0, 8.5, 8.25]).estimate
        -2.0
    """
    first, second = _pairs("a", a, "b", b)
    return seed_set_interval(first - second, level, side)


@plain_torch()
def paired_share_difference(a: Tensor, b: Tensor, level: float = 0.95, side: str = "both") -> Interval:
    """Computes an exact interval of the difference of two shares on the same seeds, that of a less that of b.

    Only seeds on which the two differ are informative. Given their number, that of a's alone is binomial: a limit of
    that proportion, by Clopper and Pearson, lies beyond one half, and so this one beyond 0, exactly when McNemar's test
    finds a difference. If they differ on no seed, the limits are those of an event that never occurred.

    Arguments:
        a: Events, bool, shape (N,), N >= 1.
        b: Those of the same seeds in the same order.
        level: Probability of the interval.
        side: "both", or "upper" for an upper limit alone (`lo` is −inf).

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947

    Raises:
        ValueError: If a and b are not of one shape (N,), or the side is unknown.

    Examples:
        >>> paired_share_difference(torch.tensor([True, True, True]), torch.tensor([False, True, True])).estimate
        0.3333333333333333
    """
    check_choice("side", side, ("both", "upper"))
    require(
        a.shape == b.shape and a.ndim == 1, "a and b", "of one shape (N,)", (tuple(a.shape), tuple(b.shape))
    )
    mine, theirs, n = int((a & ~b).sum()), int((b & ~a).sum()), len(a)
    both_sides = level if side == "both" else 2 * level - 1
    if mine + theirs == 0:
        rare = binomial_interval(0, n, both_sides).hi
        return Interval(-math.inf if side == "upper" else -rare, rare, 0.0, level)
    share, part = binomial_interval(mine, mine + theirs, both_sides), (mine + theirs) / n
    low, high = ((2 * limit - 1) * part for limit in (share.lo, share.hi))
    return Interval(-math.inf if side == "upper" else low, high, (mine - theirs) / n, level)


@plain_torch()
def ratio_interval(
    numerators: Sequence[float] | Tensor,
    denominators: Sequence[float] | Tensor,
    level: float = 0.95,
    side: str = "both",
) -> Interval:
    r"""Computes Fieller's interval of a ratio of means, from paired sets of seeds.

    It holds the ratios ρ for which the mean of numerator − ρ denominator is not separated from 0: those with
    (n̄ − ρ d̄)² <= t² (s_n² − 2 ρ s_nd + ρ² s_d²)/m. Exact for normal pairs, at any m >= 2, where a ratio's
    own mean and spread over few sets are not. It is an interval only if d̄ is separated from 0.

    Arguments:
        numerators: One figure a set, two or more, shape (n,).
        denominators: The same sets in the same order. Meant to be positive on average.
        level: Probability of the interval.
        side: "both", or "upper" for an upper limit alone (`lo` is −inf).

    Returns:
        The interval, with the ratio of means as estimate. Both limits are infinite, and the estimate NaN if
        d̄ <= 0, unless the lower limit of d̄ (same level and side) is above 0.

    Source: Fieller, "Some problems in interval estimation", J. R. Stat. Soc. B 16, 1954

    Examples:
        >>> ratio_interval([6.0, 6.5, 6.25], [12.0, 13.0, 12.5]).estimate
        0.5
    """
    n, d = _pairs("numerators", numerators, "denominators", denominators)
    t = _student(level, side, len(n) - 1)
    (var_n, cov), (_, var_d) = np.cov(n, d, ddof=1) / len(n)
    mean_n, mean_d = float(n.mean()), float(d.mean())
    estimate = mean_n / mean_d if mean_d > 0.0 else math.nan
    leading = mean_d**2 - t**2 * var_d
    if mean_d <= 0.0 or leading <= 0.0:
        return Interval(-math.inf, math.inf, estimate, level)
    middle = mean_n * mean_d - t**2 * cov
    # Never negative but for rounding: the estimate itself lies between the roots.
    spread = math.sqrt(max(middle**2 - leading * (mean_n**2 - t**2 * var_n), 0.0))
    lo = -math.inf if side == "upper" else (middle - spread) / leading
    return Interval(lo, (middle + spread) / leading, estimate, level)


def disjoint_blocks(n: int, blocks: int, generator: torch.Generator) -> list[Tensor]:
    """Splits 0, ..., n − 1 at random into disjoint sets whose sizes differ by one at most.

    Random, because samples often come ordered by class or seed, which blocks must not follow.
    """
    check_integer("blocks", blocks, 2, n // 2)
    return list(torch.randperm(n, generator=generator).tensor_split(blocks))


@plain_torch()
def block_interval(
    statistic: Callable[[Tensor], float],
    features: Tensor,
    generator: torch.Generator,
    blocks: int = 10,
    level: float = 0.95,
) -> Interval:
    r"""Computes the interval of a figure of a whole set, centred on the full set, from the spread of disjoint blocks.

    Convention: estimate ± t s/√B, where `estimate` is the figure of all n rows, s the standard deviation of
    the figures of B blocks of n/B rows, and t Student's quantile for B − 1 degrees of freedom. To first order
    the variance of such a figure is v/n, and s²/B estimates v/(n/B)/B = v/n. Two things to know:

    - The *mean* of the blocks is not used: a Fréchet distance is biased by about c/n, which blocks have B
      times over. The interval is for the expectation of the figure *at this n*, bias included.
    - The second-order variance falls as 1/n² and comes out B times too large, so close to the reference
      (where the first-order variance vanishes) the interval is too wide, never too narrow.

    Two samplers on the same seeds are compared by giving their features side by side, as (N, 2 D), to a
    statistic that takes the difference: blocks then share seeds, and what seeds add to both cancels.

    Arguments:
        statistic: From rows of `features` to the figure, against a reference that stays fixed.
        features: Shape (N, D), independent rows.
        generator: Shuffles rows into blocks, on the CPU.
        blocks: Number of blocks, 2 <= B <= N/2.
        level: Probability of the interval.

    Examples:
        >>> variance = block_interval(lambda rows: float(rows.var()), torch.randn(200, 1), generator)
        >>> variance.lo < variance.estimate < variance.hi
        True
    """
    figures = [statistic(features[rows]) for rows in disjoint_blocks(len(features), blocks, generator)]
    half = _student(level, "both", blocks - 1) * float(np.std(figures, ddof=1)) / math.sqrt(blocks)
    estimate = statistic(features)
    return Interval(estimate - half, estimate + half, estimate, level)


def _sample(name: str, values: Sequence[float] | Tensor) -> np.ndarray:
    flat = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    require(flat.ndim == 1 and len(flat) >= 2, name, "of shape (N,) with N >= 2", flat.shape)
    require(bool(np.isfinite(flat).all()), name, "finite", "NaN or infinity")
    return flat


def _pairs(
    name: str, a: Sequence[float] | Tensor, other: str, b: Sequence[float] | Tensor
) -> tuple[np.ndarray, np.ndarray]:
    first, second = _sample(name, a), _sample(other, b)
    require(len(first) == len(second), name, f"as long as {other} ({len(second)})", len(first))
    return first, second


def _student(level: float, side: str, freedom: int) -> float:
    check_choice("side", side, ("both", "upper"))
    require(0.0 < level < 1.0, "level", "in (0, 1)", level)
    return float(stats.t.ppf(level if side == "upper" else (1.0 + level) / 2.0, freedom))
