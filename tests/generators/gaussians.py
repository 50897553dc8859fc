"""Gaussian laws: square roots, transport and the probability flow in closed form, in float64.

For x_0 ~ N(μ, Σ) the law at (α, σ) is N(α μ, C), C = α² Σ + σ² I; the optimal map from N(0, I) to it is
z ↦ α μ + C^{1/2} z, and W2² = |α μ|² + tr(I + C − 2 C^{1/2}).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d), float64."""

    mean: Tensor
    covariance: Tensor

    def noised(self, alpha: float, sigma: float) -> Gaussian:
        """The law of α x + σ ε."""
        eye = torch.eye(len(self.mean), dtype=torch.float64)
        return Gaussian(alpha * self.mean, alpha**2 * self.covariance + sigma**2 * eye)

    @property
    def root(self) -> Tensor:
        """C^{1/2}, by SciPy's Schur method rather than by an eigendecomposition."""
        return torch.from_numpy(np.real(sqrtm(self.covariance.numpy())))

    def transport(self, z: Tensor) -> Tensor:
        """The optimal map from N(0, I), on rows (B, d)."""
        return self.mean + z @ self.root

    @property
    def w2_squared(self) -> float:
        """W2² from N(0, I)."""
        eye = torch.eye(len(self.mean), dtype=torch.float64)
        return float(self.mean @ self.mean + torch.trace(eye + self.covariance - 2 * self.root))


def gaussian(variances: Tensor, seed: int = 0) -> Gaussian:
    """A Gaussian with these principal variances (d,), random axes and mean."""
    generator = torch.Generator().manual_seed(seed)
    dim = len(variances)
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    mean = torch.randn(dim, generator=generator, dtype=torch.float64)
    return Gaussian(mean, (axes * variances.double()) @ axes.T)


def with_moments(law: Gaussian, count: int, seed: int = 0) -> Tensor:
    """`count` > d rows whose mean and (population) covariance are exactly those of `law`; (count, d), float64."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, len(law.mean), generator=generator, dtype=torch.float64)
    z = z - z.mean(dim=0)
    root = torch.linalg.cholesky(z.T @ z / count)
    white = torch.linalg.solve_triangular(root, z.T, upper=False).T
    return law.transport(white)
