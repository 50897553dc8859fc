r"""Likelihood under the probability flow, by the instantaneous change of variables.

Along du/ds = D(u) − tanh(s) u (`otprior.diffusion.flow`) the log-density of the flow's own law changes by minus the
divergence, so

    log p_start(u_0) = log N(u_1; 0, I) + ∫ (tr ∂D/∂u − d tanh s) ds,

with u_1 the code at the noisy end, taken for standard normal there: exact from pure noise, and off by about the prior
error at T from a schedule that leaves signal. The trace is estimated by vᵀ (∂D/∂u) v for random signs v, drawn once for
a whole path (Hutchinson's estimator, which is unbiased; several probes give a standard error), or summed over all
coordinates.

For 8-bit images in [−1, 1], made continuous by uniform noise of one grey level's width 2/255,

    bits per dimension = −(log p(α u) + d log α)/(d log 2) + log2(255/2),

a bound from above on what a lossless code for the 8-bit image would need. The law at the cleanest moment of a schedule
still has noise σ in it; that law is evaluated, as is usual.

References:
    Chen et al., Neural ordinary differential equations (2018), section 4, https://arxiv.org/abs/1806.07366
    Song et al., Score-based generative modeling through stochastic differential equations (2021), section 4.3,
    https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.diffusion.denoisers import Denoiser
from otprior.diffusion.flow import Scales, flow_grid, integrate
from otprior.utils.validation import check_integer, require

GREY_LEVELS = 256


@dataclass(frozen=True)
class Likelihood:
    """Log-densities of points, and their codes.

    Attributes:
        log_density: At the scale of the start, natural logarithm, shape (B,), float64.
        standard_error: Standard error of each from the random probes, (B,); zero where all coordinates were summed, NaN
            for one probe.
        code: Points at the scale of the end, shaped as those given.

    Examples:
        >>> law = GaussianDenoiser(torch.zeros(2), torch.eye(2))
        >>> found = log_likelihood(law, torch.ones(3, 2), Scales.vp(0.9), NOISE, spacing="s")
        >>> found.log_density.shape, found.code.shape
        (torch.Size([3]), torch.Size([3, 2]))
    """

    log_density: Tensor
    standard_error: Tensor
    code: Tensor


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    start: Scales,
    end: Scales,
    *,
    probes: int | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    method: str = "heun",
    steps: int = 50,
    spacing: str = "log_snr",
    rtol: float = 1e-6,
    atol: float = 1e-6,
) -> Likelihood:
    """Computes log p of points under the flow's law at `start`.

    Arguments:
        denoiser: D, differentiable.
        x: Points at the scale of `start`, shape (B, ...).
        start: Their moment, the clean end.
        end: The noisy end, where the law is assumed to be normal.
        probes: Random probes of the trace; None sums over all coordinates, at d backward passes an evaluation.
        generator: Draws the probes, on the CPU; or one generator for each point, whose figures then do not depend on
            the other points. Seeded 0 by default.
        method, steps, spacing, rtol, atol: See `otprior.diffusion.flow.probability_flow`.

    Examples:
        >>> law = GaussianDenoiser(torch.zeros(2), torch.eye(2))
        >>> log_likelihood(law, torch.zeros(1, 2), Scales.vp(0.9), NOISE, spacing="s").log_density  # −log 2π
        tensor([-1.8379], dtype=torch.float64)
    """
    shape, count = x.shape, len(x)
    dim = x[0].numel()
    signs = _signs(shape, probes, generator).to(x)
    traces = 1 if probes is None else probes

    def velocity(s: float, state: Tensor) -> Tensor:
        alpha, sigma = math.tanh(max(s, 0.0)), 1 / math.cosh(s)
        with torch.enable_grad():
            u = state[:, :dim].reshape(shape).detach().requires_grad_()
            clean = denoiser(u, alpha, sigma)
            values = []
            for i, probe in enumerate(signs):
                last = i == len(signs) - 1
                (pulled,) = torch.autograd.grad((clean * probe).sum(), u, retain_graph=not last)
                values.append((pulled * probe).flatten(1).sum(dim=1))
        trace = torch.stack(values, dim=1)
        trace = trace.sum(dim=1, keepdim=True) if probes is None else trace
        moved = (clean - alpha * u).detach().flatten(1)
        return torch.cat([moved, trace - dim * alpha], dim=1)

    state = torch.cat([(x / start.size).flatten(1), x.new_zeros(count, traces)], dim=1)
    times = [scales.time for scales in flow_grid(start, end, steps, spacing)]
    state = integrate(velocity, state, times, method=method, rtol=rtol, atol=atol).double()
    code, gained = state[:, :dim], state[:, dim:]
    normal = -0.5 * ((code**2).sum(dim=1) + dim * math.log(2 * math.pi))
    density = normal + gained.mean(dim=1) - dim * math.log(start.size)
    error = torch.zeros_like(density) if probes is None else gained.std(dim=1) / math.sqrt(traces)
    return Likelihood(density, error, (code * end.size).reshape(shape).to(x.dtype))


def dequantised(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draws each pixel of 8-bit images in [−1, 1] uniformly within its grey level; same shape."""
    noise = torch.rand(images.shape, generator=generator).to(images) - 0.5
    return images + noise * (2 / (GREY_LEVELS - 1))


def bits_per_dimension(log_density: Tensor, dim: int, alpha: float) -> Tensor:
    """Bits for a coordinate of an 8-bit image, from the log-density of α times it; (B,) to (B,).

    Raises:
        ValueError: If `dim` is no integer of at least 1, or alpha is not positive.

    Examples:
        >>> bits_per_dimension(torch.zeros(1), dim=784, alpha=1.0)
        tensor([6.9944])
    """
    check_integer("dim", dim, 1)
    require(alpha > 0, "alpha", "positive", alpha)
    return -(log_density / dim + math.log(alpha)) / math.log(2) + math.log2((GREY_LEVELS - 1) / 2)


def _signs(
    shape: torch.Size, probes: int | None, generator: torch.Generator | Sequence[torch.Generator] | None
) -> Tensor:
    """Probes (P, B, ...) of random signs, or (d, 1, ...) of unit vectors."""
    if probes is None:
        dim = math.prod(shape[1:])
        return torch.eye(dim).reshape(dim, 1, *shape[1:])
    check_integer("probes", probes, 1)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if isinstance(generator, torch.Generator):
        return torch.randint(2, (probes, *shape), generator=generator) * 2 - 1
    require(
        len(generator) == shape[0], "generator", f"one, or one for each of {shape[0]} points", len(generator)
    )
    each = [torch.randint(2, (probes, *shape[1:]), generator=own) for own in generator]
    return torch.stack(each, dim=1) * 2 - 1
