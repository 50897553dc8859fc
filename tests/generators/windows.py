"""Atoms with near duplicates, as patches of photographs are."""

from __future__ import annotations

import torch
from torch import Tensor


def windows(count: int, side: int, seed: int = 0) -> Tensor:
    """Windows of one smooth random picture, overlapping: atoms with near duplicates, like patches of a photograph."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(96)
    size = (frequency[:, None] ** 2 + frequency[None, :] ** 2).sqrt().clamp(min=1 / 96)
    noise = torch.randn(96, 96, generator=generator)
    picture = torch.fft.ifft2(torch.fft.fft2(noise) / size**2).real
    picture = picture / picture.abs().max()
    corner = torch.randint(96 - side, (count, 2), generator=generator)
    return torch.stack([picture[r : r + side, c : c + side].flatten() for r, c in corner.tolist()])
