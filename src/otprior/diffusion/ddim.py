r"""DDIM and its inversion: one evaluation a step, along the probability flow.

For a point of unit scale, u = α x_0 + σ ε with (α, σ) = (cos θ, sin θ), DDIM holds the estimates of image and noise
fixed and changes the angle alone. With v = α ε̂ − σ D that is a rotation,

    u' = cos(θ' − θ) u + sin(θ' − θ) v(u, θ).                                                       (1)

Towards data this is explicit. Towards noise it is usual to evaluate v at u' in place of u, which does not undo (1): the
round trip then leaves an error of first order in the step. Here (1) is solved for u as it stands, by the fixed point

    u ← (u' − sin(θ' − θ) v(u, θ))/cos(θ' − θ),

so that decoding takes the code back to the image to the tolerance of the iteration, however coarse the grid. It
contracts by tan|θ' − θ| · |∂v/∂u|, and ∂v/∂u = (α/σ)(I − V/σ²) with V the posterior covariance: small towards noise,
and 1 − σ'/σ for a step from σ to σ' < σ where the data leave no doubt. So steps that are equal in log-SNR contract
alike (`flow_grid`). Where a step does not contract, the residual says so. (Holding D fixed instead of v gives an
iteration for the same equation that fails towards data, holding ε̂ one that fails towards noise.)

References:
    Song, Meng & Ermon, Denoising diffusion implicit models (2021), https://arxiv.org/abs/2010.02502
    Pan et al., Effective real image editing with accelerated iterative diffusion inversion (2023),
    https://arxiv.org/abs/2309.04907
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from otprior.diffusion.denoisers import Denoiser
from otprior.diffusion.flow import FlowSolution, Scales
from otprior.utils.validation import check_integer, require


@dataclass(frozen=True)
class Inversion:
    """A code, and how well it inverts the sampler's steps.

    Attributes:
        x: The code, at the scale of the noisiest moment, shaped as the points given.
        evaluations: Number of calls of the denoiser.
        residual: Largest change of an entry, at unit scale, in the last iteration of any step.
    """

    x: Tensor
    evaluations: int
    residual: float


def ddim_decode(denoiser: Denoiser, x: Tensor, grid: Sequence[Scales]) -> FlowSolution:
    """Takes steps (1) along a grid from noise to data; one evaluation a step.

    Arguments:
        denoiser: D.
        x: Points at the scale of grid[0], shape (B, ...).
        grid: Moments with α/σ increasing.
    """
    _check(grid, rising=True)
    u = x / grid[0].size
    for here, there in pairwise(grid):
        turn = _angle(there) - _angle(here)
        u = math.cos(turn) * u + math.sin(turn) * _v(denoiser, u, here)
    return FlowSolution(u * grid[-1].size, len(grid) - 1)


def ddim_encode(
    denoiser: Denoiser, x: Tensor, grid: Sequence[Scales], *, iterations: int = 1, tol: float = 0.0
) -> Inversion:
    """Inverts the steps of `ddim_decode`: from data to noise.

    Arguments:
        denoiser: D.
        x: Points at the scale of grid[0], shape (B, ...).
        grid: Moments with α/σ decreasing; the decoder's, reversed.
        iterations: Most evaluations a step; 1 is the usual inversion, without fixed point.
        tol: A step's iteration stops when no entry changes by more than this, at unit scale.

    Raises:
        ValueError: On a bad grid or number of iterations.
    """
    _check(grid, rising=False)
    check_integer("iterations", iterations, 1)
    evaluations, residual = 0, 0.0
    u = x / grid[0].size
    for cleaner, noisier in pairwise(grid):
        turn = _angle(cleaner) - _angle(noisier)
        target, change = u, 0.0
        for _ in range(iterations):
            better = (target - math.sin(turn) * _v(denoiser, u, noisier)) / math.cos(turn)
            evaluations += 1
            change = float((better - u).abs().max())
            u = better
            if change <= tol:
                break
        residual = max(residual, change)
    return Inversion(u * grid[-1].size, evaluations, residual)


def _v(denoiser: Denoiser, u: Tensor, scales: Scales) -> Tensor:
    """v = α ε̂ − σ D = (α u − D)/σ at unit scale."""
    alpha, sigma = scales.alpha / scales.size, scales.sigma / scales.size
    return (alpha * u - denoiser(u, alpha, sigma)) / sigma


def _angle(scales: Scales) -> float:
    return math.atan2(scales.sigma, scales.alpha)


def _check(grid: Sequence[Scales], rising: bool) -> None:
    times = [scales.time for scales in grid]
    ordered = all((b > a) if rising else (b < a) for a, b in pairwise(times))
    rule = f"two moments or more, α/σ {'rising' if rising else 'falling'}"
    require(len(grid) >= 2 and ordered, "grid", rule, [round(time, 4) for time in times])
