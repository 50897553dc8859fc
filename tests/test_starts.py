"""Starts as a command line has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from tiny_pipelines import exploding_flow, flow_map, normal

from otprior import GaussianPrior, attach, seeds_to_generators
from otprior.diffusion.grids import timestep_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.own_sampler import usual_scheduler
from otprior.experiments.priors import fitted_name
from otprior.experiments.sampling import Block, Models, Samples, sample_block
from otprior.experiments.starts import read_starts
from otprior.sampling.folders import own_scheduler
from otprior.sampling.settings import write_settings
from otprior.sampling.start_spec import StartSpec
from otprior.sampling.stock import check_stock

OWN = diffusers.DDPMScheduler()


def test_starts_have_their_options_and_their_usual_timestep() -> None:
    text = "none@20, gaussian@5,semidiscrete:noise=fresh:t=450@3,mixture:components=30:rank=4@5"
    white, gaussian, fresh, mixture = read_starts(text, OWN)
    assert (white.prior, white.start_timestep, white.steps) == ("none", 999, 20)
    assert (gaussian.start_timestep, gaussian.options) == (500, ())
    assert (fresh.start_timestep, fresh.steps, fresh.noise) == (450, 3, "fresh")
    assert (mixture.start_timestep, dict(mixture.options)) == (400, {"components": 30, "rank": 4})
    assert fresh.label == "semidiscrete fresh, t* = 450, 3"
    assert mixture.label == "mixture, t* = 400, components = 30, rank = 4, 5"


def test_starts_have_their_scheduler_and_their_spacing() -> None:
    text = "gaussian:spacing=karras@5,gaussian:spacing=grid:karras:t=600@5,none:scheduler=dpm++2m:spacing=karras@8"
    stock, grid, white = read_starts(text, OWN)
    assert (stock.scheduler, stock.spacing) == ("UniPCMultistepScheduler", "karras")
    assert (grid.spacing, grid.start_timestep) == ("grid:karras", 600)
    assert stock.label == "gaussian, t* = 500, UniPC, karras, 5"
    assert (white.scheduler, white.spacing) == ("DPMSolverMultistepScheduler", "karras")
    assert white.label == "N(0, I) at T, DPMSolver, karras, 8"


def test_a_settings_file_stands_for_its_starts(tmp_path: Path) -> None:
    chosen = StartSpec("semidiscrete", 450, 3, spacing="grid:fitted", grid=(450, 200, 30), label="tuned")
    write_settings(tmp_path / "settings.json", {"semidiscrete_3": chosen}, "validation", "by hand")
    white, found = read_starts(f"none@2, {tmp_path / 'settings.json'}", OWN)
    assert (white.prior, found) == ("none", chosen)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_starts(str(tmp_path / "other.json"), OWN)


def test_white_noise_without_signal_has_a_grid_that_its_scheduler_takes() -> None:
    """Log-SNR is infinite at the end of a flow, and of betas that end at zero."""
    zero = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler(), zero):
        white, gaussian = read_starts("none@4,gaussian@4", scheduler)
        assert (white.spacing, gaussian.spacing) == ("grid:time", "grid:log_snr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none", "--starts must be NAME"),
        ("none@0", "--starts must be NAME"),
        ("gaussian@²", "--starts must be NAME"),
        ("mixture:components=-2@5", "components must be an integer >= 1; got -2"),
        ("semidiscrete:noise=fresh:noise=frozen@5", "--starts must be with one value of noise"),
        ("none:t=500@5", "--starts must be none@STEPS for white noise"),
        ("nowhere@5", "prior must be one of"),
        ("gaussian:noise=fresh@5", "--starts must be with options among t, scheduler, spacing, rank"),
        ("gaussian:spacing=grid:fitted@5", "spacing must be one of"),
        ("gaussian:spacing=@5", "spacing must be one of"),
        ("gaussian:scheduler=@5", "scheduler must be one of"),
        ("none:spacing=nowhere@5", "spacing must be one of"),
        ("gaussian:scheduler=nowhere@5", "scheduler must be one of"),
        ("gaussian:scheduler=ddim:spacing=karras@5", "spacing must be one that DDIMScheduler has"),
        ("gaussian:scheduler=flow@5", "scheduler must be"),
        ("gaussian:rank@5", "--starts must be NAME"),
        ("gaussian:rank=many@5", "rank must be a whole number; got 'many'"),
        ("gaussian:t=2000@5", "timestep must be in"),
        ("semidiscrete:noise=loud@5", "noise must be one of"),
        ("gaussian@5,gaussian@5", "--starts must be different"),
    ],
)
def test_others_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_starts(text, OWN)


class Filter:
    """Stands for the filter of Cosmos, which is not installed: it lets everything pass."""

    def to(self, device: Any) -> Any:
        return self

    def check_text_safety(self, text: str) -> bool:
        return True

    def check_video_safety(self, film: Any) -> Any:
        return film


@pytest.mark.parametrize("kind", [pytest.param("flow map", marks=pytest.mark.slow), "exploding flow"])
def test_starts_on_networks_whose_process_does_not_say_the_scheduler(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AnyFlow and Cosmos 2: images are those of the pipeline itself, attached, by its own scheduler."""
    maps = kind == "flow map"
    pipe = flow_map() if maps else exploding_flow(Filter())
    pipe.register_modules(**({} if maps else {"safety_checker": None}))
    pipe.save_pretrained(tmp_path / "model")
    if not maps:
        pipe.register_modules(safety_checker=Filter())
        with pytest.raises(ValueError, match="cosmos_guardrail"):
            check_stock(tmp_path / "model")
        monkeypatch.setattr("otprior.sampling.stock.is_cosmos_guardrail_available", lambda: True)
        cosmos = "diffusers.pipelines.cosmos.pipeline_cosmos2_text2image"
        monkeypatch.setattr(f"{cosmos}.CosmosSafetyChecker", Filter)
    own = own_scheduler(tmp_path / "model")
    schedule = NoiseSchedule.from_scheduler(own)
    white, start = read_starts("none@2,gaussian@2", own)
    data = 0.5 * normal(12, 4, 1, 4, 4, seed=3)
    prior = GaussianPrior.fit(data, schedule, start.start_timestep, value_range=None)
    prior.save_pretrained(tmp_path / "priors" / str(fitted_name(start)))
    models = Models(tmp_path / "model", tmp_path / "priors", None, prompts=("a cat",), shape=(4, 1, 4, 4))
    blocks = [Block(each, 5, 2, tmp_path / f"{each.prior}.npz") for each in (white, start)]
    found = [Samples.read([sample_block(models, block)]) for block in blocks]
    assert found[0].pixels.shape == found[1].pixels.shape == (2, 3, 32, 32)
    grid = timestep_grid(schedule, start.start_timestep, 2, "log_snr")
    call = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np", "guidance_scale": 1.0}
    call |= {"num_frames": 1} if maps else {}
    seeds = seeds_to_generators([5, 6])
    image = attach(pipe, prior, timesteps=grid)(["a cat"] * 2, **call, generator=seeds)[0]
    wanted = np.moveaxis(image.reshape(2, 32, 32, 3), -1, 1)
    # A grey level, from rounding.
    assert np.abs(found[1].pixels / 255 - wanted).max() < 1.01 / 255


def test_a_network_of_other_betas_keeps_its_scheduler() -> None:
    video = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0)
    starts = read_starts("none@2,gaussian@2", video)
    assert {usual_scheduler(video), *(start.scheduler for start in starts)} == {"CogVideoXDDIMScheduler"}
    assert usual_scheduler(diffusers.DDIMScheduler()) == "UniPCMultistepScheduler"
    with pytest.raises(ValueError, match="scheduler must be"):
        usual_scheduler(diffusers.CogVideoXDPMScheduler())


@pytest.mark.parametrize("name", ["Cosmos2VideoToWorldPipeline", "StableDiffusionImg2ImgPipeline"])
def test_a_pipeline_that_needs_an_image_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ValueError, match=rf"{name}.*image"):
        check_stock(tmp_path)
