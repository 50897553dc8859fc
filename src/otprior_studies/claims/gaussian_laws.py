"""Random Gaussians, and W2 from their noised versions to the normal law, in closed form and in float64.

For eigenvalues λ and mean μ, at scales (α, σ):

    W2²(N(α μ, α² Σ + σ² I), N(0, s² I)) = α² |μ|² + Σ (√(α² λ + σ²) − s)².

The differences of roots are computed as (α² λ + σ² − s²)/(√(α² λ + σ²) + s), with the numerator written out;
otherwise rounding would dominate them long before α is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otprior_studies.claims.claim import Effort


@dataclass(frozen=True)
class GaussianLaw:
    """N(μ, U diag(λ) Uᵀ): mean (d,), variances (d,), axes (d, d), float64."""

    mean: Tensor
    variances: Tensor
    axes: Tensor

    @property
    def covariance(self) -> Tensor:
        """Σ, shape (d, d)."""
        return (self.axes * self.variances) @ self.axes.T


def random_gaussians(effort: Effort, stream: str, count: int, spread: float = 1e2) -> list[GaussianLaw]:
    """Laws of 1 to 64 dimensions; eigenvalues log-uniform in [1/spread, spread], some of them zero; random axes."""
    generator = effort.generator(stream)
    laws = []
    for i in range(count):
        dim = 1 + int(torch.randint(64, (), generator=generator))
        exponents = 2 * torch.rand(dim, generator=generator, dtype=torch.float64) - 1
        variances = spread**exponents
        if i % 3 == 0:
            variances[: dim // 2] = 0.0
        axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
        mean = torch.randn(dim, generator=generator, dtype=torch.float64)
        laws.append(GaussianLaw(mean, variances, axes))
    return laws


def w2_to_normal_vp(mean: Tensor, variances: Tensor, alpha: float) -> float:
    """W2 from the law at signal scale α of a variance-preserving process to N(0, I)."""
    noised = 1 + alpha**2 * (variances - 1)
    gaps = alpha**2 * (variances - 1) / (noised.sqrt() + 1)
    return float((alpha**2 * (mean @ mean) + gaps @ gaps).sqrt())


def w2_to_noise_ve(mean: Tensor, variances: Tensor, sigma: float) -> float:
    """W2 from the law at noise scale σ of a variance-exploding process to N(0, σ² I)."""
    gaps = variances / ((variances + sigma**2).sqrt() + sigma)
    return float((mean @ mean + gaps @ gaps).sqrt())
