"""The headline on another network or other images: settings are chosen first, as they were for the bundled ones.

1. White noise at T in 20 and in 10 evaluations: three solvers, each on five spacings, on a quarter of the samples, and
   the best four on all; the lowest FID against the validation images is kept.
2. The coupled start in 5 and in 3 evaluations: t* and correlation, by halving, for the lowest FID among those that copy
   no more than the validation images seem to.
3. Rivals of the first: a random atom with fresh noise at the t* where it copies as often, and, chosen as the coupled
   start is, its best t* and that of the mixture.
4. All of them, and the gaussian prior at the coupled start's t*, on the reference images, with the headline's
   statements and those against the rivals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from otprior.diffusion.grids import SPACINGS
from otprior.experiments.candidates import candidates
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import difference_gate, headline_gates
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior_studies.comparisons.candidates import MIXTURE_STARTS, RANDOM_STARTS, SOLVERS, at_each, white
from otprior_studies.comparisons.equal_copying import Matching
from otprior_studies.comparisons.stages import Stages

SCREENED = ("DPM++2M", "UniPC", "DEIS")
USUAL = ("trailing", "karras", *(OWN_GRID + name for name in SPACINGS))
FINALISTS = 4
# By how much more than real images a chosen start may seem to copy. On a few hundred validation images the limit of a
# difference of rates lies a percentage point above the difference itself.
MARGIN, MARGIN_OF_FEW, FEW = 0.01, 0.02, 1000


def measured_headline(stages: Stages) -> ComparisonResult:
    """The headline, over two or more sets of seeds, so that the statements have intervals."""
    stages.check_samples(stages.samples)
    starts = {
        "coupled_5": _coupled(stages, 5),
        "coupled_3": _coupled(stages, 3),
        "none_20": _white(stages, 20),
        "none_10": _white(stages, 10),
    }
    coupled = starts["coupled_5"]
    plain = coupled.with_prior(coupled.prior)
    gaussian = replace(plain, prior="gaussian")
    gaussian = replace(gaussian, label=f"gaussian, t* = {coupled.start_timestep:g}, {coupled.steps}")
    random = replace(plain, prior="random_atom")
    rivals = [
        Matching.measure(stages, coupled, [random]).start(random, "copying"),
        _best_of(stages, random, "random image + fresh noise", RANDOM_STARTS),
        _best_of(stages, replace(plain, prior="mixture"), "mixture", MIXTURE_STARTS),
    ]
    distinct = {start.key: start for start in [*starts.values(), gaussian, *rivals]}
    result = stages.run("headline", list(distinct.values()))
    gates = headline_gates(result, starts, len(stages.inputs.real))
    for start in {start.key: start for start in rivals}.values():
        against = f"FID of the coupled start less that of “{start.label}”"
        gates.append(difference_gate(result, coupled, start, against))
    return result.with_report(gates=gates)


def _white(stages: Stages, nfe: int) -> StartSpec:
    """The best of N(0, I) at T."""
    last = stages.inputs.schedule.timestep_range[1]
    starts = [
        replace(white(solver, nfe, spacing), start_timestep=round(last))
        for solver in SOLVERS
        for spacing in USUAL
        if solver.name in SCREENED
    ]
    screened = stages.choose(f"white {nfe}", starts, stages.share(0.25))
    finalists = sorted(starts, key=lambda start: screened.row(start).measured("fid"))[:FINALISTS]
    result = stages.choose(f"white {nfe} finalists", finalists, stages.samples)
    return min(finalists, key=lambda start: result.row(start).measured("fid"))


def _coupled(stages: Stages, steps: int) -> StartSpec:
    """The best coupled start that does not copy."""
    every = candidates(stages.inputs.schedule, steps, ["semidiscrete"])
    found = [start for start in every if start.noise == "coupled"]
    return stages.best(f"coupled {steps}", found, part=1.0, margin=_margin(stages))


def _margin(stages: Stages) -> float:
    validation = stages.inputs.images(stages.subject.validation)
    return MARGIN if len(validation) >= FEW else MARGIN_OF_FEW


def _best_of(stages: Stages, start: StartSpec, name: str, timesteps: Sequence[int]) -> StartSpec:
    """The start at the best t* of those at which it does not copy, by the coupled start's own rule."""
    starts = at_each(start, name, timesteps)
    return stages.best(f"{name} {start.steps}", starts, part=1.0, margin=_margin(stages))
