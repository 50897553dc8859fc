"""Starts as a command line has them: "none@20,gaussian@5,semidiscrete:noise=fresh:t=450@5"."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from otprior.diffusion.grids import MOST_STEPS
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.own_sampler import white_noise
from otprior.experiments.search import start_words
from otprior.priors import find_prior
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior.utils.validation import check_integer, invalid, require

FORM = "NAME[:OPTION=VALUE...]@STEPS, such as none@20 or semidiscrete:noise=fresh:t=450@5"


def read_starts(text: str, own: Any) -> tuple[StartSpec, ...]:
    """The starts of a list that is separated by commas.

    All are sampled by the scheduler that a search begins with for this network, on a grid that is even in log-SNR.

    Arguments:
        text: Each start is NAME[:OPTION=VALUE...]@STEPS. NAME is "none" or a kind of prior. OPTION is one of the
            prior's, or "t" for t*; without it t* is the prior's usual one.
        own: The network's scheduler.

    Raises:
        ValueError: If a part does not have this form, the prior has no such option, two starts are the same, or the
            network's scheduler cannot start at t*.
    """
    starts = [_read(part.strip(), own) for part in text.split(",")]
    different = {start.key for start in starts}
    require(len(different) == len(starts), "--starts", "different", text)
    return tuple(starts)


def _read(text: str, own: Any) -> StartSpec:
    what, sign, steps = text.partition("@")
    name, *pairs = what.split(":")
    digits = steps.isascii() and steps.isdigit()
    require(bool(sign) and digits and int(steps) > 0, "--starts", FORM, repr(text))
    check_integer("steps of --starts", int(steps), 1, MOST_STEPS)
    options = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        require(bool(sign), "--starts", FORM, repr(text))
        require(key not in options, "--starts", f"with one value of {key} in a start", repr(text))
        options[key] = value
    place = options.pop("t", None)
    white = white_noise(own, int(steps))
    if name == "none":
        require(not pairs, "--starts", "none@STEPS for white noise", repr(text))
        return white
    kind, schedule = find_prior(name), NoiseSchedule.from_scheduler(own)
    declared = kind.Options.declared()
    unknown = sorted(set(options) - set(declared))
    require(not unknown, "--starts", f"with options among {', '.join(['t', *declared])}", repr(text))
    values = {key: declared[key].parse(value) for key, value in options.items()}
    timestep = kind.usual_timestep(schedule) if place is None else _timestep(place)
    schedule.check_timestep(timestep)
    start = white.with_prior(name, **values)
    start = replace(start, start_timestep=timestep, spacing=OWN_GRID + "log_snr")
    return replace(start, label=f"{start_words(start)}, {steps}")


def _timestep(text: str) -> int | float:
    try:
        t = float(text)
    except ValueError:
        raise invalid("t of --starts", "a number", repr(text)) from None
    return int(t) if t.is_integer() else t
