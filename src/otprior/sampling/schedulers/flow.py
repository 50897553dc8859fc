r"""Schedulers of flow-matching networks from t*: their own classes, and multistep ones with `use_flow_sigmas`.

The network is told t = T σ, so t* follows from σ alone. A *shift* moves the grid between: equally spaced u become
σ = e u/(1 + (e − 1) u), where e is the config's `shift` or `flow_shift`, or follows from the resolution (`mu`) where it
is dynamic. So K steps from t* are u* k/K, k = K..1, in the coordinate before the shift. Where a pipeline brings a grid
of such u of its own, from 1 on, it is squeezed to begin at u*. The last σ is not stretched to a `shift_terminal`, which
would move the first one.

Steps read nothing but the public `sigmas` and `timesteps`, which are set after `set_timesteps`.

References:
    Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis" (2024),
    https://arxiv.org/abs/2403.03206
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from otprior.sampling.schedulers.support import StartRequest, remade, spacing_changes
from otprior.utils.validation import require


def start_flow(request: StartRequest) -> tuple[Any, Tensor]:
    """A fresh scheduler on given timesteps, or on K σ that before the shift are equally spaced; and its timesteps."""
    total = request.schedule.timestep_range[1]
    if request.timesteps is not None:
        sigmas = torch.tensor([float(t) / total for t in request.timesteps], dtype=torch.float64)
    else:
        sigmas = _shifted_grid(request)
    if request.support.grid != "flow":
        # From σ = 1 a step in log-SNR would be infinite; their own grids begin a training timestep lower, too.
        sigmas = sigmas.clamp(max=1 - 1 / total)
    fresh = _unshifted(request, sigmas)
    # (Those that do not end at zero end at the first training timestep. A step from where they end would do nothing.)
    last = sigmas.new_tensor([0.0 if float(fresh.sigmas[-1]) == 0 else 1 / total])
    if request.support.grid == "flow":
        # (Karras, exponential and beta spacings of the config stand between the ends that they are given.)
        sigmas = fresh.sigmas[:-1].cpu().double()
    some = sigmas > last * (1 + 1e-4)
    require(
        bool(some.any()),
        "timesteps",
        f"some above {float(last) * total:g}, where steps end",
        request.timesteps,
    )
    sigmas = sigmas[some]
    fresh.sigmas = torch.cat([sigmas, last]).to(fresh.sigmas)
    fresh.timesteps = (sigmas * total).to(device=fresh.timesteps.device, dtype=torch.float32)
    return fresh, fresh.timesteps


def _shifted_grid(request: StartRequest) -> Tensor:
    """K values of σ from that of t*, shape (K,)."""
    e = _shift(request.scheduler, request.mu)
    first = request.schedule.sigma(request.timestep)
    top = first / (e - (e - 1) * first)
    if request.sigmas is not None:
        given = torch.as_tensor([float(u) for u in request.sigmas], dtype=torch.float64)
        falls = len(given) > 0 and bool((given[1:] < given[:-1]).all()) and 0 < float(given[0]) <= 1
        require(falls, "sigmas", "at least one in (0, 1], strictly decreasing", given.tolist())
        u = top * given / given[0]
    else:
        steps = request.num_steps or 1
        u = top * torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return e * u / (1 + (e - 1) * u)


def before_shift(scheduler: Any, timesteps: Tensor, mu: float | None) -> Tensor:
    """Timesteps T σ in the coordinate before a scheduler's shift, T u."""
    e, total = _shift(scheduler, mu), float(scheduler.config["num_train_timesteps"])
    return timesteps / (e - (e - 1) * timesteps / total)


def _shift(scheduler: Any, mu: float | None) -> float:
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        # `set_shift` changes the attribute and not the config.
        return float(getattr(scheduler, "_shift", config.get("flow_shift", config.get("shift", 1.0))))
    if mu is None:
        hint = "The pipeline's resolution decides it."
        require(False, "mu", "given for a scheduler with use_dynamic_shifting", None, hint)
    mu = float(mu or 0.0)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def _unshifted(request: StartRequest, sigmas: Tensor) -> Any:
    """A scheduler that shifts nothing, with its timesteps set."""
    changes: dict[str, Any] = {"shift": 1.0, "use_dynamic_shifting": False, "shift_terminal": None}
    flow = request.support.grid == "flow"
    if not flow or request.timesteps is not None:
        changes |= spacing_changes("trailing")
    fresh = remade(request.scheduler, **changes)
    if flow:
        fresh.set_timesteps(sigmas=sigmas.tolist(), device=request.device)
    else:
        fresh.set_timesteps(len(sigmas), device=request.device)
    return fresh
