"""Numbers of NumPy and torch are numbers: what takes them can also be saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import SIZE, assert_refused, run, write_images, write_tame_model
from diffusers import DDIMScheduler

from otprior import (
    GaussianPrior,
    MixturePrior,
    OTPriorPipeline,
    Prior,
    RandomAtomPrior,
    SemiDiscretePrior,
    solve_semidiscrete,
)
from otprior.diffusion import Codes, Encoder
from otprior.sampling import StartSpec, read_settings, write_settings

IMAGES = torch.tanh(torch.randn(60, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
SCHEDULER = DDIMScheduler()
SCHEDULER.set_timesteps(1000)


@pytest.mark.parametrize("number", [np.int64, np.int32, torch.tensor, lambda value: np.array(value)])
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (GaussianPrior, {"rank": 5, "num_classes": 3}),
        (SemiDiscretePrior, {"rank": 5, "max_draws": 10**6}),
        (MixturePrior, {"rank": 2, "components": 3, "num_classes": 3}),
        (RandomAtomPrior, {"num_classes": 3}),
    ],
)
def test_whole_numbers(
    cls: Any, options: dict[str, int], number: Callable[[int], Any], tmp_path: Path
) -> None:
    labels = {"labels": np.arange(60) % 3} if "num_classes" in options else {}
    tol = {"tol": 0.5} if "tol" in cls.Options.declared() else {}
    given = {name: number(value) for name, value in options.items()}
    prior = cls.fit(IMAGES, SCHEDULER, timestep=number(500), **labels, **tol, **given)
    prior.at(SCHEDULER.timesteps[3]).save_pretrained(tmp_path / "prior")
    assert Prior.from_pretrained(tmp_path / "prior").timestep == int(SCHEDULER.timesteps[3])


@pytest.mark.parametrize("number", [np.float32, np.float64, torch.tensor])
def test_floating_point_numbers(number: Callable[[float], Any], tmp_path: Path) -> None:
    prior = SemiDiscretePrior.fit(
        IMAGES, SCHEDULER, timestep=500, tol=number(0.5), correlation=number(0.5), smoothing=number(0.25)
    )
    moved = prior.with_options(smoothing=number(0.75))
    moved.save_pretrained(tmp_path / "prior")
    assert json.loads((tmp_path / "prior" / "config.json").read_text())["smoothing"] == 0.75
    assert solve_semidiscrete(IMAGES.flatten(1), tol=number(0.5)).chi2.value < 0.5


def test_an_encoders_numbers_can_be_kept(tmp_path: Path) -> None:
    codes = Codes(torch.zeros(1, 1, 2, 2), encoder=Encoder(steps=np.int64(7), tol=np.float32(0.5)))
    codes.save(tmp_path / "codes.safetensors")
    assert Codes.load(tmp_path / "codes.safetensors").encoder == Encoder(steps=7, tol=0.5)


# Bounds ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    write_tame_model(folder / "model")
    write_images(folder / "data.npz")
    return folder


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("fit model data.npz --threads 1000000000", "--threads"),
        ("fit model data.npz --seed 99999999999999999999999", "--seed"),
        ("sample model --prior none --batch-size 1000000000000", "--batch-size"),
        ("compare --workers 1000000000000000000", "--workers"),
    ],
)
def test_numbers_beyond_any_use_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: str, option: str
) -> None:
    monkeypatch.chdir(here)
    name, *rest = words.split()
    from typer.testing import CliRunner

    from otprior.cli import program

    result = CliRunner().invoke(program, [name, *rest, "--out", "out"])
    assert result.exit_code == 2
    assert option in result.stderr
    assert not (here / "out").exists()


@pytest.mark.parametrize("steps", [10**9, 10**12])
def test_steps_without_end_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.chdir(here)
    words = ["encode", "model", "data.npz", "--class-label", 0, "--limit", 1, "--out", "out"]
    assert_refused(run(*words, "--steps", steps), "steps must be an integer in [1, 100000]")


@pytest.mark.parametrize("device", ["meta", "hpu", "privateuseone", "vulkan", "nonsense", "cuda:99"])
def test_devices_that_do_not_compute_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.chdir(here)
    result = run("fit", "model", "data.npz", "--prior", "gaussian", "--device", device, "--out", "out")
    assert_refused(result, "--device must be one that this machine has")
    assert len(result.stderr) < 400


@pytest.mark.parametrize("number", [np.int64, torch.tensor])
def test_a_start_a_pipeline_and_its_call(number: Callable[[Any], Any], tmp_path: Path) -> None:
    options = (("noise", "coupled"), ("correlation", np.float32(0.5)), ("smoothing", torch.tensor(0.25)))
    start = StartSpec("semidiscrete", number(500), number(2), options=options)
    grid = tuple(np.linspace(400, 1, 2))
    fitted = StartSpec(
        "gaussian", 500, 2, spacing="grid:fitted", grid=grid, sampler=(("solver_order", number(2)),)
    )
    write_settings(tmp_path / "settings.json", {"a": start, "b": fitted}, "these images", "command")
    assert read_settings(tmp_path / "settings.json") == {"a": start, "b": fitted}
    write_tame_model(tmp_path / "model")
    old = OTPriorPipeline.from_pretrained(tmp_path / "model")
    pipe = OTPriorPipeline(old.unet, old.scheduler, null_class_label=number(3))
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "saved")
    assert OTPriorPipeline.from_pretrained(tmp_path / "saved").config.null_class_label == 3
    given = {"class_labels": number(1), "num_inference_steps": number(2), "guidance_scale": np.float32(1)}
    assert pipe(2, **given, output_type="pt").images.shape[0] == 2


def test_a_bool_is_no_timestep() -> None:
    with pytest.raises(ValueError, match="timestep must be a number"):
        GaussianPrior.fit(IMAGES, SCHEDULER, timestep=True)
