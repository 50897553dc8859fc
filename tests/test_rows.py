"""Rows of a comparison: their keys name work folders and must not drift; settings files hold them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otprior.data import bundled
from otprior.sampling.settings import read_settings, row_of_steps, write_settings
from otprior.sampling.start_spec import StartSpec

ROW = StartSpec("semidiscrete", 525, 5, noise="coupled", smoothing=0.15, correlation=0.85, label="a")


def test_the_key_is_that_of_the_first_work_folders() -> None:
    """Fields that came later do not change the key of a row that leaves them at their default."""
    first = {
        "prior": "semidiscrete",
        "start_timestep": 525,
        "steps": 5,
        "scheduler": "DPMSolverMultistepScheduler",
        "spacing": "grid:log_snr",
        "noise": "coupled",
        "smoothing": 0.15,
        "correlation": 0.85,
        "label": "",
    }
    expected = hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:16]
    assert ROW.key == expected
    assert replace(ROW, label="another").key == expected


@pytest.mark.parametrize(
    "change",
    [
        {"conditional": True},
        {"guidance": 2.0},
        {"sampler": (("algorithm_type", "sde-dpmsolver++"),)},
        {"options": (("direction", "atom"),)},
        {"start_timestep": 500},
    ],
)
def test_whatever_decides_the_images_is_in_the_key(change: dict[str, Any]) -> None:
    changed = replace(ROW, **change)
    assert changed.key != ROW.key
    assert StartSpec.from_json(json.loads(json.dumps(changed.to_json()))) == changed


def test_evaluations() -> None:
    assert ROW.evaluations == 5
    assert replace(ROW, guidance=3.0).evaluations == 10
    assert replace(ROW, scheduler="HeunDiscreteScheduler").evaluations == 9


# Settings files --------------------------------------------------------------------------------------------


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    rows = {"coupled_5": ROW, "coupled_3": replace(ROW, steps=3), "none": StartSpec("none", 999, 5)}
    write_settings(path, rows, "validation", "otprior tune", figures={"fid": 1.0})
    assert read_settings(path) == rows
    assert row_of_steps(rows, 3) == rows["coupled_3"]
    with pytest.raises(ValueError, match=r"steps must be given; got None. The settings are for 5, 3"):
        row_of_steps(rows, None)
    with pytest.raises(ValueError, match="steps must be a number of steps for which"):
        row_of_steps(rows, 4)


def test_the_bundled_settings_are_such_a_file() -> None:
    rows = read_settings(bundled.ROOT / "settings.json")
    assert row_of_steps(rows, 5).noise == "coupled"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "must be a JSON object"),
        ('{"format_version": 2, "rows": {"a": {}}}', "format_version of .* must be 1; got 2"),
        ('{"format_version": 1, "rows": {}}', "rows of .* must be an object with a row or more"),
        ('{"format_version": 1, "rows": {"a": {"prior": "none"}}}', "do not describe rows"),
        ('{"format_version": 1, "rows": {"a": 3}}', "do not describe rows"),
    ],
)
def test_damaged_settings_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_settings(path)
    with pytest.raises(FileNotFoundError, match="`otprior tune` writes one"):
        read_settings(tmp_path / "missing.json")
