"""Starts that might be better: the seed's image kept as the gaussian prior keeps it, at the coupled start's quality.

Every idea is a module of `otprior.experimental`, tried at a few settings on the validation images, beside the coupled,
smoothed and gaussian priors. Of each idea the best that does not copy goes on to the reference images, and the best of
those that also keep the class of the full flow's image in at least `KEEPS` of the seeds. Nothing is kept that does not
win there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from otprior import bundled
from otprior.compare import CopyLimit, StudyResult, difference_gate
from otprior.generation import EXPERIMENTAL, RowSpec
from otprior.presets.chosen import settings_rows
from otprior.presets.preset import Stages
from otprior.presets.spacings import LAST

__all__ = ["candidates", "run"]

# The seed agreement that an idea is to have beside its quality.
KEEPS = 0.8
FULL = RowSpec("none", LAST, 100, spacing="trailing", label="full sampler, DPM++2M, 100")


def run(stages: Stages) -> dict[str, StudyResult]:
    """The study; its reports are "" (the winners, on the reference images) and "candidates" (all, on validation)."""
    coupled = settings_rows()["coupled_5"]
    ideas = candidates(coupled)
    every = [row for rows in ideas.values() for row in rows]
    tried = stages.choose("candidates", [coupled, *every], stages.scale.samples, flow=FULL)
    winners = []
    for rows in ideas.values():
        winners += [row for row in (_best(tried, rows), _best(tried, rows, KEEPS)) if row is not None]
    distinct = {row.key: row for row in [coupled, *winners]}
    result = stages.run("better priors", list(distinct.values()), flow=FULL)
    result.report["gates"] = [
        difference_gate(result, row, coupled, f"FID of “{row.label}” less that of the coupled start")
        for row in list(distinct.values())[1:]
    ]
    return {"": result, "candidates": tried}


def candidates(coupled: RowSpec) -> dict[str, list[RowSpec]]:
    """The settings at which each idea is tried, by its name."""
    same = replace(coupled, noise=None, smoothing=0.0, correlation=1.0)

    def tried(name: str, timestep: int | float, told: float = 0.0, **options: Any) -> RowSpec:
        said = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in options.items())
        label = f"{name.replace('_', ' ')}, t* = {timestep:g}, {said}"
        return replace(
            same,
            prior=EXPERIMENTAL + name,
            start_timestep=timestep,
            options=tuple(options.items()),
            label=label,
            told=told,
        )

    def smoothed(timestep: int, smoothing: float) -> RowSpec:
        row = replace(coupled, start_timestep=timestep, smoothing=smoothing, correlation=0.85)
        return replace(row, label=f"smoothed, t* = {timestep}, ε = {smoothing:g} τ, ρ = 0.85")

    def told(shift: float, timestep: int) -> RowSpec:
        row = replace(coupled, start_timestep=timestep, told=shift)
        return replace(row, label=f"told {shift:+g} log-SNR, {coupled.label}, t* = {timestep}")

    return {
        "gaussian": [
            replace(same, prior="gaussian", start_timestep=t, label=f"gaussian, t* = {t}")
            for t in (475, 525, 600, 700)
        ],
        "smoothed": [smoothed(t, eps) for t in (475, 525) for eps in (0.3, 0.6, 1.0)],
        "moment corrected": [
            tried("moment_corrected", t, smoothing=eps, correlation=rho)
            for t, eps, rho in (
                (400, 0.0, 1.0),
                (450, 0.0, 1.0),
                (500, 0.0, 1.0),
                (450, 0.0, 0.85),
                (450, 0.3, 1.0),
                (500, 0.3, 1.0),
                (450, 1.0, 1.0),
                (500, 1.0, 1.0),
                (500, 3.0, 1.0),
            )
        ],
        "blended": [
            tried("blended", t, count=k, share=share, correlation=0.85)
            for t in (450, 500)
            for k, share in ((2, 0.5), (2, 0.75), (4, 0.25), (4, 0.5))
        ],
        "residual": [
            tried("residual", t, power=power, correlation=0.85)
            for t in (500, 525, 575)
            for power in (0.25, 0.5)
        ],
        "mixture": [
            tried("mixture", t, components=k, rank=rank, correlation=rho, centred=centred)
            for t in (450, 525)
            for k, rank in ((100, 20), (300, 10))
            for rho, centred in ((1.0, 0.0), (1.0, 1.0), (0.85, 0.0))
        ],
        "retimed": [
            tried("retimed", t, made_at=made, correlation=rho)
            for made, t in ((550, 500), (575, 500), (600, 500), (600, 550), (650, 550))
            for rho in (0.85, 1.0)
        ],
        "told": [
            told(shift, t) for t in (int(coupled.start_timestep), 550) for shift in (-0.5, 0.5, 1.0, 1.5)
        ],
    }


def _best(tried: StudyResult, rows: Sequence[RowSpec], keeps: float = 0.0) -> RowSpec | None:
    """Lowest FID among the rows that do not copy, and keep the class of so many seeds; None if there is none."""
    assert tried.study is not None
    rate = tried.report["reference"]["copy_rate"]
    limit = CopyLimit(rate, int(bundled.manifest()["splits"]["held_out"]["n"]))

    def fits(row: RowSpec) -> bool:
        figures = tried.row(row)
        allowed = limit.allows(figures["copy_rate"], figures["samples"])
        return allowed and figures["seed_agreement"] >= keeps

    return min(filter(fits, rows), key=lambda row: tried.row(row)["fid"], default=None)
