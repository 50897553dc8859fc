"""Starts beside the coupled one: which keep the seed's image as the full flow makes it, and which hold no image?

The gaussian prior, the smoothed coupled one, mixtures of several sizes, and a random cluster of them with fresh noise,
which is what transport has to beat, at a few t* each on the validation images.
Of each kind the best that does not copy goes on to the reference images, and the best of those that also keep the
class of the full flow's image in at least `KEEPS` of the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from otprior.experiments.chosen import settings_rows
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import CopyLimit, difference_gate
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons.spacings import LAST
from otprior_studies.comparisons.stages import Stages

# The seed agreement that a start is to have beside its quality.
KEEPS = 0.8
FULL = StartSpec("none", LAST, 100, spacing="trailing", label="full sampler, DPM++2M, 100")
# Images of a cluster on average, and axes kept of it.
MIXTURES = ((100, 20), (32, 10), (10, 10), (5, 10))


def run(stages: Stages) -> dict[str, ComparisonResult]:
    """The study; its reports are "" (the winners, on the reference images) and "candidates" (all, on validation)."""
    coupled = settings_rows()["coupled_5"]
    kinds = candidates(coupled, stages.study("any", [coupled]).atoms)
    every = [row for rows in kinds.values() for row in rows]
    tried = stages.choose("candidates", [coupled, *every], stages.scale.samples, flow=FULL)
    limit = stages.copy_limit()
    winners = []
    for rows in kinds.values():
        found = (_best(tried, rows, limit), _best(tried, rows, limit, KEEPS))
        winners += [row for row in found if row is not None]
    distinct = {row.key: row for row in [coupled, *winners]}
    result = stages.run("better priors", list(distinct.values()), flow=FULL)
    result.report["gates"] = [
        difference_gate(result, row, coupled, f"FID of “{row.label}” less that of the coupled start")
        for row in list(distinct.values())[1:]
    ]
    return {"": result, "candidates": tried}


def candidates(coupled: StartSpec, atoms: int) -> dict[str, list[StartSpec]]:
    """The settings at which each kind of start is tried on so many atoms, by its name."""
    same = replace(coupled, noise=None, smoothing=0.0, correlation=1.0)

    def gaussian(timestep: int) -> StartSpec:
        return replace(same, prior="gaussian", start_timestep=timestep, label=f"gaussian, t* = {timestep}")

    def smoothed(timestep: int, smoothing: float) -> StartSpec:
        row = replace(coupled, start_timestep=timestep, smoothing=smoothing, correlation=0.85)
        return replace(row, label=f"smoothed, t* = {timestep}, ε = {smoothing:g} τ, ρ = 0.85")

    def mixture(timestep: int, images: int, rank: int, noise: str | None = None) -> StartSpec:
        options = (("components", atoms // images), ("rank", rank))
        row = replace(same, prior="mixture", noise=noise, start_timestep=timestep, options=options)
        name = "mixture" if noise is None else f"mixture with {noise} noise"
        return replace(row, label=f"{name}, t* = {timestep}, {atoms // images} components of rank {rank}")

    return {
        "gaussian": [gaussian(t) for t in (475, 525, 600, 700)],
        "smoothed": [smoothed(t, eps) for t in (475, 525) for eps in (0.3, 0.6, 1.0)],
        "mixture": [mixture(t, *sizes) for t in (250, 300, 350, 400, 450) for sizes in MIXTURES],
        "fresh mixture": [mixture(t, 10, 10, "fresh") for t in (150, 200, 250, 300, 350)],
    }


def _best(
    tried: ComparisonResult, rows: Sequence[StartSpec], limit: CopyLimit, keeps: float = 0.0
) -> StartSpec | None:
    """Lowest FID among the rows that do not copy, and keep the class of so many seeds; None if there is none."""

    def fits(row: StartSpec) -> bool:
        figures = tried.row(row)
        allowed = limit.allows(figures["copy_rate"], figures["samples"])
        return allowed and figures["seed_agreement"] >= keeps

    return min(filter(fits, rows), key=lambda row: tried.row(row)["fid"], default=None)
