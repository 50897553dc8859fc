r"""A few atoms in the plane: Laguerre cells of exactly known mass, and the basins of the flow.

Along a ray of direction φ the scores r ⟨e_φ, y_i⟩ + h_i are lines in r, so cell i holds an interval [r_0, r_1] of
it, and

    P(cell i) = 1/2π ∫ (e^{−r_0²/2} − e^{−r_1²/2}) dφ,

a periodic integral that equal weights on equal angles settle to 1e-9, as long as no wall passes near the origin
(there the integrand jumps). Solving for the offsets h is then a small smooth root problem, and the optimal map is
known to that accuracy without any draw.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import root
from torch import Tensor

from otprior.diffusion.denoisers import FiniteDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow

ANGLES = 20_000
# Equal steps of s for atoms of any size, until each point has settled.
FLOW_STEPS = 120

# Corners of an equilateral triangle: reflections leave flow and transport alike, so both have straight cell walls.
TRIANGLE = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)
# Three and five atoms without any symmetry, and with unequal weights.
GENERIC = {
    3: (
        torch.tensor([[0.0, 0.0], [4.0, 0.0], [3.2, 1.2]], dtype=torch.float64),
        torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
    ),
    5: (
        torch.tensor([[0.0, 0.0], [4.0, 0.3], [3.2, 1.5], [-1.0, 2.0], [1.0, -1.4]], dtype=torch.float64),
        torch.tensor([0.1, 0.3, 0.25, 0.2, 0.15], dtype=torch.float64),
    ),
}


def laguerre_masses(atoms: Tensor, offsets: Tensor) -> Tensor:
    """P(argmax_i ⟨z, y_i⟩ + h_i = i) for z ~ N(0, I_2): atoms (N, 2), offsets (N,) to (N,), float64."""
    angle = torch.arange(ANGLES, dtype=torch.float64) * (2 * math.pi / ANGLES)
    slope = torch.stack([angle.cos(), angle.sin()], dim=1) @ atoms.T
    rise = slope[:, :, None] - slope[:, None, :]  # of i's line over j's, (angles, i, j)
    lead = (offsets[:, None] - offsets[None, :]).expand_as(rise)
    # Where rise > 0, i overtakes j at r = −lead/rise; where rise < 0, it is overtaken there.
    crossing = -lead / rise
    begin = torch.where(rise > 0, crossing, torch.where((rise == 0) & (lead < 0), math.inf, 0.0))
    end = torch.where(rise < 0, crossing, math.inf)
    first = begin.amax(dim=2).clamp(min=0)
    last = end.amin(dim=2).clamp(min=0)
    share = torch.exp(-(first**2) / 2) - torch.exp(-(last**2) / 2)
    return torch.where(last > first, share, 0.0).mean(dim=0)


def laguerre_offsets(atoms: Tensor, weights: Tensor) -> Tensor:
    """The optimal h, shape (N,), the last of them 0: every cell has its weight to 1e-9."""

    def excess(head: np.ndarray) -> np.ndarray:
        offsets = torch.cat([torch.from_numpy(head), torch.zeros(1, dtype=torch.float64)])
        return (laguerre_masses(atoms, offsets) - weights)[:-1].numpy()

    # From the offsets of the map z ↦ mean + s z, s the atoms' spread in a direction.
    centred = atoms - weights @ atoms
    squares = (centred**2).sum(dim=1)
    start = -0.5 * squares / (weights @ squares / 2).sqrt()
    solved = root(excess, (start - start[-1])[:-1].numpy(), method="hybr", tol=1e-12)
    assert np.abs(solved.fun).max() < 1e-9, solved.message
    return torch.cat([torch.from_numpy(solved.x), torch.zeros(1, dtype=torch.float64)])


def cells(atoms: Tensor, offsets: Tensor, z: Tensor) -> Tensor:
    """The Laguerre cell of each point z (B, d), int64 (B,)."""
    return (z @ atoms.T + offsets).argmax(dim=1)


def basins(law: FiniteDenoiser, z: Tensor, steps: int = FLOW_STEPS) -> Tensor:
    """The atom that the flow takes each z (B, d) to, from pure noise, int64 (B,)."""
    apart = torch.cdist(law.atoms, law.atoms)
    nearest = float(apart[apart > 0].min())
    # At this noise two atoms are 20 standard deviations apart, so only points on a wall have not settled.
    end = Scales(1.0, nearest / 20)
    return law.shares(probability_flow(law, z, NOISE, end, steps=steps).x, *end).argmax(dim=1)
