r"""Flow-matching schedulers from t*.

The class passes whatever σ it is given through its shift, σ -> s σ/(1 + (s − 1) σ). So it is given those that
the shift takes to the wanted ones, and tells the network t = T σ of the latter.
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
    scheduler, schedule, start = request.scheduler, request.schedule, request.timestep
    shift = float(scheduler.shift)

    def unshifted(sigma: float) -> float:
        return sigma / (shift - (shift - 1) * sigma)

    if request.timesteps is not None:
        fresh = remade(scheduler, **spacing_changes("trailing"))
        wanted = [unshifted(schedule.sigma(float(t))) for t in request.timesteps]
    else:
        fresh = remade(scheduler)
        # The stock grid ends, before the shift, at the already shifted σ of the first training timestep.
        first, last = unshifted(schedule.sigma(start)), float(fresh.sigma_min)
        rule = f"above {schedule.timestep_range[1] * last:g}"
        require(first > last or request.num_steps == 1, "start_timestep", rule, start)
        wanted = torch.linspace(first, last, request.num_steps or 1, dtype=torch.float64).tolist()
    fresh.set_shift(shift)
    fresh.set_timesteps(sigmas=wanted, device=request.device)
    got, goal = float(fresh.sigmas[0]), schedule.sigma(start)
    same = math.isclose(got, goal, rel_tol=1e-4)
    hint = "Its config moves the first timestep (shift_terminal?)."
    require(same, f"first sigma of {type(scheduler).__name__}", f"{goal:g}", got, hint)
    return fresh, fresh.timesteps
