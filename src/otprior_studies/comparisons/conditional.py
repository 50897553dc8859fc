"""Class-conditional sampling: one map a class, with and without guidance, at equal network calls.

t* of every start is chosen on validation images under the copying rule, for each guidance and number of steps apart; a
random image of the class with fresh noise has its own t*. With guidance w ≠ 1 a step is two evaluations, and the
sampler does not target p_t*(x | c): what w does to a start is measured, not derived.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import difference_gate, gate
from otprior.experiments.inputs import extractor_of
from otprior.metrics import paired_difference
from otprior.metrics.features import classify
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior_studies.comparisons.candidates import RANDOM_STARTS
from otprior_studies.comparisons.spacings import LAST
from otprior_studies.comparisons.stages import Stages

UNIPC = "UniPCMultistepScheduler"
GUIDANCES = (1.0, 2.0, 3.0, 4.0)
# Steps by guidance, for 5 and 10 evaluations without it, 6 and 10 with it.
STEPS = {1.0: (5, 10)}
GUIDED_STEPS = (3, 5)
FULL_EVALUATIONS = 100
# Where each start is looked for. Copying ends the range for those with atoms, and a rival on a coarser grid than its
# opponent's would have to stop further from that end.
STARTS = (400, 450, 475, 500, 525, 550, 600, 650, 700)
MIXTURE_STARTS = (250, 300, 325, 350, 375, 400, 450, 550)
GAUSSIAN_STARTS = (200, 250, 300, 350, 400, 450, 500, 550, 600)
CORRELATIONS = (0.7, 1.0)
# How much lower than the full sampler's the class accuracy at 5 evaluations may be.
ACCURACY_MARGIN = 0.02


def run(stages: Stages) -> dict[str, ComparisonResult]:
    """The study: one report."""
    rows: list[StartSpec] = []
    pairs: list[tuple[StartSpec, StartSpec]] = []
    for guidance in GUIDANCES:
        for steps in STEPS.get(guidance, GUIDED_STEPS):
            plain = StartSpec(
                "none", LAST, steps, UNIPC, OWN_GRID + "log_snr", conditional=True, guidance=guidance
            )
            fresh = "random image of the class + fresh noise"
            name = f"choosing w {guidance:g} steps {steps}"
            coupled = stages.best(f"{name} coupled", _coupled(plain))
            random = stages.best(f"{name} random", _each(plain, "random_atom", fresh, RANDOM_STARTS))
            mixture = stages.best(f"{name} mixture", _each(plain, "mixture", "mixture", MIXTURE_STARTS))
            gaussian = stages.best(f"{name} gaussian", _each(plain, "gaussian", "gaussian", GAUSSIAN_STARTS))
            white = replace(plain, spacing="trailing", label=_label("N(0, I) at T", plain))
            rows += [coupled, random, mixture, gaussian, white]
            pairs.append((coupled, random))
        rows.append(_full(guidance))
    result = stages.run("conditional", rows)
    # (The first pair is that of 5 evaluations without guidance.)
    result.report["gates"] = [
        *(_accuracy_gate(result, row, _full(1.0)) for row in pairs[0]),
        *(
            difference_gate(result, mine, other, f"FID of “{mine.label}” less that of “{other.label}”")
            for mine, other in pairs
        ),
    ]
    return {"": result}


def _coupled(plain: StartSpec) -> list[StartSpec]:
    rows = [
        replace(plain, prior="semidiscrete", noise="coupled", start_timestep=t, correlation=rho)
        for t in STARTS
        for rho in CORRELATIONS
    ]
    return [replace(row, label=_label(f"coupled, ρ = {row.correlation:g}", row)) for row in rows]


def _each(plain: StartSpec, prior: str, name: str, starts: tuple[int, ...]) -> list[StartSpec]:
    rows = [replace(plain, prior=prior, start_timestep=t) for t in starts]
    return [replace(row, label=_label(name, row)) for row in rows]


def _label(name: str, row: StartSpec) -> str:
    where = "" if row.prior == "none" else f", t* = {row.start_timestep:g}"
    return f"{name}{where}, w = {row.guidance:g}, {row.evaluations}"


def _full(guidance: float) -> StartSpec:
    """The full sampler at a guidance, in equal network calls for all."""
    steps = FULL_EVALUATIONS if guidance == 1.0 else FULL_EVALUATIONS // 2
    row = StartSpec("none", LAST, steps, spacing="trailing", conditional=True, guidance=guidance)
    return replace(row, label=_label("full sampler", row))


def _hits(result: ComparisonResult, row: StartSpec) -> Tensor:
    """Whether each sample of a row, over all sets of seeds, is of the class it was asked to be; shape (n,), float64."""
    assert result.study is not None
    hits = []
    for number in range(result.study.seed_sets):
        samples = result.samples(row, number)
        assert samples.labels is not None
        right = classify(extractor_of(result.study), samples.images) == torch.from_numpy(samples.labels)
        hits.append(right.double())
    return torch.cat(hits)


def _accuracy_gate(result: ComparisonResult, row: StartSpec, full: StartSpec) -> dict[str, Any]:
    """That a start's class accuracy is at most `ACCURACY_MARGIN` below the full sampler's, on the same seeds."""
    most, mine = (_hits(result, each) for each in (full, row))
    less = paired_difference(most, mine, side="upper")
    statement = f"Class accuracy of “{full.label}” less that of “{row.label}”"
    return gate(statement, less.estimate, less.hi, ACCURACY_MARGIN, paired_difference(most, mine))
