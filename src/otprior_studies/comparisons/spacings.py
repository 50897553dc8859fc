"""White noise at T with every solver, each with the best of its spacings.

Spacings are screened on the validation images: the lowest FID of each solver at each number of evaluations is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from otprior.diffusion.grids import SPACINGS
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior_studies.comparisons.stages import Stages

# Timestep T − 1 of the bundled network.
LAST = 999
GRIDS = tuple(OWN_GRID + name for name in SPACINGS)
USUAL = ("trailing", "karras", "exponential", "beta")


@dataclass(frozen=True)
class Solver:
    """A sampler from T: its name for people, its diffusers class, config values, and the spacings it has."""

    name: str
    scheduler: str
    spacings: tuple[str, ...]
    sampler: tuple[tuple[str, Any], ...] = ()

    def steps(self, nfe: int) -> int:
        """Steps of at most `nfe` evaluations; Heun makes 2K − 1."""
        return (nfe + 1) // 2 if self.scheduler == "HeunDiscreteScheduler" else nfe


SOLVERS = (
    Solver("DDIM", "DDIMScheduler", ("trailing", "linspace", *GRIDS), (("clip_sample", False),)),
    Solver("DPM++2M", "DPMSolverMultistepScheduler", (*USUAL, "lu", *GRIDS)),
    Solver(
        "SDE-DPM++2M",
        "DPMSolverMultistepScheduler",
        (*USUAL, "lu", *GRIDS),
        (("algorithm_type", "sde-dpmsolver++"),),
    ),
    Solver("UniPC", "UniPCMultistepScheduler", (*USUAL, *GRIDS)),
    Solver("DEIS", "DEISMultistepScheduler", (*USUAL, *GRIDS)),
    # (Its Karras spacing runs between the ends of the spacing that it would have otherwise.)
    Solver("Heun (EDM)", "HeunDiscreteScheduler", (*USUAL, *GRIDS), (("timestep_spacing", "linspace"),)),
)


def white(solver: Solver, nfe: int, spacing: str) -> StartSpec:
    """N(0, I) at T with a solver."""
    row = StartSpec("none", LAST, solver.steps(nfe), solver.scheduler, spacing, sampler=solver.sampler)
    label = f"N(0, I) at T, {solver.name}, {spacing}, {row.evaluations}"
    return replace(row, label=label)


def best_spacings(
    stages: Stages, solvers: Sequence[Solver], evaluations: Sequence[int], samples: int
) -> dict[tuple[str, int], StartSpec]:
    """The row of lowest validation FID for each solver and number of evaluations."""
    best = {}
    for nfe in evaluations:
        # (With one call all spacings are the same.)
        rows = {
            (solver.name, spacing): white(solver, nfe, spacing)
            for solver in solvers
            for spacing in (solver.spacings if nfe > 1 else solver.spacings[:1])
        }
        result = stages.choose(f"spacings {nfe}", list(rows.values()), samples)
        for solver in solvers:
            mine = [row for (name, _), row in rows.items() if name == solver.name]
            best[solver.name, nfe] = min(mine, key=lambda row: result.row(row)["fid"])
    return best
