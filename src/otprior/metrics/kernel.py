r"""Kernel distance (KID): an unbiased estimate of a squared maximum mean discrepancy.

With the cubic kernel k(x, y) = (⟨x, y⟩/D + 1)³ on features of dimension D,

    MMD²(p, q) = E k(x, x') + E k(y, y') − 2 E k(x, y),

where x, x' ~ p and y, y' ~ q are independent. Sums over pairs of *different* rows estimate it without
bias at any sample size, so it may come out negative. We sum over all pairs at once; the mean over random
subsets of 1,000 that is often reported has the same expectation and adds noise of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from otprior.metrics._rows import as_rows, check_same_width
from otprior.utils.torch_state import plain_torch

# Entries of one float64 block of the kernel matrix: 32 MB.
_BLOCK_ENTRIES = 2**22


@dataclass(frozen=True, eq=False)
class KernelSample:
    """A set of features with its own term of the distance, computed once.

    Arguments:
        features: Shape (N, D), float64, N >= 2.
        within: Mean of the kernel over pairs of different rows.

    Examples:
        >>> kernel_distance(torch.randn(50, 4) + 1, KernelSample.from_features(torch.randn(50, 4))) > 0
        True
    """

    features: Tensor
    within: float

    @classmethod
    def from_features(cls, features: Tensor) -> KernelSample:
        """From `features`, shape (N, D), N >= 2.

        Raises:
            ValueError: If there are fewer than two rows, or NaN or infinite entries.
        """
        rows = as_rows("features", features, minimum=2).double()
        n = len(rows)
        diagonal = float((rows.square().sum(dim=1) / rows.shape[1] + 1.0).pow(3).sum())
        return cls(rows, (_kernel_sum(rows, rows) - diagonal) / (n * (n - 1)))


@plain_torch()
def kernel_distance(x: Tensor | KernelSample, y: Tensor | KernelSample) -> float:
    """Estimates the kernel distance of features `x`, shape (N, D), and `y`, shape (M, D), with N, M >= 2.

    Computed in float64, block by block: memory is O((N + M) D) and one block. Multiply by 1,000 to compare
    with tables of "KID x 10³".

    Raises:
        ValueError: If either set has fewer than two rows, or the numbers of features differ.

    Source: Bińkowski et al., "Demystifying MMD GANs", 2018, https://arxiv.org/abs/1801.01401

    Examples:
        >>> kernel_distance(torch.zeros(9, 4), torch.ones(9, 4)) > 0
        True
    """
    x, y = (s if isinstance(s, KernelSample) else KernelSample.from_features(s) for s in (x, y))
    check_same_width("x", x.features, "y", y.features)
    between = _kernel_sum(x.features, y.features) / (len(x.features) * len(y.features))
    return x.within + y.within - 2.0 * between


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """Sum of the kernel over all pairs of rows."""
    rows = max(1, _BLOCK_ENTRIES // len(y))
    return sum(float((block @ y.T).div_(x.shape[1]).add_(1.0).pow_(3).sum()) for block in x.split(rows))
