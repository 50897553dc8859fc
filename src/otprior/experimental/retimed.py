"""A coupled start handed to the sampler at an earlier time than its own.

A coupled start at t* carries more of its atom than p_t* does. So the sampler is started at a cleaner t, with latents
scaled so that their noise has that time's σ:

    (σ_t/σ_t*) (α_t* y_{i(z)} + σ_t* z).

The atom's share is then smaller than α_t, and the part of z that leans towards the atom makes up for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from otprior.data import ImageSet
from otprior.experimental.coupling import Derived, load_semidiscrete
from otprior.priors import SemiDiscretePrior
from otprior.schedules import NoiseSchedule

__all__ = ["RetimedPrior", "build", "fit"]


def fit(images: ImageSet, schedule: NoiseSchedule, folder: Path, tol: float, **options: Any) -> None:
    """Nothing beyond the semidiscrete prior."""


def build(
    folder: Path, timestep: float, made_at: float = 550, correlation: float = 1.0, smoothing: float = 0.0
) -> RetimedPrior:
    """See the module: `made_at` is t*, and `timestep` where the sampler starts."""
    base = load_semidiscrete(folder / "semidiscrete")
    return RetimedPrior(
        base.with_options(correlation=correlation, smoothing=smoothing).at(made_at), timestep, correlation
    )


class RetimedPrior(Derived):
    """T(z) = (σ_t/σ_t*) T*(z), T* the prior at t*."""

    def __init__(self, base: SemiDiscretePrior, timestep: float, correlation: float) -> None:
        super().__init__(base, timestep, correlation)
        self.factor = self.sigma / base.sigma

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        return self.factor * self.base._start(z, labels, fresh)

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        start, source = self.base._start_and_source(z, labels, fresh)
        return self.factor * start, source
