r"""Denoisers of k-diffusion: D(x, σ) estimates x_0 from x = x_0 + σ ε.

Divided by √(1 + σ²), x follows a variance-preserving process with ᾱ = 1/(1 + σ²): what diffusers' solvers work on.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.adapters.module import AdaptedNetwork, log_spaced, vp_scheduler
from otprior.sampling.pipeline import OTPriorPipeline
from otprior.utils.validation import require

STEPS = 1000


def from_k_diffusion(
    denoiser: Any, shape: tuple[int, int, int], sigma_min: float = 0.002, sigma_max: float = 80.0
) -> OTPriorPipeline:
    """A pipeline around a denoiser.

    Arguments:
        denoiser: Called as denoiser(x, sigma), sigma (B,): `Denoiser`, `DiscreteEpsDDPMDenoiser` and others.
        shape: (C, H, W) of x.
        sigma_min, sigma_max: The noise levels that it was trained on.

    Raises:
        ValueError: Unless 0 < sigma_min < sigma_max.

    Examples:
        >>> pipe = from_k_diffusion(denoiser, (3, 32, 32))
        >>> pipe.prior = GaussianPrior.fit("photographs", pipe.scheduler)
        >>> pipe(batch_size=4, num_inference_steps=4).images
    """
    require(0 < sigma_min < sigma_max, "sigma_min, sigma_max", "0 < min < max", (sigma_min, sigma_max))
    scheduler = vp_scheduler(log_spaced(sigma_min, sigma_max, STEPS), "sample")
    schedule = NoiseSchedule.from_scheduler(scheduler)

    def call(x: Tensor, t: Tensor) -> Tensor:
        ratio = math.exp(-schedule.log_snr(float(t[0])) / 2)
        out: Tensor = denoiser(x * math.hypot(1, ratio), x.new_full((len(x),), ratio))
        return out

    return OTPriorPipeline(AdaptedNetwork(denoiser, call, shape), scheduler)
