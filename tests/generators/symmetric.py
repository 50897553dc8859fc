"""Atoms that a group of rotations permutes: equal weights have equal offsets, and cells are known.

N(0, I) is rotation invariant, so if rotations permute the atoms transitively the optimal offsets are all equal, and
the cell of y_i is where ⟨z, y_i⟩ is largest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def simplex(dim: int) -> Tensor:
    """The d + 1 unit vectors of a regular simplex, (d + 1, d), float64."""
    vertices = torch.eye(dim + 1, dtype=torch.float64) - 1 / (dim + 1)
    # The vertices span the complement of (1, …, 1): read off their coordinates in an orthonormal basis of it.
    basis = torch.linalg.eigh(vertices)[1][:, 1:]
    return torch.nn.functional.normalize(vertices @ basis)


def cross_polytope(dim: int) -> Tensor:
    """±e_i, (2 d, d), float64; the cell of ±e_i is where |z_i| is largest and has that sign."""
    return torch.cat([torch.eye(dim, dtype=torch.float64), -torch.eye(dim, dtype=torch.float64)])


def polygon(count: int) -> Tensor:
    """A regular polygon's corners, (count, 2), float64."""
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def polygon_w2_squared(count: int) -> float:
    """W2² from N(0, I_2) to the uniform measure on `polygon(count)`.

    A point of length r at an angle a off its corner, |a| ≤ π/n, scores r cos a: E max = E r · sin(π/n)/(π/n).
    """
    score = math.sqrt(math.pi / 2) * math.sin(math.pi / count) / (math.pi / count)
    return 2 + 1 - 2 * score
