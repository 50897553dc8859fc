"""Atoms in high dimension with unequal norms and weights, as data have them; no closed form, but many laws to obey."""

from __future__ import annotations

import torch
from torch import Tensor


def mixture(count: int, dim: int, norm_ratio: float = 4.0, seed: int = 0) -> Tensor:
    """Atoms (count, dim) float32 whose norms spread log-uniformly over `norm_ratio`, largest √dim."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, dim, generator=generator))
    spread = norm_ratio ** -torch.rand(count, 1, generator=generator)
    return directions * spread * dim**0.5


def unequal_weights(count: int, ratio: float) -> Tensor:
    """Weights (count,), float64, log-uniform with largest over smallest equal to `ratio`, in a fixed shuffle."""
    weights = torch.logspace(0, float(torch.tensor(ratio).log10()), count, dtype=torch.float64)
    shuffle = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    return weights[shuffle] / weights.sum()


def clusters(count: int, dim: int, centres: int, width: float, seed: int = 0) -> Tensor:
    """Atoms (count, dim), float32, around normal centres, at a distance of about width √dim from theirs."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(centres, dim, generator=generator)
    which = torch.randint(centres, (count,), generator=generator)
    return middle[which] + width * torch.randn(count, dim, generator=generator)
