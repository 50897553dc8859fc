"""Bundled studies: every row that they can choose from can be sampled, and says the evaluations that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_example import bare_row

from otprior.data import bundled
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.chosen import chosen_starts, demo
from otprior.experiments.comparison import Comparison
from otprior.experiments.gates import CopyLimit
from otprior.experiments.sampling import network_precision, sampler_of
from otprior.experiments.search import Trial
from otprior.experiments.study import find_study, study_names
from otprior.sampling.schedulers import start_scheduler
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons import baselines, better_priors, conditional, frontier, headline, stages
from otprior_studies.comparisons.candidates import SOLVERS, Solver, white
from otprior_studies.comparisons.stages import Stages
from otprior_studies.papers.dpm_ot import reports

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


def test_the_demo_is_by_class_and_its_rivals_differ_in_what_they_begin_with() -> None:
    study = demo()
    assert study.model in bundled.NETWORKS
    assert all(row.conditional and evaluations_made(row) == row.evaluations for row in study.starts)
    assert len({row.label for row in study.starts}) == len(study.starts)
    best, shorter, *others = study.starts
    assert shorter.steps < best.steps
    rivals = [row for row in others if row.prior != "none"]
    assert {replace(row, prior="", options=(), label="") for row in (best, *rivals)} == {
        replace(best, prior="", options=(), label="")
    }


def test_candidates_differ_and_fit_the_schedule() -> None:
    coupled = chosen_starts()["coupled_5"]
    rows = [row for group in better_priors.candidates(coupled, 10_000).values() for row in group]
    assert len({row.key for row in rows}) == len(rows)
    assert len({row.label for row in rows}) == len(rows)
    schedule = NoiseSchedule.from_scheduler(SCHEDULER)
    for row in rows:
        schedule.check_timestep(row.start_timestep)
        assert evaluations_made(row) == 5


def test_what_copies_too_much_is_told_by_the_validation_images(tmp_path: Path) -> None:
    # 12 of the 2,000 have a near copy among the 10,000 atoms; of the 4,000 held-out ones 34 have.
    assert Stages(tmp_path, 2000).copy_limit() == CopyLimit(12 / 2000, 2000)


def test_guided_rows_are_compared_at_equal_calls() -> None:
    made = [
        StartSpec("none", 999, steps, guidance=w).evaluations
        for w in conditional.GUIDANCES
        for steps in conditional.STEPS.get(w, conditional.GUIDED_STEPS)
    ]
    assert made == [5, 10, 6, 10, 6, 10, 6, 10]


@pytest.mark.parametrize(
    ("name", "size", "samples", "seed_sets"),
    [
        ("headline", "usual", 4000, 5),
        ("baselines", "usual", 2000, 1),
        ("frontier", "full", 4000, 5),
        ("conditional", "fast", 48, 1),
    ],
)
def test_sizes(name: str, size: Any, samples: int, seed_sets: int, tmp_path: Path) -> None:
    request = find_study(name).request(tmp_path, size).resolved()
    assert (request.samples, request.settings.seed_sets) == (samples, seed_sets)
    assert request.settings.full is (size == "full")
    whole = name == "headline" or size == "full"
    assert request.settings.precision == network_precision("float32" if whole else "auto")


def test_what_is_named_overrides_the_size(tmp_path: Path) -> None:
    request = find_study("frontier").request(
        tmp_path, "full", 500, {"seed_sets": "2", "precision": "bfloat16"}
    )
    found = (request.samples, request.settings.seed_sets, request.settings.precision)
    assert found == (500, 2, "bfloat16")
    with pytest.raises(ValueError, match="seed_sets must be an integer >= 2; got 1"):
        find_study("headline").request(tmp_path, settings={"seed_sets": 1})
    with pytest.raises(ValueError, match="--set seed_sets must be a valid integer; got 'few'"):
        find_study("headline").request(tmp_path, settings={"seed_sets": "few"})
    with pytest.raises(ValueError, match=r"study must be one of .*'frontier'"):
        find_study("backwards")


def test_every_study_has_a_module_and_settings_that_all_sizes_fit(tmp_path: Path) -> None:
    assert len(study_names()) == 9
    for name in study_names():
        study = find_study(name)
        assert find_spec(study.module) is not None
        for size in ("usual", "fast", *(("full",) if study.full else ())):
            assert study.request(tmp_path, size).samples >= 12  # type: ignore[arg-type]


def test_a_rehearsal_solves_for_fewer_atoms(tmp_path: Path) -> None:
    row = StartSpec("none", 999, 5)
    small, usual = (Stages(tmp_path, n).comparison("a", [row]) for n in (48, 2000))
    assert (small.atoms, usual.atoms) == (1000, 10_000)
    assert Stages(tmp_path, 48).priors(small).name == "atoms-1000"
    assert Stages(tmp_path, 48).share(0.1) == 12


def test_a_start_that_cannot_be_shown_not_to_copy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [StartSpec("random_atom", t, 5, label=f"t* = {t}") for t in (300, 400)]
    rates = {"t* = 300": 0.2, "t* = 400": 0.1}
    monkeypatch.setattr(stages, "own_limit", lambda *_: CopyLimit(0.0, 2000))
    monkeypatch.setattr(stages, "other_turns", lambda *_, **__: [])

    def tried(study: Comparison, rows: Sequence[StartSpec], *_: Any, **__: Any) -> list[Trial]:
        return [
            Trial(row, 1000, bare_row(fid=1.0, copy_rate=rates[row.label], source_rate=0.5)) for row in rows
        ]

    monkeypatch.setattr(stages, "halving", tried)
    small = Stages(tmp_path, 200)
    assert small.best("any", rows).label == "t* = 400, copying limit not shown"
    rates["t* = 300"] = 0.0
    assert small.best("any", rows).label == "t* = 300"


def test_networks_sample_where_they_are_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(name: str) -> Any:
        return find_study(name).request(tmp_path, samples=12, device="cuda:1").resolved()

    assert Stages.of(asked("conditional")).comparison("one", [stages.ANY]).device == "cuda:1"
    assert reports._comparison("one", [stages.ANY], asked("dpm-ot"), 100).device == "cuda:1"
    seen: list[Comparison] = []
    result = SimpleNamespace(with_report=lambda **_: None)
    monkeypatch.setattr(headline, "run_comparison", lambda each, *_, **__: seen.append(each) or result)
    monkeypatch.setattr(headline, "headline_gates", lambda *_: ())
    headline.run(asked("headline"))
    assert [each.device for each in seen] == ["cuda:1"]
