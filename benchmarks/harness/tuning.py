"""A peer at its best: a search over a small grid of settings, all of which are reported.

From each of the peer's starts the step size is walked down and up by factors of √10 as long as that helps, so the grid
ends where it gets worse on both sides and not where it was expected to. From the better start the other
settings are tried one after another, and finally the step again. All are given the same time: who reaches the target in
it is before who does not, the sooner the better, and of the others the one with the lower χ² is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from peers import Peer, Settings

FACTOR = math.sqrt(10)
LONGEST_WALK = 5


@dataclass(frozen=True)
class Trial:
    """Settings and what they came to.

    Attributes:
        settings: Of the peer.
        chi2: At the end; infinite where they diverged.
        seconds: To the target; infinite where it was not reached.
    """

    settings: Settings
    chi2: float
    seconds: float = math.inf

    @property
    def rank(self) -> tuple[float, float]:
        """Orders trials, the best first."""
        return self.seconds, self.chi2

    def __str__(self) -> str:
        values = ", ".join(map(str, self.settings.values()))
        return f"{values}: " + (f"{self.chi2:.3g}" if math.isinf(self.seconds) else f"{self.seconds:.3g} s")


def tune(peer: Peer, measure: Callable[[Settings], Trial]) -> tuple[Settings, list[Trial]]:
    """The best settings, and all that were tried, in order.

    Arguments:
        peer: With its starts and axes.
        measure: Tries settings.
    """
    trials: list[Trial] = []

    def rank(settings: Settings) -> tuple[float, float]:
        for trial in trials:
            if trial.settings == settings:
                return trial.rank
        trials.append(measure(settings))
        return trials[-1].rank

    best = min((_walk(start, rank) for start in peer.starts), key=rank)
    for axis, values in peer.axes.items():
        best = min((best | {axis: value} for value in values), key=rank)
    return _walk(best, rank), trials


def _walk(settings: Settings, rank: Callable[[Settings], tuple[float, float]]) -> Settings:
    """The best step size near that of the settings, all else as it is."""
    here = settings
    for factor in (1 / FACTOR, FACTOR):
        for _ in range(LONGEST_WALK):
            # To two digits, so that going down and up comes by the same settings again.
            there = here | {"step": float(f"{here['step'] * factor:.2g}")}
            if rank(there) >= rank(here) and math.isfinite(rank(here)[1]):
                break
            here = there
    return here


def describe(settings: Settings) -> str:
    """Settings in a line."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items())
