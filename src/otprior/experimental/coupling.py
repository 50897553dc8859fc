"""What the experiments share: priors once loaded, the seed's noise in part drawn anew, and a base class."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from otprior.priors import Prior, SemiDiscretePrior
from otprior.semidual import BrenierPotential

__all__ = ["Derived", "load_semidiscrete", "partly_fresh", "signal_of"]


@cache
def load_semidiscrete(folder: Path) -> SemiDiscretePrior:
    """A fitted semidiscrete prior, read once a process."""
    return SemiDiscretePrior.from_pretrained(folder)


def partly_fresh(z: Tensor, fresh: Tensor | None, correlation: float) -> Tensor:
    """ρ z + √(1 − ρ²) ε; z itself where ρ = 1."""
    if fresh is None:
        return z
    return correlation * z + (1 - correlation**2) ** 0.5 * fresh


def signal_of(base: SemiDiscretePrior, z: Tensor) -> tuple[Tensor, Tensor]:
    """The atom of each row of z (B, d), and what a start is built on: that atom, or the smoothed mean."""
    kept = torch.nonzero(torch.isfinite(base.potential)).reshape(-1)
    potential = BrenierPotential.build(base.atoms[kept], base.potential[kept])
    if not base.smoothing:
        cell = potential.assign(z)
        return kept[cell], potential.atoms[cell]
    cell, mean = potential.assign_and_barycentre(z, base.smoothing * float(base.scales[0]))
    return kept[cell], mean


class Derived(Prior):
    """A start that is computed from a fitted prior's; it is neither saved nor moved to another t*.

    Arguments:
        base: The fitted prior.
        timestep: t*.
        correlation: ρ of the start's noise with the seed's.
    """

    def __init__(self, base: SemiDiscretePrior, timestep: float, correlation: float = 1.0) -> None:
        super().__init__()
        self._init_common(list(base.shape), base.schedule.to_dict(), timestep, None)
        self.base = base
        self.correlation = correlation
        self.needs_fresh = correlation < 1

    def _source(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.base._source(z, labels)
