"""Where the frontier's starts are looked for, and the sampler that goes on from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from otprior.experiments.chosen import settings_rows
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior_studies.comparisons.spacings import LAST
from otprior_studies.comparisons.stages import Stages

UNIPC = "UniPCMultistepScheduler"
FULL_SAMPLER = StartSpec("none", LAST, 100, spacing="trailing", label="full sampler, DPM++2M, 100")
STARTS = (350, 425, 500, 550, 600, 675)
CORRELATIONS = (0.7, 1.0)
# Where a random atom with fresh noise, and a mixture, are looked for.
RANDOM_STARTS = (250, 300, 350, 400, 425, 450, 500, 550)
MIXTURE_STARTS = (250, 300, 350, 400, 450, 550)


def best_coupled(stages: Stages, steps: int, **changes: Any) -> StartSpec:
    """The best coupled start in so many steps, on the atoms that `changes` (fields of a `Study`) say."""
    plain = StartSpec("semidiscrete", 0, steps, UNIPC, OWN_GRID + "log_snr", noise="coupled")
    rows = [
        row for rho in CORRELATIONS for row in at_each(replace(plain, correlation=rho), "coupled", STARTS)
    ]
    # The settings beside the bundled network were chosen among more.
    known = settings_rows().get(f"coupled_{steps}")
    if known is not None:
        rows.append(_labelled(known, "coupled"))
    # (Named by all that a search depends on: those that are asked for the same go through it once.)
    study = replace(stages.study("any", rows), **changes)
    name = f"choosing {steps} coupled on {study.atoms} {Path(study.atoms_from).stem}"
    return stages.best(name, rows, **{**changes, "real_split": stages.subject.validation})


def at_each(row: StartSpec, name: str, timesteps: Sequence[int]) -> list[StartSpec]:
    """The row at each t*, labelled with it."""
    return [_labelled(replace(row, start_timestep=t), name) for t in timesteps]


def _labelled(row: StartSpec, name: str) -> StartSpec:
    kept = "" if row.correlation == 1 else f", ρ = {row.correlation:g}"
    smooth = f", ε = {row.smoothing:g} τ" if row.smoothing else ""
    return replace(row, label=f"{name}, t* = {row.start_timestep:g}{kept}{smooth}, {row.steps}")
