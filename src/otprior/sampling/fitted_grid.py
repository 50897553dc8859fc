r"""Grids of timesteps that are fitted to a network, a start and a solver, without images and without a metric of them.

With few evaluations a sampler's grid matters as much as its start, and which grid is best depends on all three: where
the network still decides something, how wide the starts' law is, what the solver's order can skip. A fitted grid
minimises the paired distance

    D(t_1, …, t_{K−1}) = √(E |S_K(x) − S_fine(x)|²/d),      x = T(z) at t_0 = t*,

between the image of the K-step solver and that of the same solver on a fine grid, over some hundred starts. D is an
upper bound of W2 between the laws of the two images. The search begins with the best of the grids that `timestep_grid`
makes with several ends, and then moves one timestep at a time in log-SNR, by ever smaller shares of the gaps beside it.

References:
    Sabour, Fidler & Kreis, Align your steps: optimizing sampling schedules in diffusion models (2024), which bounds a
    divergence instead. https://arxiv.org/abs/2404.14507
    Chen et al., On the trajectory regularity of ODE-based diffusion sampling (2024), https://arxiv.org/abs/2405.11326
    Xue et al., Accelerating diffusion sampling with optimized time steps (2024), https://arxiv.org/abs/2402.17376
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from otprior.diffusion.grids import SPACINGS, timestep_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.inputs import seeds_to_generators
from otprior.sampling.pipeline import OTPriorPipeline
from otprior.sampling.schedulers.start import find_origin
from otprior.sampling.schedulers.start_at import start_at
from otprior.utils.validation import check_integer

# Far from the seeds of reports and searches.
FIRST_SEED = 1_500_000_000
BATCH = 128
# Ends of the first grids: σ/α = c/K for these c; and the cleanest timestep.
ENDS = (0.1, 0.3, 1.0)
# Shares of a gap by which a timestep is moved, one round of moves each.
MOVES = (0.5, 0.3, 0.15, 0.08)
LEAST_LOG_SNR = -20.0


@dataclass(frozen=True)
class FittedGrid:
    """A grid, and what it is worth on starts that it was not fitted to.

    Attributes:
        timesteps: K, strictly decreasing from t*.
        distance: D of it.
        default_distance: D of the default, `timestep_grid(schedule, t*, K)`; even in time where t* has no signal.
        evaluations: Network evaluations that fitting took.
    """

    timesteps: tuple[float, ...]
    distance: float
    default_distance: float
    evaluations: int


def fit_grid(
    denoiser: Any,
    start: Any,
    num_steps: int,
    solver: Any,
    *,
    starts: int = 128,
    fine_steps: int = 64,
    null_class_label: int | None = None,
    class_labels: Sequence[int] | None = None,
    guidance_scale: float = 1.0,
    listen: Callable[[int], None] | None = None,
) -> FittedGrid:
    """Fits a grid of K timesteps from t*.

    Takes about 2 · 64 + 30 K network evaluations a start: 28,000 in all for K = 3 from N(0, I), which took 3.5 min of
    one busy core on the bundled network. What cannot run at all is refused before the fine grid is sampled.

    Arguments:
        denoiser: The network, as a diffusers pipeline has it (`unet`).
        start: The prior, at its t*; None for N(0, I) at T.
        num_steps: K >= 1.
        solver: A diffusers scheduler that takes own timesteps. It should be deterministic: what a solver draws on the
            way counts as distance, too.
        starts: Seeds that the grid is fitted to; as many others say what it is worth.
        fine_steps: Steps of the fine grid, or as many as there are timesteps below t*.
        null_class_label, guidance_scale: As for `OTPriorPipeline`.
        class_labels: Classes that the seeds go through in turn.
        listen: Called with the number of network evaluations so far.

    Returns:
        The grid; `OTPriorPipeline(..., timesteps=grid.timesteps)` and `StartSpec.grid` take it.

    Raises:
        ValueError: If K exceeds the timesteps below t*, the solver cannot take a grid, or the network's images are not
            finite.

    Examples:
        >>> pipe = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), prior=prior, null_class_label=10)
        >>> grid = fit_grid(pipe.unet, prior, 5, pipe.scheduler, null_class_label=10)
        >>> pipe(batch_size=4, timesteps=grid.timesteps, num_inference_steps=5)
    """
    check_integer("starts", starts, 2)
    check_integer("fine_steps", fine_steps, 2)
    origin = find_origin(solver, start)
    schedule, first = origin.schedule, origin.timestep
    default = _default(schedule, first, num_steps)
    # (Refuses what takes no grid.)
    start_at(solver, start, check=False).set_timesteps(None, None, list(default))
    pipe: Any = OTPriorPipeline(denoiser, solver, start, null_class_label)
    pipe.set_progress_bar_config(disable=True)
    sampler = _Sampler(pipe, {"guidance_scale": guidance_scale}, class_labels, listen)
    fine = _fine_grid(schedule, first, fine_steps)
    fitting, judging = (_Trial(sampler, FIRST_SEED + k * starts, starts, fine) for k in (0, 1))
    best = _search(schedule, _first_grids(schedule, first, num_steps), fitting.distance)
    found, usual = judging.distance(best), judging.distance(default)
    # A grid that only fits its own starts is no gain.
    if usual < found:
        best, found = default, usual
    return FittedGrid(best, found, usual, sampler.evaluations)


def _search(
    schedule: NoiseSchedule, grids: list[tuple[float, ...]], distance: Callable[[tuple[float, ...]], float]
) -> tuple[float, ...]:
    """The best of some grids, and then of those that differ from it by ever smaller moves of one timestep."""
    best = min(grids, key=distance)
    for share in MOVES:
        for place in range(1, len(best)):
            near = [_moved(schedule, best, place, way * share) for way in (-1, 1)]
            best = min([best, *(grid for grid in near if grid is not None)], key=distance)
    return best


class _Sampler:
    """Images of seeds on any grid.

    Arguments:
        pipe: The pipeline.
        call: Further arguments of a call.
        labels: Classes that the seeds go through, or None.
        listen: See `fit_grid`.
    """

    def __init__(
        self,
        pipe: Any,
        call: dict[str, Any],
        labels: Sequence[int] | None,
        listen: Callable[[int], None] | None,
    ) -> None:
        self.pipe, self.call, self.labels, self.listen = pipe, call, labels, listen
        self.evaluations = 0

    def images(self, seeds: range, grid: Sequence[float]) -> Tensor:
        """Latents that the sampler ends with, (n, C, H, W), float64."""
        parts = []
        for begin in range(0, len(seeds), BATCH):
            some = seeds[begin : begin + BATCH]
            labels = None if self.labels is None else [self.labels[seed % len(self.labels)] for seed in some]
            out = self.pipe(
                batch_size=len(some),
                class_labels=labels,
                num_inference_steps=len(grid),
                timesteps=list(grid),
                generator=seeds_to_generators(some),
                output_type="latent",
                **self.call,
            )
            self.evaluations += out.nfe * len(some)
            if self.listen is not None:
                self.listen(self.evaluations)
            parts.append(out.images.double().cpu())
        return torch.cat(parts)


class _Trial:
    """D on so many seeds, each grid sampled once."""

    def __init__(self, sampler: _Sampler, first_seed: int, count: int, fine: Sequence[float]) -> None:
        self.sampler, self.seeds, self.grid = sampler, range(first_seed, first_seed + count), fine
        self.known: dict[tuple[float, ...], float] = {}

    @cached_property
    def fine(self) -> Tensor:
        """The images of the fine grid."""
        return self.sampler.images(self.seeds, self.grid)

    def distance(self, grid: tuple[float, ...]) -> float:
        """D of a grid."""
        if grid not in self.known:
            # (The short grid first: what a network cannot do at all shows after a few steps.)
            off = self.sampler.images(self.seeds, grid) - self.fine
            self.known[grid] = float(off.square().mean().sqrt())
        return self.known[grid]


def _fine_grid(schedule: NoiseSchedule, start: float, steps: int) -> list[int] | list[float]:
    """A grid of many steps, even in log-SNR where both ends have one."""
    cleanest = schedule.timestep_range[0]
    steps = min(steps, _available(schedule, start))
    finite = math.isfinite(schedule.log_snr(start)) and math.isfinite(schedule.log_snr(cleanest))
    end = cleanest if cleanest < start else None
    return timestep_grid(schedule, start, steps, "log_snr" if finite else "time", end)


def _available(schedule: NoiseSchedule, start: float) -> int:
    """How many timesteps there are from the start on; no limit if they are continuous."""
    return int(start - schedule.timestep_range[0]) + 1 if schedule.discrete else 1 << 30


def _default(schedule: NoiseSchedule, start: float, num_steps: int) -> tuple[float, ...]:
    signal = math.isfinite(schedule.log_snr(start))
    return tuple(timestep_grid(schedule, start, num_steps, "karras" if signal else "time"))


def _first_grids(schedule: NoiseSchedule, start: float, num_steps: int) -> list[tuple[float, ...]]:
    """The grids to begin with, without repeats."""
    cleanest = schedule.timestep_range[0]
    top = schedule.log_snr(cleanest)
    levels = [-2 * math.log(end / num_steps) for end in ENDS]
    ends = [cleanest, *(schedule.timestep(level) for level in levels if level < top)]
    signal = math.isfinite(schedule.log_snr(start))
    found = [_default(schedule, start, num_steps)]
    for end in (end for end in ends if end < start):
        finite = signal and math.isfinite(schedule.log_snr(end))
        for spacing in SPACINGS if finite else ("time",):
            found.append(tuple(timestep_grid(schedule, start, num_steps, spacing, end)))
    return list(dict.fromkeys(found))


def _moved(
    schedule: NoiseSchedule, grid: tuple[float, ...], place: int, share: float
) -> tuple[float, ...] | None:
    """The grid with one timestep moved by a share of the gap on that side, in log-SNR; None if it does not move."""
    cleanest = schedule.timestep_range[0]
    ends = [*grid, cleanest] if grid[-1] > cleanest else [*grid, grid[-1]]
    before, here, after = (
        min(max(schedule.log_snr(t), LEAST_LOG_SNR), -LEAST_LOG_SNR) for t in ends[place - 1 : place + 2]
    )
    level = here + share * (after - here if share > 0 else here - before)
    timestep = schedule.timestep(level)
    if schedule.discrete:
        timestep = round(timestep)
    if not grid[place - 1] > timestep >= cleanest or timestep == grid[place]:
        return None
    if place + 1 < len(grid) and timestep <= grid[place + 1]:
        return None
    return (*grid[:place], timestep, *grid[place + 1 :])
