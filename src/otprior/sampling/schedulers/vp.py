r"""Variance-preserving schedulers from t*, by three means.

- *Truncated betas*: with `trained_betas` cut off behind t*, t* is the last training timestep, and every stock
  spacing runs from there. The coefficients ᾱ_t of t <= t* are the same numbers.
- *A grid of timesteps*: passed as `timesteps=` where the class takes them; where its steps read nothing but its
  public `sigmas` and `timesteps`, those are set after `set_timesteps`.
- *Respaced betas*, for classes that step by a fixed stride (DDIM, PNDM): the ᾱ of the K grid points become the
  whole schedule of a scheduler with K timesteps and stride one. So a step ends where the next begins, also where
  K does not divide t* + 1.

Some classes end at the noise of timestep 0, not at the clean image. A spacing that comes down to timestep 0 then
repeats it, and the last network evaluation changes nothing. It is left out: K stock steps are the first K of K + 1.

References:
    Nichol & Dhariwal, "Improved denoising diffusion probabilistic models" (2021),
    https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from otprior.sampling.schedulers.support import (
    FLAGS,
    StartRequest,
    Support,
    remade,
    spacing_changes,
    stock_spacing,
)
from otprior.utils.validation import require

Device = torch.device | str | None


def start_vp(request: StartRequest) -> tuple[Any, Tensor]:
    """A fresh scheduler from t*, and the timestep of each network evaluation."""
    scheduler, support, start = request.scheduler, request.support, int(request.timestep)
    spacing = request.spacing
    if request.timesteps is not None:
        grid = [int(t) for t in request.timesteps]
        fresh, timesteps = _on_grid(scheduler, support, grid, request.device)
        if _ends_idle(support, fresh):
            rule = f"some above 0, where {type(scheduler).__name__} ends"
            require(len(grid) > 1, "timesteps", rule, grid)
            fresh, timesteps = _on_grid(scheduler, support, grid[:-1], request.device)
    else:
        steps = request.num_steps
        assert steps is not None
        spacing = stock_spacing(scheduler, spacing, steps)
        fresh, timesteps = _stock(request, start, steps, spacing)
        if _ends_idle(support, fresh):
            fresh, timesteps = _stock(request, start, steps, spacing, spare=1)
    _check_start(request, fresh, timesteps, spacing)
    return fresh, timesteps


def _stock(
    request: StartRequest, start: int, num_steps: int, spacing: str, spare: int = 0
) -> tuple[Any, Tensor]:
    """The scheduler at the first K of K + `spare` steps of a stock spacing, and their timesteps."""
    scheduler, support, count = request.scheduler, request.support, num_steps + spare
    rule = f"at most {start + 1 - spare}, the timesteps from start_timestep on"
    require(count <= start + 1, "num_inference_steps", rule, num_steps)
    # diffusers' own "trailing" counts with a float stride, and for some (t*, K) yields K + 1 timesteps.
    if support.grid and (spacing == "trailing" or not support.truncated):
        grid = _uniform_grid(start, count, spacing)[:num_steps]
        return _on_grid(scheduler, support, grid, request.device)
    fresh = _truncated(scheduler, start, count, spacing, request.device)
    if spare:
        fresh.timesteps, fresh.sigmas = fresh.timesteps[:num_steps], fresh.sigmas[: num_steps + 1]
        fresh.num_inference_steps = num_steps
        if hasattr(fresh, "get_order_list"):
            fresh.register_to_config(lower_order_final=True)  # as it does itself for an odd number
            fresh.order_list = fresh.get_order_list(num_steps)
    return fresh, fresh.timesteps


def _ends_idle(support: Support, fresh: Any) -> bool:
    """Whether the last step of a scheduler ends at the noise where it begins."""
    if support.idle_at_zero:
        return int(fresh.timesteps[-1]) == 0
    if hasattr(fresh, "sigmas"):
        before, last = fresh.sigmas[-2:].tolist()
        return last > 0 and math.isclose(before, last, rel_tol=1e-4)
    final = getattr(fresh, "final_alpha_cumprod", None)
    return final is not None and bool(final == fresh.alphas_cumprod[0])


def _truncated(scheduler: Any, start: int, num_steps: int, spacing: str, device: Device) -> Any:
    """The scheduler with betas 0..t* alone, at K steps of a stock spacing."""
    changes = spacing_changes(spacing)
    if start < len(scheduler.betas) - 1:
        # The betas are already rescaled if they are to be: a second time would move every timestep.
        changes |= {
            "trained_betas": scheduler.betas[: start + 1].tolist(),
            "num_train_timesteps": start + 1,
            "rescale_betas_zero_snr": False,
        }
    fresh = remade(scheduler, **changes)
    fresh.set_timesteps(num_steps, device=device)
    return fresh


def _uniform_grid(start: int, count: int, spacing: str) -> list[int]:
    """K timesteps of equal stride from t*: "linspace" to timestep 0, "trailing" to one stride above clean."""
    if spacing == "linspace":
        return [round(start * (count - 1 - k) / (count - 1)) for k in range(count)]
    return [round((start + 1) * (count - k) / count) - 1 for k in range(count)]


def _on_grid(scheduler: Any, support: Support, grid: list[int], device: Device) -> tuple[Any, Tensor]:
    """The scheduler at given timesteps, and the timestep of each network evaluation."""
    if support.grid == "respaced":
        return _respaced(scheduler, grid, device)
    fresh = remade(scheduler, **spacing_changes("trailing"), interpolation_type="linear")
    if support.grid == "public":
        # (The pipeline passes the timestep that a step leads to.)
        fresh.num_inference_steps, fresh.timesteps = len(grid), torch.tensor(grid, device=device)
        return fresh, fresh.timesteps
    if support.grid == "timesteps":
        fresh.set_timesteps(timesteps=grid, device=device)
    else:
        fresh.set_timesteps(len(grid), device=device)
        table = ((1 - fresh.alphas_cumprod) / fresh.alphas_cumprod) ** 0.5
        fresh.timesteps = torch.tensor(grid, device=device).to(fresh.timesteps.dtype)
        # The last one, where the class ends, does not depend on the grid.
        fresh.sigmas = torch.cat([table[grid].to(fresh.sigmas), fresh.sigmas[-1:]])
    return fresh, fresh.timesteps


def _respaced(scheduler: Any, grid: list[int], device: Device) -> tuple[Any, Tensor]:
    ascending = torch.tensor(grid[::-1])
    table = scheduler.alphas_cumprod[ascending]
    before = torch.cat([table.new_ones(1), table[:-1]])
    fresh = remade(
        scheduler,
        num_train_timesteps=len(grid),
        trained_betas=(1 - table / before).tolist(),
        rescale_betas_zero_snr=False,
        timestep_spacing="leading",
        steps_offset=0,
    )
    # The products of the new betas are these numbers up to rounding; the steps read nothing else.
    fresh.alphas_cumprod = table
    fresh.final_alpha_cumprod = scheduler.final_alpha_cumprod
    fresh.set_timesteps(len(grid), device=device)
    return fresh, ascending.to(fresh.timesteps.device)[fresh.timesteps]


def _check_start(request: StartRequest, fresh: Any, timesteps: Tensor, spacing: str | None) -> None:
    """Requires that diffusers did as asked: spacings in σ may cut t* off to the integer below, no more."""
    schedule, start = request.schedule, int(request.timestep)
    name, slack = type(request.scheduler).__name__, 1 if spacing in FLAGS else 0
    hint = (
        f"Its config (spacing {spacing!r}) prevents it; pass timesteps= or use DPMSolverMultistepScheduler."
    )
    first = float(timesteps[0])
    require(abs(first - start) <= slack, f"first timestep of {name}", f"{start}", first, hint)
    require(float(timesteps[-1]) >= 0, f"last timestep of {name}", "at least 0", float(timesteps[-1]), hint)
    sigmas = getattr(fresh, "sigmas", None)
    if sigmas is not None and schedule.alpha(start) > 0:
        ratio, got = schedule.sigma(start) / schedule.alpha(start), float(sigmas[0])
        # σ/α from a float32 table is good to three digits at the clean end.
        near = math.isclose(got, ratio, rel_tol=2e-3)
        require(near, f"first sigma of {name}", f"{ratio:.5g}, that of timestep {start}", got, hint)
