"""Rivals at equal copying and at equal source rate: the t* at which they have it, by interpolation.

How often samples count as copies, and how often their own atom is nearest, both fall as t* grows. They are measured at
a few t* on seeds that no report uses, made monotone, and interpolated (the logarithm of the odds, linearly in t*). The
curve is made of many rates, what is looked up on it is a single one: so the coupled start gets more seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import isotonic_regression

from otprior.experiments.comparison import ComparisonResult
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons.stages import CHOOSING, Stages

# Where a random training image with fresh noise is measured.
STARTS = (150, 200, 250, 300, 350, 400, 450, 500, 550, 600)
# Seeds of the coupled start for one of a rival's, and the first of them: on those that the rivals are measured on it
# may have been chosen, for copying little.
TARGET_SEEDS = 5
TARGET_FIRST = CHOOSING + 50_000_000
_FIGURES = {"copying": "copy_rate", "source": "source_rate"}


@dataclass(frozen=True)
class Matching:
    """What rivals are matched by: their rates at every t* of `STARTS`, and those of the coupled start.

    Attributes:
        rivals: Every rival at every t*.
        coupled: The coupled start.
    """

    rivals: ComparisonResult
    coupled: ComparisonResult

    @property
    def measured(self) -> tuple[StartSpec, ...]:
        """The starts of all rivals."""
        return self.rivals.asked.starts

    @classmethod
    def measure(cls, stages: Stages, coupled: StartSpec, rivals: Sequence[StartSpec]) -> Matching:
        """Measures them, in stages "matching" and "matching target"."""
        samples = stages.samples
        measured = [moved(rival, t) for rival in rivals for t in STARTS]
        return cls(
            stages.choose("matching", measured, samples),
            stages.choose("matching target", [coupled], TARGET_SEEDS * samples, first_seed=TARGET_FIRST),
        )

    def start(self, rival: StartSpec, by: str) -> StartSpec:
        """The rival at the t* where it copies ("copying") or keeps its atom ("source") as the coupled start does."""
        key = _FIGURES[by]
        rates = [self.rivals.row(moved(rival, t)).measured(key) for t in STARTS]
        target = self.coupled.report.rows[0].measured(key)
        timestep = matching_timestep_of(STARTS, rates, target, self.rivals.asked.samples)
        return moved(rival, timestep, equal(by, rates, target))


def matching_timestep_of(
    timesteps: Sequence[float], rates: Sequence[float], target: float, samples: int
) -> int:
    """The t* at which a rate, measured at some of them on so many samples, takes a value.

    Outside of what was measured, the nearest end.
    """
    order = np.argsort(timesteps)
    times = np.asarray(timesteps, dtype=float)[order]
    falling = isotonic_regression(np.asarray(rates, dtype=float)[order], increasing=False).x

    def odds(rate: float) -> float:
        # Half a sample more on either side: no rate has an infinite logarithm.
        hits = rate * samples
        return math.log((hits + 0.5) / (samples - hits + 0.5))

    levels = np.array([odds(rate) for rate in falling])
    # `np.interp` needs rising abscissae; equal ones are moved apart by far less than a sample.
    levels -= 1e-9 * np.arange(len(levels))
    return round(float(np.interp(-odds(target), -levels, times)))


def equal(what: str, rates: Sequence[float], target: float) -> str:
    """What a start at the t* found may be said to have: an equal rate, or only the nearest that was measured."""
    return f"{'equal' if min(rates) <= target <= max(rates) else 'nearest'} {what}"


def moved(start: StartSpec, timestep: int, why: str = "") -> StartSpec:
    """A start at another t*, and a label that says so."""
    name = {"random_atom": "random image + fresh noise", "boosted_atom": "the same, boosted"}[start.prior]
    direction = dict(start.options).get("direction")
    towards = f" ({direction})" if direction else ""
    reason = f", {why}" if why else ""
    label = f"{name}{towards}, t* = {timestep}{reason}, {start.steps}"
    return replace(start, start_timestep=timestep, label=label)
