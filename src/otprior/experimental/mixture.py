r"""A mixture of low-rank Gaussians, mapped to in closed form: no image is stored.

The data's law is taken as Σ_k π_k N(μ_k, Σ_k), the clusters of k-means with their means and covariances, each of low
rank plus isotropic. Semi-discrete transport to the K means, weighted by π, gives the component k(z), and the gaussian
map of that component the start,

    α μ_k + (α² Σ_k + σ² I)^{1/2} (z' − c m_k),   z' = ρ z + √(1 − ρ²) ε.

Inside a cell z is not centred: its mean is m_k = E[z | k(z) = k]. With c = 0 that stays, as in a coupled start; with
c = ρ it is taken out, and the component has its own mean.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from scipy.cluster.vq import kmeans2
from torch import Tensor

from otprior.data import ImageSet
from otprior.draws import normal_block
from otprior.experimental.coupling import partly_fresh
from otprior.moments import Spectrum, streaming_spectrum
from otprior.priors import Prior
from otprior.priors.gaussian import gaussian_map
from otprior.schedules import NoiseSchedule
from otprior.semidual import BrenierPotential
from otprior.solver import solve_semidiscrete

__all__ = ["MixturePrior", "build", "fit"]

KMEANS_ROUNDS = 30
DRAWS_PER_BLOCK, BLOCKS = 4096, 16


def fit(
    images: ImageSet,
    schedule: NoiseSchedule,
    folder: Path,
    tol: float,
    components: int = 100,
    rank: int = 20,
    **options: Any,
) -> None:
    """Clusters, solves, and writes the components."""
    target = folder / _name(components, rank)
    if target.exists():
        return
    flat = images.images.flatten(1)
    clusters = _clusters(flat, components)
    prior = MixturePrior(
        list(images.images.shape[1:]), schedule.to_dict(), timestep=500, components=len(clusters), rank=rank
    )
    for k, rows in enumerate(clusters):
        spectrum = streaming_spectrum(flat[rows], rank)
        prior.means[k], prior.bases[k] = spectrum.mean, spectrum.basis
        prior.variances[k], prior.residuals[k] = spectrum.variances, spectrum.residual
    weights = torch.tensor([len(rows) for rows in clusters], dtype=torch.float64)
    prior.offsets = solve_semidiscrete(prior.means, weights / weights.sum(), tol=tol).potential
    prior.centres = _cell_means(prior)
    prior.save_pretrained(target)


def build(
    folder: Path,
    timestep: float,
    components: int = 100,
    rank: int = 20,
    correlation: float = 1.0,
    centred: float = 0.0,
) -> Prior:
    """See the module; `centred` is c/ρ."""
    prior = _load(folder / _name(components, rank)).at(timestep)
    prior.correlation, prior.centred = correlation, centred
    prior.needs_fresh = correlation < 1
    return prior


class MixturePrior(Prior):
    """The start of the module's formula; `correlation` and `centred` are set by `build`."""

    means: Tensor  # (K, d)
    offsets: Tensor  # (K,) float64
    bases: Tensor  # (K, d, rank)
    variances: Tensor  # (K, rank)
    residuals: Tensor  # (K,)
    centres: Tensor  # (K, d): m_k

    @register_to_config
    def __init__(
        self, shape: list[int], schedule: dict[str, Any], timestep: float, components: int, rank: int
    ) -> None:
        super().__init__()
        self._init_common(shape, schedule, timestep, None)
        self.correlation, self.centred = 1.0, 0.0
        self.register_buffer("means", torch.zeros(components, self.dim))
        self.register_buffer("offsets", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("bases", torch.zeros(components, self.dim, rank))
        self.register_buffer("variances", torch.zeros(components, rank))
        self.register_buffer("residuals", torch.ones(components))
        self.register_buffer("centres", torch.zeros(components, self.dim))

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        component = BrenierPotential.build(self.means, self.offsets).assign(z)
        noise = partly_fresh(z, fresh, self.correlation)
        start = torch.empty_like(z)
        for k in component.unique().tolist():
            rows = component == k
            spectrum = Spectrum(self.means[k], self.bases[k], self.variances[k], float(self.residuals[k]))
            inside = noise[rows] - self.centred * self.correlation * self.centres[k]
            start[rows] = gaussian_map(inside, spectrum, self.alpha, self.sigma)
        return start


def _name(components: int, rank: int) -> str:
    return f"mixture-{components}-{rank}"


@cache
def _load(folder: Path) -> MixturePrior:
    return MixturePrior.from_pretrained(folder)


def _clusters(flat: Tensor, count: int) -> list[Tensor]:
    """Rows of each cluster of k-means; clusters of fewer than two images go to their images' next nearest mean."""
    means, labels = kmeans2(
        flat.double().numpy(), min(count, len(flat) // 2), iter=KMEANS_ROUNDS, minit="++", rng=0
    )
    large = np.flatnonzero(np.bincount(labels, minlength=len(means)) >= 2)
    distances = torch.cdist(flat.double(), torch.from_numpy(means[large]))
    nearest = distances.argmin(dim=1)
    return [torch.nonzero(nearest == k).reshape(-1) for k in range(len(large)) if (nearest == k).sum() >= 2]


def _cell_means(prior: MixturePrior) -> Tensor:
    brenier = BrenierPotential.build(prior.means, prior.offsets)
    total = torch.zeros(prior.means.shape, dtype=torch.float64)
    count = torch.zeros(len(total), dtype=torch.float64)
    for block in range(BLOCKS):
        z = normal_block(0, "cell means", block, DRAWS_PER_BLOCK, prior.dim)
        cell = brenier.assign(z)
        total.index_add_(0, cell, z.double())
        count += torch.bincount(cell, minlength=len(total))
    return (total / count.clamp(min=1)[:, None]).float()
