"""Measures on the line, where transport from N(0, 1) is the monotone map and everything is in closed form.

In the order of the atoms the k-th cell is [b_{k−1}, b_k] with b_k = Φ⁻¹(ν_1 + … + ν_k), and as the integral of z φ(z)
over it is φ(b_{k−1}) − φ(b_k),

    W2²(N(0, 1), ν) = 1 + Σ ν_k y_k² − 2 Σ y_k (φ(b_{k−1}) − φ(b_k)).

Boundaries come from SciPy, not from the library.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor


@dataclass(frozen=True)
class Line:
    """Atoms (N, 1) and weights (N,), float64, in no order; boundaries (N + 1,) of the sorted atoms' cells."""

    atoms: Tensor
    weights: Tensor
    order: np.ndarray
    boundaries: np.ndarray

    @property
    def w2_squared(self) -> float:
        """W2² from N(0, 1)."""
        y, w = self.atoms.numpy().reshape(-1), self.weights.numpy()
        density = norm.pdf(self.boundaries)
        return float(1 + (w * y**2).sum() - 2 * (y[self.order] * (density[:-1] - density[1:])).sum())

    @property
    def potential(self) -> Tensor:
        """h, mean zero: neighbours' scores agree at the boundary between them."""
        y = self.atoms.numpy().reshape(-1)[self.order]
        h = np.empty(len(y))
        h[self.order] = np.concatenate([[0.0], np.cumsum(-self.boundaries[1:-1] * np.diff(y))])
        return torch.from_numpy(h - h.mean())

    def cell(self, z: Tensor) -> Tensor:
        """The atom's index of each point z (B, 1)."""
        rank = np.searchsorted(self.boundaries[1:-1], z.double().numpy().reshape(-1))
        return torch.from_numpy(self.order[rank])


def line(count: int, seed: int = 0, ratio: float = 100.0) -> Line:
    """`count` normal atoms, with weights that spread log-uniformly over `ratio`."""
    random = np.random.default_rng(seed)
    y = random.standard_normal(count) * 2 + 1
    w = ratio ** random.uniform(0, 1, count)
    w /= w.sum()
    order = np.argsort(y)
    inner = norm.ppf(np.cumsum(w[order])[:-1])
    boundaries = np.concatenate([[-np.inf], inner, [np.inf]])
    return Line(torch.from_numpy(y)[:, None], torch.from_numpy(w), order, boundaries)
