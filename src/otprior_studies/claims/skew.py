r"""Measures how far a map between images and codes is from a gradient, by random probes of its Jacobian.

Optimal maps for the square distance are gradients, so their Jacobian J is symmetric. For v ~ N(0, I),

    E|(J − Jᵀ) v|² = |J − Jᵀ|²,   E|(J + Jᵀ) v|² = |J + Jᵀ|²   (Frobenius),

and Jᵀ v is one backward pass, J v two forward ones (a central difference): no matrix is formed, in any dimension. The
ratio is 0 for a gradient, tan φ for one that is turned by φ in every plane, and the same for the inverse of a map that
is a rotation; a map and its inverse are symmetric together.

This detects a rotation at a single point. Pairing points detects a rotation only once it brings one point nearer to
another's partner, so in high dimension probing is the primary test. But it also detects that a network is no exact
denoiser: the Jacobian of an exact one is symmetric at each moment (`denoisers`), so the flow's skew comes only from the
product of many of them. `own_skew` measures the network by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from otprior.diffusion.denoisers import Denoiser
from otprior.diffusion.flow import Scales
from otprior.utils.validation import check_integer, require

# Number of moments between clean and noisy at which a network is measured by itself.
SKEW_MOMENTS = 4


def light(denoiser: Denoiser) -> Denoiser:
    """The same denoiser without stored activations: the backward pass computes each call again."""

    def again(x: Tensor, alpha: float, sigma: float) -> Tensor:
        return checkpoint(denoiser, x, alpha, sigma, use_reentrant=False)

    return again


def probed_skew(
    maps: Callable[[Tensor], Tensor],
    points: Tensor,
    generator: torch.Generator,
    probes: int = 2,
    step: float = 0.02,
) -> Tensor:
    """|J − Jᵀ|/|J + Jᵀ| of a map at each point, float64 (B,).

    Arguments:
        maps: From (B, ...) to the same shape, row by row, differentiable.
        points: Shape (B, ...).
        generator: Draws the probes, on the CPU.
        probes: Number of probes for each point. (With few the ratio varies; its bias is only its relative variance.)
        step: Step of the central difference, in units of a probe: large enough for float32, and short compared with the
            map's curvature.
    """
    check_integer("probes", probes, 1)
    require(step > 0, "step", "positive", step)
    skew, even = (torch.zeros(len(points), dtype=torch.float64) for _ in range(2))
    for _ in range(probes):
        v = torch.randn(points.shape, generator=generator, dtype=torch.float64).to(points)
        with torch.enable_grad():
            start = points.detach().clone().requires_grad_()
            back = torch.autograd.grad(maps(start), start, v)[0]
        with torch.no_grad():
            along = (maps(points + step * v) - maps(points - step * v)) / (2 * step)
        for total, values in ((skew, along - back), (even, along + back)):
            total += (values.double() ** 2).flatten(1).sum(dim=1).cpu()
    return (skew / even).sqrt()


def own_skew(
    denoiser: Denoiser,
    images: Tensor,
    moments: Sequence[Scales],
    generator: torch.Generator,
    probes: int = 1,
    step: float = 0.005,
) -> Tensor:
    """|J − Jᵀ|/|J + Jᵀ| of D itself at noised images, one column a moment, (B, len(moments)); 0 for exact ones.

    Arguments:
        denoiser: D.
        images: Clean images, (B, ...).
        moments: Moments to measure at.
        generator: Draws noise and probes.
        probes, step: See `probed_skew`.
    """
    columns = []
    for moment in moments:
        alpha, sigma = moment
        noise = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images)

        def at_moment(x: Tensor, alpha: float = alpha, sigma: float = sigma) -> Tensor:
            return denoiser(x, alpha, sigma)

        columns.append(probed_skew(at_moment, alpha * images + sigma * noise, generator, probes, step))
    return torch.stack(columns, dim=1)
