"""Telling the network another time than the sampler's.

A coupled start carries more of its atom than p_t* does, so it may look to the network like latents of a cleaner time.
The sampler's coefficients stay as they are; the network is told the time whose log-SNR is higher by

    δ max(0, 1 − (ℓ_t − ℓ_t*)/4),   ℓ = log(α²/σ²),

δ at the start, nothing from four units of log-SNR on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from otprior.schedules import NoiseSchedule

__all__ = ["ToldNetwork"]

FADES_OVER = 4.0


class ToldNetwork(nn.Module):
    """A denoiser that passes calls on with the time changed.

    Arguments:
        unet: A denoiser with the call of diffusers' `UNet2DModel`, told timesteps of `schedule`.
        schedule: The forward process.
        start_timestep: t*.
        shift: δ.
    """

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule, start_timestep: float, shift: float) -> None:
        super().__init__()
        self.unet, self.schedule, self.shift = unet, schedule, shift
        self.config = unet.config
        self.first = schedule.log_snr(float(start_timestep))
        self.cleanest = schedule.log_snr(schedule.timestep_range[0])

    def forward(self, sample: Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        """As the network's own."""
        level = self.schedule.log_snr(float(timestep))
        left = max(0.0, 1 - (level - self.first) / FADES_OVER)
        told = self.schedule.timestep(min(level + self.shift * left, self.cleanest))
        return self.unet(sample, torch.tensor(told, device=sample.device), *args, **kwargs)
