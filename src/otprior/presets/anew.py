"""The headline on another network or other images: settings are chosen first, as they were for the bundled ones.

1. White noise at T in 20 and in 10 evaluations: three solvers, each on five spacings, on a quarter of the samples; the
   lowest FID against the validation images is kept.
2. The coupled start in 5 and in 3 evaluations: t* and correlation, by halving, for the lowest FID among those that copy
   no more than the validation images seem to.
3. The fair rival of the first, a random atom with fresh noise, at the t* where it copies as often.
4. All of them, and the gaussian prior at the coupled start's t*, on the reference images, with the headline's
   statements and that against the rival.
"""

from __future__ import annotations

from dataclasses import replace

from otprior.compare import StudyResult, difference_gate, headline_gates
from otprior.compare.material import images_of, schedule_of
from otprior.generation import OWN_GRID, RowSpec
from otprior.grids import SPACINGS
from otprior.presets.matching import Matching
from otprior.presets.preset import Stages
from otprior.presets.spacings import SOLVERS, white
from otprior.tune import candidates
from otprior.validation import require

__all__ = ["run"]

SCREENED = ("DPM++2M", "UniPC", "DEIS")
USUAL = ("trailing", "karras", *(OWN_GRID + name for name in SPACINGS))
# By how much more than real images a chosen start may seem to copy. On a few hundred validation images the limit of a
# difference of rates lies a percentage point above the difference itself.
MARGIN = 0.02


def run(stages: Stages) -> dict[str, StudyResult]:
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
    gaussian = replace(coupled, prior="gaussian", noise=None, smoothing=0.0, correlation=1.0)
    gaussian = replace(gaussian, label=f"gaussian, t* = {coupled.start_timestep:g}, {coupled.steps}")
    rival = _rival(stages, coupled)
    result = stages.run("headline", [*rows.values(), gaussian, rival])
    assert result.study is not None
    held_out = len(images_of(result.study, result.study.real_split))
    against = f"FID of the coupled start less that of “{rival.label}”"
    result.report["gates"] = [
        *headline_gates(result, rows, held_out),
        difference_gate(result, coupled, rival, against),
    ]
    return {"": result}


def _white(stages: Stages, nfe: int) -> RowSpec:
    """The best of N(0, I) at T."""
    last = schedule_of(stages.study("any", [RowSpec("none", 0, 1)])).timestep_range[1]
    rows = [
        replace(white(solver, nfe, spacing), start_timestep=round(last))
        for solver in SOLVERS
        for spacing in USUAL
        if solver.name in SCREENED
    ]
    result = stages.choose(f"white {nfe}", rows, stages.scale.share(0.25))
    return min(rows, key=lambda row: result.row(row)["fid"])


def _coupled(stages: Stages, steps: int) -> RowSpec:
    """The best coupled start that does not copy."""
    schedule = schedule_of(stages.study("any", [RowSpec("none", 0, 1)]))
    return stages.best(f"coupled {steps}", candidates(schedule, steps), part=1.0, margin=MARGIN)


def _rival(stages: Stages, coupled: RowSpec) -> RowSpec:
    """A random atom with fresh noise, where it copies as often as the coupled start."""
    plain = replace(coupled, prior="random_atom", noise=None, smoothing=0.0, correlation=1.0)
    return Matching.measure(stages, coupled, [plain]).row(plain, "copying")
