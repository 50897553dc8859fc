r"""Grids of few timesteps from t* to the clean end.

A K-step sampler evaluates the network at t* = t_0 > t_1 > ... > t_{K−1} and takes the last result to the
clean image in the step that leaves t_{K−1}. So a grid is K + 1 points, equally spaced in some coordinate
from t* to an *end*, of which the end itself is dropped: nothing is evaluated there. The coordinates:

- "log_snr": log(α²/σ²) (Lu et al.);
- "time": the timestep, as the "trailing" and "linspace" spacings of stock schedulers do;
- "karras": (σ/α)^{1/ρ} (Karras et al.), between the two; ρ → ∞ is "log_snr". The default: of the three it came
  nearest to the fine-grid image for K = 3 and 5 (multistep DPM-Solver++, a 28x28 pixel model, t* = 500).

The end matters more than the coordinate when K is small. Spaced in log_snr down to the first timestep, the
last of 5 calls is made where only noise of a few grey levels is left, and is nearly wasted.

References:
    Lu et al., "DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in around 10
    steps" (2022), https://arxiv.org/abs/2206.00927
    Karras, Aittala, Aila & Laine, "Elucidating the design space of diffusion-based generative models"
    (2022), https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.validation import check_choice, check_integer, check_number, require

SPACINGS = ("log_snr", "time", "karras")

# The dropped point lies where σ/α = 0.3/K: of the ends tried for multistep DPM-Solver++ on a 28x28 pixel
# model from mid-schedule, within a tenth of the least distance to the fine-grid image for K = 3, 5, 10.
_END_RATIO = 0.3
# More take hours, and a grid alone would fill memory.
MOST_STEPS = 100_000


def timestep_grid(
    schedule: NoiseSchedule,
    start: float,
    num_steps: int,
    spacing: str = "karras",
    end: float | None = None,
    rho: float = 7.0,
) -> list[int] | list[float]:
    """K strictly decreasing timesteps that begin at t*.

    Arguments:
        schedule: The forward process, in whose units timesteps are.
        start: t*, the first timestep.
        num_steps: K >= 1, the number of network evaluations of a first-order or multistep sampler.
        spacing: "log_snr", "time" or "karras"; the last has the exponent `rho`.
        end: The timestep at which a (K+1)-th point would lie; it is not part of the grid. `schedule.timestep(log_snr)`
            places it by log-SNR. By default the cleanest timestep for "time"; for the others where σ/α = 0.3/K, kept
            between two units of log-SNR beyond t* and the cleanest timestep.

    Returns:
        K timesteps: integers if the schedule is discrete (rounded, and moved apart where two were equal), else real.

    Raises:
        ValueError: If t* or `end` is out of range, `end` is not below t*, fewer than K integers are left below t*,
            or t* has no signal at all (zero terminal SNR) and the spacing is not "time".

    Examples:
        >>> timestep_grid(schedule, 500, 5, spacing="log_snr")
        [500, 342, 190, 89, 37]
    """
    check_choice("spacing", spacing, SPACINGS)
    check_integer("num_steps", num_steps, 1, MOST_STEPS)
    require(isinstance(schedule, NoiseSchedule), "schedule", "a NoiseSchedule", type(schedule).__name__)
    require(check_number("rho", rho) > 0, "rho", "positive", rho)
    schedule.check_timestep(start, "start")
    start = check_number("start", start)
    cleanest = schedule.timestep_range[0]
    if schedule.discrete:
        available = int(start - cleanest) + 1
        require(
            num_steps <= available,
            "num_steps",
            f"at most {available}, the timesteps from start on",
            num_steps,
        )
    if end is None:
        end = cleanest if spacing == "time" else _default_end(schedule, start, num_steps)
    end = check_number("end", end)
    require(cleanest <= end, "end", f"at least {cleanest:g}, the cleanest timestep", end)
    require(end < start or num_steps == 1, "end", f"below start = {start:g}", end)
    if num_steps == 1:
        return [int(start)] if schedule.discrete else [float(start)]

    ramp = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64, device="cpu")[:-1]
    if spacing == "time":
        points = start + ramp * (end - start)
    else:
        points = schedule.timestep(_levels(schedule, start, end, ramp, spacing, rho))
    points[0] = start
    return _distinct_integers(points, int(cleanest)) if schedule.discrete else points.tolist()


def _default_end(schedule: NoiseSchedule, start: float, num_steps: int) -> float:
    wanted = max(-2 * math.log(_END_RATIO / num_steps), schedule.log_snr(start) + 2)
    return schedule.timestep(min(wanted, schedule.log_snr(schedule.timestep_range[0])))


def _levels(
    schedule: NoiseSchedule, start: float, end: float, ramp: Tensor, spacing: str, rho: float
) -> Tensor:
    """log-SNR at `ramp` of the way from t* to the end; flow's infinite ends are stepped around."""
    first, last = schedule.log_snr(start), schedule.log_snr(end)
    if spacing == "log_snr":
        rule = "a timestep with some signal and some noise for log_snr spacing"
        require(math.isfinite(first), "start", rule, start)
        require(math.isfinite(last), "end", rule, end)
        return first + ramp * (last - first)
    require(math.isfinite(first), "start", "a timestep with some signal for karras spacing", start)
    noisy, clean = math.exp(-first / (2 * rho)), math.exp(-last / (2 * rho))
    return -2 * rho * torch.log(noisy + ramp * (clean - noisy))


def _distinct_integers(points: Tensor, lowest: int) -> list[int]:
    """Rounds decreasing points to distinct integers >= `lowest`; the first is kept."""
    rounded = [int(p) for p in points.round().tolist()]
    count = len(rounded)
    for i in range(1, count):
        # Below its predecessor, and with room left for those that follow.
        rounded[i] = max(min(rounded[i], rounded[i - 1] - 1), lowest + count - 1 - i)
    return rounded
