"""Two tests of codes by dimension: is their Jacobian symmetric, and is their cost that of exact discrete transport?

The second comes with its power.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from otprior.metrics.intervals import Interval, bootstrap_mean
from otprior_studies.claims.claim import Curves, Finding
from otprior_studies.claims.power import COST_ROUNDING

DIMENSIONS = (2, 3, 4, 5, 6, 7)


def jacobian_finding(
    tangents: Mapping[int, Tensor],
    error: tuple[str, float],
    threshold: float,
    generator: Callable[[], torch.Generator],
    source: str,
) -> Finding:
    """Tests the claim that |J − Jᵀ|/|J + Jᵀ| is 0 in every dimension.

    Arguments:
        tangents: |J − Jᵀ|/|J + Jᵀ| at single points, (B,), by dimension.
        error: Largest error of `tangents`: its name and its size.
        threshold: The largest value that counts as 0.
        generator: For the bootstrap; a new one for each dimension, seeded alike.
        source: A sentence on where the Jacobians are from.
    """
    name, most = error
    found = {dim: bootstrap_mean(values, generator()) for dim, values in tangents.items()}
    least = min(found.values(), key=lambda f: f.estimate)
    angles = {str(dim): math.degrees(math.atan(f.estimate)) for dim, f in found.items()}
    return Finding(
        statistic=least.estimate,
        interval=(least.lo - most, least.hi + most),
        threshold=threshold,
        unseen_rotation=math.degrees(math.atan(threshold)),
        why="Mean of |J − Jᵀ|/|J + Jᵀ| over the data, in that of 2 to 7 dimensions where it is smallest: the "
        f"tangent of a mean rotation of {min(angles.values()):.2f}° to {max(angles.values()):.2f}°. {source} Not "
        "optimal, though nearly so.",
        details={
            name: most,
            "mean rotation by dimension, degrees": angles,
            "largest rotation by dimension, degrees": {
                str(dim): math.degrees(math.atan(float(values.max()))) for dim, values in tangents.items()
            },
        },
    )


def cost_finding(
    excess: Mapping[int, Interval],
    unseen: Mapping[int, Sequence[tuple[float, float]]],
    points: int,
    why: Callable[[int], str],
    curves: tuple[str, str],
) -> Finding:
    """Tests the claim that the excess of the cost is 0 in every dimension.

    Arguments:
        excess: Mean relative excess by dimension, 2 among them (`mean_excess`).
        unseen: By dimension, pairs of a number of points and the smallest turn caught with it, in degrees; the last
            pair is for `points`.
        points: Number of points in a set.
        why: The explanation, from the dimension in which the excess is largest.
        curves: Name and title of the plot of `unseen`.
    """
    worst = max(excess, key=lambda d: excess[d].estimate)
    # The claim is about all dimensions, so the power is the smallest among them.
    rotation = max(angles[-1][1] for angles in unseen.values())
    return Finding(
        statistic=excess[worst].estimate,
        interval=(excess[worst].lo, excess[worst].hi),
        threshold=COST_ROUNDING,
        unseen_rotation=rotation,
        why=why(worst),
        power_note=f" in every dimension, of {unseen[2][-1][1]:.2g}° in dimension 2",
        details={
            "points": points,
            "excess by dimension": {str(d): e.estimate for d, e in excess.items()},
            "excess by dimension, interval": {str(d): [e.lo, e.hi] for d, e in excess.items()},
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
