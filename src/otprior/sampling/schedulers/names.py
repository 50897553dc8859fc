"""Schedulers and spacings by the names that people use for them."""

from __future__ import annotations

import logging
import re
from typing import Any

from otprior.diffusion.grids import SPACINGS
from otprior.sampling.schedulers.support import (
    STOCK_SPACINGS,
    remade,
    spacing_changes,
    stock_spacing,
    supported_schedulers,
)
from otprior.sampling.schedulers.switch import switched
from otprior.sampling.start_spec import OWN_GRID
from otprior.utils.validation import invalid

# Spacings of `otprior.timestep_grid`: grids of our own, which begin at t* and end where noise still matters.
GRID_SPACINGS = {OWN_GRID + name: name for name in SPACINGS}

logger = logging.getLogger(__name__)

_NICKNAMES = {
    "dpmpp": "DPMSolverMultistepScheduler",
    "dpmpp2m": "DPMSolverMultistepScheduler",
    "dpmsolver": "DPMSolverMultistepScheduler",
    "dpmpp2s": "DPMSolverSinglestepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "eulera": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
    "flow": "FlowMatchEulerDiscreteScheduler",
    "edm": "EDMEulerScheduler",
}


def named_scheduler(name: str, scheduler: Any) -> Any:
    """A scheduler of the class called `name`, for the network of `scheduler` (`switched`).

    Arguments:
        name: A diffusers class with or without "Scheduler", or a short name, such as DPMSolverMultistep, ddim,
            unipc, deis, euler, dpm++2m; case and punctuation do not count.
        scheduler: Whose config is taken over.

    Raises:
        ValueError: If diffusers has no such scheduler, or it is for networks of another process.
    """
    import diffusers

    wanted = _plain(name)
    classes = {_plain(each): each for each in dir(diffusers) if each.endswith("Scheduler")}
    found = _NICKNAMES.get(wanted) or classes.get(wanted)
    if found is None:
        known = ", ".join(sorted(each.removesuffix("Scheduler") for each in supported_schedulers()))
        raise invalid("scheduler", f"one of {known}", name, "Short: dpm++2m, unipc, deis, ddim, euler, heun")
    try:
        return switched(scheduler, getattr(diffusers, found))
    except ImportError as error:
        # Some need packages that diffusers does not bring.
        raise invalid("scheduler", "one that is installed", found, str(error)) from error


def with_spacing(scheduler: Any, spacing: str) -> Any:
    """A scheduler like `scheduler` with a stock spacing.

    Raises:
        ValueError: If there is no such spacing, or the scheduler's class does not have it.
    """
    if spacing not in STOCK_SPACINGS:
        raise invalid("spacing", f"one of {', '.join([*STOCK_SPACINGS, *GRID_SPACINGS])}", spacing)
    stock_spacing(scheduler, spacing, num_steps=2)
    return remade(scheduler, **spacing_changes(spacing))


def few_step_scheduler(scheduler: Any) -> Any:
    """The scheduler itself; but DPM-Solver++ on the same betas for ancestral DDPM, which takes hundreds of steps."""
    if type(scheduler).__name__ not in ("DDPMScheduler", "DDPMParallelScheduler"):
        return scheduler
    from diffusers import DPMSolverMultistepScheduler

    logger.info("sampling with DPMSolverMultistepScheduler instead of %s", type(scheduler).__name__)
    return switched(scheduler, DPMSolverMultistepScheduler)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p").removesuffix("scheduler"))
