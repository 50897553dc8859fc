"""The solvers that are timed against each other, one file each.

All solve the same problem: offsets h such that i(z) = argmax_i ⟨z, y_i⟩ + h_i sends a share ν_i of N(0, I_d) to the
atom y_i. Each has its own cost, sign and scale for the dual vector that it iterates; its adapter turns that into h, and
a test compares the assignments of the two.

A peer's file can be imported where its library is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

__all__ = ["NAMES", "OURS", "Clock", "Peer", "Problem", "Settings", "load"]

OURS = "ours"
NAMES = ("pot", "ott", "dpm_ot", "alignflow")

Settings = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """Atoms y (N, d), float32 or float64, and their weights ν (N,), float64, sum 1; None stands for uniform ones."""

    atoms: np.ndarray
    weights: np.ndarray | None

    def __len__(self) -> int:
        return len(self.atoms)

    def filled_weights(self) -> np.ndarray:
        """ν (N,) in the atoms' dtype, uniform ones written out."""
        weights = np.full(len(self), 1 / len(self)) if self.weights is None else self.weights
        return weights.astype(self.atoms.dtype)

    def square_norms(self) -> np.ndarray:
        """|y_i|², (N,), float64."""
        return (self.atoms.astype(np.float64) ** 2).sum(axis=1)


class Clock(Protocol):
    """What a run reports to."""

    def start(self) -> None:
        """Starts the time. What was done before (compilation, a first call) is not counted."""

    def __call__(self, draws: int, offsets: Callable[[], np.ndarray], last: bool = False) -> None:
        """To be called after every step, with the draws so far and a function that gives h (N,).

        The time stands still while h is made, sent and measured. Raises when time is up, which ends the run.

        Arguments:
            draws: Points of N(0, I) used so far.
            offsets: Called only if a checkpoint is due.
            last: The run has ended by itself.
        """


@dataclass(frozen=True)
class Peer:
    """A solver.

    Attributes:
        label: Its name in tables.
        requires: The module that has to be installed, and how to get it.
        defaults: Its settings as they come (or as its documentation shows them, where there are no defaults).
        starts: Settings from which tuning starts, each to be given its own best step.
        axes: Further settings to try, one after another.
        run: Solves a problem with settings and a seed, reporting to a clock, until the clock raises; or to the end,
            and then says what is to be kept of it.
        note: Where the defaults come from.
    """

    label: str
    defaults: Settings
    starts: tuple[Settings, ...]
    axes: dict[str, tuple[Any, ...]]
    run: Callable[[Problem, Settings, int, Clock], dict[str, Any] | None]
    requires: tuple[str, str] = ("torch", "")
    note: str = field(default="", kw_only=True)

    @property
    def missing(self) -> str:
        """What to install, or an empty string."""
        module, remedy = self.requires
        return "" if importlib.util.find_spec(module) else remedy


def load(name: str) -> Peer:
    """The peer of that name."""
    return importlib.import_module(f"peers.{name}").PEER
