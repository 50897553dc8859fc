r"""Functions of several variables as products of small matrices of functions of one variable: tensor trains.

    f(x) = G_1(x_1) G_2(x_2) ⋯ G_d(x_d),     G_k(x) = Σ_n C_k[:, n, :] b_n(x),

G_k(x) of shape (r_{k−1}, r_k), r_0 = r_d = 1, and b_n a basis of functions of one variable. A function that needs q^d
numbers on a grid needs d q r² here, and its derivatives along axis k are those of the k-th matrix alone.

Bases, on rows of points and with two derivatives:

    hermite      h_n = He_n/√(n!), orthonormal under N(0, 1); h_n' = √n h_{n−1}
    chebyshev    T_n(x/ℓ) on [−ℓ, ℓ]

(teneva, which fpcross brings along, has trains on grids, in NumPy. These are evaluated with two derivatives in any
basis, for many points at once, and need no extra.)

References:
    Oseledets, Tensor-train decomposition, SIAM J. Sci. Comput. 33 (2011), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from otprior.utils.validation import require

# Points x of any shape and a count n to b_0 … b_{n−1} and their first and second derivatives, each of shape (*x, n).
Basis = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]


def hermite(x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """He_n/√(n!) for n < count, and two derivatives."""
    values = [torch.ones_like(x), x]
    for n in range(1, count - 1):
        values.append((x * values[n] - n**0.5 * values[n - 1]) / (n + 1) ** 0.5)
    value = torch.stack(values[:count], dim=-1)
    root = torch.arange(count, dtype=x.dtype, device=x.device).sqrt()
    first = root * torch.nn.functional.pad(value, (1, 0))[..., :count]
    second = root * torch.nn.functional.pad(first, (1, 0))[..., :count]
    return value, first, second


def chebyshev(half_width: float) -> Basis:
    """T_n(x/ℓ) for n < count, and two derivatives by x, with ℓ = `half_width`."""
    return partial(_chebyshev, half_width)


def _chebyshev(half_width: float, x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    y, one, zero = x / half_width, torch.ones_like(x), torch.zeros_like(x)
    value, first, second = [one, y], [zero, one], [zero, zero]
    for n in range(1, count - 1):
        value.append(2 * y * value[n] - value[n - 1])
        first.append(2 * value[n] + 2 * y * first[n] - first[n - 1])
        second.append(4 * first[n] + 2 * y * second[n] - second[n - 1])
    stacked = [torch.stack(each[:count], dim=-1) for each in (value, first, second)]
    return stacked[0], stacked[1] / half_width, stacked[2] / half_width**2


@dataclass(frozen=True)
class FunctionTrain:
    """f, a train of functions.

    Attributes:
        cores: C_k, each of shape (r_{k−1}, n, r_k), float64, all of one n.
        basis: b.
    """

    cores: Sequence[Tensor]
    basis: Basis

    def __post_init__(self) -> None:
        shapes = [tuple(core.shape) for core in self.cores]
        ranks = [1, *(shape[2] for shape in shapes)]
        fits = all(shape[0] == rank for shape, rank in zip(shapes, ranks)) and ranks[-1] == 1
        fits = fits and len({shape[1] for shape in shapes}) == 1
        require(fits, "cores", "of shapes (r, n, r') that follow one another, from 1 to 1", shapes)

    @property
    def ranks(self) -> list[int]:
        """r_1 … r_{d−1}."""
        return [core.shape[2] for core in self.cores[:-1]]

    def __call__(self, x: Tensor) -> Tensor:
        """f(x); x (B, d) to (B,)."""
        matrices, _, _ = self._matrices(x)
        return _from_left(matrices)[-1][:, 0]

    def log_gradient(self, x: Tensor) -> Tensor:
        """∇ log f; x (B, d) to (B, d)."""
        matrices, first, _ = self._matrices(x)
        left, right = _from_left(matrices), _from_right(matrices)
        slopes = [_pair(left[k], first[k], right[k + 1]) for k in range(len(self.cores))]
        return torch.stack(slopes, dim=1) / left[-1]

    def log_derivatives(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """∇ log f and ∇² log f; x (B, d) to (B, d) and (B, d, d)."""
        matrices, first, second = self._matrices(x)
        left, right = _from_left(matrices), _from_right(matrices)
        dim, value = len(self.cores), left[-1]
        slopes = torch.stack([_pair(left[k], first[k], right[k + 1]) for k in range(dim)], dim=1) / value
        bends = x.new_zeros(len(x), dim, dim)
        for k in range(dim):
            bends[:, k, k] = _pair(left[k], second[k], right[k + 1])
            row = _after(left[k], first[k])
            for other in range(k + 1, dim):
                bends[:, k, other] = bends[:, other, k] = _pair(row, first[other], right[other + 1])
                row = _after(row, matrices[other])
        return slopes, bends / value[:, :, None] - slopes[:, :, None] * slopes[:, None, :]

    def _matrices(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """G_k(x_k) and two derivatives, each (B, r_{k−1}, r_k)."""
        dim = len(self.cores)
        require(x.ndim == 2 and x.shape[1] == dim, "x", f"of shape (B, {dim})", tuple(x.shape))
        columns = self.basis(x, self.cores[0].shape[1])
        value, first, second = (
            [torch.einsum("bn,rns->brs", each[:, k], core) for k, core in enumerate(self.cores)]
            for each in columns
        )
        return value, first, second


def _from_left(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Products of the first k matrices, k = 0 … d, each (B, r_k)."""
    products = [torch.ones_like(matrices[0][:, 0, :1])]
    for matrix in matrices:
        products.append(_after(products[-1], matrix))
    return products


def _from_right(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Products of the matrices from the k-th on, k = 0 … d, each (B, r_k)."""
    flipped = _from_left([matrix.mT for matrix in reversed(matrices)])
    return flipped[::-1]


def _after(row: Tensor, matrix: Tensor) -> Tensor:
    return (row[:, None] @ matrix)[:, 0]


def _pair(row: Tensor, matrix: Tensor, column: Tensor) -> Tensor:
    return (_after(row, matrix) * column).sum(dim=1)


def decompose(values: Tensor, tol: float = 1e-14) -> list[Tensor]:
    """Decomposes a full tensor (q, …, q) into the cores of a train, (r_{k−1}, q, r_k), to a relative error of `tol`."""
    allowed = tol * float(values.norm()) / max(values.ndim - 1, 1) ** 0.5
    cores, rest, rank = [], values, 1
    for size in values.shape[:-1]:
        left, scale, right = torch.linalg.svd(rest.reshape(rank * size, -1), full_matrices=False)
        # Norm of the singular values left out if only the first k are kept, k = 0, 1, ….
        omitted = scale.square().flip(0).cumsum(0).flip(0).sqrt()
        keep = max(1, int((omitted > allowed).sum()))
        cores.append(left[:, :keep].reshape(rank, size, keep))
        rest, rank = scale[:keep, None] * right[:keep], keep
    return [*cores, rest.reshape(rank, values.shape[-1], 1)]
