"""Intervals against textbook values, and how often they hold the truth.

Coverage is counted over R simulated studies with a fixed seed; its standard error is √(0.95 · 0.05/R), and
a test allows 3.5 of them around what theory promises.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from otprior.metrics import (
    FeatureMoments,
    Interval,
    KernelSample,
    block_interval,
    bootstrap_mean,
    frechet_distance,
    kernel_distance,
    paired_difference,
    paired_share_difference,
    ratio_interval,
    seed_set_interval,
)
from otprior.metrics.intervals import disjoint_blocks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slack(studies: int, level: float = 0.95) -> float:
    return 3.5 * math.sqrt(level * (1.0 - level) / studies)


def holds(interval: Interval, truth: float) -> bool:
    return interval.lo <= truth <= interval.hi


def test_bootstrap_of_a_mean_is_the_normal_interval_for_many_samples() -> None:
    values = torch.randn(5000, generator=generator(), dtype=torch.float64)
    interval = bootstrap_mean(values, generator(1))
    half = 1.96 * float(values.std()) / 5000**0.5
    # 2,000 resamples put a quantile within about 5 % of a half-width.
    assert interval.lo == pytest.approx(float(values.mean()) - half, abs=0.15 * half)
    assert interval.hi == pytest.approx(float(values.mean()) + half, abs=0.15 * half)
    assert interval.estimate == pytest.approx(float(values.mean()))


def test_bootstrap_of_a_proportion_is_that_of_its_values() -> None:
    flags = torch.rand(3000, generator=generator()) < 0.05
    fast, slow = bootstrap_mean(flags, generator(1)), bootstrap_mean(flags.double(), generator(1))
    assert fast.estimate == slow.estimate
    assert (fast.lo, fast.hi) == pytest.approx((slow.lo, slow.hi), abs=1e-3)


@pytest.mark.parametrize(("n", "events"), [(500, 0), (500, 4), (500, 497), (500, 500)])
def test_few_events_get_exact_binomial_limits(n: int, events: int) -> None:
    interval = bootstrap_mean(torch.arange(n) < events, generator())
    exact = stats.binomtest(events, n).proportion_ci(0.95, method="exact")
    assert (interval.lo, interval.hi) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert interval.lo <= interval.estimate <= interval.hi


def test_bootstrap_is_a_function_of_its_generator() -> None:
    values = torch.rand(100, generator=generator())
    assert bootstrap_mean(values, generator(1)) == bootstrap_mean(values, generator(1))
    assert bootstrap_mean(values, generator(1)) != bootstrap_mean(values, generator(2))


@pytest.mark.parametrize("share", [0.004, 0.02, 0.3])
def test_coverage_for_a_proportion(share: float) -> None:
    studies = 600
    hits = [
        holds(bootstrap_mean(torch.rand(1000, generator=generator(s)) < share, generator(s), 1000), share)
        for s in range(studies)
    ]
    # Exact limits cover more; percentiles of a count of 20 are known to cover about 0.935.
    assert np.mean(hits) > 0.935 - slack(studies)


def test_coverage_for_a_skewed_mean() -> None:
    studies = 200
    hits = []
    for s in range(studies):
        values = -torch.rand(200, generator=generator(s)).log()
        hits.append(holds(bootstrap_mean(values, generator(s), 300), 1.0))
    # Percentile intervals of an exponential mean at n = 200 lose about one per cent.
    assert np.mean(hits) == pytest.approx(0.94, abs=slack(studies))


def test_seed_sets_are_students_interval() -> None:
    values = [3.1, 2.9, 3.4, 3.0, 3.3]
    interval = seed_set_interval(values)
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (interval.lo, interval.hi) == pytest.approx(expected)
    upper = seed_set_interval(values, side="upper")
    assert upper.hi == pytest.approx(np.mean(values) + stats.t.ppf(0.95, 4) * stats.sem(values))
    assert upper.lo == -math.inf
    assert upper.limits() == [None, upper.hi]


def test_pairing_removes_what_the_seeds_share() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0.0, 10.0, 5)
    a, b = shared + 1.0 + rng.normal(0.0, 0.01, 5), shared
    interval = paired_difference(a, b)
    assert holds(interval, 1.0)
    assert interval.hi - interval.lo < 0.1
    swapped = paired_difference(b, a)
    assert (swapped.lo, swapped.hi) == pytest.approx((-interval.hi, -interval.lo))


@pytest.mark.parametrize(("mine", "theirs"), [(0, 3), (0, 5), (0, 6), (2, 9), (7, 25), (4, 4)])
def test_shares_on_the_same_seeds_differ_when_mcnemars_test_says_so(mine: int, theirs: int) -> None:
    a, b = torch.zeros(2, 1000, dtype=torch.bool)
    a[:50] = b[:50] = True  # seeds that say nothing
    a[50 : 50 + mine] = True
    b[100 : 100 + theirs] = True
    less = bool(stats.binomtest(mine, mine + theirs, 0.5, alternative="less").pvalue < 0.05)
    differ = bool(stats.binomtest(mine, mine + theirs, 0.5).pvalue < 0.05)
    interval = paired_share_difference(a, b)
    assert interval.estimate == pytest.approx((mine - theirs) / 1000)
    assert interval.lo < interval.estimate < interval.hi or min(mine, theirs) == 0
    assert (interval.hi < 0) is differ
    assert (paired_share_difference(a, b, side="upper").hi < 0) is less
    swapped = paired_share_difference(b, a)
    assert (swapped.lo, swapped.hi) == pytest.approx((-interval.hi, -interval.lo))


def test_shares_that_differ_on_no_seed_are_not_known_to_be_equal() -> None:
    none = torch.zeros(100, dtype=torch.bool)
    # One-sided: 0 of 100 events exclude shares above 1 − 0.05^(1/100).
    assert paired_share_difference(none, none, side="upper").hi == pytest.approx(1 - 0.05**0.01)
    with pytest.raises(ValueError, match="of one shape"):
        paired_share_difference(none, none[:50])


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.9])
@pytest.mark.parametrize("side", ["both", "upper"])
def test_fieller_is_exact_for_five_normal_pairs(correlation: float, side: str) -> None:
    studies, ratio = 1000, 0.4
    rng = np.random.default_rng(1)
    covariance = [[0.09, 0.3 * 0.3 * correlation], [0.3 * 0.3 * correlation, 0.09]]
    pairs = rng.multivariate_normal([ratio * 2.0, 2.0], covariance, (studies, 5))
    hits = [holds(ratio_interval(p[:, 0], p[:, 1], side=side), ratio) for p in pairs]
    assert np.mean(hits) == pytest.approx(0.95, abs=slack(studies))


def test_fieller_limits_are_where_students_test_turns() -> None:
    n, d = np.array([1.0, 1.3, 0.9, 1.1, 1.2]), np.array([2.1, 2.6, 1.8, 2.4, 2.2])
    interval = ratio_interval(n, d)
    for limit in (interval.lo, interval.hi):
        assert stats.ttest_1samp(n - limit * d, 0.0).pvalue == pytest.approx(0.05, abs=1e-9)
    upper = ratio_interval(n, d, side="upper").hi
    assert stats.ttest_1samp(n - upper * d, 0.0, alternative="less").pvalue == pytest.approx(0.05, abs=1e-9)
    assert interval.estimate == pytest.approx(n.mean() / d.mean())


def test_fieller_laws() -> None:
    n, d = [1.0, 1.3, 0.9, 1.1], [2.1, 2.6, 1.8, 2.4]
    base = ratio_interval(n, d)
    scaled = ratio_interval([6.0 * v for v in n], [2.0 * v for v in d])
    assert (scaled.lo, scaled.hi) == pytest.approx((3.0 * base.lo, 3.0 * base.hi))
    permuted = ratio_interval(n[::-1], d[::-1])
    assert (permuted.lo, permuted.hi) == pytest.approx((base.lo, base.hi))
    # Proportional pairs leave nothing open.
    exact = ratio_interval([0.5 * v for v in d], d)
    assert (exact.lo, exact.hi) == pytest.approx((0.5, 0.5), abs=1e-7)


@pytest.mark.parametrize("d", [[1.0, -1.0, 0.5, -0.4], [-2.0, -2.1, -1.9, -2.0], [0.0, 0.0, 0.0, 0.0]])
def test_a_denominator_not_above_zero_sets_no_limit(d: list[float]) -> None:
    interval = ratio_interval([1.0, 1.1, 0.9, 1.0], d, side="upper")
    assert interval.hi == math.inf
    assert interval.limits() == [None, None]


def test_blocks_share_out_all_rows() -> None:
    blocks = disjoint_blocks(103, 10, generator())
    assert sorted(torch.cat(blocks).tolist()) == list(range(103))
    assert {len(block) for block in blocks} == {10, 11}
    assert torch.cat(blocks).tolist() != list(range(103))


def test_block_interval_of_a_mean_is_students() -> None:
    """Of a mean the figure of all rows is the mean of its blocks, so theory gives the size."""
    values = torch.randn(4000, 1, generator=generator(), dtype=torch.float64)
    widths = [
        block_interval(lambda x: float(x.mean()), values, generator(s)).hi - float(values.mean())
        for s in range(50)
    ]
    t = stats.t.ppf(0.975, 9)
    # Mean over 50 shuffles of a standard deviation from 10 blocks, which is low by 3 % on average.
    assert np.mean(widths) == pytest.approx(0.97 * t / 4000**0.5, rel=0.08)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_coverage_of_block_intervals(distance: Callable[..., float]) -> None:
    """About the expectation of the figure at the same n, found here from the studies themselves."""
    studies, n, d = 80, 200, 4
    reference = torch.randn(500, d, generator=generator(10**6), dtype=torch.float64)
    summary = FeatureMoments if distance is frechet_distance else KernelSample
    target = summary.from_features(reference)
    intervals = []
    for s in range(studies):
        x = 1.2 * torch.randn(n, d, generator=generator(s), dtype=torch.float64) + 0.3
        intervals.append(block_interval(lambda rows: distance(rows, target), x, generator(s)))
    expectation = float(np.mean([i.estimate for i in intervals]))
    # Too wide by second-order terms is allowed, too narrow is not.
    assert np.mean([holds(i, expectation) for i in intervals]) > 0.95 - slack(studies)
    spread = float(np.std([i.estimate for i in intervals], ddof=1))
    half = float(np.mean([i.hi - i.estimate for i in intervals]))
    assert half < 1.5 * stats.t.ppf(0.975, 9) * spread


def test_bootstrap_would_be_wrong_for_a_frechet_distance() -> None:
    """Why blocks: resampled sets are further from the reference than the set, so the interval misses it."""
    reference = FeatureMoments.from_features(torch.randn(4000, 16, generator=generator(1)))
    x = torch.randn(200, 16, generator=generator(2))
    resampled = [
        frechet_distance(x[torch.randint(200, (200,), generator=generator(s))], reference) for s in range(200)
    ]
    assert np.quantile(resampled, 0.025) > frechet_distance(x, reference)
    interval = block_interval(lambda rows: frechet_distance(rows, reference), x, generator(3))
    assert interval.lo <= interval.estimate <= interval.hi


def test_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        seed_set_interval([1.0])
    with pytest.raises(ValueError, match="values must be finite"):
        bootstrap_mean(torch.tensor([1.0, math.nan]), generator())
    with pytest.raises(ValueError, match="side must be one of 'both', 'upper'; got 'lower'"):
        seed_set_interval([1.0, 2.0], side="lower")
    with pytest.raises(ValueError, match=r"a must be as long as b \(3\); got 2"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"blocks must be an integer in \[2, 5\]; got 6"):
        disjoint_blocks(10, 6, generator())
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\)"):
        seed_set_interval([1.0, 2.0], level=95.0)
    with pytest.raises(ValueError, match="lo must be at most hi"):
        Interval(2.0, 1.0, 1.5)
