r"""A plain torch module whose call and parameterisation are declared.

Whatever a network estimates, ε, x_0, v = α ε − σ x_0 (variance preserving) or the velocity ε − x_0 of a flow,
diffusers' schedulers know it as a prediction type. What they need besides is the process, and how time is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.pipeline import OTPriorPipeline
from otprior.utils.validation import check_choice, require

# Schedulers keep ᾱ in float32, which does not tell lower ratios of noise to signal apart.
LOWEST = 0.005

_PREDICTIONS = {"epsilon": "epsilon", "x_0": "sample", "v": "v_prediction", "flow": "flow"}


def from_module(
    network: nn.Module,
    parameterisation: str,
    shape: tuple[int, int, int],
    alphas_cumprod: Tensor | Sequence[float] | None = None,
    *,
    call: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> OTPriorPipeline:
    """A pipeline around a plain network.

    Arguments:
        network: By default called as network(x, t), with x (B, C, H, W) at the scale of its process and t (B,) float32.
        parameterisation: What it estimates: "epsilon", "x_0" or "v" of a variance-preserving process; or "flow", the
            velocity ε − x_0 of x = (1 − t) x_0 + t ε, t in [0, 1].
        shape: (C, H, W) of x.
        alphas_cumprod: ᾱ_t at t = 0..T−1, for the first three; t is then told in these timesteps, also between them.
        call: Another way to call the network: (x, t) -> its estimate.

    Raises:
        ValueError: If the parameterisation is none of these, or has no such process.

    Examples:
        >>> pipe = from_module(network, "v", (3, 32, 32), alphas_cumprod)
        >>> pipe.prior = GaussianPrior.fit("photographs", pipe.scheduler)
        >>> pipe(batch_size=4, num_inference_steps=4).images
    """
    check_choice("parameterisation", parameterisation, tuple(_PREDICTIONS))
    flow = parameterisation == "flow"
    rule = 'None for "flow", whose process is known' if flow else "given"
    require(flow == (alphas_cumprod is None), "alphas_cumprod", rule, alphas_cumprod if flow else None)
    inner = network if call is None else call
    if flow:
        scheduler: Any = FlowMatchEulerDiscreteScheduler()
        steps = scheduler.config.num_train_timesteps
        return OTPriorPipeline(AdaptedNetwork(network, lambda x, t: inner(x, t / steps), shape), scheduler)
    scheduler = vp_scheduler(alphas_cumprod, _PREDICTIONS[parameterisation])
    return OTPriorPipeline(AdaptedNetwork(network, inner, shape), scheduler)


def vp_scheduler(alphas_cumprod: Any, prediction_type: str) -> Any:
    """DPM-Solver++ on a variance-preserving process of ᾱ_t, decreasing."""
    table = NoiseSchedule.vp(alphas_cumprod)  # checks it
    cumulated = torch.sigmoid(table.log_snrs)
    before = torch.cat([torch.ones(1, dtype=torch.float64), cumulated[:-1]])
    betas = (1 - cumulated / before).tolist()
    return DPMSolverMultistepScheduler(
        num_train_timesteps=len(betas), trained_betas=betas, prediction_type=prediction_type,
        timestep_spacing="trailing",
    )  # fmt: skip


class AdaptedNetwork(nn.Module):
    """A network of any kind with the call of diffusers' UNet2DModel.

    Arguments:
        network: Whose parameters these are, if it is a module.
        call: (x, t) -> what the network estimates, t (B,) float32 in the scheduler's timesteps.
        shape: (C, H, W) of x.
    """

    def __init__(self, network: Any, call: Callable[[Tensor, Tensor], Tensor], shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network if isinstance(network, nn.Module) else None
        self._call = call
        self.config = SimpleNamespace(in_channels=int(shape[0]), sample_size=tuple(int(n) for n in shape[1:]))

    def forward(self, sample: Tensor, timestep: Any, return_dict: bool = True) -> Any:
        """The estimate, shaped as `sample`."""
        t = torch.as_tensor(timestep, dtype=torch.float32).reshape(-1).to(sample.device).expand(len(sample))
        out = self._call(sample, t)
        return SimpleNamespace(sample=out) if return_dict else (out,)


def log_spaced(low: float, high: float, count: int) -> Tensor:
    """ᾱ = 1/(1 + s²) of `count` noise-to-signal ratios s from `low` to `high`, equally spaced in their logarithm."""
    start, end = math.log(max(low, LOWEST)), math.log(high)
    return torch.sigmoid(-2 * torch.linspace(start, end, count, dtype=torch.float64))
