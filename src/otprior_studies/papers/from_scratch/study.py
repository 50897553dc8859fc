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
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import difference_gate, headline_gates
from otprior.experiments.inputs import images_of, schedule_of
from otprior.experiments.search import candidates
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior.utils.validation import require
from otprior_studies.comparisons.candidates import MIXTURE_STARTS, RANDOM_STARTS, at_each
from otprior_studies.comparisons.equal_copying import Matching
from otprior_studies.comparisons.spacings import SOLVERS, white
from otprior_studies.comparisons.stages import Stages

SCREENED = ("DPM++2M", "UniPC", "DEIS")
USUAL = ("trailing", "karras", *(OWN_GRID + name for name in SPACINGS))
FINALISTS = 4
# By how much more than real images a chosen start may seem to copy. On a few hundred validation images the limit of a
# difference of rates lies a percentage point above the difference itself.
MARGIN, MARGIN_OF_FEW, FEW = 0.01, 0.02, 1000


def run(stages: Stages) -> dict[str, ComparisonResult]:
    """The study; its only report is "" (several sets of seeds, so that the statements have intervals)."""
    scale = stages.scale
    rule = "two or more: the headline's intervals are over them"
    require(scale.seed_sets > 1, "seed_sets", rule, scale.seed_sets)
    stages.check_samples(scale.samples)
    rows = {
        "coupled_5": _coupled(stages, 5),
        "coupled_3": _coupled(stages, 3),
        "none_20": _white(stages, 20),
        "none_10": _white(stages, 10),
    }
    coupled = rows["coupled_5"]
    plain = replace(coupled, noise=None, smoothing=0.0, correlation=1.0)
    gaussian = replace(plain, prior="gaussian")
    gaussian = replace(gaussian, label=f"gaussian, t* = {coupled.start_timestep:g}, {coupled.steps}")
    random = replace(plain, prior="random_atom")
    rivals = [
        Matching.measure(stages, coupled, [random]).row(random, "copying"),
        _best_of(stages, random, "random image + fresh noise", RANDOM_STARTS),
        _best_of(stages, replace(plain, prior="mixture"), "mixture", MIXTURE_STARTS),
    ]
    distinct = {row.key: row for row in [*rows.values(), gaussian, *rivals]}
    result = stages.run("headline", list(distinct.values()))
    assert result.study is not None
    held_out = len(images_of(result.study, result.study.real_split))
    result.report["gates"] = headline_gates(result, rows, held_out)
    for row in {row.key: row for row in rivals}.values():
        against = f"FID of the coupled start less that of “{row.label}”"
        result.report["gates"].append(difference_gate(result, coupled, row, against))
    return {"": result}


def _white(stages: Stages, nfe: int) -> StartSpec:
    """The best of N(0, I) at T."""
    last = schedule_of(stages.study("any", [StartSpec("none", 0, 1)])).timestep_range[1]
    rows = [
        replace(white(solver, nfe, spacing), start_timestep=round(last))
        for solver in SOLVERS
        for spacing in USUAL
        if solver.name in SCREENED
    ]
    screened = stages.choose(f"white {nfe}", rows, stages.scale.share(0.25))
    finalists = sorted(rows, key=lambda row: screened.row(row)["fid"])[:FINALISTS]
    result = stages.choose(f"white {nfe} finalists", finalists, stages.scale.samples)
    return min(finalists, key=lambda row: result.row(row)["fid"])


def _coupled(stages: Stages, steps: int) -> StartSpec:
    """The best coupled start that does not copy."""
    schedule = schedule_of(stages.study("any", [StartSpec("none", 0, 1)]))
    return stages.best(f"coupled {steps}", candidates(schedule, steps), part=1.0, margin=_margin(stages))


def _margin(stages: Stages) -> float:
    validation = images_of(stages.study("any", [StartSpec("none", 0, 1)]), stages.subject.validation)
    return MARGIN if len(validation) >= FEW else MARGIN_OF_FEW


def _best_of(stages: Stages, row: StartSpec, name: str, starts: Sequence[int]) -> StartSpec:
    """The row at the best t* of those at which it does not copy, by the coupled start's own rule."""
    rows = at_each(row, name, starts)
    return stages.best(f"{name} {row.steps}", rows, part=1.0, margin=_margin(stages))
