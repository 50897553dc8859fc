r"""Variance-preserving schedulers from t*, by three means.

- *Truncated betas*: with `trained_betas` cut off behind t*, t* is the last training timestep, and every stock
  spacing runs from there. The coefficients ᾱ_t of t <= t* are the same numbers.
- *A grid of timesteps*: passed as `timesteps=` where the class takes them; where its steps read nothing but its
  public `sigmas` and `timesteps`, those are set after `set_timesteps`.
- *Respaced betas*, for classes that step by a fixed stride (DDIM, PNDM): the ᾱ of the K grid points become the
  whole schedule of a scheduler with K timesteps and stride one. So a step ends where the next begins, also where
  K does not divide t* + 1.

References:
    Nichol & Dhariwal, "Improved denoising diffusion probabilistic models" (2021),
    https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otprior.sampling.schedulers.support import Support, remade, spacing_changes

Device = torch.device | str | None


def truncated(scheduler: Any, start: int, num_steps: int, spacing: str, device: Device) -> Any:
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


def uniform_grid(start: int, count: int, spacing: str) -> list[int]:
    """K timesteps of equal stride from t*: "linspace" to timestep 0, "trailing" to one stride above clean."""
    if spacing == "linspace":
        return [round(start * (count - 1 - k) / (count - 1)) for k in range(count)]
    return [round((start + 1) * (count - k) / count) - 1 for k in range(count)]


def on_grid(scheduler: Any, support: Support, grid: list[int], device: Device) -> tuple[Any, Tensor]:
    """The scheduler at given timesteps, and what the network is told at each call."""
    if support.grid == "respaced":
        return _respaced(scheduler, grid, device)
    fresh = remade(scheduler, **spacing_changes("trailing"), interpolation_type="linear")
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
