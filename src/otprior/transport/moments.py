"""Mean and covariance of a stream, in float64, full or as low rank plus isotropic.

Up to `FULL_COVARIANCE_LIMIT` dimensions the covariance is accumulated whole, blocks merged exactly in pairs (Chan,
Golub & LeVeque, 1983). Beyond, the leading axes are followed by merging each block into a thin factorisation
(incremental SVD, through the Gram matrix of its rows, of which there are far fewer than dimensions), while the total
variance is tracked exactly, and the remaining variance is spread evenly over the other axes:

    Σ ≈ U Λ Uᵀ + s² (I − U Uᵀ),   s² = (tr Σ − tr Λ)/(d − r).

Rows are regrouped into blocks of fixed size, so the result does not depend on how the stream was split.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import require

FULL_COVARIANCE_LIMIT = 4096
BLOCK_ROWS = 1024
# Axes followed beyond those asked for, so that truncation does not affect the last ones kept.
OVERSAMPLING = 64


@dataclass(frozen=True)
class Spectrum:
    """A mean and a covariance U Λ Uᵀ + s² (I − U Uᵀ).

    Attributes:
        mean: μ, shape (d,).
        basis: U, orthonormal columns, shape (d, r).
        variances: Λ, descending, shape (r,).
        residual: s².

    Examples:
        >>> spectrum = streaming_spectrum(torch.randn(100, 5), rank=2)
        >>> spectrum.basis.shape, spectrum.variances.shape
        (torch.Size([5, 2]), torch.Size([2]))
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    residual: float


class StreamingMoments:
    """Accumulates rows; `spectrum` ends it.

    Arguments:
        dim: d.
        rank: Axes to follow where the covariance is not kept whole.
    """

    def __init__(self, dim: int, rank: int) -> None:
        self._full = dim <= FULL_COVARIANCE_LIMIT
        self._kept = min(dim, rank + OVERSAMPLING)
        self._count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._total = 0.0  # Σ |x − mean|², all directions
        self._pending: list[Tensor] = []
        # Scatter Σ (x − mean)(x − mean)ᵀ: whole, or as FᵀF with at most `_kept` rows.
        self._scatter = torch.zeros(dim if self._full else 0, dim, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Adds rows (B, d) of any floating dtype."""
        require(rows.ndim == 2 and rows.shape[1] == len(self._mean), "rows", "of shape (B, d)", rows.shape)
        # (Not yet in float64: waiting rows are kept small.)
        self._pending.append(rows.detach().cpu())
        while sum(map(len, self._pending)) >= BLOCK_ROWS:
            waiting = torch.cat(self._pending)
            self._pending = [waiting[BLOCK_ROWS:]]
            self._merge(waiting[:BLOCK_ROWS].double())

    def spectrum(self, rank: int) -> Spectrum:
        """Mean and leading `rank` axes of the population covariance (divided by n), float64."""
        if sum(map(len, self._pending)):
            self._merge(torch.cat(self._pending).double())
        self._pending = []
        require(self._count > 0, "rows", "at least one", self._count)
        if self._full:
            variances, basis = torch.linalg.eigh(self._scatter / self._count)
            variances, basis = variances.flip(0).clamp(min=0), basis.flip(1)
        else:
            _, singular, axes = torch.linalg.svd(self._scatter, full_matrices=False)
            variances, basis = singular**2 / self._count, axes.T
        dim, found = len(self._mean), min(rank, len(variances))
        variances, basis = variances[:found], basis[:, :found]
        left = max(self._total / self._count - float(variances.sum()), 0.0)
        residual = left / (dim - found) if found < dim else 0.0
        if found < rank:
            # Fewer rows than axes: complete the basis, at the residual's variance.
            extra = torch.linalg.qr(torch.cat([basis, torch.eye(dim, rank, dtype=basis.dtype)], dim=1))[0]
            basis = torch.cat([basis, extra[:, found:rank]], dim=1)
            variances = torch.cat([variances, variances.new_full((rank - found,), residual)])
        return Spectrum(self._mean.clone(), basis.contiguous(), variances, residual)

    def _merge(self, block: Tensor) -> None:
        mean = block.mean(dim=0)
        centred = block.sub_(mean)
        count = self._count + len(block)
        shift = mean - self._mean
        weight = self._count * len(block) / count
        self._total += float(centred.flatten().dot(centred.flatten()) + weight * (shift**2).sum())
        if self._full:
            self._scatter += centred.T @ centred + weight * torch.outer(shift, shift)
        else:
            stacked = torch.cat([self._scatter, centred, weight**0.5 * shift[None]])
            _, vectors = torch.linalg.eigh(stacked @ stacked.T)
            # Rows s_i v_iᵀ, without a division by what may be nearly zero.
            self._scatter = vectors[:, -self._kept :].flip(1).T @ stacked
        self._mean += shift * (len(block) / count)
        self._count = count


@plain_torch()
def streaming_spectrum(rows: Tensor | Iterable[Tensor], rank: int) -> Spectrum:
    """Computes the spectrum of rows (N, d), read block by block, or of blocks (B, d) that an iterable yields.

    Arguments:
        rows: Of one device, floating.
        rank: How many leading axes are kept.

    Raises:
        ValueError: If there is no row.

    Examples:
        >>> streaming_spectrum(torch.eye(3), rank=1).mean
        tensor([0.3333, 0.3333, 0.3333], dtype=torch.float64)
    """
    moments: StreamingMoments | None = None
    for block in rows.split(BLOCK_ROWS) if isinstance(rows, Tensor) else rows:
        moments = moments or StreamingMoments(block.shape[1], rank)
        moments.update(block)
    require(moments is not None, "rows", "at least one", "none")
    assert moments is not None
    return moments.spectrum(rank)
