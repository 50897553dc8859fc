"""Several atoms blended: the image behind a start is a convex combination of the k that the seed scores highest.

With share s the best has weight s and the k − 1 next have (1 − s)/(k − 1) each: with small k no single training image
is behind a start, and none comes out. (Softmax over all atoms is the prior's own `smoothing`.)
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

__all__ = ["BlendedPrior", "build", "fit"]


def fit(images: ImageSet, schedule: NoiseSchedule, folder: Path, tol: float, **options: Any) -> None:
    """Nothing beyond the semidiscrete prior."""


def build(
    folder: Path, timestep: float, count: int = 2, share: float = 0.5, correlation: float = 1.0
) -> BlendedPrior:
    """See the module."""
    return BlendedPrior(load_semidiscrete(folder / "semidiscrete"), timestep, correlation, count, share)


class BlendedPrior(Derived):
    """T(z) = α Σ_j w_j y_{i_j(z)} + σ z', i_1, …, i_k the atoms of highest scores."""

    def __init__(
        self, base: SemiDiscretePrior, timestep: float, correlation: float, count: int, share: float
    ) -> None:
        super().__init__(base, timestep, correlation)
        rest = (1 - share) / max(count - 1, 1)
        self.weights = torch.tensor([share if count > 1 else 1.0] + [rest] * (count - 1))
        kept = torch.nonzero(torch.isfinite(base.potential)).reshape(-1)
        self.atoms = base.atoms[kept]
        self.offsets = base.potential[kept].float()

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        scores = torch.addmm(self.offsets, z, self.atoms.T)
        best = scores.topk(len(self.weights), dim=1).indices
        signal = torch.einsum("k,bkd->bd", self.weights, self.atoms[best])
        return self.alpha * signal + self.sigma * partly_fresh(z, fresh, self.correlation)
