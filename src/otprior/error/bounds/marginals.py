r"""A lower bound that uses more than moments: the sum of the marginals' distances along orthogonal axes.

A coupling of p and q projects to one of their marginals on each axis, so for orthonormal axes u_j

    W2²(p, q) ≥ Σ_j W2²(u_jᵀ p, u_jᵀ q),

with equality for product laws along these axes. On a line, with q's marginal N(a, s²) and F the distribution function
of p's, of mean m and variance c, the monotone coupling gives

    W2² = (m − a)² + c + s² − 2 s κ,     κ = ∫ Φ⁻¹(u) F⁻¹(u) du = ∫ φ(Φ⁻¹(F(x))) dx ≤ √c.

(The two integrals are one by parts.) κ = √c only for a Gaussian, and then this is Gelbrich's bound again. p is the law
of α X + σ ε for a finite data set, whose F is a mean of normal distribution functions; the integrand is as smooth as
the noise makes it, so the trapezoidal rule with steps of a fraction of σ is exact to rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Points of a marginal's grid in a standard deviation of the noise: at 2 the rule is exact to 1e-14. And the number of
# standard deviations by which the grid extends beyond the data.
POINTS_PER_SIGMA = 3
REACH = 9.0
# Where the noise is so small that the grid would be longer, κ without noise plus σ is used as an upper bound.
LONGEST_GRID = 1 << 12
# Values of F held at once.
BLOCK = 1 << 22


def normal_products(places: Tensor, alpha: float, sigma: float) -> Tensor:
    """κ of each column: ∫ Φ⁻¹ F⁻¹ for the law of α x + σ ε, x uniform over the column.

    Arguments:
        places: The data's coordinates along k axes, centred, shape (N, k).
        alpha, sigma: Scales, σ ≥ 0.

    Returns:
        Shape (k,), float64. Where the noise is very small relative to the data, an upper bound instead: κ without the
        noise, plus σ. (A lower bound of the distance needs an upper bound of κ.)
    """
    values = []
    for column in places.double().T:
        column = alpha * column
        spread = float(column.max() - column.min())
        if sigma == 0 or (spread / sigma + 2 * REACH) * POINTS_PER_SIGMA > LONGEST_GRID:
            values.append(_without_noise(column) + sigma)
        else:
            values.append(_with_noise(column, sigma))
    return torch.tensor(values, dtype=torch.float64)


def marginals_squared(shifts: Tensor, variances: Tensor, products: Tensor, start_variances: Tensor) -> Tensor:
    """W2² along each axis, (k,), from mean differences, p's variances, κ and q's variances, each (k,)."""
    kappa = torch.minimum(products, variances.sqrt())
    # As a sum of squares: c − κ² is missing from Gelbrich's bound.
    return shifts**2 + (variances - kappa**2) + (kappa - start_variances.sqrt()) ** 2


def _with_noise(column: Tensor, sigma: float) -> float:
    low, high = float(column.min()) - REACH * sigma, float(column.max()) + REACH * sigma
    count = math.ceil((high - low) / sigma * POINTS_PER_SIGMA) + 1
    grid = torch.linspace(low, high, count, dtype=torch.float64)
    parts = []
    for block in grid.split(max(1, BLOCK // len(column))):
        below = torch.special.ndtr((block[:, None] - column) / sigma).mean(dim=1)
        parts.append(_density(torch.special.ndtri(below)))
    return float(torch.cat(parts).sum() * (high - low) / (count - 1))


def _without_noise(column: Tensor) -> float:
    """Σ x_(i) (φ(b_{i−1}) − φ(b_i)), b the quantiles between the sorted values."""
    edges = torch.special.ndtri(torch.linspace(0, 1, len(column) + 1, dtype=torch.float64))
    density = _density(edges)
    return float(column.sort().values @ (density[:-1] - density[1:]))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
