"""The bundled images as finite data: their flow under the exact score, and their optimal transport.

1,000 images of Fashion-MNIST, 100 of each class, d = 784. Several claims use the same flow from the same noise, so it
is computed once in a process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from otprior.data import bundled
from otprior.diffusion.denoisers import FiniteDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow
from otprior.diffusion.schedule import NoiseSchedule
from otprior.transport.solve import solve_semidiscrete
from otprior_studies.claims.claim import Effort

PER_CLASS = 100
# Timesteps of the bundled network's schedule, from noise to data.
TIMESTEPS = (900, 700, 600, 500, 400, 300, 200, 100)
# Runge-Kutta steps a unit of s = asinh(α/σ): 12 leave 3e-4 in a pixel, 24 leave 1e-6.
STEPS_PER_UNIT = 14
# χ² of the cell masses: a root-mean-square error of 14 %.
SOLVER_TOLERANCE = 0.02


@cache
def images() -> Tensor:
    """1,000 bundled training images as rows, shape (1000, 784), float32, in [−1, 1]."""
    atoms = bundled.atoms()
    assert atoms.labels is not None
    chosen = [torch.nonzero(atoms.labels == k).reshape(-1)[:PER_CLASS] for k in range(10)]
    return atoms.images[torch.cat(chosen)].flatten(1)


@dataclass(frozen=True)
class ImageFlow:
    """The exact flow of draws of pure noise.

    Attributes:
        z: N(0, I) draws, shape (n, d), float32.
        moments: Scales at TIMESTEPS.
        points: The draws at each of these moments, shape (n, d): draws of p_t.
        basin: Index of the image in which each draw ends, int64 (n,).
        settled: Share of the draws for which one image has 99 % of the weight at the end.
    """

    z: Tensor
    moments: tuple[Scales, ...]
    points: tuple[Tensor, ...]
    basin: Tensor
    settled: float


@cache
def image_flow(effort: Effort) -> ImageFlow:
    """The flow of `images()` from pure noise, with 1,500 draws, or 250 with fast effort."""
    law = FiniteDenoiser(images())
    schedule = NoiseSchedule.from_scheduler(bundled.load_scheduler())
    moments = tuple(Scales.at(schedule, t) for t in TIMESTEPS)
    z = effort.normal("image flow", effort.choose(1500, 250), law.dim).float()
    apart = torch.cdist(law.atoms, law.atoms).fill_diagonal_(math.inf)
    cleanest = moments[-1]
    end = Scales(1.0, min(float(apart.min()) / 20, cleanest.sigma / cleanest.alpha / 2))
    x, here, points = z, NOISE, []
    for there in (*moments, end):
        steps = math.ceil((there.time - here.time) * STEPS_PER_UNIT)
        x, here = probability_flow(law, x, here, there, steps=steps).x, there
        points.append(x)
    share, basin = law.shares(points.pop(), *end).max(dim=1)
    return ImageFlow(z, moments, tuple(points), basin, float((share > 0.99).double().mean()))


@cache
def image_offsets(stream: str, seed: int) -> Tensor:
    """Offsets h of the optimal map from N(0, I) to `images()`, shape (1000,), float64; independent by stream."""
    generator = Effort(seed=seed).generator(f"image offsets {stream}")
    return solve_semidiscrete(images(), generator=generator, tol=SOLVER_TOLERANCE).potential
