r"""A coupled start, or a smoothed one, with the covariance of p_t*.

A coupled start's covariance is α² Σ + σ² I + 2 α σ ρ K, K = E[(y_{i(z)} − μ) zᵀ], where p_t* has α² Σ + σ² I; a
smoothed one's has the barycentres' smaller covariance V in the place of Σ. Along each principal axis u_j of the atoms
the start is stretched about its mean by

    g_j = √((α² λ_j + σ²)/(α² v_j + σ² + 2 α σ ρ k_j)),

so that its second moments there are those of p_t*. Without smoothing it is the coupled start with the excess taken
out; as ε → ∞ the barycentre becomes linear in z and the start the gaussian prior's: one family between the two.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.data import ImageSet
from otprior.draws import normal_block
from otprior.experimental.coupling import Derived, load_semidiscrete, partly_fresh, signal_of
from otprior.priors import SemiDiscretePrior
from otprior.schedules import NoiseSchedule

__all__ = ["MomentCorrectedPrior", "build", "fit"]

DRAWS_PER_BLOCK, BLOCKS = 2048, 8


def fit(images: ImageSet, schedule: NoiseSchedule, folder: Path, tol: float, **options: Any) -> None:
    """Nothing beyond the semidiscrete prior."""


def build(
    folder: Path, timestep: float, smoothing: float = 0.0, correlation: float = 1.0, strength: float = 1.0
) -> MomentCorrectedPrior:
    """See the module; `strength` 0 leaves the start as it is, 1 corrects it fully (g_j to that power)."""
    base = load_semidiscrete(folder / "semidiscrete").with_options(smoothing=smoothing)
    axes = _axes(folder / "semidiscrete", smoothing)
    return MomentCorrectedPrior(base, timestep, correlation, axes, strength)


class MomentCorrectedPrior(Derived):
    """T(z) = α μ + U diag(g) Uᵀ (α b(z) + σ z' − α μ)."""

    def __init__(
        self,
        base: SemiDiscretePrior,
        timestep: float,
        correlation: float,
        axes: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
        strength: float,
    ) -> None:
        super().__init__(base, timestep, correlation)
        self.mean, basis, wanted, found, across = axes
        a, s = self.alpha, self.sigma
        cross = 2 * a * s * correlation * across
        gains = ((a**2 * wanted + s**2) / (a**2 * found + s**2 + cross)).sqrt() ** strength
        self.stretch = (basis * gains) @ basis.T

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        return self._start_and_source(z, labels, fresh)[0]

    def _start_and_source(
        self, z: Tensor, labels: Tensor | None, fresh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        source, signal = signal_of(self.base, z)
        start = self.alpha * (signal - self.mean) + self.sigma * partly_fresh(z, fresh, self.correlation)
        return self.alpha * self.mean + start @ self.stretch, source


@cache
def _axes(folder: Path, smoothing: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The atoms' mean μ (d,), axes U (d, d), λ, and v and k of the starts (d,), float32."""
    base = load_semidiscrete(folder).with_options(smoothing=smoothing)
    atoms = base.atoms.double()
    mean = atoms.mean(dim=0)
    variances, basis = torch.linalg.eigh((atoms - mean).T @ (atoms - mean) / len(atoms))
    found, across = torch.zeros_like(variances), torch.zeros_like(variances)
    for block in range(BLOCKS):
        z = normal_block(0, "moments", block, DRAWS_PER_BLOCK, base.dim)
        signal = (signal_of(base, z)[1].double() - mean) @ basis
        found += signal.square().mean(dim=0) / BLOCKS
        across += (signal * (z.double() @ basis)).mean(dim=0) / BLOCKS
    # Axes without variance have nothing to correct; their noise must not be blown up.
    across = across.clamp(min=0)
    return mean.float(), basis.float(), variances.clamp(min=0).float(), found.float(), across.float()
