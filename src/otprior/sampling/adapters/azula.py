r"""Denoisers of azula: a posterior of x_0 given x_t = α_t x_0 + σ_t ε, t in [0, 1], for any schedule (α_t, σ_t)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.adapters.module import AdaptedNetwork, log_spaced, vp_scheduler
from otprior.sampling.pipeline import OTPriorPipeline

STEPS, POINTS = 1000, 10_001


def from_azula(
    denoiser: Any, shape: tuple[int, int, int], t_min: float = 1e-3, t_max: float = 1 - 1e-3
) -> OTPriorPipeline:
    """A pipeline around a denoiser.

    Arguments:
        denoiser: Called as denoiser(x_t, t) with t (B,); its answer has a `mean`, the estimate of x_0. Its
            `schedule(t)` gives (α_t, σ_t).
        shape: (C, H, W) of x.
        t_min, t_max: The times that are used: at the ends some schedules have no noise or no signal.

    Examples:
        >>> pipe = from_azula(denoiser, (3, 32, 32))
        >>> pipe.prior = GaussianPrior.fit("photographs", pipe.scheduler)
        >>> pipe(batch_size=4, num_inference_steps=4).images
    """
    times = torch.linspace(t_min, t_max, POINTS, dtype=torch.float64)
    alpha, sigma = (torch.as_tensor(each).double().reshape(-1).cpu() for each in denoiser.schedule(times))
    own = NoiseSchedule.from_scales(alpha, sigma, times)
    low, high = (float(sigma[k] / alpha[k]) for k in (0, -1))
    scheduler = vp_scheduler(log_spaced(low, high, STEPS), "sample")
    schedule = NoiseSchedule.from_scheduler(scheduler)

    def call(x: Tensor, t: Tensor) -> Tensor:
        # (The scheduler's own table is rounded.)
        level = min(max(schedule.log_snr(float(t[0])), -2 * math.log(high)), -2 * math.log(low))
        time = own.timestep(level)
        scale = math.hypot(own.alpha(time), own.sigma(time))
        out: Tensor = denoiser(x * scale, x.new_full((len(x),), time)).mean
        return out

    return OTPriorPipeline(AdaptedNetwork(denoiser, call, shape), scheduler)
