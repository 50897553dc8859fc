"""A peer at its best: a search over a small grid of settings, all of which are reported.

From each of the peer's starts the step size is walked down and up by factors of √10 as long as that helps, so the grid
ends where it gets worse on both sides and not where somebody thought it should. From the better start the other
settings are tried one after another, and finally the step again. What is compared is χ² after the same time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from peers import Peer, Settings

__all__ = ["Trial", "describe", "tune"]

FACTOR = math.sqrt(10)
LONGEST_WALK = 5


@dataclass(frozen=True)
class Trial:
    """Settings and the χ² that they came to; infinite where they diverged."""

    settings: Settings
    chi2: float


def tune(peer: Peer, measure: Callable[[Settings], float]) -> tuple[Settings, list[Trial]]:
    """The best settings, and all that were tried, in order.

    Arguments:
        peer: With its starts and axes.
        measure: χ² that settings come to.
    """
    trials: list[Trial] = []

    def chi2(settings: Settings) -> float:
        for trial in trials:
            if trial.settings == settings:
                return trial.chi2
        trials.append(Trial(settings, measure(settings)))
        return trials[-1].chi2

    best = min((_walk(start, chi2) for start in peer.starts), key=chi2)
    for axis, values in peer.axes.items():
        best = min((best | {axis: value} for value in values), key=chi2)
    return _walk(best, chi2), trials


def _walk(settings: Settings, chi2: Callable[[Settings], float]) -> Settings:
    """The best step size near that of the settings, all else as it is."""
    here = settings
    for factor in (1 / FACTOR, FACTOR):
        for _ in range(LONGEST_WALK):
            # To two digits, so that going down and up comes by the same settings again.
            there = here | {"step": float(f"{here['step'] * factor:.2g}")}
            if chi2(there) >= chi2(here) and math.isfinite(chi2(here)):
                break
            here = there
    return here


def describe(settings: Settings) -> str:
    """Settings in a line."""
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items())
