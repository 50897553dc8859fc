"""What pairing points with their codes would have caught: an optimal map, turned until it is noticed.

The map is one that is known to be optimal, at the very points of the test; its codes are turned by the same angle in
every plane of a random frame, which leaves N(0, I) as it is. The smallest angle at which a statistic is above 0 is that
statistic's power. And the smallest angle at which it is as large as what another map shows says how far from optimal
*looks* like that: one scale, in degrees, for statistics that otherwise have none in common.
"""

from __future__ import annotations

from torch import Tensor

from otprior.transport.assignment import Pairing, pairing
from otprior.utils.random import stream_generator
from otprior.utils.validation import check_choice
from otprior_studies.claims.rotation import rotate, smallest_caught

# What is 0 for an optimal map. (Of the same event, a better pairing, the first three are three measures.)
STATISTICS = ("excess", "lost", "moved", "crossed", "crossed_near")
# Degrees: the largest angle that is tried, so that "90" reads "90 or more, or never".
NOT_CAUGHT = 90.0


class TurnedMap:
    """An optimal map at n points, and what the statistics of its pairs become when it is turned.

    Arguments:
        x: Points, shape (n, ...).
        codes: Their images under the map, shaped as x.
        seed: Of the frame in which codes are turned.
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
        """The same at the first `count` points."""
        return TurnedMap(self._x[:count], self._codes[:count], self._seed)
