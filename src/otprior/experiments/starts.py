"""Starts as a command line has them: "none@20,gaussian@5,semidiscrete:noise=fresh:t=450@5,tuned/settings.json"."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from otprior.diffusion.grids import MOST_STEPS
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.candidates import USUAL, labelled, sampler_words, start_words
from otprior.experiments.own_sampler import white_noise
from otprior.priors import find_prior
from otprior.sampling.schedulers.names import GRID_SPACINGS, named_scheduler, with_spacing
from otprior.sampling.settings import read_settings
from otprior.sampling.start_spec import StartSpec
from otprior.utils.validation import check_integer, invalid, require

FORM = "NAME[:OPTION=VALUE...]@STEPS, such as none@20 or semidiscrete:noise=fresh:t=450@5, or a settings file"


def read_starts(text: str, own: Any) -> tuple[StartSpec, ...]:
    """The starts of a list that is separated by commas.

    Unless told otherwise all are sampled by the scheduler that a search begins with for this network, on a grid that is
    even in log-SNR.

    Arguments:
        text: Each start is NAME[:OPTION=VALUE...]@STEPS. NAME is "none" or a kind of prior. OPTION is one of the
            prior's, "t" for t* (without it the prior's usual one), "scheduler" or "spacing". A settings file, whose
            name ends in ".json", stands for the starts in it.
        own: The network's scheduler.

    Raises:
        FileNotFoundError: If there is no such settings file.
        ValueError: If a part does not have this form, the prior has no such option, two starts are the same, or the
            network's scheduler cannot start at t*.
    """
    starts: list[StartSpec] = []
    for part in map(str.strip, text.split(",")):
        starts += read_settings(part).values() if part.endswith(".json") else [_read(part, own)]
    different = {start.key for start in starts}
    require(len(different) == len(starts), "--starts", "different", text)
    return tuple(starts)


def _read(text: str, own: Any) -> StartSpec:
    what, sign, steps = text.partition("@")
    name, *pairs = re.split("(?<!=grid):", what)  # not within "spacing=grid:log_snr"
    digits = steps.isascii() and steps.isdigit()
    require(bool(sign) and digits and int(steps) > 0, "--starts", FORM, repr(text))
    check_integer("steps of --starts", int(steps), 1, MOST_STEPS)
    options = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        require(bool(sign), "--starts", FORM, repr(text))
        require(key not in options, "--starts", f"with one value of {key} in a start", repr(text))
        options[key] = value
    sampler = {key: options.pop(key) for key in ("scheduler", "spacing") if key in options}
    white = _sampled_by(white_noise(own, int(steps)), own, **sampler)
    if name == "none":
        require(not options, "--starts", "none@STEPS for white noise", repr(text))
        return white
    place = options.pop("t", None)
    kind, schedule = find_prior(name), NoiseSchedule.from_scheduler(own)
    declared = kind.Options.declared()
    unknown = sorted(set(options) - set(declared))
    known = ", ".join(["t", "scheduler", "spacing", *declared])
    require(not unknown, "--starts", f"with options among {known}", repr(text))
    values = {key: declared[key].parse(value) for key, value in options.items()}
    timestep = kind.usual_timestep(schedule) if place is None else _timestep(place)
    schedule.check_timestep(timestep)
    start = replace(white.with_prior(name, **values), start_timestep=timestep)
    start = start if "spacing" in sampler else replace(start, spacing=USUAL)
    return labelled(start) if sampler else replace(start, label=f"{start_words(start)}, {steps}")


def _sampled_by(
    start: StartSpec, own: Any, scheduler: str | None = None, spacing: str | None = None
) -> StartSpec:
    """White noise with another scheduler or spacing, by the names of `schedulers.names`."""
    if scheduler is None and spacing is None:
        return start
    sampler = named_scheduler(start.scheduler if scheduler is None else scheduler, own)
    spacing = start.spacing if spacing is None else spacing
    if spacing not in GRID_SPACINGS:
        with_spacing(sampler, spacing)
    start = replace(start, scheduler=type(sampler).__name__, spacing=spacing)
    return replace(start, label=f"N(0, I) at T, {sampler_words(start)}")


def _timestep(text: str) -> int | float:
    try:
        t = float(text)
    except ValueError:
        raise invalid("t of --starts", "a number", repr(text)) from None
    return int(t) if t.is_integer() else t
