"""Statements with the limit that decides each, and the rule for "copies no more than real images".

A statement is reached when the upper limit of a one-sided 95 % interval is at most its threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats

from otprior.data import bundled
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.inputs import Inputs
from otprior.metrics import (
    Interval,
    block_interval,
    frechet_distance,
    paired_difference,
    ratio_interval,
    seed_set_interval,
)
from otprior.metrics.features import extract_features
from otprior.report import Gate
from otprior.sampling.start_spec import StartSpec
from otprior.utils.validation import require

# Standard normal quantile of a one-sided 95 % interval.
ONE_SIDED = float(stats.norm.ppf(0.95))
MOST_BLOCKS = 10


@dataclass(frozen=True)
class CopyLimit:
    """How often samples may count as copies.

    Attributes:
        rate: The copy rate of held-out images, or a limit that was set.
        images: On how many images `rate` was measured; None if it was set.
        margin: By how much the upper 95 % limit of the difference may exceed 0.

    Examples:
        >>> CopyLimit(rate=0.01, images=2000).margin
        0.01
    """

    rate: float
    images: int | None = None
    margin: float = 0.01

    def upper(self, rate: float, samples: int) -> float:
        """Upper limit of what a copy rate, measured on so many samples, lies above `rate`."""
        copies = rate * samples
        # (Clopper and Pearson's: of no copies in a dozen images, little follows.)
        most = float(stats.beta.ppf(0.95, copies + 1, samples - copies)) if rate < 1 else 1.0
        own = ONE_SIDED**2 * self.rate * (1 - self.rate) / self.images if self.images else 0.0
        return rate - self.rate + math.sqrt((most - rate) ** 2 + own)

    def allows(self, rate: float, samples: int) -> bool:
        """Whether the rate is at most `margin` above the limit, at 95 % confidence."""
        return self.upper(rate, samples) <= self.margin

    def chance(self, rate: float, samples: int, final: int) -> float:
        """Probability that a start with this rate on so many samples is allowed on `final` of them."""
        most = -1
        while most < final and self.allows((most + 1) / final, final):
            most += 1
        copies = rate * samples
        # (Jeffreys' prior; the number of copies among `final` images is then beta-binomial.)
        return float(stats.betabinom.cdf(most, final, copies + 0.5, samples - copies + 0.5))


def gate(
    statement: str, statistic: float, upper: float, threshold: float, interval: Interval | None = None
) -> Gate:
    """A statement of a report, with the figure that decides it."""
    values = {
        "statement": statement,
        "statistic": float(statistic) if math.isfinite(statistic) else None,
        "upper": float(upper) if math.isfinite(upper) else None,
        "threshold": threshold,
        "reached": bool(upper <= threshold),
    }
    return Gate.from_json(values if interval is None else values | {"interval": interval.limits()})


def ratio_gate(
    result: ComparisonResult, start: StartSpec, rival: StartSpec, threshold: float, statement: str
) -> Gate:
    """A start's excess FID is at most `threshold` times a rival's, over two or more sets of seeds."""
    floor = result.report.reference.measured("fid_floor")
    mine, other = ([one["fid"] - floor for one in result.sets[each.key]] for each in (start, rival))
    ratio = ratio_interval(mine, other, side="upper")
    return gate(statement, ratio.estimate, ratio.hi, threshold)


def copy_gate(
    result: ComparisonResult, start: StartSpec, statement: str, held_out: int, threshold: float = 0.01
) -> Gate:
    """A start copies at most `threshold` more often than real images, of which there were `held_out`."""
    real = result.report.reference.measured("copy_rate")
    seeds = seed_set_interval([one["copy_rate"] for one in result.sets[start.key]], side="upper")
    # Two sources of error: other seeds, and other held-out images.
    error = ONE_SIDED * (real * (1 - real) / held_out) ** 0.5
    more = seeds.estimate - real
    upper = more + ((seeds.hi - seeds.estimate) ** 2 + error**2) ** 0.5
    return gate(statement, more, upper, threshold)


def difference_gate(result: ComparisonResult, start: StartSpec, rival: StartSpec, statement: str) -> Gate:
    """A start's FID is below a rival's on the same seeds."""
    both = paired_fid_difference(result, start, rival)
    upper = paired_fid_difference(result, start, rival, level=0.9).hi
    return gate(statement, both.estimate, upper, 0.0, both)


def paired_fid_difference(
    result: ComparisonResult,
    start: StartSpec,
    rival: StartSpec,
    level: float = 0.95,
    rival_in: ComparisonResult | None = None,
) -> Interval:
    """FID of a start less that of a rival on the same seeds, which is also the difference of excesses.

    Over two or more sets of seeds by Student's t of the sets' differences; of one set, over disjoint blocks of seeds
    that both share. `rival_in` is the rival's result, if it is from another comparison: of as many seeds, with the same
    images for reference.
    """
    where = ((result, start), (rival_in or result, rival))
    if len(result.sets[start.key]) > 1:
        mine, other = ([one["fid"] for one in found.sets[each.key]] for found, each in where)
        return paired_difference(mine, other, level=level)
    comparison, inputs = result.asked, Inputs.of(result.asked)
    moments = inputs.reference.moments
    sides = [extract_features(inputs.extractor, found.samples(each).images) for found, each in where]
    width = sides[0].shape[1]

    def difference(rows: torch.Tensor) -> float:
        return frechet_distance(rows[:, :width], moments) - frechet_distance(rows[:, width:], moments)

    generator = torch.Generator().manual_seed(comparison.first_seed)
    blocks = min(MOST_BLOCKS, comparison.samples // 2)
    return block_interval(difference, torch.cat(sides, dim=1), generator, blocks, level)


def headline_gates(
    result: ComparisonResult, starts: dict[str, StartSpec], held_out: int | None = None
) -> list[Gate]:
    """The statements about quality and about copying that the headline is judged by.

    Arguments:
        result: A comparison over several sets of seeds.
        starts: "coupled_5", "coupled_3", "none_10" and "none_20".
        held_out: Real images behind the floor; by default as many as are bundled.
    """
    require(all(len(sets) > 1 for sets in result.sets.values()), "seed_sets", "two or more", 1)
    gates = []
    for start, rival, threshold in (("coupled_5", "none_20", 0.5), ("coupled_3", "none_10", 1.0)):
        few, many = (int(name.split("_")[1]) for name in (start, rival))
        statement = f"Excess FID of the coupled start at {few} evaluations over that of N(0, I) at {many}"
        gates.append(ratio_gate(result, starts[start], starts[rival], threshold, statement))
    held_out = held_out or int(bundled.manifest()["splits"]["held_out"]["n"])
    for start in ("coupled_5", "coupled_3"):
        few = int(start.split("_")[1])
        statement = f"Copy rate of the coupled start at {few} evaluations less that of held-out real images"
        gates.append(copy_gate(result, starts[start], statement, held_out))
    return gates
