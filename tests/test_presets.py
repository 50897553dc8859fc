"""Bundled studies: every row that they can choose from can be sampled, and says the evaluations that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from otprior.data import bundled
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.comparison import Comparison
from otprior.experiments.gates import CopyLimit
from otprior.experiments.sampling import network_precision, sampler_of
from otprior.experiments.search import Trial
from otprior.sampling.schedulers import start_scheduler
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons import (
    PRESETS,
    Stages,
    baselines,
    better_priors,
    conditional,
    frontier,
)
from otprior_studies.comparisons import (
    stages as preset,
)
from otprior_studies.comparisons.spacings import SOLVERS, Solver, white
from otprior_studies.comparisons.stages import Scale

SCHEDULER = bundled.load_scheduler()


def evaluations_made(row: StartSpec) -> int:
    """Calls of the network that the row's sampler would make from T or t*, without guidance."""
    scheduler, grid = sampler_of(SCHEDULER, row)
    given = {"num_inference_steps": row.steps} if grid is None else {"timesteps": grid}
    return start_scheduler(scheduler, row.start_timestep, **given).nfe  # type: ignore[arg-type]


CASES = [
    *((solver, nfe) for solver in SOLVERS for nfe in baselines.EVALUATIONS),
    *((solver, nfe) for solver in frontier.WHITE for nfe in frontier.EVALUATIONS),
]


@pytest.mark.parametrize(("solver", "nfe"), CASES, ids=lambda value: getattr(value, "name", value))
def test_every_solver_can_run_on_every_spacing_that_it_is_tried_on(solver: Solver, nfe: int) -> None:
    for spacing in solver.spacings if nfe > 1 else solver.spacings[:1]:
        row = white(solver, nfe, spacing)
        assert evaluations_made(row) == row.evaluations, row.label
        assert nfe - 1 <= row.evaluations <= nfe  # Heun makes an odd number


def test_candidates_differ_and_fit_the_schedule() -> None:
    from otprior_studies.comparisons import settings_rows

    coupled = settings_rows()["coupled_5"]
    rows = [row for group in better_priors.candidates(coupled, 10_000).values() for row in group]
    assert len({row.key for row in rows}) == len(rows)
    assert len({row.label for row in rows}) == len(rows)
    schedule = NoiseSchedule.from_scheduler(SCHEDULER)
    for row in rows:
        schedule.check_timestep(row.start_timestep)
        assert evaluations_made(row) == 5


def test_what_copies_too_much_is_told_by_the_validation_images(tmp_path: Path) -> None:
    # 12 of the 2,000 have a near copy among the 10,000 atoms; of the 4,000 held-out ones 34 have.
    assert Stages(Scale(2000), tmp_path).copy_limit() == CopyLimit(12 / 2000, 2000)


def test_guided_rows_are_compared_at_equal_calls() -> None:
    made = [
        StartSpec("none", 999, steps, guidance=w).evaluations
        for w in conditional.GUIDANCES
        for steps in conditional.STEPS.get(w, conditional.GUIDED_STEPS)
    ]
    assert made == [5, 10, 6, 10, 6, 10, 6, 10]


def test_sizes() -> None:
    usual = PRESETS["baselines"].scale(None, None, None, full=False)
    assert (usual.samples, usual.seed_sets, usual.precision, usual.rehearsal) == (
        2000,
        1,
        network_precision("auto"),
        False,
    )
    head = PRESETS["headline"].scale(None, None, None, full=False)
    assert (head.samples, head.seed_sets, head.precision) == (4000, 5, "float32")
    full = PRESETS["frontier"].scale(500, None, None, full=True)
    assert (full.samples, full.seed_sets, full.precision) == (500, 5, "float32")
    assert Scale(48).share(0.1) == 12


def test_a_rehearsal_solves_for_fewer_atoms(tmp_path) -> None:  # type: ignore[no-untyped-def]
    row = StartSpec("none", 999, 5)
    small, usual = (Stages(Scale(n), tmp_path).study("a", [row]) for n in (48, 2000))
    assert (small.atoms, usual.atoms) == (1000, 10_000)
    assert Stages(Scale(48), tmp_path).priors(small).name == "atoms-1000"


def test_a_start_that_cannot_be_shown_not_to_copy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [StartSpec("random_atom", t, 5, label=f"t* = {t}") for t in (300, 400)]
    rates = {"t* = 300": 0.2, "t* = 400": 0.1}
    monkeypatch.setattr(preset, "own_limit", lambda *_: CopyLimit(0.0, 2000))
    monkeypatch.setattr(preset, "other_turns", lambda *_, **__: [])

    def tried(study: Comparison, rows: Sequence[StartSpec], *_: Any, **__: Any) -> list[Trial]:
        return [
            Trial(row, 1000, {"fid": 1.0, "copy_rate": rates[row.label], "source_rate": 0.5}) for row in rows
        ]

    monkeypatch.setattr(preset, "halving", tried)
    stages = Stages(Scale(200), tmp_path)
    assert stages.best("any", rows).label == "t* = 400, copying limit not shown"
    rates["t* = 300"] = 0.0
    assert stages.best("any", rows).label == "t* = 300"
