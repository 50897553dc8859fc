r"""A coupling of a finite data set X with ζ ~ N(0, I) whose regression is known exactly, by halving.

X takes N values y_i of mass 1/N. The data are halved along an axis, each half again, and so on down to single points;
the space of ζ is halved along the same axis in the same proportion of its normal mass. So each y_i gets a box of
ζ-space of exactly its mass, (X, ζ) has the right two marginals without anything being solved, and the mean of
ζ over a box is in closed form: in a coordinate cut to (a, b] it is (φ(a) − φ(b))/(Φ(b) − Φ(a)). Hence

    γ_j = E (X − E X)_j ζ_j = Σ (y_i − m)_j E[ζ_j | box i]/N

exactly, along each axis. For a Gaussian that is diagonal along the same axes, `coupled_squared` (`transport.gaussian`)
needs only the diagonal Γ = diag(γ) of E (X − E X) ζᵀ: the best linear map is then diagonal too. For another Gaussian it
needs the whole matrix. In one dimension the boxes are the cells of the optimal map.
No coupling with N points gets far: |E[ζ | X]|² averages 2 ln N at most (Talagrand), so a few axes use it up.
"""

from __future__ import annotations

import math

import torch
from scipy.special import ndtri
from torch import Tensor

from otprior.transport.moments import Spectrum

# With images, 8 axes explained more than 4 or 16.
MOST_AXES = 8


def explained_by_cells(rows: Tensor, axes: Tensor, diagonal: bool = True) -> Spectrum:
    """Γ Γᵀ of the coupling of this module, as a covariance (of mean zero).

    Arguments:
        rows: The data y, shape (N, d), of equal masses.
        axes: U, orthonormal columns, shape (d, k); boxes are cut along the leading ones.
        diagonal: Whether Γ = U diag(γ), for starts whose covariance is diagonal along U; else all of E (X − E X) ζᵀ.
    """
    places = rows.double() @ axes[:, :MOST_AXES].double()
    centred = places - places.mean(dim=0)
    boxes = _box_means(centred)
    if not diagonal:
        whole = (rows.double() - rows.double().mean(dim=0)).T @ boxes / len(rows)
        basis, sizes, _ = torch.linalg.svd(whole, full_matrices=False)
        return Spectrum(torch.zeros(len(axes), dtype=torch.float64), basis, sizes**2, 0.0)
    gamma = (centred * boxes).mean(dim=0)
    variances = torch.zeros(axes.shape[1], dtype=torch.float64)
    variances[: len(gamma)] = gamma**2
    return Spectrum(torch.zeros(len(axes), dtype=torch.float64), axes, variances, 0.0)


def _box_means(places: Tensor) -> Tensor:
    """E[ζ | box] of each row, from the rows' coordinates along the axes; (N, k) to (N, k)."""
    data = places.numpy()
    count, dim = data.shape
    means = torch.zeros(count, dim, dtype=torch.float64)
    # A box: its rows, the (Φ(a), Φ(b)) of each axis, and mean and variance of ζ in it.
    waiting = [(torch.arange(count).numpy(), [(0.0, 1.0)] * dim, [0.0] * dim, [1.0] * dim)]
    while waiting:
        rows, cuts, mean, variance = waiting.pop()
        if len(rows) == 1:
            means[rows[0]] = torch.tensor(mean, dtype=torch.float64)
            continue
        here = data[rows]
        # The axis along which data and ζ together still vary most.
        axis = int((here.var(axis=0) * variance).argmax())
        order = rows[here[:, axis].argsort(kind="stable")]
        middle = len(rows) // 2
        low, high = cuts[axis]
        cut = low + (high - low) * middle / len(rows)
        for part, ends in ((order[:middle], (low, cut)), (order[middle:], (cut, high))):
            new_mean, new_variance = _truncated(*ends)
            waiting.append(
                (
                    part,
                    [*cuts[:axis], ends, *cuts[axis + 1 :]],
                    [*mean[:axis], new_mean, *mean[axis + 1 :]],
                    [*variance[:axis], new_variance, *variance[axis + 1 :]],
                )
            )
    return means


def _truncated(low: float, high: float) -> tuple[float, float]:
    """Mean and variance of N(0, 1) between its `low` and `high` quantiles."""
    a, b = float(ndtri(low)), float(ndtri(high))
    density_a, density_b = _density(a), _density(b)
    mass = high - low
    mean = (density_a - density_b) / mass
    edge = (a * density_a if low > 0 else 0.0) - (b * density_b if high < 1 else 0.0)
    return mean, max(1 + edge / mass - mean**2, 0.0)


def _density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) if math.isfinite(x) else 0.0
