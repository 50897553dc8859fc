"""What is sampled from each network: every start at T and at t*, for all images and by class."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior.utils.validation import invalid, require
from otprior_studies.papers.prior_mismatch import Settings
from otprior_studies.training.schedules import training_scheduler

DPM = "DPMSolverMultistepScheduler"
# At the end of the cosine schedule α is 5e-5, and what a network says of the noise is divided by it: from any start,
# a first step from there would be an error many times the image. What it says of v is not.
PREDICTIONS = {"cosine": "v_prediction"}


def scheduler_of(name: str) -> Any:
    """The scheduler that a schedule's network is trained with."""
    return training_scheduler(name, PREDICTIONS.get(name))


# A start's name, prior and noise.
_Kind = tuple[str, str, str | None]


def file_name(schedule: str) -> str:
    """A schedule's name, or path, as the name of a file or folder."""
    return re.sub(r"[^\w.-]+", "-", schedule)


@dataclass(frozen=True)
class NamedStart:
    """A start at some place: how an audit's rows name it, and its spec for each number of evaluations."""

    name: str
    prior: str
    noise: str | None
    specs: tuple[StartSpec, ...]


@dataclass(frozen=True)
class Place:
    """A moment of the process, for all images or class by class; its first start is what sampling usually does.

    Attributes:
        name: "T" or "t*".
        timestep: In the schedule's units.
        conditional: Whether starts are by class.
        starts: Before the correction, then after.
    """

    name: str
    timestep: int
    conditional: bool
    starts: tuple[NamedStart, ...]


def places(schedule: NoiseSchedule, settings: Settings, name: str) -> list[Place]:
    """The places of a schedule of that name; at T without signal there is nothing to correct."""
    last = int(schedule.timestep_range[1])
    try:
        star = round(schedule.timestep(settings.level))
    except ValueError as error:
        raise invalid("level", f"a log-SNR that schedule {name} has", settings.level, str(error)) from error
    for count, most in (("many", last + 1), ("from_start", star + 1)):
        rule = f"at most {most}: schedule {name} has no more timesteps there"
        require(getattr(settings, count) <= most, count, rule, getattr(settings, count))
    found = []
    for conditional in (False, True):
        counts = (settings.many,) if conditional else (settings.few, settings.many)
        at_end: list[_Kind] = [("N(0, I)", "none", None)]
        if schedule.alpha(float(last)) > 0:
            at_end += [("gaussian", "gaussian", None), ("fresh", "semidiscrete", "fresh")]
            at_end += [] if conditional else [("coupled", "semidiscrete", "coupled")]
        found.append(_place("T", last, conditional, at_end, counts, "trailing", name))
        at_star: list[_Kind] = [("N(0, I)", "identity", None), ("gaussian", "gaussian", None)]
        at_star += [(noise, "semidiscrete", noise) for noise in ("fresh", "coupled")]
        counts = (settings.from_start,)
        found.append(_place("t*", star, conditional, at_star, counts, OWN_GRID + "log_snr", name))
    return found


def _place(
    where: str,
    timestep: int,
    conditional: bool,
    starts: list[_Kind],
    counts: tuple[int, ...],
    spacing: str,
    schedule: str,
) -> Place:
    suffix = ", by class" if conditional else ""
    made = []
    for name, prior, noise in starts:
        options = {} if noise is None else {"noise": noise}
        spec = StartSpec(prior, timestep, 1, DPM, spacing, conditional=conditional).with_options(**options)
        specs = tuple(
            replace(spec, steps=count, label=f"{schedule}: {name} at {where}{suffix}, {count}")
            for count in counts
        )
        made.append(NamedStart(name, "identity" if prior == "none" else prior, noise, specs))
    return Place(where, timestep, conditional, tuple(made))
