"""Maps between images and noise on one scale: figures of their pairs, intervals over disjoint sets, degrees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otprior.metrics.intervals import disjoint_blocks, seed_set_interval
from otprior.transport.assignment import pairing
from otprior.utils.random import stream_generator
from otprior_studies.claims.power import STATISTICS, TurnedMap

_SHARES = ("moved", "crossed", "crossed_near")


def map_figures(images: Tensor, noise: Tensor, subset: int, turned: TurnedMap, seed: int) -> dict[str, Any]:
    """Figures of one map.

    Arguments:
        images, noise: Its pairs, (n, ...) each.
        subset: Points of the disjoint sets.
        turned: A map that is known to be optimal, at points of the same law, for the scale in degrees.
        seed: Shuffles points into sets; equal for all maps of the same points.

    Returns:
        "points", "subset", "sets", "cost", "best", "longest_cycle", and by statistic: "whole" (of all points),
        "mean" and its 95 % "interval" (of a set), "alike" (degrees: the turn that makes the known map look like
        this in a set; None where it looks optimal, and no turn up to 90° gives more than 90).
    """
    whole = pairing(images, noise)
    generator = stream_generator(seed, "disjoint sets")
    blocks = disjoint_blocks(len(images), len(images) // subset, generator)
    # (Sets of exactly `subset` points, since the statistics depend on their number.)
    sets = [pairing(images[rows[:subset]], noise[rows[:subset]]) for rows in blocks]
    statistics = {}
    for name in STATISTICS:
        found = seed_set_interval([getattr(each, name) for each in sets])
        statistics[name] = {
            "whole": getattr(whole, name),
            "mean": found.estimate,
            # (None is negative, and shares are at most 1, which Student's interval does not know.)
            "interval": [max(found.lo, 0.0), min(found.hi, 1.0) if name in _SHARES else found.hi],
            "alike": turned.smallest(name, found.estimate) if found.estimate > 0 else None,
        }
    return {
        "points": whole.points,
        "subset": subset,
        "sets": len(sets),
        "cost": whole.cost,
        "best": whole.best,
        "longest_cycle": whole.longest_cycle,
        "statistics": statistics,
    }


def power_curve(turned: TurnedMap, sizes: list[int]) -> list[dict[str, Any]]:
    """The smallest turn that each statistic would have caught, by number of points."""
    rows = []
    for size in sizes:
        part = turned.restricted(size)
        # A better pairing is one event, of which three statistics are measures.
        better = part.smallest("excess")
        rows.append(
            {
                "points": size,
                "excess": better,
                "lost": better,
                "moved": better,
                "crossed": part.smallest("crossed"),
                "crossed_near": part.smallest("crossed_near"),
            }
        )
    return rows


def shuffled(count: int, seed: int) -> Tensor:
    """A random order, for the pairing of no map at all."""
    return torch.randperm(count, generator=stream_generator(seed, "random pairs"))
