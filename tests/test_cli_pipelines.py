"""Commands on pipelines with prompts, and on transformers told a class: fitted, and sampled through `attach`."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from cli_helpers import assert_refused, run
from newcomer_material import write_photographs
from PIL import Image
from tiny_pipelines import build, text_to_image

from otprior import OTPriorPipeline, Prior, attach, load_images, seeds_to_generators
from otprior.data import encode_images
from otprior.data.images import to_uint8

SMALL = ("--steps", "3", "--batch-size", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd"
    text_to_image().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture(scope="module")
def prior(model: Path, photographs: Path) -> Path:
    out = model.parent / "prior"
    result = run("fit", model, photographs, "--tol", "0.5", "--out", out)
    assert result.exit_code == 0, result.output
    return out


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "images").glob("*.png"))])


def test_a_prior_is_fitted_to_latents_of_the_pipelines_own(
    model: Path, photographs: Path, prior: Path
) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(model / "vae").eval()
    latents = encode_images(vae, photographs, resize=16, crop=16, convert="RGB").read()
    torch.testing.assert_close(
        Prior.from_pretrained(prior).atoms, latents.images.flatten(1), atol=1e-5, rtol=0
    )


def test_images_are_those_of_the_attached_pipeline(model: Path, prior: Path, tmp_path: Path) -> None:
    prompts = ("--prompt", "a cat", "--prompt", "a dog", "--negative-prompt", "fog")
    command = ("sample", model, "--prior", prior, *prompts, "--guidance-scale", "3", "--seeds", "0-4", *SMALL)
    result = run(*command, "--out", tmp_path / "images")
    assert result.exit_code == 0, result.output
    pipe = attach(diffusers.StableDiffusionPipeline.from_pretrained(model), Prior.from_pretrained(prior))
    pipe.set_progress_bar_config(disable=True)
    for seed, image in enumerate(pixels(tmp_path / "images")):
        told = {"prompt": ("a cat", "a dog")[seed % 2], "negative_prompt": "fog", "guidance_scale": 3.0}
        own = pipe(
            **told, num_inference_steps=3, generator=seeds_to_generators([seed]), output_type="np"
        ).images
        # Batches of another size round otherwise: a grey level.
        assert np.abs(image.astype(int) - np.round(own[0] * 255).astype(int)).max() <= 1
    (row,) = json.loads((tmp_path / "images" / "report.json").read_text())["rows"]
    assert (row["nfe"], row["guidance"], row["prior"]) == (6, 3.0, "semidiscrete")
    starts = np.load(tmp_path / "images" / "starts.npz")
    assert len(starts["sources"]) == 5
    assert set(starts["sources"]) <= set(range(12))


def test_latents_and_sizes_can_be_asked_for(model: Path, photographs: Path, tmp_path: Path) -> None:
    size = ("--height", "32", "--width", "16")
    pictures = ("--resize", "32", "--crop", "32x16")
    fitted = run(
        "fit", model, photographs, "--prior", "gaussian", *pictures, *size, "--out", tmp_path / "prior"
    )
    assert fitted.exit_code == 0, fitted.output
    assert Prior.from_pretrained(tmp_path / "prior").shape == (4, 16, 8)
    command = ("sample", model, "--prior", tmp_path / "prior", "--prompt", "a cat", "--seeds", "0-2", *SMALL)
    written = run(*command, *size, "--format", "npz", "--float", "--out", tmp_path / "latents")
    assert written.exit_code == 0, written.output
    assert np.load(tmp_path / "latents" / "images.npz")["images"].shape == (3, 4, 16, 8)
    half = run(*command, *size, "--dtype", "bfloat16", "--out", tmp_path / "half")
    assert half.exit_code == 0, half.output
    assert pixels(tmp_path / "half").shape == (3, 32, 16, 3)
    assert_refused(run(*command, "--out", tmp_path / "other"), "of the prior's shape (4, 16, 8)")


def test_a_prior_beside_the_components_is_the_models(model: Path, prior: Path, tmp_path: Path) -> None:
    command = ("sample", model, "--prompt", "a cat", "--seeds", "0,1", *SMALL, "--out")
    assert_refused(run(*command, tmp_path / "a"), "--prior", "none in the model's folder")
    Prior.from_pretrained(prior).save_pretrained(model / "prior")
    try:
        assert run(*command, tmp_path / "a").exit_code == 0
    finally:
        for path in (model / "prior").iterdir():
            path.unlink()
        (model / "prior").rmdir()
    assert run(*command, tmp_path / "b", "--prior", prior).exit_code == 0
    assert np.array_equal(pixels(tmp_path / "a"), pixels(tmp_path / "b"))
    assert run(*command, tmp_path / "c", "--prior", "none").exit_code == 0
    assert not np.array_equal(pixels(tmp_path / "a"), pixels(tmp_path / "c"))


def test_what_a_pipeline_does_not_take_is_refused(model: Path, prior: Path, tmp_path: Path) -> None:
    command = ("sample", model, "--prior", prior, "--seeds", "0", "--out", tmp_path / "out")
    assert_refused(run(*command), "--prompt", "given")
    told = (*command, "--prompt", "a cat")
    assert_refused(run(*told, "--class-labels", "3"), "--class-labels", "knows classes")
    assert_refused(run(*told, "--spacing", "grid:log_snr"), "--spacing")
    assert_refused(run(*told, "--null-label", "3"), "--null-label")
    assert_refused(run(*told, "--variant", "fp16"), "cannot be loaded", "fp16")
    assert_refused(run("encode", model, prior, "--out", tmp_path / "out"), "prompts")
    assert not (tmp_path / "out").exists()


def test_an_audit_leaves_out_a_network_that_is_told_prompts(
    model: Path, photographs: Path, prior: Path, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    few = ("--draws", "4", "--timesteps", "500,999")
    result = run("audit", model, photographs, "--prior", prior, *few, "--out", out)
    assert result.exit_code == 0, result.output
    audit = json.loads((out / "report.json").read_text())["audit"]
    assert {row["prior"] for row in audit["errors"]} >= {"identity", "semidiscrete"}
    assert audit["costs"] == []
    assert_refused(run("audit", model, "--null-label", "3"), "--null-label")


def test_labels_choose_a_priors_class_for_a_prompt(model: Path, photographs: Path, tmp_path: Path) -> None:
    images = load_images(photographs, resize=16, crop=16, convert="RGB")
    for kind, sign in (("dark", -1), ("light", 1)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for k, image in enumerate(to_uint8(images.images * 0.2 + 0.8 * sign)):
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "data" / kind / f"{k}.png")
    fit = (
        "fit",
        model,
        tmp_path / "data",
        "--prior",
        "gaussian",
        "--conditional",
        "--out",
        tmp_path / "prior",
    )
    assert run(*fit).exit_code == 0
    command = ("sample", model, "--prior", tmp_path / "prior", "--prompt", "a cat", "--seeds", "0-3", *SMALL)
    assert_refused(run(*command, "--out", tmp_path / "out"), "--class-labels", "by class")
    assert_refused(run(*command, "--label", "2", "--out", tmp_path / "out"), "--class-labels", "below 2")
    for label in (0, 1):
        result = run(*command, "--class-labels", label, "--out", tmp_path / f"{label}")
        assert result.exit_code == 0, result.output
    both = run(*command, "--label", "0,1", "--out", tmp_path / "both")
    assert both.exit_code == 0, both.output
    mixed = pixels(tmp_path / "both").astype(int)
    for seed in range(4):
        assert np.abs(mixed[seed] - pixels(tmp_path / f"{seed % 2}")[seed]).max() <= 1
    assert not np.array_equal(pixels(tmp_path / "0"), pixels(tmp_path / "1"))


def test_a_transformer_told_a_class_is_sampled(tmp_path: Path) -> None:
    build("DiT", diffusers.DDIMScheduler()).save_pretrained(tmp_path / "dit")
    photographs = write_photographs(tmp_path / "photographs")
    fit = run("fit", tmp_path / "dit", photographs, "--prior", "gaussian", "--out", tmp_path / "prior")
    assert fit.exit_code == 0, fit.output
    command = ("sample", tmp_path / "dit", "--prior", tmp_path / "prior", "--seeds", "0-2", *SMALL, "--out")
    assert_refused(run(*command, tmp_path / "out"), "--class-labels", "told classes")
    assert run(*command, tmp_path / "out", "--label", "3,5").exit_code == 0
    assert pixels(tmp_path / "out").shape == (3, 8, 8, 3)


def test_code_in_a_models_folder_is_not_run(model: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(model, tmp_path / "sd"))
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["network", "Network"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "network.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Network: pass\n"
    )
    command = (
        "sample",
        folder,
        "--prior",
        "none",
        "--prompt",
        "a cat",
        "--seeds",
        "0",
        "--out",
        tmp_path / "o",
    )
    assert_refused(run(*command), "without code of its own")
    with pytest.raises(ValueError, match="without code of its own"):
        OTPriorPipeline.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()
