"""Commands on the data that people have: photographs of mixed sizes, archives, a network of latents."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from cli_helpers import assert_refused, run, write_model, write_tame_model
from newcomer_material import write_photographs
from PIL import Image

from otprior import Prior, load_images
from otprior.data import encode_images, open_images
from otprior.data.images import to_uint8
from otprior.diffusion.codes import Codes
from otprior.experiments.inputs import Inputs
from otprior.metrics.features import FeatureExtractor, save_extractor


def write_latent_model(folder: Path) -> diffusers.AutoencoderKL:
    """A pipeline of latents 4 x 8 x 8 of images 3 x 16 x 16."""
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4}
    vae = diffusers.AutoencoderKL(**kinds, **sizes, scaling_factor=0.5, shift_factor=0.1).eval()
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    diffusers.LDMPipeline(vae, unet, diffusers.DDIMScheduler()).save_pretrained(folder)
    return vae


@pytest.mark.parametrize("kind", ["gaussian", "semidiscrete"])
def test_a_latent_model_is_fitted_to_photographs_and_sampled(tmp_path: Path, kind: str) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    vae, prior = write_latent_model(tmp_path / "model"), tmp_path / "prior"
    options = ("--tol", "0.5") if kind == "semidiscrete" else ()
    result = run("fit", tmp_path / "model", photographs, "--prior", kind, *options, "--out", prior)
    assert result.exit_code == 0, result.output
    assert "12 of 12" in result.stderr.replace("\n", " ")
    latents = encode_images(vae, photographs, resize=16, crop=16, convert="RGB").read()
    found = Prior.from_pretrained(prior)
    assert found.shape == (4, 8, 8)
    mean = found.means[0] if kind == "gaussian" else found.atoms.mean(dim=0)
    torch.testing.assert_close(mean, latents.images.mean(dim=0).flatten(), rtol=1e-4, atol=1e-5)
    samples = tmp_path / "samples"
    command = ("sample", tmp_path / "model", "--prior", prior, "--seeds", "0-2", "--steps", "2")
    assert run(*command, "--out", samples).exit_code == 0
    assert load_images(samples).images.shape == (3, 3, 16, 16)


def test_latents_are_taken_as_they_are_if_that_is_said(tmp_path: Path) -> None:
    write_latent_model(tmp_path / "model")
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).normal(size=(20, 4, 8, 8)).astype(np.float32))
    command = (
        "fit",
        tmp_path / "model",
        tmp_path / "latents.npy",
        "--prior",
        "gaussian",
        "--out",
        tmp_path / "p",
    )
    assert_refused(run(*command), "16x16; got 8x8")
    assert run(*command, "--value-range", "none").exit_code == 0


def test_a_limit_draws_the_same_images_from_a_stream(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for k, each in enumerate(pixels):
            Image.fromarray(each).save(tmp_path / "one.png")
            archive.write(tmp_path / "one.png", f"{k:02d}.png")
    means = []
    for name in ("data.npz", "data.zip"):
        command = ("fit", tmp_path / "model", tmp_path / name, "--prior", "gaussian", "--limit", "9")
        assert run(*command, "--seed", "3", "--out", tmp_path / f"p-{name}").exit_code == 0
        means.append(Prior.from_pretrained(tmp_path / f"p-{name}").means)
    torch.testing.assert_close(means[0], means[1])


def test_what_is_done_to_pictures_is_recorded(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    photographs = write_photographs(tmp_path / "photographs")
    command = ("fit", tmp_path / "model", photographs, "--prior", "gaussian", "--out", tmp_path / "prior")
    assert_refused(run(*command), "of one size and kind", "--convert")
    assert run(*command, "--resize", "10", "--crop", "8", "--convert", "l").exit_code == 0
    settings = json.loads((tmp_path / "prior" / "report.json").read_text())["settings"]
    assert {name: settings[name] for name in ("resize", "crop", "convert")} == {
        "resize": 10,
        "crop": 8,
        "convert": "L",
    }


def test_pictures_are_prepared_alike_for_every_command(tmp_path: Path) -> None:
    """Pictures that a command resizes, crops and converts give what pictures give that were prepared before."""
    asked = ("--resize", "10", "--crop", "8", "--convert", "L")
    for seed, name in enumerate(("samples", "reference", "atoms", "held-out")):
        (tmp_path / name).mkdir()
        coarse = torch.rand(14, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.interpolate(coarse, size=(12, 16), mode="bilinear")
        for k, pixels in enumerate((255 * smooth).byte().permute(0, 2, 3, 1).numpy()):
            Image.fromarray(pixels).save(tmp_path / name / f"{k:02d}.png")
        images = load_images(tmp_path / name, resize=10, crop=8, convert="L").images
        np.savez(tmp_path / name, images=to_uint8(images[:, 0]))
    torch.manual_seed(0)
    save_extractor(
        FeatureExtractor("tiny", (1, 8, 8), (4, 4, 4), 6, 3), tmp_path / "extractor", torch.float32
    )
    write_tame_model(tmp_path / "model")
    rows, codes = [], []
    for end, options in (("", asked), (".npz", ())):
        sets = (
            each
            for name in ("reference", "atoms", "held-out")
            for each in (f"--{name}", f"{tmp_path / name}{end}")
        )
        out = tmp_path / f"evaluation{end}"
        given = (*sets, "--extractor", tmp_path / "extractor", "--label", "these", *options)
        result = run("evaluate", f"{tmp_path / 'samples'}{end}", *given, "--out", out)
        assert result.exit_code == 0, result.output
        rows.append(json.loads((out / "report.json").read_text())["rows"])
        encode = (
            "encode",
            tmp_path / "model",
            f"{tmp_path / 'samples'}{end}",
            "--class-label",
            "0",
            "--limit",
            "2",
        )
        result = run(*encode, *options, "--out", tmp_path / f"codes{end}")
        assert result.exit_code == 0, result.output
        codes.append(Codes.load(tmp_path / f"codes{end}" / "codes.safetensors").codes)
    assert rows[0] == rows[1]
    assert torch.equal(*codes)


def test_a_comparison_reads_photographs_at_the_size_of_its_network(tmp_path: Path) -> None:
    photographs = str(write_photographs(tmp_path / "photographs"))
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "config.json").write_text('{"in_channels": 3, "sample_size": 8}')
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    sets = (photographs, photographs, photographs, None, None, (("adapt", True),), None)
    inputs = Inputs(str(tmp_path / "model"), None, "bundled", "auto", *sets)
    assert inputs.atoms.images.shape == inputs.split.images.shape == (12, 3, 8, 8)
    expected = open_images(photographs, size=8, channels=3, adapt=True).read()
    assert torch.equal(inputs.atoms.images, expected.images)
