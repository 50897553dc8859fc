"""Running a sampler from given latents, and what that makes of two starts that are coupled.

`pipelines` goes from a seed to an image; here the start itself is given, since a start drawn from p_t has no seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from otprior.error.dual import MeanEstimate
from otprior.schedules import NoiseSchedule
from otprior.starting import matching_timestep, start_scheduler
from otprior.validation import require

__all__ = ["PairedCost", "Sampler", "paired_cost"]

# Their steps draw noise; a pair of starts would end apart for that reason alone.
_STOCHASTIC = ("DDPM", "EulerAncestral", "KDPM2Ancestral", "LCM", "TCD", "SASolver")


@dataclass(frozen=True, eq=False)
class Sampler:
    """A network with a deterministic scheduler, as a map from latents to images.

    Attributes:
        unet: With UNet2DModel's call.
        scheduler: One that can start at an intermediate timestep.
        label: Class label told to the network, or None if it takes none.
        batch_size: Latents at a time.
    """

    unet: nn.Module
    scheduler: Any
    label: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        name = type(self.scheduler).__name__
        stochastic = name.startswith(_STOCHASTIC) or "sde" in str(self.scheduler.config.get("algorithm_type"))
        rule, hint = "deterministic", "Use DPMSolverMultistepScheduler.from_config(scheduler.config)."
        require(not stochastic, "scheduler", rule, name, hint)

    @property
    def schedule(self) -> NoiseSchedule:
        """The process that the network was trained on."""
        return NoiseSchedule.from_scheduler(self.scheduler)

    @torch.no_grad()
    def __call__(self, latents: Tensor, alpha: float, sigma: float, timesteps: Sequence[float]) -> Tensor:
        """Where the sampler takes latents α x_0 + σ ε.

        Arguments:
            latents: Shape (B, C, H, W), at scales (α, σ).
            alpha, sigma: Those scales.
            timesteps: The grid, from the timestep that has them.

        Returns:
            Shape (B, C, H, W), float32, neither rounded nor clipped.
        """
        parts = [self._run(part, alpha, sigma, timesteps) for part in latents.float().split(self.batch_size)]
        return torch.cat(parts)

    def _run(self, x: Tensor, alpha: float, sigma: float, timesteps: Sequence[float]) -> Tensor:
        parameter = next(self.unet.parameters(), torch.zeros(()))
        begin = matching_timestep(self.schedule, alpha, sigma)
        start = start_scheduler(self.scheduler, begin, timesteps=timesteps, device=parameter.device)
        x = (x * start.scale(alpha, sigma)).to(parameter.device, parameter.dtype)
        told = (
            {} if self.label is None else {"class_labels": torch.full((len(x),), self.label, device=x.device)}
        )
        for index, t in enumerate(start.timesteps):
            out = self.unet(start.model_input(x, index), t, **told, return_dict=False)[0]
            x = start.step(out.to(x.dtype), index, x)
        return x.float().cpu()


@dataclass(frozen=True)
class PairedCost:
    """√E|x_0 − x_0'|² of samples from coupled starts, x ~ p_t* and T(z), through one K-step sampler.

    An upper bound on W2 between the two laws of samples, whatever the network: it is what the prior's error costs at
    most.

    Attributes:
        cost: Its estimate.
        cost_upper: With the upper confidence limit of the mean square.
        start_gap: √E|x − T(z)|² of the starts.
        stepping: √E|K steps − fine grid|², from x ~ p_t*: what solving in K steps costs.
        stepping_interval: 95 % of it.
        pairs, nfe, fine_nfe: Numbers of pairs and of network evaluations a sample.
    """

    cost: float
    cost_upper: float
    start_gap: float
    stepping: float | None
    stepping_interval: tuple[float, float] | None
    pairs: int
    nfe: int
    fine_nfe: int | None


def paired_cost(
    sampler: Sampler,
    x: Tensor,
    starts: Tensor,
    alpha: float,
    sigma: float,
    timesteps: Sequence[float],
    fine_timesteps: Sequence[float] | None = None,
    level: float = 0.95,
) -> PairedCost:
    """Runs both members of each pair.

    Arguments:
        sampler: The network and its scheduler.
        x: Draws of p_t*, shape (n, C, H, W), at scales (α, σ).
        starts: T(z), coupled row by row with x, shape (n, C, H, W).
        alpha, sigma: Scales of both.
        timesteps: The K-step grid, from t*.
        fine_timesteps: A grid so fine that its errors do not count; None leaves discretisation out.
        level: Of the upper limit.
    """
    require(x.shape == starts.shape and len(x) >= 2, "starts", f"shaped as x, {tuple(x.shape)}", starts.shape)
    coarse = sampler(x, alpha, sigma, timesteps)
    other = sampler(starts, alpha, sigma, timesteps)
    squares = _squares(coarse, other)
    mean = MeanEstimate.of(squares)
    stepping = interval = None
    if fine_timesteps is not None:
        off = MeanEstimate.of(_squares(coarse, sampler(x, alpha, sigma, fine_timesteps)))
        stepping = math.sqrt(off.value)
        low, high = (off.limit((1 + level) / 2, side) for side in ("lower", "upper"))
        interval = (math.sqrt(max(low, 0.0)), math.sqrt(high))
    return PairedCost(
        cost=math.sqrt(mean.value),
        cost_upper=math.sqrt(mean.limit(level, "upper")),
        start_gap=math.sqrt(float(_squares(x, starts).mean())),
        stepping=stepping,
        stepping_interval=interval,
        pairs=len(x),
        nfe=len(timesteps),
        fine_nfe=None if fine_timesteps is None else len(fine_timesteps),
    )


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return ((a.double() - b.double()) ** 2).flatten(1).sum(dim=1)
