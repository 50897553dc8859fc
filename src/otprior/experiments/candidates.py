"""What a search tries: starts of every prior at many t*, and near a good one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import find_prior
from otprior.sampling.start_spec import OWN_GRID, StartSpec

UNIPC, DPM = "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"
# The kinds of prior that a search tries.
PRIORS = ("gaussian", "mixture", "semidiscrete")
USUAL = OWN_GRID + "log_snr"
# The stock spacing of those two schedulers; it ends nearer to the clean image than our grids, and likes an earlier t*.
STOCK = "karras"
FINER = 0.25  # in log-SNR
# How labels write some options.
SYMBOLS = {"correlation": "ρ", "smoothing": "ε/τ"}
Family = tuple[str, tuple[tuple[str, Any], ...]]


def candidates(
    schedule: NoiseSchedule, steps: int, priors: Sequence[str] = PRIORS, scheduler: str = UNIPC
) -> list[StartSpec]:
    """Starts over the log-SNRs and the options that the priors' kinds say are worth a try."""
    starts = [
        StartSpec(prior, timestep, steps, scheduler, USUAL, options=tuple(options.items()))
        for prior, kind in ((prior, find_prior(prior)) for prior in priors)
        for timestep in sorted({_timestep(schedule, level) for level in kind.searched_log_snr})
        for options in kind.searched_options()
    ]
    return [labelled(start) for start in starts if _fits(schedule, start)]


def at_every_other(starts: Sequence[StartSpec]) -> list[StartSpec]:
    """Of each family, the starts at every other t*, that of the cleanest included."""
    every: dict[Family, list[StartSpec]] = {}
    for start in starts:
        every.setdefault(family(start), []).append(start)
    ordered = (sorted(group, key=lambda start: start.start_timestep) for group in every.values())
    return [start for group in ordered for start in group[::2]]


def of_families(starts: Sequence[StartSpec], leaders: Sequence[StartSpec], most: int) -> list[StartSpec]:
    """The starts of the first leaders' families, on their own spacing and on the stock one.

    The two spacings have their best t* far apart, so that no search in one respect at a time leads from one to the
    other.

    Arguments:
        starts: Candidates of one spacing.
        leaders: Starts, the best first.
        most: How many families count.
    """
    leading = list(dict.fromkeys(map(family, leaders)))[:most]
    own = [start for start in starts if family(start) in leading]
    stock = [
        replace(start, spacing=STOCK) for start in own if start.scheduler in (UNIPC, DPM) and start.steps > 1
    ]
    return [*own, *map(labelled, stock)]


def family(start: StartSpec) -> Family:
    """What starts share that differ in t* and sampler."""
    return start.prior, start.options


def neighbours(schedule: NoiseSchedule, start: StartSpec) -> list[StartSpec]:
    """Candidates that differ from a start in t*, in scheduler and spacing, or in an option of its prior."""
    level = schedule.log_snr(float(start.start_timestep))

    def moved(shift: float) -> int | float:
        return _timestep(schedule, level + shift) if shift else start.start_timestep

    near = [replace(start, start_timestep=moved(times * FINER)) for times in (-2, -1, 1, 2)]
    both = start.scheduler in (UNIPC, DPM)
    schedulers = (UNIPC, DPM) if both else (start.scheduler,)
    spacings = (USUAL, OWN_GRID + "karras", *([STOCK] if both else []))
    # (With one step they are all the same.)
    pairs = product(schedulers, spacings) if start.steps > 1 else ()
    near += [replace(start, scheduler=name, spacing=spacing) for name, spacing in pairs]
    for options, shift in find_prior(start.prior).nearby_options(dict(start.options)):
        near.append(replace(start, options=tuple(options.items()), start_timestep=moved(shift)))
    different = {each.key: each for each in near if _fits(schedule, each) and each.key != start.key}
    return [labelled(each) for each in different.values()]


def labelled(start: StartSpec) -> StartSpec:
    """The start with a label that says all that a search varies."""
    return replace(start, label=f"{start_words(start)}, {sampler_words(start)}")


def sampler_words(start: StartSpec) -> str:
    """The scheduler, spacing and steps of a start in words: "UniPC, karras, 5"."""
    scheduler = start.scheduler.removesuffix("Scheduler").removesuffix("Multistep")
    return f"{scheduler}, {start.spacing}, {start.steps}"


def start_words(start: StartSpec) -> str:
    """The prior, t* and options of a start in words: "gaussian, t* = 500"."""
    options = [f"{SYMBOLS.get(name, name)} = {value}" for name, value in start.options if name != "noise"]
    what = find_prior(start.prior).describe({"noise": start.noise} | dict(start.options))
    return ", ".join([what, f"t* = {start.start_timestep:g}", *options])


def _timestep(schedule: NoiseSchedule, level: float) -> int | float:
    """The timestep of a log-SNR, kept inside the schedule; a whole one if it is discrete."""
    cleanest, noisiest = (schedule.log_snr(t) for t in schedule.timestep_range)
    exact = schedule.timestep(min(max(level, noisiest), cleanest))
    return round(exact) if schedule.discrete else exact


def _fits(schedule: NoiseSchedule, start: StartSpec) -> bool:
    """Whether there are enough timesteps below t*."""
    return not schedule.discrete or start.steps <= start.start_timestep
