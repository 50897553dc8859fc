r"""Gaussian first, then optimal transport of what is left.

The linear map w = μ + Σ^{1/2} z takes the seed to an image with the data's mean and covariance; transport from that
Gaussian, for the cost |w − y|²/2, takes it to an atom:

    i(z) = argmax_i ⟨z, Σ^{1/2} (y_i − μ)⟩ + h_i,   start α y_{i(z)} + σ z.

Coarse directions, which hold most of the variance, weigh more in the choice than with transport from white noise, so
the atom is one that looks like the seed's gaussian image. `power` p stands in the place of 1/2: 0 is the plain prior.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.data import ImageSet
from otprior.experimental.coupling import Derived, load_semidiscrete, partly_fresh
from otprior.priors import SemiDiscretePrior
from otprior.schedules import NoiseSchedule

__all__ = ["ResidualPrior", "build", "fit"]

# Budget of the solve, in N/tol draws.
DRAWS = 50


def fit(
    images: ImageSet,
    schedule: NoiseSchedule,
    folder: Path,
    tol: float,
    power: float = 0.5,
    **options: Any,
) -> None:
    """Solves the transport to the atoms Σ^p (y_i − μ), and writes it as a semidiscrete prior of its own."""
    if (folder / _name(power)).exists():
        return
    flat = images.images.flatten(1).double()
    centred = flat - flat.mean(dim=0)
    variances, basis = torch.linalg.eigh(centred.T @ centred / len(flat))
    scaled = (variances.clamp(min=0) / variances.max()) ** power
    scored = (centred @ (basis * scaled) @ basis.T).float().reshape(images.images.shape)
    # Atoms of few effective dimensions: their cells are correlated, and one draw tells less than in the usual solve.
    draws = int(DRAWS * len(scored) / tol)
    prior = SemiDiscretePrior.fit(scored, schedule, tol=tol, max_draws=draws, value_range=None)
    prior.save_pretrained(folder / _name(power))


def build(folder: Path, timestep: float, power: float = 0.5, correlation: float = 1.0) -> ResidualPrior:
    """See the module."""
    base = load_semidiscrete(folder / "semidiscrete")
    return ResidualPrior(base, timestep, correlation, load_semidiscrete(folder / _name(power)))


def _name(power: float) -> str:
    return f"residual-{power:g}"


class ResidualPrior(Derived):
    """T(z) = α y_{i(z)} + σ z', i(z) from the scores of other atoms."""

    def __init__(
        self, base: SemiDiscretePrior, timestep: float, correlation: float, scored: SemiDiscretePrior
    ) -> None:
        super().__init__(base, timestep, correlation)
        self.scored = scored

    def _source(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.scored._source(z, labels)

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        return self._start_and_source(z, labels, fresh)[0]

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        source = self._source(z, labels)
        noise = partly_fresh(z, fresh, self.correlation)
        return self.alpha * self.base.atoms[source] + self.sigma * noise, source
