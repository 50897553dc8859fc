r"""Schedulers of VE networks whose timestep is log(σ)/4, from t*; and the flow scheduler where it runs up to such a σ.

Their steps read nothing but the public `sigmas` and `timesteps`, which are set after `set_timesteps`: to given
ones, or to the stock spacing (equal steps in σ^{1/ρ} or in log σ) with σ(t*) in the place of the largest σ.

References:
    Karras, Aittala, Aila & Laine, "Elucidating the design space of diffusion-based generative models"
    (2022), https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.schedulers.support import StartRequest
from otprior.utils.validation import require


def start_edm(request: StartRequest) -> tuple[Any, Tensor]:
    """A fresh scheduler on given timesteps, or at K steps of its stock spacing; and its timesteps."""
    scheduler, schedule = request.scheduler, request.schedule
    zero = scheduler.config.get("final_sigmas_type", "zero") == "zero"
    last = 0.0 if zero else schedule.sigma(schedule.timestep_range[0])
    if request.timesteps is not None:
        sigmas = schedule.sigma(torch.tensor(request.timesteps, dtype=torch.float64))
        # (A step from where the class ends would do nothing.)
        sigmas = sigmas[sigmas > last * (1 + 1e-4)]
        require(
            len(sigmas) > 0, "timesteps", f"some above {request.timesteps[-1]:g}", list(request.timesteps)
        )
    else:
        count = request.num_steps or 1
        sigmas = _stock(scheduler, schedule, request.timestep, count if zero else count + 1)[:count]
    fresh = copy.deepcopy(scheduler)
    fresh.set_timesteps(len(sigmas), device=request.device)
    fresh.sigmas = torch.cat([sigmas, sigmas.new_tensor([last])]).float()
    fresh.timesteps = (sigmas.log() / 4).float().to(request.device)
    return fresh, fresh.timesteps


def _stock(scheduler: Any, schedule: NoiseSchedule, start: float, num_steps: int) -> Tensor:
    config = scheduler.config
    exponential = config.get("sigma_schedule") == "exponential" or config.get("use_exponential_sigmas")
    karras = config.get("sigma_schedule") == "karras" or config.get("use_karras_sigmas")
    rule = "one with use_karras_sigmas or use_exponential_sigmas, or timesteps="
    require(bool(exponential or karras), "scheduler of continuous time", rule, "neither")
    ends = schedule.sigma(torch.tensor([start, schedule.timestep_range[0]], dtype=torch.float64))
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    if exponential:
        return torch.exp(torch.lerp(ends[0].log(), ends[1].log(), ramp))
    rho = float(config.get("rho", 7.0))
    return torch.lerp(ends[0] ** (1 / rho), ends[1] ** (1 / rho), ramp) ** rho
