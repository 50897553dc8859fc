"""Which schedulers of diffusers can start at t*, and by what means each does.

The table holds for diffusers 0.42. A scheduler that is not in it is refused with the name of one that is: most
of the others would run, but from another timestep than t* or with steps that do not end where the next begins.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.validation import check_choice, invalid, require

# diffusers' own spacings, less "leading", which never begins at the first timestep.
STOCK_SPACINGS = ("trailing", "linspace", "karras", "exponential", "beta", "lu")

FLAGS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
    "lu": "use_lu_lambdas",
}


@dataclass(frozen=True)
class Support:
    """How a scheduler class is started at t*.

    Arguments:
        grid: How it is put on a grid of timesteps: "timesteps" (an argument of `set_timesteps`), "sigmas" (its
            public tensors), "public" (its public timesteps alone), "respaced" (betas), or "" if it cannot be; "flow",
            "edm" and "ratio" for those families.
        own: Whether any grid will do (PNDM's coefficients are for equal strides).
        truncated: Whether its stock spacings run from t* by truncated betas; otherwise they are made as grids.
        ve_scale: Whether it runs on x/α.
        idle_at_zero: Whether a step from timestep 0 does nothing, whatever its config says.
        needs: Config values without which it cannot start at t*.
    """

    grid: str
    own: bool = True
    truncated: bool = True
    ve_scale: bool = False
    idle_at_zero: bool = False
    needs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class StartRequest:
    """What `start_scheduler` was asked for, once it is checked; each family answers it.

    Arguments:
        scheduler: The scheduler to begin at t*; it is not changed.
        support: Its row of the table.
        schedule: Its noise schedule.
        timestep: t*, in the scheduler's own units.
        num_steps: K, for a stock spacing; None where there are timesteps.
        timesteps: A grid of own timesteps from t*, strictly decreasing; or None.
        sigmas: σ of a flow before its shift, from 1 or from t* on; or None.
        mu: The resolution's shift of a flow that has a dynamic one; or None.
        spacing: A stock spacing other than the config's, or None.
        device: Where the timesteps go.
    """

    scheduler: Any
    support: Support
    schedule: NoiseSchedule
    timestep: float
    num_steps: int | None
    timesteps: Sequence[float] | None
    spacing: str | None
    device: torch.device | str | None
    sigmas: Sequence[float] | None = None
    mu: float | None = None


_SUPPORT = {
    "DDPMScheduler": Support("timesteps"),
    "DDPMParallelScheduler": Support("timesteps"),
    "DPMSolverMultistepScheduler": Support("timesteps"),
    "DPMSolverSinglestepScheduler": Support("timesteps"),
    "EulerDiscreteScheduler": Support("timesteps", ve_scale=True),
    "HeunDiscreteScheduler": Support("timesteps", ve_scale=True),
    # For networks distilled to jump to the clean image; they have spacings of their own from T only.
    "LCMScheduler": Support("timesteps", truncated=False, idle_at_zero=True),
    "TCDScheduler": Support("timesteps", truncated=False, idle_at_zero=True),
    "EulerAncestralDiscreteScheduler": Support("sigmas", ve_scale=True),
    "LMSDiscreteScheduler": Support("sigmas", ve_scale=True),
    "UniPCMultistepScheduler": Support("sigmas", needs=(("solver_p", None),)),
    "DEISMultistepScheduler": Support("sigmas"),
    "SASolverScheduler": Support("sigmas"),
    "KDPM2DiscreteScheduler": Support("", own=False, ve_scale=True),
    "KDPM2AncestralDiscreteScheduler": Support("", own=False, ve_scale=True),
    "DDIMScheduler": Support("respaced", truncated=False),
    "DDIMParallelScheduler": Support("respaced", truncated=False),
    "CogVideoXDDIMScheduler": Support("respaced", truncated=False),
    "PNDMScheduler": Support("respaced", own=False, truncated=False, needs=(("skip_prk_steps", True),)),
    "FlowMatchEulerDiscreteScheduler": Support("flow"),
    "FlowMatchLCMScheduler": Support("flow", needs=(("scale_factors", None),)),
    "FlowMapEulerDiscreteScheduler": Support("flow"),
    "UnCLIPScheduler": Support("public", truncated=False),
    "DDPMWuerstchenScheduler": Support("ratio"),
    "EDMEulerScheduler": Support("edm"),
    "EDMDPMSolverMultistepScheduler": Support("edm"),
}


def supported_schedulers() -> dict[str, Support]:
    """The diffusers scheduler classes that can start at t*, by name.

    Examples:
        >>> "UniPCMultistepScheduler" in supported_schedulers()
        True
    """
    return dict(_SUPPORT)


def find_support(scheduler: Any) -> Support:
    """The table's row for a scheduler or for a class that it derives from.

    Raises:
        ValueError: If it has none, or its config lacks what the row needs; names a scheduler to use.
    """
    name = next((base.__name__ for base in type(scheduler).__mro__ if base.__name__ in _SUPPORT), None)
    if name is None:
        got = type(scheduler).__name__
        rule = "one that can start at an intermediate timestep"
        raise invalid("scheduler", rule, got, _alternative(got, scheduler))
    for key, value in _SUPPORT[name].needs:
        got = scheduler.config.get(key, value)
        hint = f"Make it with {name}.from_config(scheduler.config, {key}={value})"
        require(
            got == value or not (got or value), f"{key} of {name}", f"{value} to start at t*", got, f"{hint}."
        )
    return _SUPPORT[name]


def _alternative(name: str, scheduler: Any) -> str:
    if "FlowM" in name or scheduler.config.get("use_flow_sigmas"):
        return "Use FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)."
    if name.startswith("EDM"):
        return "Use EDMEulerScheduler.from_config(scheduler.config)."
    if hasattr(scheduler, "alphas_cumprod"):
        return "Use DPMSolverMultistepScheduler.from_config(scheduler.config)."
    return (
        "Of those that can, DPMSolverMultistepScheduler is for VP networks, EDMEulerScheduler for EDM ones, "
        "FlowMatchEulerDiscreteScheduler for flow matching."
    )


def stock_spacing(scheduler: Any, spacing: str | None, num_steps: int) -> str:
    """The stock spacing asked for, or else the config's; "leading" becomes "trailing", which begins at t*."""
    if spacing is None:
        flagged = [name for name, flag in FLAGS.items() if scheduler.config.get(flag)]
        spacing = flagged[0] if flagged else scheduler.config.get("timestep_spacing", "linspace")
        spacing = "trailing" if spacing == "leading" else spacing
    check_choice("spacing", spacing, STOCK_SPACINGS)
    has = spacing not in FLAGS or FLAGS[spacing] in _parameters(scheduler)
    require(has, "spacing", f"one that {type(scheduler).__name__} has", repr(spacing))
    # Some classes make linspace of one point the *last* timestep.
    return "trailing" if spacing == "linspace" and num_steps == 1 else spacing


def spacing_changes(spacing: str) -> dict[str, Any]:
    """Config values that select a stock spacing and deselect the others."""
    changes: dict[str, Any] = {flag: name == spacing for name, flag in FLAGS.items()}
    return changes | ({} if spacing in FLAGS else {"timestep_spacing": spacing})


def remade(scheduler: Any, **changes: Any) -> Any:
    """A fresh scheduler of the same class and config, but for `changes` where the class knows them."""
    if _learned_variances(scheduler) and not takes_variances(scheduler):
        # (Some would cut what they are given to three channels, as those of RGB images.)
        changes["variance_type"] = None
    known = {key: value for key, value in changes.items() if key in _parameters(scheduler)}
    return type(scheduler).from_config(scheduler.config, **known)


def takes_variances(scheduler: Any) -> bool:
    """Whether a scheduler's steps take variances that a network predicts, too: those of ancestral DDPM alone do."""
    ancestral = any(base.__name__.startswith(("DDPM", "UnCLIP")) for base in type(scheduler).__mro__)
    return ancestral and _learned_variances(scheduler)


def _learned_variances(scheduler: Any) -> bool:
    return str(scheduler.config.get("variance_type")).startswith("learned")


def step_output(scheduler: Any, output: Tensor, sample: Tensor) -> Tensor:
    """A network's output without the variances that some predict, in as many channels again: what a step is given."""
    channels = sample.shape[1]
    return output if takes_variances(scheduler) or output.shape[1] != 2 * channels else output[:, :channels]


def _parameters(scheduler: Any) -> Any:
    return inspect.signature(type(scheduler).__init__).parameters
