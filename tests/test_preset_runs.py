"""Every bundled study from its first choice to its reports, with invented figures in the place of samples.

What such a run shows: that nothing is chosen on the images that are reported on, or on seeds that are, which parts
there are, and that each makes a sound report.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from otprior.data import bundled
from otprior.experiments.comparison import Comparison, ComparisonResult
from otprior.experiments.gates import CopyLimit
from otprior.metrics import Interval
from otprior.report import SamplingReport
from otprior_studies.comparisons import (
    PRESETS,
    Stages,
    atom_sets,
    conditional,
)
from otprior_studies.comparisons import (
    stages as preset,
)
from otprior_studies.comparisons.stages import CHOOSING, Scale

PARTS = {
    "headline": {""},
    "baselines": {"", "pairs", "matching", "target"},
    "conditional": {""},
    "better-priors": {"", "candidates"},
    "frontier": {"", "atoms", "unseen", "model"},
}
# Parts that show what was chosen from, which is measured on the validation images.
CHOSEN_FROM = {"matching", "target", "candidates"}


def invented(study: Comparison) -> ComparisonResult:
    """A result whose figures follow from the rows' keys."""
    rows, sets = [], {}
    for row in study.rows:
        chance = random.Random(row.key)
        fid, rate = chance.uniform(4, 30), chance.choice((0.0, 0.0, 0.005, 0.3))
        sets[row.key] = [
            {"fid": fid + chance.uniform(-1, 1), "copy_rate": rate} for _ in range(study.seed_sets)
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
            "seconds_per_image": row.evaluations / 100,
            "fit_seconds": None if row.prior == "none" else 10.0,
        }
        rows.append(
            {
                "label": row.label,
                "prior": row.prior,
                "noise": row.noise,
                "start_timestep": row.start_timestep,
                "nfe": row.evaluations,
                "samples": study.samples * study.seed_sets,
                **figures,
            }
        )
    report = {
        "format_version": 1,
        "features": {"name": "invented", "dim": 2},
        "ot": {"atoms": study.atoms, "dim": 784, "chi2": 0.05, "seconds": 1.0},
        "reference": {"n": 2000, "fid_floor": 2.7, "copy_rate": 0.0085},
        "rows": rows,
    }
    return ComparisonResult(report, [], sets, study, Path("nowhere"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """The studies that were run."""
    studies: list[Comparison] = []

    def run_comparison(study: Comparison, *_: Any, **__: Any) -> ComparisonResult:
        studies.append(study)
        return invented(study)

    def difference(*_: Any, **__: Any) -> Interval:
        return Interval(-1.0, 1.0, 0.0)

    for module in ("otprior_studies.comparisons.stages", "otprior.experiments.search"):
        monkeypatch.setattr(f"{module}.run_comparison", run_comparison)
    for module in ("otprior.experiments.gates", "otprior_studies.comparisons.atom_sets"):
        monkeypatch.setattr(f"{module}.paired_fid_difference", difference)
    monkeypatch.setattr(preset, "own_limit", lambda *_: CopyLimit(0.006, 2000))
    monkeypatch.setattr(
        conditional, "_hits", lambda *_: torch.rand(50, generator=torch.Generator().manual_seed(0))
    )
    drawn = bundled.atoms().select(slice(0, 12))
    monkeypatch.setattr(atom_sets, "draw_model_images", lambda *_, **__: drawn)
    return studies


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_chosen_is_chosen_on_other_images_and_seeds_than_it_is_reported_on(
    name: str, seen: list[Comparison], tmp_path: Path
) -> None:
    found = PRESETS[name]
    parts = found.run(Stages(Scale(2000, found.seed_sets), tmp_path))
    assert set(parts) == PARTS[name]
    choosing = [study for study in seen if study.split == "validation"]
    reported = [study for study in seen if study.split == "reference"]
    assert len(choosing) + len(reported) == len(seen)
    assert all(study.first_seed >= CHOOSING for study in choosing)
    assert all(study.first_of(study.seed_sets) < CHOOSING for study in reported)
    assert all("reference" not in (study.real_split, study.atoms_from) for study in seen)
    assert all(study.atoms_from != study.real_split for study in seen)
    for part, result in parts.items():
        SamplingReport.from_json(result.report)
        rows = result.report["rows"]
        assert len({row["label"] for row in rows}) == len(rows)
        if result.study is not None:
            assert result.study.split == ("validation" if part in CHOSEN_FROM else "reference")
