r"""The door: a scheduler, t*, and a number of steps or a grid in; a scheduler ready to step from t* out.

*Scale.* Euler, Heun, LMS and KDPM2 run a VP network on x/α, where the noise is σ/α. So a `Start` says what (α, σ)
its sampler expects, and by what to multiply latents that come in another scale.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otprior.diffusion.grids import MOST_STEPS
from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.schedulers.edm import start_edm
from otprior.sampling.schedulers.flow import start_flow
from otprior.sampling.schedulers.ratio import start_ratio
from otprior.sampling.schedulers.support import StartRequest, find_support, step_output
from otprior.sampling.schedulers.vp import start_vp
from otprior.utils.validation import check_choice, check_integer, check_number, invalid, require

_FAMILIES = {"vp": start_vp, "flow": start_flow, "ve": start_edm, "scales": start_ratio}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Start:
    """A scheduler that is ready to step from t*.

    Arguments:
        scheduler: Fresh, with its timesteps set; the one it was made from is as it was.
        timesteps: The timestep of each network evaluation, shape (NFE,). It need not be `scheduler.timesteps`,
            which number a respaced schedule's own steps.
        alpha: Signal scale α of the latents that the scheduler expects at its first step.
        sigma: Their noise scale σ.
    """

    scheduler: Any
    timesteps: Tensor
    alpha: float
    sigma: float

    @property
    def nfe(self) -> int:
        """Number of network evaluations an image (Heun makes 2K − 1 in K steps)."""
        return len(self.timesteps)

    def scale(self, alpha: float, sigma: float) -> float:
        """The factor that takes latents α x_0 + σ ε of the given scales to the scheduler's."""
        return self.alpha / alpha if alpha > 0 else self.sigma / sigma

    def model_input(self, latents: Tensor, index: int) -> Tensor:
        """What the network is given at call `index`, 0 <= index < nfe."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return latents
        return self.scheduler.scale_model_input(latents, self.scheduler.timesteps[index])

    def stock_step(self, output: Tensor, index: int, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The scheduler's own step at call `index`, from the network's output."""
        timestep = self.scheduler.timesteps[index]
        if len(self.scheduler.timesteps) > self.nfe:
            # (Würstchen's take one for each row.)
            timestep = timestep.expand(len(latents))
        if "prev_timestep" in inspect.signature(self.scheduler.step).parameters:
            # (unCLIP's step ends at t − 1 unless it is told.)
            kwargs["prev_timestep"] = int(self.timesteps[index + 1]) if index + 1 < self.nfe else -1
        output = step_output(self.scheduler, output, latents)
        return self.scheduler.step(output, timestep, latents, *args, **kwargs)

    def step(
        self,
        output: Tensor,
        index: int,
        latents: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """The latents after call `index`, from the network's output; `generator` is for stochastic classes."""
        takes = "generator" in inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if takes else {}
        stepped: Tensor = self.stock_step(output, index, latents, **extra).prev_sample
        return stepped


def matching_timestep(schedule: NoiseSchedule, alpha: float, sigma: float) -> float:
    """The timestep of `schedule` at the log-SNR of (α, σ), rounded where the schedule is discrete.

    A rounding that moves the log-SNR by more than 0.01 is logged: latents and network then disagree by that.

    Raises:
        ValueError: If `schedule` never has that log-SNR.

    Examples:
        >>> matching_timestep(schedule, schedule.alpha(500), schedule.sigma(500))
        500
    """
    level = 2 * math.log(alpha / sigma) if alpha > 0 else -math.inf
    exact = schedule.timestep(level)
    if not schedule.discrete:
        return exact
    found = round(exact)
    moved = abs(schedule.log_snr(found) - level) if math.isfinite(level) else 0.0
    if moved > 0.01:
        logger.warning(
            "no timestep has log-SNR %.3f; starting at %d, which is off by %.3f", level, found, moved
        )
    return found


def start_scheduler(
    scheduler: Any,
    start_timestep: float,
    num_inference_steps: int | None = None,
    timesteps: Sequence[float] | None = None,
    spacing: str | None = None,
    device: torch.device | str | None = None,
    schedule: NoiseSchedule | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> Start:
    """A fresh scheduler like `scheduler` that begins at t*.

    Arguments:
        scheduler: A diffusers scheduler; it is not changed.
        start_timestep: t*, in the scheduler's own units.
        num_inference_steps: K, for a stock spacing from t*. (Exactly one of this, `timesteps` and `sigmas`.)
        timesteps: A grid of own timesteps, strictly decreasing from t*; see `otprior.diffusion.grids`.
        spacing: One of `STOCK_SPACINGS`, for VP schedulers. By default what the scheduler's config says,
            except that "leading", which never begins at the first timestep, becomes "trailing".
        device: Where `timesteps` go.
        schedule: The scheduler's noise schedule, if it is at hand.
        sigmas: For flow matching, a grid of σ before the shift; it is scaled to begin at t*.
        mu: The shift by resolution, for a scheduler with `use_dynamic_shifting`.

    Raises:
        ValueError: If the scheduler cannot begin at t* (another that can is named), if t* or a timestep is
            out of range or out of order, or if K steps do not fit below t*.

    Examples:
        >>> start_scheduler(scheduler, 500, num_inference_steps=3).timesteps
        tensor([500, 333, 166])
    """
    support = find_support(scheduler)
    schedule = NoiseSchedule.from_scheduler(scheduler) if schedule is None else schedule
    schedule.check_timestep(start_timestep, "start_timestep")
    grid = (num_inference_steps, timesteps, spacing, device, sigmas, mu)
    request = StartRequest(scheduler, support, schedule, start_timestep, *grid)
    _check(request)
    fresh, calls = _FAMILIES[schedule.kind](request)
    if hasattr(fresh, "set_begin_index"):
        # Where rounding repeats the first timestep, schedulers look it up and begin at its second occurrence.
        fresh.set_begin_index(0)
    if support.ve_scale:
        return Start(fresh, calls, 1.0, float(fresh.sigmas[0]))
    return Start(fresh, calls, schedule.alpha(start_timestep), schedule.sigma(start_timestep))


class Origin(NamedTuple):
    """Where sampling starts.

    Attributes:
        schedule: The scheduler's noise schedule.
        timestep: t*, in the scheduler's own units; T without a prior.
        alpha: Signal scale α of the start latents.
        sigma: Their noise scale σ.
    """

    schedule: NoiseSchedule
    timestep: float
    alpha: float
    sigma: float

    def start(self, scheduler: Any, **options: Any) -> Start:
        """`start_scheduler` from here."""
        return start_scheduler(scheduler, self.timestep, schedule=self.schedule, **options)


def find_origin(scheduler: Any, prior: Any = None) -> Origin:
    """The timestep at which a scheduler has a prior's noise level; T without one.

    Raises:
        ValueError: If the scheduler never has that noise level.
    """
    schedule = NoiseSchedule.from_scheduler(scheduler)
    if prior is None:
        last = schedule.timestep_range[1]
        return Origin(schedule, last, schedule.alpha(last), schedule.sigma(last))
    return Origin(schedule, matching_timestep(schedule, prior.alpha, prior.sigma), prior.alpha, prior.sigma)


def read_grid(name: str, values: Any) -> list[float]:
    """A grid that a user or a pipeline gave, as Python's numbers.

    Raises:
        ValueError: If it is no sequence of numbers.
    """
    listed = values.tolist() if hasattr(values, "tolist") else values
    ordered = isinstance(listed, Sequence) and not isinstance(listed, str)
    require(ordered, name, "a sequence of numbers", f"{str(values)[:40]!r}, a {type(values).__name__}")
    return [check_number(name, each) for each in listed]


def _check(request: StartRequest) -> None:
    given = (request.num_steps, request.timesteps, request.sigmas)
    one = sum(each is not None for each in given) == 1
    require(one, "num_inference_steps, timesteps, sigmas", "one given, the others None", given)
    kind = request.schedule.kind
    if request.timesteps is not None:
        _check_grid(request, request.timesteps)
    elif request.sigmas is not None:
        hint = "Pass num_inference_steps= or timesteps=."
        require(kind == "flow", "sigmas", "None but for a flow-matching scheduler", request.sigmas, hint)
    else:
        check_integer("num_inference_steps", request.num_steps, 1, MOST_STEPS)
    if request.timesteps is not None or kind != "vp":
        check_choice("spacing (with timesteps, or a scheduler that is not VP)", request.spacing, (None,))


def _check_grid(request: StartRequest, timesteps: Sequence[float]) -> None:
    schedule, start = request.schedule, request.timestep
    if not request.support.own:
        other = "HeunDiscreteScheduler" if request.support.ve_scale else "DPMSolverMultistepScheduler"
        hint, got = f"Use {other}.from_config(scheduler.config).", type(request.scheduler).__name__
        raise invalid("scheduler", "one that can run on a grid of own timesteps", got, hint)
    require(len(timesteps) > 0, "timesteps", "at least one", list(timesteps))
    for t in timesteps:
        schedule.check_timestep(float(t), "timesteps")
    require(all(a > b for a, b in pairwise(timesteps)), "timesteps", "strictly decreasing", list(timesteps))
    first = float(timesteps[0])
    same = math.isclose(first, start, rel_tol=1e-9)
    require(same, "timesteps", f"a grid from start_timestep = {start:g}", first)
