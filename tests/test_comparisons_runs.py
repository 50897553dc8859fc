"""Every bundled study from its first choice to its reports, with invented figures in the place of samples.

What such a run shows: that nothing is chosen on the images that are reported on, or on seeds that are, which parts
there are, and that each makes a sound report.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from report_example import bare_report

from otprior.experiments.comparison import Comparison, ComparisonResult
from otprior.experiments.gates import CopyLimit
from otprior.experiments.study import find_study
from otprior.metrics import Interval
from otprior.report import SamplingReport
from otprior.sampling.start_spec import FITTED, StartSpec
from otprior_studies.comparisons import conditional, perfect, stages
from otprior_studies.comparisons.stages import CHOOSING

PARTS = {
    "headline": {""},
    "baselines": {"", "pairs", "matching", "target"},
    "conditional": {""},
    "better-priors": {"", "candidates"},
    "frontier": {"", "atoms", "unseen", "model"},
    "perfect": {"", "errors"},
}
# Parts that show what was chosen from, which is measured on the validation images.
CHOSEN_FROM = {"matching", "target", "candidates"}


def invented(comparison: Comparison) -> ComparisonResult:
    """A result whose figures follow from the starts' keys."""
    rows, sets = [], {}
    for start in comparison.starts:
        chance = random.Random(start.key)
        fid, rate = chance.uniform(4, 30), chance.choice((0.0, 0.0, 0.005, 0.3))
        sets[start.key] = [
            {"fid": fid + chance.uniform(-1, 1), "copy_rate": rate} for _ in range(comparison.seed_sets)
        ]
        figures = {
            "fid": fid,
            "fid_interval": [fid - 1, fid + 1],
            "excess_fid": fid - 2.7,
            "excess_fid_interval": [fid - 3.7, fid - 1.7],
            "copy_rate": rate,
            "source_rate": chance.random(),
            "seed_agreement": chance.random(),
            "recall": 0.5,
            "coverage": 0.5,
            "seconds_per_image": start.evaluations / 100,
            "fit_seconds": None if start.prior == "none" else 10.0,
        }
        rows.append(
            {
                "label": start.label,
                "prior": start.prior,
                "noise": start.noise,
                "start_timestep": start.start_timestep,
                "nfe": start.evaluations,
                "samples": comparison.samples * comparison.seed_sets,
                **figures,
            }
        )
    report = bare_report(
        *rows,
        features={"name": "invented", "dim": 2},
        ot={"atoms": comparison.atoms, "dim": 784, "chi2": 0.05, "seconds": 1.0},
        reference={"n": 2000, "fid_floor": 2.7, "copy_rate": 0.0085},
    )
    return ComparisonResult(report, [], sets, comparison, Path("nowhere"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Comparison]:
    """The comparisons that were run."""
    studies: list[Comparison] = []

    def run_comparison(study: Comparison, *_: Any, **__: Any) -> ComparisonResult:
        studies.append(study)
        return invented(study)

    def difference(*_: Any, **__: Any) -> Interval:
        return Interval(-1.0, 1.0, 0.0)

    for module in (
        "otprior_studies.comparisons.stages",
        "otprior_studies.comparisons.headline",
        "otprior.experiments.search",
    ):
        monkeypatch.setattr(f"{module}.run_comparison", run_comparison)
    for module in ("otprior.experiments.gates", "otprior_studies.comparisons.atom_sets"):
        monkeypatch.setattr(f"{module}.paired_fid_difference", difference)
    monkeypatch.setattr(stages, "own_limit", lambda *_: CopyLimit(0.006, 2000))
    monkeypatch.setattr(
        conditional, "_hits", lambda *_: torch.rand(50, generator=torch.Generator().manual_seed(0))
    )
    # The law's images and network: here those that are bundled.
    monkeypatch.setattr(perfect, "_law", lambda *_: None)
    monkeypatch.setattr(perfect, "_subject", lambda *_: stages.Subject())

    def fitted(_: Comparison, start: StartSpec, *__: Any) -> StartSpec:
        grid = tuple(start.start_timestep - k for k in range(start.steps))
        return replace(start, spacing=FITTED, grid=grid)

    monkeypatch.setattr(perfect, "with_fitted_grid", fitted)
    drawn = tmp_path / "model-images" / "model-10000.npz"
    drawn.parent.mkdir()
    drawn.touch()  # no comparison that is invented reads it
    return studies


@pytest.mark.parametrize("name", PARTS)
def test_what_is_chosen_is_chosen_on_other_images_and_seeds_than_it_is_reported_on(
    name: str, seen: list[Comparison], tmp_path: Path
) -> None:
    study = find_study(name)
    parts = study.run(study.request(tmp_path, samples=2000))
    assert set(parts) == PARTS[name]
    choosing = [study for study in seen if study.split == "validation"]
    reported = [study for study in seen if study.split == "reference"]
    assert len(choosing) + len(reported) == len(seen)
    assert all(study.first_seed >= CHOOSING for study in choosing)
    assert all(study.first_of(study.seed_sets) < CHOOSING for study in reported)
    assert all("reference" not in (study.real_split, study.atoms_from) for study in seen)
    assert all(study.atoms_from != study.real_split for study in seen)
    for part, result in parts.items():
        assert SamplingReport.from_json(result.report.to_json()) == result.report
        rows = result.report.rows
        assert len({row.label for row in rows}) == len(rows)
        assert isinstance(result, ComparisonResult)
        if result.comparison is not None:
            assert result.comparison.split == ("validation" if part in CHOSEN_FROM else "reference")


@pytest.mark.slow
def test_the_study_of_perfect_networks_runs_and_goes_on(tmp_path: Path) -> None:
    """A rehearsal from the law to both reports; done again it samples nothing anew."""
    study = find_study("perfect")
    request = study.request(tmp_path, samples=12)
    parts = study.run(request)
    assert set(parts) == {"", "errors"}
    rows = parts[""].report.rows
    labels = [row.label or "" for row in rows]
    assert len(set(labels)) == len(labels)
    for start in ("whitened", "fresh", "N(0, I)"):
        assert sum(label.startswith(start) for label in labels) == 2  # stock and fitted grid
    assert {row.nfe for row in rows} == {5, 10}
    (curve,) = parts["errors"].report.curves
    assert {len(points) for points in curve.series.values()} == {2}
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = study.run(request)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == made
    assert [row.fid for row in again[""].report.rows] == [row.fid for row in rows]
