"""Codes by dimension: is their Jacobian symmetric, and is their cost that of exact discrete transport?

With what the second question could not have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from otprior.metrics.intervals import Interval, bootstrap_mean
from otprior_studies.claims.claim import (
    Curves,
    Finding,
    judge,
    judge_test,
)
from otprior_studies.claims.rotation import (
    COST_ROUNDING,
    excess_cost,
    rotate,
    smallest_caught,
)

DIMENSIONS = (2, 3, 4, 5, 6, 7)


def jacobian_finding(
    tangents: Mapping[int, Tensor],
    error: tuple[str, float],
    threshold: float,
    generator: Callable[[], torch.Generator],
    source: str,
) -> Finding:
    """What |J − Jᵀ|/|J + Jᵀ| says of the claim that it is 0 in every dimension.

    Arguments:
        tangents: Of single points, (B,), by dimension.
        error: What is wrong with them at most: its name and how much.
        threshold: What counts as 0.
        generator: For the bootstrap; a new one for each dimension, seeded alike.
        source: A sentence on where the Jacobians are from.
    """
    name, most = error
    found = {dim: bootstrap_mean(values, generator()) for dim, values in tangents.items()}
    least = min(found.values(), key=lambda f: f.estimate)
    interval = (least.lo - most, least.hi + most)
    angles = {str(dim): math.degrees(math.atan(f.estimate)) for dim, f in found.items()}
    return Finding(
        statistic=least.estimate,
        interval=interval,
        threshold=threshold,
        verdict=judge(interval, threshold),
        why="Mean of |J − Jᵀ|/|J + Jᵀ| over the data, in that of 2 to 7 dimensions where it is smallest: the "
        f"tangent of a mean rotation of {min(angles.values()):.2f}° to {max(angles.values()):.2f}°. {source} Not "
        "optimal, though nearly so.",
        power=f"rotation of {math.degrees(math.atan(threshold)):.1g}° or more",
        details={
            name: most,
            "mean rotation by dimension, degrees": angles,
            "largest rotation by dimension, degrees": {
                str(dim): math.degrees(math.atan(float(values.max()))) for dim, values in tangents.items()
            },
        },
    )


def smallest_turn(x: Tensor, code: Tensor, generator: Callable[[], torch.Generator]) -> float:
    """The smallest turn of the codes, in degrees, that pairing notices.

    Arguments:
        x, code: Points and their codes by a map that is known to be optimal, (n, d) each.
        generator: A new one for each turn, seeded alike: all turns are in the same planes.
    """

    def caught(degrees: float) -> bool:
        return excess_cost(x, rotate(code, degrees, generator())) > COST_ROUNDING

    return smallest_caught(caught)


def cost_finding(
    excess: Mapping[int, Interval],
    unseen: Mapping[int, Sequence[tuple[float, float]]],
    points: int,
    why: Callable[[int], str],
    curves: tuple[str, str],
) -> Finding:
    """What the excess of the cost says of the claim that it is 0 in every dimension.

    Arguments:
        excess: Relative, by dimension, 2 among them.
        unseen: The smallest turn caught, in degrees, by dimension, after each number of points, `points` the last.
        points: Of a set.
        why: The account, from the dimension in which the excess is largest.
        curves: Name and title of the plot of `unseen`.
    """
    worst = max(excess, key=lambda d: excess[d].estimate)
    # An excess is never negative, which Student's interval does not know.
    interval = (max(excess[worst].lo, 0.0), excess[worst].hi)
    # The claim is about all dimensions: the power is that of the one in which least is seen.
    rotation = max(angles[-1][1] for angles in unseen.values())
    return Finding(
        statistic=excess[worst].estimate,
        interval=interval,
        threshold=COST_ROUNDING,
        verdict=judge_test(interval, COST_ROUNDING, rotation),
        why=why(worst),
        power=f"rotation of {unseen[2][-1][1]:.2g}° or more in dimension 2, of {rotation:.2g}° in every one",
        details={
            "points": points,
            "excess by dimension": {str(d): e.estimate for d, e in excess.items()},
            "excess by dimension, interval": {str(d): [max(e.lo, 0.0), e.hi] for d, e in excess.items()},
            "smallest rotation caught, degrees": {
                str(d): {str(n): angle for n, angle in angles} for d, angles in unseen.items()
            },
        },
        curves=(
            Curves(
                *curves,
                "points",
                "smallest rotation caught, degrees",
                {f"d = {d}": angles for d, angles in unseen.items()},
                "xy",
            ),
        ),
    )
