"""Priors and pipelines by name, from a hub on this machine, in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli_helpers import write_images, write_tame_model
from diffusers import DDPMScheduler
from local_hub import Hub, local_hub
from newcomer_material import write_photographs
from test_cli_pipelines import inputs_of
from tiny_pipelines import text_to_image

from otprior import GaussianPrior, OTPriorPipeline, Prior, SemiDiscretePrior, load_images
from otprior.utils.hub import is_hub_name, not_found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    pipe = text_to_image()
    pipe.save_pretrained(root / "me" / "sd")
    pipe.save_pretrained(root / "me" / "half")
    pipe.save_pretrained(root / "me" / "half", variant="fp16")
    latents = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prior = GaussianPrior.fit(latents, pipe.scheduler, value_range=None)
    prior.save_pretrained(root / "me" / "sd" / "prior")
    prior.save_pretrained(root / "me" / "prior")
    write_tame_model(root / "plain")
    own = OTPriorPipeline.from_pretrained(root / "plain")
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    own.prior = GaussianPrior.fit(images, own.scheduler, 500)
    own.save_pretrained(root / "me" / "fast")
    own.save_pretrained(root / "me" / "fast-half", variant="fp16")
    with local_hub(root) as found:
        yield found


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("me/fast", True),
        ("runwayml/stable-diffusion-v1.5", True),
        ("data/train.npz", False),
        ("a/b/c", False),
    ],
)
def test_a_name_of_the_hub_is_none_of_a_file(name: str, named: bool) -> None:
    assert is_hub_name(name) is named


def fresh(hub: Hub, home: Path, *words: object) -> str:
    """Runs Python in a process and a cache of its own; returns what it printed."""
    hub.served.clear()
    offline = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, words)],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BY_NAME = """
import pathlib
import diffusers
from otprior import OTPriorPipeline, Prior, attach
prior = Prior.from_pretrained("me/sd", subfolder="prior")
print(*sorted(path.name for path in pathlib.Path("hub").rglob("snapshots/*/prior/*")))
print(len(list(pathlib.Path("hub").rglob("snapshots/*/*"))))
print(*Prior.from_pretrained("me/prior").shape)
pipe = diffusers.StableDiffusionPipeline.from_pretrained("me/sd", safety_checker=None)
image = attach(pipe, prior)("a cat", num_inference_steps=2, output_type="pt").images
print(*image.shape)
print(OTPriorPipeline.from_pretrained("me/fast").prior.timestep)
"""


def test_priors_and_pipelines_are_loaded_by_name(hub: Hub, tmp_path: Path) -> None:
    files, folders, shape, image, timestep = fresh(hub, tmp_path, "-c", BY_NAME).splitlines()
    # (Of the first repository only the prior's folder was downloaded.)
    assert (files, folders) == ("config.json model.safetensors", "1")
    assert (shape, image, timestep) == ("4 8 8", "1 3 16 16", "500")


def test_our_own_pipelines_index_does_not_know_the_prior(hub: Hub) -> None:
    assert "prior" not in (hub.root / "me" / "fast" / "model_index.json").read_text()
    assert Prior.from_pretrained(hub.root / "me" / "fast", subfolder="prior").timestep == 500


def test_the_hubs_own_words_are_passed_on() -> None:
    error = OSError("nothing is cached")
    error.__cause__ = ConnectionError("The hub is closed.\n\nNo such repository.\nSee elsewhere.")
    assert str(not_found("model", "me/sd", error)).endswith("The hub is closed. No such repository.")


@pytest.mark.slow
def test_commands_take_models_by_name(hub: Hub, tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    own = ("-m", "otprior")
    fresh(hub, tmp_path, *own, "fit", "me/sd", photographs, "--prior", "gaussian", "--out", "prior")
    # (What fitting needs, and neither network nor text encoder.)
    assert {name.split("/")[0] for name in hub.served if name.endswith(".safetensors")} == {"vae"}
    told = ("--prompt", "a cat", "--steps", "2", "--seeds", "0-1")
    fresh(hub, tmp_path, *own, "sample", "me/sd", *told, "--out", "images")
    fresh(hub, tmp_path, *own, "sample", "me/sd", *told, "--prior", "me/prior", "--out", "again")
    for name in ("000000.png", "000001.png"):
        pictures = [(tmp_path / folder / "images" / name).read_bytes() for folder in ("images", "again")]
        assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_starts_of_a_model_by_name_are_compared_and_tuned(hub: Hub, tmp_path: Path) -> None:
    own = ("-m", "otprior")
    common = inputs_of(tmp_path, 16)
    told = ("--prompt", "a cat", "--variant", "fp16", "--device", "cpu", "--samples", "12")
    sets = ("--reference", tmp_path / "test.npz", "--held-out", tmp_path / "validation.npz")
    starts = ("--starts", "none@2,gaussian:t=600@2", "--out", "compared")
    fresh(hub, tmp_path, *own, "compare", "me/half", *common, *sets, *told, *starts)
    # (Of two sets of weights one was downloaded.)
    weights = [name for name in hub.served if name.startswith("unet/") and name.endswith(".safetensors")]
    assert weights == ["unet/diffusion_pytorch_model.fp16.safetensors"]
    settings = json.loads((tmp_path / "compared" / "report.json").read_text())["settings"]
    assert (settings["model"], settings["variant"]) == ("me/half", "fp16")
    rest = ("--validation", tmp_path / "test.npz", "--prior", "gaussian", "--steps", "2", "--minutes", "0.01")
    fresh(
        hub, tmp_path, *own, "tune", "me/half", *common, *told, *rest, "--copy-limit", "1", "--out", "tuned"
    )
    assert (tmp_path / "tuned" / "settings.json").is_file()


@pytest.mark.slow
def test_copies_of_a_prior_by_name_are_measured(hub: Hub, tmp_path: Path) -> None:
    train, *rest = inputs_of(tmp_path, 16)
    prior = SemiDiscretePrior.fit(load_images(train, crop=16), DDPMScheduler(), tol=1.0)
    prior.save_pretrained(hub.root / "me" / "images")
    sets = ("--reference", tmp_path / "test.npz", "--held-out", tmp_path / "validation.npz", *rest[:4])
    rows = []
    for name in ("me/images", hub.root / "me" / "images"):
        # (The samples are the training images themselves.)
        told = (train, "--atoms", name, *sets, "--out", "measured", "--overwrite")
        fresh(hub, tmp_path, "-m", "otprior", "evaluate", *told)
        rows += json.loads((tmp_path / "measured" / "report.json").read_text())["rows"]
    assert rows[0] == rows[1]
    assert rows[0]["copy_rate"] == 1


@pytest.mark.slow
def test_a_model_by_name_is_audited_and_encoded(hub: Hub, tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    own, half = ("-m", "otprior"), ("--variant", "fp16")
    few = ("--prior", "me/prior", "--timesteps", "500", "--draws", "2", "--out", "audit")
    fresh(hub, tmp_path, *own, "audit", "me/half", photographs, *half, *few)
    # (Neither network nor text encoder.)
    weights = {name for name in hub.served if name.endswith(".safetensors")}
    assert weights == {"vae/diffusion_pytorch_model.fp16.safetensors", "model.safetensors"}
    report = json.loads((tmp_path / "audit" / "report.json").read_text())
    assert {row["name"] for row in report["audit"]["errors"]} >= {"prior"}
    told = (write_images(tmp_path / "pixels.npz"), *half)
    fresh(hub, tmp_path, *own, "encode", "me/fast-half", *told, "--limit", "2", "--out", "codes")
    assert (tmp_path / "codes" / "codes.safetensors").is_file()
    sizes = ("--images", "8", "--subset", "4", "--workers", "1")
    fresh(hub, tmp_path, *own, "codes", "me/fast-half", *told, "--fast", *sizes, "--out", "study")
    assert (tmp_path / "study" / "report.json").is_file()
