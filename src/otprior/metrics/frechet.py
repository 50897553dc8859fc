r"""Fréchet distance between two sets of features.

Both sets are summarised by their mean and covariance, and compared as if they were normal laws:

    d(a, b) = |μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a^{1/2} Σ_b Σ_a^{1/2})^{1/2}.

This is the *squared* 2-Wasserstein distance of N(μ_a, Σ_a) and N(μ_b, Σ_b) (Gelbrich 1990), which the
literature on images calls FID when the features are those of an Inception network. Ours are not, so the
name of the extractor belongs with every figure.

With any factors Σ = F Fᵀ the last trace is the nuclear norm of F_aᵀ F_b. That form takes no root of a
product's eigenvalues, which near zero turns rounding errors of 1e-16 into 1e-8: for covariances of rank
3 to 50 in 128 dimensions it agrees with closed forms to 1e-14, where roots of eigenvalues are off by 5e-7.

The estimate is biased upwards, by about c/n_a + c'/n_b for n_a and n_b rows: compare figures at equal n,
and above the figure of held-out real images at that n.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from otprior.metrics._rows import as_rows
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_integer, require


@dataclass(frozen=True, eq=False)
class FeatureMoments:
    """Mean and covariance of a set of features.

    Arguments:
        mean: Shape (D,), float64.
        covariance: Shape (D, D), float64, symmetric, divided by n − 1.
        n: Number of rows that they were computed from; None if that is not known.

    Raises:
        ValueError: If shapes do not match, or an array is not float64.

    Examples:
        >>> FeatureMoments.from_features(torch.randn(100, 4)).covariance.shape
        torch.Size([4, 4])
    """

    mean: Tensor
    covariance: Tensor
    n: int | None

    def __post_init__(self) -> None:
        d = self.mean.numel()
        require(self.mean.ndim == 1, "mean", "of shape (D,)", tuple(self.mean.shape))
        require(self.covariance.shape == (d, d), "covariance", f"{d} x {d}", tuple(self.covariance.shape))
        require(self.mean.dtype == torch.float64, "mean", "float64", self.mean.dtype)
        require(self.covariance.dtype == torch.float64, "covariance", "float64", self.covariance.dtype)
        if self.n is not None:
            check_integer("n", self.n, 2)

    @classmethod
    def from_features(cls, features: Tensor) -> FeatureMoments:
        """Moments of `features`, shape (N, D), N >= 2.

        Raises:
            ValueError: If there are fewer than two rows, or NaN or infinite entries.
        """
        rows = as_rows("features", features, minimum=2).double()
        mean = rows.mean(dim=0)
        centred = rows - mean
        return cls(mean, centred.T @ centred / (len(rows) - 1), len(rows))

    @cached_property
    def factor(self) -> Tensor:
        """F of shape (D, r) with F Fᵀ = covariance and r its numerical rank."""
        values, vectors = torch.linalg.eigh(self.covariance)
        # The usual rule for the rank of a matrix; what lies below is rounding.
        keep = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0.0)
        return vectors[:, keep] * values[keep].sqrt()


@plain_torch()
def frechet_distance(a: Tensor | FeatureMoments, b: Tensor | FeatureMoments) -> float:
    """Computes the squared Fréchet distance of two sets of features, from (N, D) and (M, D) features or from moments.

    Computed in float64 and symmetric; exact for singular covariances too, such as fewer rows than columns.
    Pass moments for a set that is compared often.

    Raises:
        ValueError: If the numbers of features differ, or features are malformed.

    Source: Dowson & Landau, "The Fréchet distance between multivariate normal distributions", 1982;
    Heusel et al., "GANs trained by a two time-scale update rule", 2017, https://arxiv.org/abs/1706.08500

    Examples:
        >>> a = torch.randn(500, 2, dtype=torch.float64)
        >>> round(frechet_distance(a, a + 1), 6)  # the squared distance of the means
        2.0
    """
    a, b = (s if isinstance(s, FeatureMoments) else FeatureMoments.from_features(s) for s in (a, b))
    require(len(a.mean) == len(b.mean), "a", f"as wide as b ({len(b.mean)} features)", len(a.mean))
    cross = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    value = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2.0 * cross
    return max(float(value), 0.0)
