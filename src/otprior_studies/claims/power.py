"""The power of pairing points with their codes: an optimal map is turned until the test notices.

The map is one that is known to be optimal, at the very points of the test. Its codes are turned by the same angle in
every plane of a random frame, which leaves N(0, I) unchanged. The smallest angle at which a statistic is above 0 is
the statistic's power. The smallest angle at which it is as large as another map's says how far from optimal that map
looks: one scale, in degrees, for statistics that otherwise have none in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from otprior.metrics.intervals import Interval, seed_set_interval
from otprior.transport.assignment import Pairing, pairing
from otprior.utils.random import stream_generator
from otprior.utils.validation import check_choice

# Relative excess that rounding of the sums can produce.
COST_ROUNDING = 1e-10
# Statistics that are 0 for an optimal map. (The first three measure one event, a better pairing, in three ways.)
STATISTICS = ("excess", "lost", "moved", "crossed", "crossed_near")
# Degrees: the smallest and the largest angle that are tried. "90" reads "90 or more, or never".
SMALLEST_ANGLE, NOT_CAUGHT = 0.01, 90.0


def rotate(z: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Turns rows z (B, d) by an angle in each of ⌊d/2⌋ random orthogonal planes.

    The rotation leaves N(0, I) unchanged. A map onto noise followed by it is still a map onto noise, but no longer
    optimal.
    """
    dim = z.shape[1]
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0].to(z)
    along, pairs = z @ axes, dim // 2
    first, second = along[:, :pairs], along[:, pairs : 2 * pairs]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = torch.cat([c * first - s * second, s * first + c * second, along[:, 2 * pairs :]], dim=1)
    return turned @ axes.T


def smallest_caught(caught: Callable[[float], bool], steps: int = 8) -> float:
    """The smallest angle in degrees, up to 90, for which `caught` is true, by bisection of the angle's logarithm."""
    low, high = math.log(SMALLEST_ANGLE), math.log(NOT_CAUGHT)
    if not caught(NOT_CAUGHT):
        return NOT_CAUGHT
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if caught(math.exp(middle)) else (middle, high)
    return math.exp(high)


def excess_cost(x: Tensor, y: Tensor) -> float:
    """Relative excess of the cost Σ|x_i − y_i|² of pairs (n, d) over that of their best pairing.

    If y = T(x) with T optimal, it is 0 for any n, exactly: a gradient of a convex function is cyclically monotone.
    (If T is not, it can be 0 all the same, the likelier the fewer points there are for the dimension.)
    """
    return pairing(x, y).excess


def mean_excess(pairs: list[tuple[Tensor, Tensor]]) -> Interval:
    """Mean of `excess_cost` over disjoint sets of pairs, with Student's interval; no end below 0."""
    # An excess is never negative but for rounding, which Student's interval does not know.
    found = seed_set_interval([max(excess_cost(x, y), 0.0) for x, y in pairs])
    return Interval(max(found.lo, 0.0), found.hi, found.estimate)


def smallest_turn(x: Tensor, code: Tensor, generator: Callable[[], torch.Generator]) -> float:
    """The smallest turn of the codes, in degrees, that pairing notices.

    Arguments:
        x, code: Points and their codes by a map that is known to be optimal, (n, d) each.
        generator: A new one for each turn, seeded alike: all turns are in the same planes.
    """
    return smallest_caught(lambda angle: excess_cost(x, rotate(code, angle, generator())) > COST_ROUNDING)


class TurnedMap:
    """An optimal map at n points, and the statistics of its pairs once it is turned.

    Arguments:
        x: Points, shape (n, ...).
        codes: Their images under the map, shaped as x.
        seed: Seed of the frame in which codes are turned.
    """

    def __init__(self, x: Tensor, codes: Tensor, seed: int) -> None:
        self._x, self._codes = x.flatten(1).double(), codes.flatten(1).double()
        self._seed = seed
        self._known: dict[float, Pairing] = {}

    def at(self, degrees: float) -> Pairing:
        """The pairing after a turn by an angle."""
        if degrees not in self._known:
            generator = stream_generator(self._seed, "turned codes")
            self._known[degrees] = pairing(self._x, rotate(self._codes, degrees, generator))
        return self._known[degrees]

    def smallest(self, statistic: str, value: float = 0.0) -> float:
        """The smallest angle at which a statistic is positive and at least `value`; `NOT_CAUGHT` if there is none."""
        check_choice("statistic", statistic, STATISTICS)

        def caught(degrees: float) -> bool:
            found = getattr(self.at(degrees), statistic)
            return found > 0 and found >= value

        return smallest_caught(caught)

    def restricted(self, count: int) -> TurnedMap:
        """The same map at the first `count` points."""
        return TurnedMap(self._x[:count], self._codes[:count], self._seed)
