r"""Checks of an interval by other distances between the same two laws, which are known to lie below or above W2.

From n draws of each, x of p_t and w of the prior's starts:

- *sliced*: √d times the root mean square of W2 over directions is at most W2, as squared lengths average to |·|²/d;
- *max-sliced*: W2 along any one direction is at most W2; tried are random ones, the data's principal axes and the
  direction of the means;
- *discrete*: W2 between the two samples, whose square is on average at least W2² (it is convex in each law). In high
  dimension it is mostly the distance between two samples of one law, which is reported with it.

From samples the first two have an error: by the triangle inequality each is at most its value for the two laws plus
the distances of both samples from their laws, together about √2 times the *floor*, the distance of two samples of one
law. Few images, or few dimensions, make the floor a random number that varies much. So it is taken anew for random
halves of the 2n draws of p_t, and a check fails only beyond the largest.

References:
    Bonneel et al., Sliced and Radon Wasserstein barycenters of measures (2015). POT computes all three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from otprior.error.interval import ErrorInterval
from otprior.utils.validation import check_integer, require

# Distance of two samples from their laws, in floors, with a margin; and a relative margin for the discrete distance.
FLOORS = 1.6
ROOM = 0.05
# Random halves: one more distance of the same law exceeds all of these, and the floor, in 1 of 12 cases, and 1.6 times
# all of them in hardly any.
HALVES = 10


@dataclass(frozen=True)
class CrossChecks:
    """Distances from samples, each with its floor: the same distance between two samples of p_t.

    Attributes:
        draws: n.
        sliced, sliced_floor: √d · sliced W2.
        max_sliced, max_sliced_floor: The largest along one direction.
        discrete, discrete_floor: Between samples.
        consistent: Whether all distances agree with the interval.
    """

    draws: int
    sliced: float
    sliced_floor: float
    max_sliced: float
    max_sliced_floor: float
    discrete: float
    discrete_floor: float
    consistent: bool


def cross_checks(
    x: Tensor,
    again: Tensor,
    starts: Tensor,
    interval: ErrorInterval,
    axes: Tensor | None = None,
    *,
    projections: int = 128,
    seed: int = 0,
) -> CrossChecks:
    """Computes all three distances.

    Arguments:
        x, again: Two independent samples of p_t, each (n, d).
        starts: A sample of the prior's starts, (n, d).
        interval: The interval of W2 that is checked.
        axes: Directions to try in addition to random ones, orthonormal columns (d, k).
        projections: Number of random directions.
        seed: Seed of the random directions.

    Raises:
        ValueError: If the samples differ in shape.
    """
    import ot

    check_integer("projections", projections, 1)
    same = x.shape == again.shape == starts.shape and len(x) >= 2
    require(same, "samples", "of one shape (n, d), n >= 2", (tuple(x.shape), tuple(starts.shape)))
    first, second, third = (part.double().numpy() for part in (x, again, starts))
    n, dim = first.shape
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(dim, projections))
    random = drawn / np.linalg.norm(drawn, axis=0)
    fixed = random if axes is None else np.concatenate([random, axes.double().numpy()], axis=1)

    def sliced(a: np.ndarray, b: np.ndarray) -> float:
        return math.sqrt(dim) * float(ot.sliced_wasserstein_distance(a, b, projections=random))

    def largest(a: np.ndarray, b: np.ndarray) -> float:
        shift = a.mean(axis=0) - b.mean(axis=0)
        along = shift[:, None] / max(float(np.linalg.norm(shift)), 1e-30)
        return float(
            ot.max_sliced_wasserstein_distance(a, b, projections=np.concatenate([fixed, along], axis=1))
        )

    def discrete(a: np.ndarray, b: np.ndarray) -> float:
        uniform = np.full(n, 1 / n)
        return math.sqrt(float(ot.emd2(uniform, uniform, ot.dist(a, b), numItermax=1_000_000)))

    values = [(f(first, third), f(first, second)) for f in (sliced, largest, discrete)]
    pool = np.concatenate([first, second])
    halves = [np.split(pool[rng.permutation(2 * n)], 2) for _ in range(HALVES)]
    below = all(
        value <= interval.upper.value + FLOORS * max(floor, *(distance(a, b) for a, b in halves))
        for distance, (value, floor) in zip((sliced, largest), values[:2])
    )
    above = values[2][0] * (1 + ROOM) >= interval.lower.value
    return CrossChecks(n, *values[0], *values[1], *values[2], consistent=below and above)
