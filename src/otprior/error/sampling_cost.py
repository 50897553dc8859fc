"""The cost of a prior's error in samples: coupled starts, x ~ p_t* and T(z), go through the same sampler.

Their samples x_0 and x_0' give √E|x_0 − x_0'|², an upper bound on W2 between the two laws of samples, for any network,
any sampler and any coupling. The tighter the coupling the better: that of the data's own flow is used. For
comparison, the error of solving in K steps is √E|x_0(K steps) − x_0(fine grid)|² from the same x ~ p_t*.

A pipeline goes from a seed to an image; here the start itself is given, since a start drawn from p_t has no seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.bounds.dual import MeanEstimate
from otprior.sampling.schedulers.start import Start, matching_timestep, start_scheduler
from otprior.utils.validation import require

# Schedulers whose steps draw noise, which would separate a pair of starts.
_STOCHASTIC = ("DDPM", "EulerAncestral", "KDPM2Ancestral", "LCM", "TCD", "SASolver")


def is_stochastic(scheduler: Any) -> bool:
    """Whether a scheduler's steps draw noise."""
    sde = "sde" in str(scheduler.config.get("algorithm_type"))
    return sde or type(scheduler).__name__.startswith(_STOCHASTIC)


@dataclass(frozen=True, eq=False)
class Sampler:
    """A network with a deterministic scheduler, as a map from latents to images.

    Attributes:
        unet: With UNet2DModel's call.
        scheduler: A scheduler that can start at an intermediate timestep.
        label: Class label that the network is called with, or None if it takes none.
        batch_size: Number of latents at a time.
    """

    unet: nn.Module
    scheduler: Any
    label: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        name, stochastic = type(self.scheduler).__name__, is_stochastic(self.scheduler)
        rule, hint = "deterministic", "Use DPMSolverMultistepScheduler.from_config(scheduler.config)."
        require(not stochastic, "scheduler", rule, name, hint)

    @property
    def schedule(self) -> NoiseSchedule:
        """The process that the network was trained on."""
        return NoiseSchedule.from_scheduler(self.scheduler)

    @torch.no_grad()
    def __call__(self, latents: Tensor, alpha: float, sigma: float, timesteps: Sequence[float]) -> Tensor:
        """Samples from latents α x_0 + σ ε.

        Arguments:
            latents: Shape (B, C, H, W), at scales (α, σ).
            alpha, sigma: The scales.
            timesteps: The grid, from the timestep that has these scales.

        Returns:
            Shape (B, C, H, W), float32, neither rounded nor clipped.
        """
        parts = [self._run(part, alpha, sigma, timesteps) for part in latents.float().split(self.batch_size)]
        return torch.cat(parts)

    def evaluations(self, alpha: float, sigma: float, timesteps: Sequence[float]) -> int:
        """Network evaluations of a latent."""
        return self._start(alpha, sigma, timesteps, torch.device("cpu")).nfe

    def _start(self, alpha: float, sigma: float, timesteps: Sequence[float], device: torch.device) -> Start:
        begin = matching_timestep(self.schedule, alpha, sigma)
        return start_scheduler(self.scheduler, begin, timesteps=timesteps, device=device)

    def _run(self, x: Tensor, alpha: float, sigma: float, timesteps: Sequence[float]) -> Tensor:
        parameter = next(self.unet.parameters(), torch.zeros(()))
        start = self._start(alpha, sigma, timesteps, parameter.device)
        x = (x * start.scale(alpha, sigma)).to(parameter.device, parameter.dtype)
        labels = None if self.label is None else torch.full((len(x),), self.label, device=x.device)
        options = {} if labels is None else {"class_labels": labels}
        for index, t in enumerate(start.timesteps):
            out = self.unet(start.model_input(x, index), t, **options, return_dict=False)[0]
            x = start.step(out.to(x.dtype), index, x)
        return x.float().cpu()


@dataclass(frozen=True)
class RootMeanSquare:
    """√E|a − b|² over rows.

    Attributes:
        value: The estimate.
        interval: Two-sided 95 % interval.
        upper: Upper limit of the one-sided 95 % interval.
        rows: Number of rows.
    """

    value: float
    interval: tuple[float, float]
    upper: float
    rows: int

    @classmethod
    def between(cls, a: Tensor, b: Tensor) -> RootMeanSquare:
        """The distance of two batches (n, ...), row by row; n >= 2."""
        same = a.shape == b.shape and len(a) >= 2
        require(same, "rows", f"of one shape {tuple(a.shape)}, at least 2", tuple(b.shape))
        mean = MeanEstimate.of(((a.double() - b.double()) ** 2).flatten(1).sum(dim=1))
        low, high = (math.sqrt(max(mean.limit(0.975, side), 0.0)) for side in ("lower", "upper"))
        return cls(math.sqrt(mean.value), (low, high), math.sqrt(mean.limit(0.95, "upper")), len(a))
