"""Starts of a comparison: their options, the keys that name work folders, and the settings files that hold them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otprior.data import bundled
from otprior.sampling.settings import read_settings, start_of_steps, write_settings
from otprior.sampling.start_spec import StartSpec

OPTIONS = (("smoothing", 0.15), ("correlation", 0.85), ("noise", "coupled"))
ROW = StartSpec("semidiscrete", 525, 5, label="a", options=OPTIONS)


def test_options_are_those_of_the_prior_that_are_not_at_their_defaults() -> None:
    assert ROW.options == (("correlation", 0.85), ("smoothing", 0.15))
    assert (ROW.noise, ROW.smoothing, ROW.correlation) == ("coupled", 0.15, 0.85)
    assert ROW.with_options(correlation=1.0, smoothing=0.0) == replace(ROW, options=())
    gaussian = ROW.with_prior("gaussian", rank=20)
    assert (gaussian.options, gaussian.noise, gaussian.correlation) == ((("rank", 20),), None, 1.0)


def test_options_that_the_prior_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="options must be among rank; got noise"):
        ROW.with_prior("gaussian", noise="fresh")
    with pytest.raises(ValueError, match=r"correlation must be in \(0, 1\]; got 2"):
        ROW.with_options(correlation=2)
    with pytest.raises(ValueError, match="smoothing must be 0 with noise='frozen'"):
        ROW.with_options(correlation=1.0, noise="frozen")


def test_the_key_is_that_of_what_decides_the_images() -> None:
    assert replace(ROW, label="another").key == ROW.key
    assert ROW.with_options(noise="coupled").key == ROW.key


def test_earlier_settings_had_fields_for_three_options() -> None:
    earlier = {"prior": "semidiscrete", "start_timestep": 525, "steps": 5, "noise": "coupled", "label": "a"}
    assert StartSpec.from_json(earlier | {"smoothing": 0.15, "correlation": 0.85}) == ROW
    mixture = earlier | {"prior": "mixture", "noise": None, "smoothing": 0.0, "correlation": 1.0}
    assert StartSpec.from_json(mixture | {"options": [["components", 9]]}).options == (("components", 9),)


@pytest.mark.parametrize(
    "change",
    [
        {"conditional": True},
        {"guidance": 2.0},
        {"sampler": (("algorithm_type", "sde-dpmsolver++"),)},
        {"options": (("noise", "fresh"),)},
        {"start_timestep": 500},
    ],
)
def test_whatever_decides_the_images_is_in_the_key(change: dict[str, Any]) -> None:
    changed = replace(ROW, **change)
    assert changed.key != ROW.key
    assert StartSpec.from_json(json.loads(json.dumps(changed.to_json()))) == changed


def test_a_fitted_grid_is_kept() -> None:
    fitted = replace(ROW, spacing="grid:fitted", grid=(500, 300, 150, 60, 20))
    assert fitted.key != ROW.key
    assert StartSpec.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted
    with pytest.raises(ValueError, match="grid must be 5 decreasing timesteps"):
        replace(fitted, grid=(500, 300))
    with pytest.raises(ValueError, match="grid must be 5 decreasing timesteps"):
        replace(fitted, grid=(500, 300, 310, 60, 20))
    with pytest.raises(ValueError, match="grid must be left out with spacing"):
        replace(ROW, grid=(500,))


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
    assert start_of_steps(rows, 3) == rows["coupled_3"]
    with pytest.raises(ValueError, match=r"steps must be given; got None. The settings are for 5, 3"):
        start_of_steps(rows, None)
    with pytest.raises(ValueError, match="steps must be a number of steps for which"):
        start_of_steps(rows, 4)


def test_the_bundled_settings_are_such_a_file() -> None:
    rows = read_settings(bundled.ROOT / "settings.json")
    assert start_of_steps(rows, 5).noise == "coupled"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "must be a JSON object"),
        ('{"format_version": 2, "rows": {"a": {}}}', "format_version of .* must be 1; got 2"),
        ('{"format_version": 1, "rows": {}}', "rows of .* must be an object with one start or more"),
        ('{"format_version": 1, "rows": {"a": {"prior": "none"}}}', "do not describe starts"),
        ('{"format_version": 1, "rows": {"a": 3}}', "do not describe starts"),
    ],
)
def test_damaged_settings_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_settings(path)
    with pytest.raises(FileNotFoundError, match="`otprior tune` writes one"):
        read_settings(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start_timestep", [8]),
        ("start_timestep", None),
        ("steps", "2"),
        ("steps", 0),
        ("steps", True),
        ("guidance", {}),
        ("scheduler", [[]]),
        ("spacing", 3),
        ("label", None),
        ("prior", 1),
    ],
)
def test_values_of_another_kind_are_refused_as_settings_are_read(
    tmp_path: Path, name: str, value: object
) -> None:
    path = tmp_path / "settings.json"
    write_settings(path, {"a": ROW}, "validation", "by hand")
    content = json.loads(path.read_text())
    content["rows"]["a"][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"settings .*settings.json do not describe starts: {name} must be"):
        read_settings(path)


def test_numbers_of_numpy_make_the_same_start(tmp_path: Path) -> None:
    start = StartSpec("gaussian", np.int64(500), np.int32(5), guidance=np.float32(2.0))  # type: ignore[arg-type]
    assert start == StartSpec("gaussian", 500, 5, guidance=2.0)
    write_settings(tmp_path / "settings.json", {"a": start}, "validation", "by hand")
    assert read_settings(tmp_path / "settings.json")["a"] == start
