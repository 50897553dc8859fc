r"""The scheduler of Würstchen and Stable Cascade from t*: ancestral steps in continuous time t in [0, 1].

ᾱ_t is a cosine of t, and a step goes to the next entry of the public `timesteps`, the last of which is 0. So K steps
from t* are t* k/K, k = K..1, and 0.

References:
    Pernias et al., "Würstchen: an efficient architecture for large-scale text-to-image diffusion models" (2023),
    https://arxiv.org/abs/2306.00637
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otprior.sampling.schedulers.support import StartRequest, remade


def start_ratio(request: StartRequest) -> tuple[Any, Tensor]:
    """A fresh scheduler on given timesteps, or at K equal steps; and the timesteps less the 0 at their end."""
    if request.timesteps is not None:
        times = [float(t) for t in request.timesteps]
    else:
        count = request.num_steps or 1
        times = [request.timestep * k / count for k in range(count, 0, -1)]
    fresh = remade(request.scheduler)
    fresh.set_timesteps(timesteps=torch.tensor([*times, 0.0], device=request.device))
    return fresh, fresh.timesteps[:-1]
