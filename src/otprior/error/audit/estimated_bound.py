r"""The analytic bound for a network: an *estimated bound* and no bound, since two of its terms can only be sampled.

    W2(p_ε, q_ε) ≤ ½ ∫ σ I e dl + I(t*) W2(p_t*, q_t*),    I(t*) = (σ_ε/σ_t*) exp ½ ∫ κ dl

- κ(l) is a supremum over x of the largest eigenvalue of sym α ∂D/∂x. A power iteration at some x ~ p_t finds the
  eigenvalue at these x, from below; elsewhere it may be larger. (The Jacobian of a network is not symmetric; only its
  symmetric part counts.)
- e(l) is the root mean square error of the predicted noise against the exact denoiser of the given data set, under its
  p_t. (The denoising loss would be an upper bound for it, larger by the variance of the noise that is unpredictable.)
  For a network that generalises instead of memorising, it is large at small noise: this is the bound for *these* data.
- W2(p_t*, q_t*) comes as an interval.

So each term has an interval of its own, and their sum has one. The report compares it with the paired cost that is
measured (`sampling_cost`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from otprior.diffusion.denoisers import Denoiser, FiniteDenoiser
from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.bounds.dual import MeanEstimate
from otprior.error.interval import ErrorInterval
from otprior.utils.validation import check_integer, require

ITERATIONS = 8


@dataclass(frozen=True)
class EstimatedBound:
    """The terms of the estimated bound, in natural logarithms: the terms can be astronomically large.

    Attributes:
        timesteps: Timesteps at which κ and e were sampled, from t* to the clean end.
        gains: (smallest, largest) sampled κ at each.
        noise_errors: (lower, estimate, upper 95 %) of e at each.
        log_growth: log I(t*) with the smallest and with the largest sampled κ.
        log_score_term: log ½ ∫ σ I e dl: with smallest κ and lower e, and with largest κ and upper e.
        log_prior_term: log I(t*) W2: with smallest κ and the lower end, with largest κ and the upper end.
        log_total: log of the sum of the two, both ends.
    """

    timesteps: tuple[float, ...]
    gains: tuple[tuple[float, float], ...]
    noise_errors: tuple[tuple[float, float, float], ...]
    log_growth: tuple[float, float]
    log_score_term: tuple[float, float]
    log_prior_term: tuple[float, float]
    log_total: tuple[float, float]


def estimated_bound(
    unet: nn.Module,
    scheduler: Any,
    rows: Tensor,
    start: float,
    prior_error: ErrorInterval,
    *,
    label: int | None = None,
    end: float | None = None,
    levels: int = 6,
    points: int = 4,
    draws: int = 32,
    generator: torch.Generator,
) -> EstimatedBound:
    """Samples every term.

    Arguments:
        unet, scheduler: The network and its scheduler.
        rows: The data, images (N, C, H, W).
        start: t*.
        prior_error: W2(p_t*, q_t*) as an interval.
        label: Class label that the network is called with, or None.
        end: Timestep at which the bound ends; by default the cleanest.
        levels: Number of timesteps at which κ and e are sampled, equally spaced in log-SNR.
        points: Number of x at which κ is sampled, for each timestep.
        draws: Number of x at which e is sampled, for each timestep.
        generator: Seeds all draws.
    """
    check_integer("levels", levels, 2)
    check_integer("points", points, 1)
    check_integer("draws", draws, 2)
    home = next((tensor.device for tensor in unet.parameters()), torch.device("cpu"))
    schedule = NoiseSchedule.from_scheduler(scheduler)
    end = schedule.timestep_range[0] if end is None else end
    noisy, clean = schedule.log_snr(float(start)), schedule.log_snr(float(end))
    require(
        -math.inf < noisy < clean < math.inf, "start, end", "of finite log-SNR, end the cleaner", (start, end)
    )
    log_snrs = torch.linspace(noisy, clean, levels, dtype=torch.float64)
    times = [schedule.timestep(log_snr) for log_snr in log_snrs.tolist()]
    exact = FiniteDenoiser(rows.flatten(1))
    gains, errors = [], []
    for t in times:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        picked = torch.randint(len(rows), (max(draws, points),), generator=generator)
        clean_rows = rows[picked].float()
        x = (alpha * clean_rows + sigma * torch.randn(clean_rows.shape, generator=generator)).to(home)
        labels = None if label is None else torch.full((len(x),), label, device=home)
        network = NetworkDenoiser(unet, scheduler, labels)
        few = NetworkDenoiser(unet, scheduler, None if labels is None else labels[:points])
        found = sampled_gain(few, x[:points], alpha, sigma)
        gains.append((float(found.min()), float(found.max())))
        errors.append(_noise_error(network, exact, x, alpha, sigma))
    sigmas = torch.tensor([schedule.sigma(t) for t in times])
    return _assembled(log_snrs, sigmas, times, gains, errors, prior_error)


@torch.no_grad()
def _noise_error(
    network: Denoiser, exact: Denoiser, x: Tensor, alpha: float, sigma: float
) -> tuple[float, float, float]:
    """e at a moment: lower limit, estimate and upper limit."""
    x, predicted = x.cpu(), network(x, alpha, sigma).cpu()
    off = predicted.flatten(1).double() - exact(x.flatten(1), alpha, sigma).double()
    squares = MeanEstimate.of((alpha / sigma) ** 2 * (off**2).sum(dim=1))
    ends = [squares.limit(0.975, side) for side in ("lower", "upper")]
    low, middle, high = (math.sqrt(max(value, 0.0)) for value in (ends[0], squares.value, ends[1]))
    return low, middle, high


def sampled_gain(denoiser: Denoiser, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """The largest eigenvalue of sym α ∂D/∂x at each x (B, ...), (B,), from below: Rayleigh quotients.

    Power iteration finds the eigenvalue of largest modulus. An exact denoiser has no negative eigenvalue, and a
    network's negative ones are much smaller than the positive.
    """
    x = x.detach().requires_grad_(True)
    direction = torch.ones_like(x) + 0.1 * x.detach()
    quotient = x.new_zeros(len(x))
    # (Fused attention has no second derivative, nor one in forward mode.)
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        image = alpha * denoiser(x, alpha, sigma)
        # Jᵀ w as a function of w, whose derivative is J.
        weight = torch.zeros_like(image, requires_grad=True)
        pulled = torch.autograd.grad(image, x, weight, create_graph=True)[0]
        for _ in range(ITERATIONS):
            direction = direction / _norm(direction)
            forward = torch.autograd.grad(pulled, weight, direction, retain_graph=True)[0]
            backward = torch.autograd.grad(image, x, direction, retain_graph=True)[0]
            mapped = (forward + backward) / 2
            quotient = (direction * mapped).flatten(1).sum(dim=1)
            direction = mapped
    return quotient


def _norm(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1).clamp(min=1e-30)
    return norms.reshape(-1, *[1] * (x.ndim - 1))


def _assembled(
    log_snrs: Tensor,
    sigmas: Tensor,
    times: list[float],
    gains: list[tuple[float, float]],
    errors: list[tuple[float, float, float]],
    prior_error: ErrorInterval,
) -> EstimatedBound:
    growths, scores, priors, totals = [], [], [], []
    for side, (error, distance) in enumerate(((0, prior_error.lower.value), (2, prior_error.upper.value))):
        kappa = torch.tensor([pair[side] for pair in gains], dtype=torch.float64)
        rms = torch.tensor([each[error] for each in errors], dtype=torch.float64)
        # log I from each level down to the clean end, by the trapezoidal rule from there.
        pieces = (kappa[1:] + kappa[:-1]) / 2 * log_snrs.diff()
        area = torch.cat([pieces.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
        log_growth = (sigmas[-1] / sigmas).log() + area / 2
        integrand = log_growth + sigmas.log() + rms.clamp(min=1e-300).log()
        widths = torch.zeros(len(log_snrs), dtype=torch.float64)
        widths[1:] += log_snrs.diff() / 2
        widths[:-1] += log_snrs.diff() / 2
        score = float(torch.logsumexp(integrand + widths.log(), 0)) - math.log(2)
        prior = float(log_growth[0]) + (math.log(distance) if distance > 0 else -math.inf)
        growths.append(float(log_growth[0]))
        scores.append(score)
        priors.append(prior)
        totals.append(float(torch.logsumexp(torch.tensor([score, prior]), 0)))
    return EstimatedBound(
        tuple(times),
        tuple(gains),
        tuple(errors),
        (growths[0], growths[1]),
        (scores[0], scores[1]),
        (priors[0], priors[1]),
        (totals[0], totals[1]),
    )
