"""Other starts than the coupled one: which keep the seed's image as the full sampler makes it, and which hold no image?

The gaussian prior, the smoothed coupled one, mixtures of several sizes, and a random cluster of them with fresh noise,
which is what transport has to beat, at a few t* each on the validation images.
The best of each kind that does not copy is measured on the reference images, and the best of those that also keep the
class of the full flow's image in at least `KEEPS` of the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from otprior.experiments.chosen import chosen_starts
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import CopyLimit, difference_gate
from otprior.experiments.study import Part, Request
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons.candidates import FULL_SAMPLER
from otprior_studies.comparisons.stages import Stages

# The seed agreement that a start is to have, besides its quality.
KEEPS = 0.8
# Images of a cluster on average, and axes kept of it.
MIXTURES = ((100, 20), (32, 10), (10, 10), (5, 10))


def run(request: Request) -> dict[str, Part]:
    """The comparison: reports "" (the winners, on the reference images) and "candidates" (all, on validation)."""
    stages, coupled = Stages.of(request), chosen_starts()["coupled_5"]
    kinds = candidates(coupled, len(stages.inputs.atoms))
    every = [start for starts in kinds.values() for start in starts]
    tried = stages.choose("candidates", [coupled, *every], stages.samples, flow=FULL_SAMPLER)
    limit = stages.copy_limit()
    winners = []
    for starts in kinds.values():
        found = (_best(tried, starts, limit), _best(tried, starts, limit, KEEPS))
        winners += [start for start in found if start is not None]
    distinct = {start.key: start for start in [coupled, *winners]}
    result = stages.run("better priors", list(distinct.values()), flow=FULL_SAMPLER)
    gates = [
        difference_gate(result, start, coupled, f"FID of “{start.label}” less that of the coupled start")
        for start in list(distinct.values())[1:]
    ]
    return {"": result.with_report(gates=gates), "candidates": tried}


def candidates(coupled: StartSpec, atoms: int) -> dict[str, list[StartSpec]]:
    """The settings at which each kind of start is tried on so many atoms, by its name."""
    same = coupled.with_prior("gaussian")

    def gaussian(timestep: int) -> StartSpec:
        return replace(same, start_timestep=timestep, label=f"gaussian, t* = {timestep}")

    def smoothed(timestep: int, smoothing: float) -> StartSpec:
        start = coupled.with_options(smoothing=smoothing, correlation=0.85)
        label = f"smoothed, t* = {timestep}, ε = {smoothing:g} τ, ρ = 0.85"
        return replace(start, start_timestep=timestep, label=label)

    def mixture(timestep: int, images: int, rank: int, noise: str = "coupled") -> StartSpec:
        start = same.with_prior("mixture", noise=noise, components=atoms // images, rank=rank)
        name = "mixture" if noise == "coupled" else f"mixture with {noise} noise"
        label = f"{name}, t* = {timestep}, {atoms // images} components of rank {rank}"
        return replace(start, start_timestep=timestep, label=label)

    return {
        "gaussian": [gaussian(t) for t in (475, 525, 600, 700)],
        "smoothed": [smoothed(t, eps) for t in (475, 525) for eps in (0.3, 0.6, 1.0)],
        "mixture": [mixture(t, *sizes) for t in (250, 300, 350, 400, 450) for sizes in MIXTURES],
        "fresh mixture": [mixture(t, 10, 10, "fresh") for t in (150, 200, 250, 300, 350)],
    }


def _best(
    tried: ComparisonResult, starts: Sequence[StartSpec], limit: CopyLimit, keeps: float = 0.0
) -> StartSpec | None:
    """Lowest FID among the starts that do not copy, and keep the class of so many seeds; None if there is none."""

    def fits(start: StartSpec) -> bool:
        figures = tried.row(start)
        assert figures.samples is not None
        allowed = limit.allows(figures.measured("copy_rate"), figures.samples)
        return allowed and figures.measured("seed_agreement") >= keeps

    return min(filter(fits, starts), key=lambda start: tried.row(start).measured("fid"), default=None)
