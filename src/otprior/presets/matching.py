"""Rivals at equal copying and at equal source rate: the t* at which they have it, by interpolation.

How often samples count as copies, and how often their own atom is nearest, both fall as t* grows. They are measured at
a few t* on seeds that no report uses, made monotone, and interpolated (the logarithm of the odds, linearly in t*).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import isotonic_regression

from otprior.generation import RowSpec

__all__ = ["STARTS", "equal", "matching_timestep_of", "moved"]

# Where a random training image with fresh noise is measured.
STARTS = (150, 200, 250, 300, 350, 400, 450, 500, 550, 600)


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
    # `np.interp` wants rising abscissae; equal ones are told apart by far less than a sample.
    levels -= 1e-9 * np.arange(len(levels))
    return round(float(np.interp(-odds(target), -levels, times)))


def equal(what: str, rates: Sequence[float], target: float) -> str:
    """What a row at the t* found may be said to have: an equal rate, or only the nearest that was measured."""
    return f"{'equal' if min(rates) <= target <= max(rates) else 'nearest'} {what}"


def moved(row: RowSpec, timestep: int, why: str = "") -> RowSpec:
    """A row at another t*, and a label that says so."""
    name = {"random_atom": "random image + fresh noise", "boosted_atom": "the same, boosted"}[row.prior]
    direction = dict(row.options).get("direction")
    towards = f" ({direction})" if direction else ""
    reason = f", {why}" if why else ""
    label = f"{name}{towards}, t* = {timestep}{reason}, {row.steps}"
    return replace(row, start_timestep=timestep, label=label)
