"""Candidates that a choice is made among: white noise at T with every solver and spacing, and starts at each t*.

Spacings are screened on the validation images: the lowest FID of each solver at each number of evaluations is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otprior.diffusion.grids import SPACINGS
from otprior.experiments.chosen import chosen_starts
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior_studies.comparisons.stages import Stages

# Timestep T − 1 of the bundled network.
LAST = 999
GRIDS = tuple(OWN_GRID + name for name in SPACINGS)
USUAL = ("trailing", "karras", "exponential", "beta")
UNIPC = "UniPCMultistepScheduler"
FULL_SAMPLER = StartSpec("none", LAST, 100, spacing="trailing", label="full sampler, DPM++2M, 100")
STARTS = (350, 425, 500, 550, 600, 675)
CORRELATIONS = (0.7, 1.0)
# Where a random atom with fresh noise, and a mixture, are looked for.
RANDOM_STARTS = (250, 300, 350, 400, 425, 450, 500, 550)
MIXTURE_STARTS = (250, 300, 350, 400, 450, 550)


@dataclass(frozen=True)
class Solver:
    """A sampler from T: its name in labels, its diffusers class, the spacings it has, and config values."""

    name: str
    scheduler: str
    spacings: tuple[str, ...]
    sampler: tuple[tuple[str, Any], ...] = ()

    def steps(self, nfe: int) -> int:
        """Steps of at most `nfe` evaluations; Heun makes 2K − 1."""
        return (nfe + 1) // 2 if self.scheduler == "HeunDiscreteScheduler" else nfe


DPM_SOLVER = Solver("DPM++2M", "DPMSolverMultistepScheduler", (*USUAL, "lu", *GRIDS))
UNIPC_SOLVER = Solver("UniPC", UNIPC, (*USUAL, *GRIDS))
SOLVERS = (
    Solver("DDIM", "DDIMScheduler", ("trailing", "linspace", *GRIDS), (("clip_sample", False),)),
    DPM_SOLVER,
    Solver(
        "SDE-DPM++2M",
        "DPMSolverMultistepScheduler",
        (*USUAL, "lu", *GRIDS),
        (("algorithm_type", "sde-dpmsolver++"),),
    ),
    UNIPC_SOLVER,
    Solver("DEIS", "DEISMultistepScheduler", (*USUAL, *GRIDS)),
    # (Its Karras spacing runs between the ends of the spacing that it would have otherwise.)
    Solver("Heun (EDM)", "HeunDiscreteScheduler", (*USUAL, *GRIDS), (("timestep_spacing", "linspace"),)),
)


def white(solver: Solver, nfe: int, spacing: str) -> StartSpec:
    """N(0, I) at T with a solver."""
    start = StartSpec("none", LAST, solver.steps(nfe), solver.scheduler, spacing, sampler=solver.sampler)
    label = f"N(0, I) at T, {solver.name}, {spacing}, {start.evaluations}"
    return replace(start, label=label)


def best_spacings(
    stages: Stages, solvers: Sequence[Solver], evaluations: Sequence[int], samples: int
) -> dict[tuple[str, int], StartSpec]:
    """The start of lowest validation FID for each solver and number of evaluations."""
    best = {}
    for nfe in evaluations:
        # (With one call all spacings are the same.)
        starts = {
            (solver.name, spacing): white(solver, nfe, spacing)
            for solver in solvers
            for spacing in (solver.spacings if nfe > 1 else solver.spacings[:1])
        }
        result = stages.choose(f"spacings {nfe}", list(starts.values()), samples)
        for solver in solvers:
            mine = [start for (name, _), start in starts.items() if name == solver.name]
            best[solver.name, nfe] = min(mine, key=lambda start: result.row(start).measured("fid"))
    return best


def best_coupled(stages: Stages, steps: int, **changes: Any) -> StartSpec:
    """The best coupled start in so many steps, on the atoms that `changes` (fields of a `Comparison`) say."""
    plain = StartSpec("semidiscrete", 0, steps, UNIPC, OWN_GRID + "log_snr")
    starts = [
        start
        for rho in CORRELATIONS
        for start in at_each(plain.with_options(correlation=rho), "coupled", STARTS)
    ]
    # The settings of the bundled network were chosen among more candidates.
    known = chosen_starts().get(f"coupled_{steps}")
    if known is not None:
        starts.append(_labelled(known, "coupled"))
    # (The name holds all that a search depends on, so that equal searches are done once.)
    stage = replace(stages.comparison("any", starts), **changes)
    name = f"choosing {steps} coupled on {stage.atoms} {Path(stage.atoms_from).stem}"
    return stages.best(name, starts, **{**changes, "real_split": stages.subject.validation})


def at_each(start: StartSpec, name: str, timesteps: Sequence[int]) -> list[StartSpec]:
    """The start at each t*, labelled with it."""
    return [_labelled(replace(start, start_timestep=t), name) for t in timesteps]


def _labelled(start: StartSpec, name: str) -> StartSpec:
    kept = "" if start.correlation == 1 else f", ρ = {start.correlation:g}"
    smooth = f", ε = {start.smoothing:g} τ" if start.smoothing else ""
    return replace(start, label=f"{name}, t* = {start.start_timestep:g}{kept}{smooth}, {start.steps}")
