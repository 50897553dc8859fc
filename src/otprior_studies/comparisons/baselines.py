"""The coupled start and everything that could explain its quality away, on the same seeds.

1. Solvers from white noise at T, the spacing of each chosen on the validation images.
2. t* at which a random training image with fresh noise, plain or boosted, copies as often as the coupled start, or has
   its own image as nearest as often; on seeds that no report uses.
3. All starts on the reference images: those solvers, long ancestral sampling (the network's own limit), the other
   priors, both rivals at every t* and at the matched ones, the coupled start with a potential that was not solved for,
   and with mini-batch transport.
4. Five sets of twice as many seeds, or of as many as there are held-out images, for the starts that statements are made
   about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from otprior.data import bundled
from otprior.experiments.chosen import chosen_starts
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import copy_gate, difference_gate, ratio_gate
from otprior.experiments.study import Part, Request
from otprior.report import Gate
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons import Settings
from otprior_studies.comparisons.candidates import LAST, SOLVERS, best_spacings
from otprior_studies.comparisons.equal_copying import Matching
from otprior_studies.comparisons.stages import Stages

EVALUATIONS = (5, 10, 20)
# Ancestral steps of the network's own limit; the last takes as long as all else, and is left to a full run.
ANCESTRAL = (250, 500)
FULL_ANCESTRAL = (250, 500, 1000)
REHEARSED_ANCESTRAL = (10, 20)
# The share of the excess of the best N(0, I) at 20 evaluations that the coupled start at 5 is to reach.
WANTED_RATIO = 0.4
PAIRED_SETS = 5
RIVALS = (("random_atom", ""), ("boosted_atom", "atom"), ("boosted_atom", "mean"))


def run(request: Request) -> dict[str, Part]:
    """The comparison.

    Its reports are "" (all starts), "pairs" (the statements), "matching" and "target" (rates by t*, and those of the
    coupled start, by which t* was matched).
    """
    settings: Settings = request.settings
    stages, chosen = Stages.of(request), chosen_starts()
    coupled = chosen["coupled_5"]
    stages.check_samples(stages.samples)
    held_out = int(bundled.manifest()["splits"]["held_out"]["n"])
    solvers = best_spacings(stages, SOLVERS, EVALUATIONS, stages.share(0.25))
    best = _best_at(stages, solvers, max(EVALUATIONS))

    rivals = [_rival(coupled, kind, direction) for kind, direction in RIVALS]
    matching = Matching.measure(stages, coupled, rivals)
    matched = [matching.start(rival, by) for rival in rivals for by in ("copying", "source")]

    main = stages.run(
        "baselines",
        _distinct(
            [
                coupled,
                chosen["coupled_3"],
                *_same_start(coupled),
                *matched,
                *matching.measured,
                *solvers.values(),
                *_ancestral(stages.rehearsal, settings.full),
            ]
        ),
    )
    pairs = stages.run(
        "pairs",
        _distinct([coupled, best, *matched]),
        min(2 * stages.samples, held_out),
        seed_sets=max(PAIRED_SETS, stages.seed_sets),
        block=500,
    )
    gates = _gates(pairs, coupled, best, matched, held_out)
    main, pairs = main.with_report(gates=gates), pairs.with_report(gates=gates)
    return {"": main, "pairs": pairs, "matching": matching.rivals, "target": matching.coupled}


def _best_at(stages: Stages, solvers: dict[tuple[str, int], StartSpec], nfe: int) -> StartSpec:
    """The best of the solvers at `nfe`, on more validation images than the spacings were screened on."""
    finalists = [start for (_, count), start in solvers.items() if count == nfe]
    result = stages.choose("finalists", finalists, stages.samples)
    return min(finalists, key=lambda start: result.row(start).measured("fid"))


def _rival(coupled: StartSpec, prior: str, direction: str) -> StartSpec:
    """A random training image with fresh noise, and all else as the coupled start has it."""
    if not direction:
        return coupled.with_prior(prior)
    # (ρ: what is left of the coupling's mean where part of the noise is drawn anew.)
    return coupled.with_prior(prior, direction=direction, correlation=coupled.correlation)


def _same_start(coupled: StartSpec) -> list[StartSpec]:
    """The other priors at the coupled start's t*, and couplings that no solver made."""
    t = coupled.start_timestep

    def start(label: str, prior: str, **options: Any) -> StartSpec:
        return replace(coupled.with_prior(prior, **options), label=f"{label}, t* = {t:g}, {coupled.steps}")

    return [
        start("coupled, all of the seed's noise, no smoothing", coupled.prior),
        start("gaussian", "gaussian"),
        start("identity", "identity"),
        start("frozen (DPM-OT's map)", coupled.prior, noise="frozen"),
        start("potential of independent scores", "unsolved", potential="independent"),
        start("potential zero", "unsolved", potential="zero"),
        start("mini-batch transport, 125", "mini_batch"),
    ]


def _ancestral(rehearsal: bool, full: bool) -> list[StartSpec]:
    counts = FULL_ANCESTRAL if full else REHEARSED_ANCESTRAL if rehearsal else ANCESTRAL
    return [
        StartSpec(
            "none", LAST, steps, "DDPMScheduler", "trailing", label=f"N(0, I) at T, ancestral DDPM, {steps}"
        )
        for steps in counts
    ]


def _distinct(starts: list[StartSpec]) -> list[StartSpec]:
    """Each start once, under the label that it has first: a matched t* may be one that was measured."""
    first: dict[str, StartSpec] = {}
    for start in starts:
        first.setdefault(start.key, start)
    return list(first.values())


def _gates(
    pairs: ComparisonResult, coupled: StartSpec, best: StartSpec, matched: list[StartSpec], held_out: int
) -> list[Gate]:
    few, many = coupled.evaluations, best.evaluations
    ratio = f"Excess FID of the coupled start at {few} evaluations over that of the best N(0, I) at {many}"
    copying = f"Copy rate of the coupled start at {few} evaluations less that of held-out real images"
    gates = [
        ratio_gate(pairs, coupled, best, WANTED_RATIO, f"{ratio} ({best.label})"),
        copy_gate(pairs, coupled, copying, held_out),
    ]
    for start in matched:
        statement = f"FID of the coupled start less that of “{start.label}”"
        gates.append(difference_gate(pairs, coupled, start, statement))
    return gates
