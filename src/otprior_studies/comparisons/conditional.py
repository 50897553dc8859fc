"""Class-conditional sampling: one map a class, with and without guidance, at equal network calls.

t* of every start is chosen on validation images under the copying rule, for each guidance and number of steps apart; a
random image of the class with fresh noise has its own t*. With guidance w ≠ 1 a step is two evaluations, and the
sampler does not target p_t*(x | c): what w does to a start is measured, not derived.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import difference_gate, gate
from otprior.experiments.inputs import Inputs
from otprior.experiments.study import Part, Request
from otprior.metrics import paired_difference
from otprior.metrics.features import classify
from otprior.report import Gate
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior_studies.comparisons.candidates import LAST, RANDOM_STARTS, UNIPC
from otprior_studies.comparisons.stages import Stages

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


def run(request: Request) -> dict[str, Part]:
    """The comparison: one report."""
    stages = Stages.of(request)
    starts: list[StartSpec] = []
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
            starts += [coupled, random, mixture, gaussian, white]
            pairs.append((coupled, random))
        starts.append(_full(guidance))
    result = stages.run("conditional", starts)
    # (The first pair is that of 5 evaluations without guidance.)
    gates = [
        *(_accuracy_gate(result, start, _full(1.0)) for start in pairs[0]),
        *(
            difference_gate(result, mine, other, f"FID of “{mine.label}” less that of “{other.label}”")
            for mine, other in pairs
        ),
    ]
    return {"": result.with_report(gates=gates)}


def _coupled(plain: StartSpec) -> list[StartSpec]:
    starts = [
        replace(plain.with_prior("semidiscrete", correlation=rho), start_timestep=t)
        for t in STARTS
        for rho in CORRELATIONS
    ]
    return [replace(start, label=_label(f"coupled, ρ = {start.correlation:g}", start)) for start in starts]


def _each(plain: StartSpec, prior: str, name: str, timesteps: tuple[int, ...]) -> list[StartSpec]:
    starts = [replace(plain, prior=prior, start_timestep=t) for t in timesteps]
    return [replace(start, label=_label(name, start)) for start in starts]


def _label(name: str, start: StartSpec) -> str:
    where = "" if start.prior == "none" else f", t* = {start.start_timestep:g}"
    return f"{name}{where}, w = {start.guidance:g}, {start.evaluations}"


def _full(guidance: float) -> StartSpec:
    """The full sampler at a guidance, in equal network calls for all."""
    steps = FULL_EVALUATIONS if guidance == 1.0 else FULL_EVALUATIONS // 2
    start = StartSpec("none", LAST, steps, spacing="trailing", conditional=True, guidance=guidance)
    return replace(start, label=_label("full sampler", start))


def _hits(result: ComparisonResult, start: StartSpec) -> Tensor:
    """Whether each sample of a start, over all sets of seeds, is of the class asked for; shape (n,), float64."""
    hits = []
    for number in range(result.asked.seed_sets):
        samples = result.samples(start, number)
        assert samples.labels is not None
        right = classify(Inputs.of(result.asked).extractor, samples.images) == torch.from_numpy(
            samples.labels
        )
        hits.append(right.double())
    return torch.cat(hits)


def _accuracy_gate(result: ComparisonResult, start: StartSpec, full: StartSpec) -> Gate:
    """That a start's class accuracy is at most `ACCURACY_MARGIN` below the full sampler's, on the same seeds."""
    most, mine = (_hits(result, each) for each in (full, start))
    less = paired_difference(most, mine, side="upper")
    statement = f"Class accuracy of “{full.label}” less that of “{start.label}”"
    return gate(statement, less.estimate, less.hi, ACCURACY_MARGIN, paired_difference(most, mine))
