"""Pushforwards of N(0, I_d) by known convex gradients, which are therefore optimal (Brenier).

The separable potential u(z) = Σ_k u_k(z_k), each u_k that of a problem on the line, sends N(0, I_d) to the product of
the lines' measures: atoms on a grid, weights and offsets known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from generators.line import Line, line
from torch import Tensor


@dataclass(frozen=True)
class Product:
    """Atoms (N, d), weights (N,), offsets (N,) of mean zero, W2²; all float64."""

    lines: tuple[Line, ...]
    atoms: Tensor
    weights: Tensor
    potential: Tensor
    w2_squared: float

    def cell(self, z: Tensor) -> Tensor:
        """The atom's index of each point z (B, d)."""
        index = torch.zeros(len(z), dtype=torch.int64)
        for k, factor in enumerate(self.lines):
            index = index * len(factor.atoms) + factor.cell(z[:, k : k + 1])
        return index


def product_of_lines(counts: tuple[int, ...], seed: int = 0, ratio: float = 8.0) -> Product:
    """Π N_k atoms in len(counts) dimensions; the weights of each factor spread over `ratio`."""
    lines = tuple(line(count, seed + k, ratio) for k, count in enumerate(counts))
    atoms = torch.cartesian_prod(*(factor.atoms.reshape(-1) for factor in lines)).reshape(-1, len(counts))
    weights = torch.cartesian_prod(*(factor.weights for factor in lines)).reshape(len(atoms), -1).prod(dim=1)
    offsets = torch.cartesian_prod(*(factor.potential for factor in lines)).reshape(len(atoms), -1).sum(dim=1)
    w2_squared = sum(factor.w2_squared for factor in lines)
    return Product(lines, atoms, weights, offsets - offsets.mean(), w2_squared)
