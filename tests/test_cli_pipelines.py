"""Commands on pipelines with prompts, and on transformers told a class: fitted, and sampled through `attach`."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from cli_helpers import assert_refused, run
from newcomer_material import write_photographs
from PIL import Image
from tiny_pipelines import build, dit_network, text_to_film, text_to_image, text_to_sound

from otprior import OTPriorPipeline, Prior, attach, load_images, seeds_to_generators
from otprior.data import encode_images
from otprior.data.images import to_uint8
from otprior.diffusion.codes import Codes
from otprior.diffusion.grids import timestep_grid
from otprior.metrics.features import FeatureExtractor, save_extractor
from otprior.sampling.settings import write_settings
from otprior.sampling.start_spec import StartSpec
from otprior.sampling.stock import StockPlan, stock_latents

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


def test_files_of_a_variant_alone_are_read(photographs: Path, tmp_path: Path) -> None:
    text_to_image().save_pretrained(tmp_path / "half", variant="fp16")
    fit = ("fit", tmp_path / "half", photographs, "--prior", "gaussian", "--out", tmp_path / "prior")
    assert_refused(run(*fit), "variant", "fp16")
    assert run(*fit, "--variant", "fp16").exit_code == 0
    audit = (
        "audit",
        tmp_path / "half",
        photographs,
        "--variant",
        "fp16",
        "--timesteps",
        "500",
        "--draws",
        "2",
    )
    result = run(*audit, "--resize", "20", "--crop", "16", "--convert", "RGB")
    assert result.exit_code == 0, result.output


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
    refused = run(*command, "--height", "16", "--out", tmp_path / "other")
    assert_refused(refused, "of the prior's shape (4, 16, 8)")
    own = run(*command, "--out", tmp_path / "own")
    assert own.exit_code == 0, own.output
    assert pixels(tmp_path / "own").shape == (3, 32, 16, 3)


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
    assert_refused(run(*told, "--spacing", "grid:log_snr", "--prior", "none"), "--spacing")
    assert_refused(run(*told, "--null-label", "3"), "--null-label")
    assert_refused(run(*told, "--variant", "fp16"), "cannot be loaded", "fp16")
    assert_refused(run("encode", model, prior, "--out", tmp_path / "out"), "prompts")
    assert not (tmp_path / "out").exists()


def test_settings_and_grids_of_own_timesteps(model: Path, prior: Path, tmp_path: Path) -> None:
    start = StartSpec("semidiscrete", 700, 3, "EulerDiscreteScheduler", "grid:karras", guidance=3.0)
    start = start.with_options(correlation=0.8)
    write_settings(tmp_path / "settings.json", {"one": start}, "validation", "otprior tune")
    command = ("sample", model, "--prior", prior, "--prompt", "a cat", "--seeds", "0-1", "--out")
    result = run(*command, tmp_path / "images", "--settings", tmp_path / "settings.json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "images" / "report.json").read_text())["rows"]
    assert (row["nfe"], row["guidance"], row["spacing"]) == (6, 3.0, "grid:karras")
    own = Prior.from_pretrained(prior).at(700).with_options(correlation=0.8)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model)
    grid = timestep_grid(own.schedule, 700, 3, "karras")
    attach(pipe, own, timesteps=grid).set_progress_bar_config(disable=True)
    told = {"guidance_scale": 3.0, "output_type": "np", "generator": seeds_to_generators([0, 1])}
    images = pipe(["a cat"] * 2, num_inference_steps=3, **told).images
    found = pixels(tmp_path / "images").astype(int)
    assert np.abs(found - np.round(images * 255).astype(int)).max() <= 1
    with pytest.raises(ValueError, match="num_inference_steps"):
        pipe("a cat", num_inference_steps=4)


def test_codes_are_seed_noise(model: Path, prior: Path, tmp_path: Path) -> None:
    z = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in seeds_to_generators(range(3))])
    Codes(z).save(tmp_path / "codes.safetensors")
    command = ("sample", model, "--prior", prior, "--prompt", "a cat", *SMALL, "--out")
    for name, options in (
        ("codes", ("--codes", tmp_path / "codes.safetensors")),
        ("seeds", ("--seeds", "0-2")),
    ):
        result = run(*command, tmp_path / name, *options)
        assert result.exit_code == 0, result.output
    assert np.array_equal(pixels(tmp_path / "codes"), pixels(tmp_path / "seeds"))
    Codes(z[..., :4]).save(tmp_path / "narrow.safetensors")
    refused = run(*command, tmp_path / "out", "--codes", tmp_path / "narrow.safetensors")
    assert_refused(refused, "--codes", "(4, 8, 8)")


def inputs_of(folder: Path, side: int) -> tuple[object, ...]:
    """Images to fit to, others to compare with, and what is common to commands that compare: options in order."""
    for seed, name in enumerate(("train", "test", "validation")):
        coarse = torch.rand(24, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.interpolate(coarse, size=(side + 2, side + 4), mode="bilinear")
        np.savez(folder / name, images=(255 * smooth).byte().permute(0, 2, 3, 1).numpy())
    torch.manual_seed(0)
    network = FeatureExtractor("tiny", (3, side, side), (4, 4, 4), 6, 3)
    save_extractor(network, folder / "extractor", torch.float32)
    own = ("--extractor", folder / "extractor", "--crop", side, "--workers", "1")
    return folder / "train.npz", *own


def test_starts_are_compared_and_tuned_with_prompts(model: Path, tmp_path: Path) -> None:
    common = (model, *inputs_of(tmp_path, 16))
    sets = ("--reference", tmp_path / "test.npz", "--held-out", tmp_path / "validation.npz")
    compare = ("compare", *common, *sets, "--starts", "none@2,gaussian:t=600@2", "--samples", "12")
    assert_refused(run(*compare, "--out", tmp_path / "out"), "--prompt", "given")
    nowhere = ("--prompt", "a cat", "--device", "abacus")
    assert_refused(run(*compare, *nowhere, "--out", tmp_path / "out"), "--device", "abacus")
    told = ("--prompt", "a cat", "--prompt", "a dog", "--negative-prompt", "fog", "--guidance-scale", "3")
    result = run(*compare, *told, "--out", tmp_path / "compared")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "compared" / "report.json").read_text())
    assert [(row["prior"], row["nfe"], row["guidance"]) for row in report["rows"]] == [
        ("none", 4, 3.0),
        ("gaussian", 4, 3.0),
    ]
    assert report["settings"]["prompts"] == ["a cat", "a dog"]
    assert report["settings"]["negative_prompt"] == "fog"
    # The images are those of `sample`, on the same grid.
    own = ("--scheduler", "unipc", "--spacing", "grid:log_snr", "--steps", "2", "--seeds", "0-2")
    prior = tmp_path / "compared.work" / "priors" / "gaussian"
    result = run(
        "sample", model, "--prior", prior, "--timestep", "600", *told, *own, "--out", tmp_path / "images"
    )
    assert result.exit_code == 0, result.output
    blocks = [np.load(path)["pixels"] for path in (tmp_path / "compared.work").glob("images/*/*.npz")]
    wanted = pixels(tmp_path / "images").transpose(0, 3, 1, 2).astype(int)
    assert min(np.abs(block[:3].astype(int) - wanted).max() for block in blocks) <= 1
    tune = (
        "tune",
        *common,
        *told,
        "--validation",
        tmp_path / "test.npz",
        "--prior",
        "gaussian",
        "--steps",
        "2",
    )
    short = ("--samples", "12", "--copy-limit", "1", "--minutes", "0.01")
    result = run(*tune, *short, "--out", tmp_path / "tuned")
    assert result.exit_code == 0, result.output
    chosen = ("--prior", tmp_path / "tuned" / "prior", "--settings", tmp_path / "tuned" / "settings.json")
    result = run("sample", model, *chosen, "--prompt", "a cat", "--seeds", "0", "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "again" / "report.json").read_text())["rows"]
    assert (row["nfe"], row["guidance"]) == (4, 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["told a class", "of latents"])
def test_starts_of_other_models_are_compared(kind: str, tmp_path: Path) -> None:
    told = kind == "told a class"
    pipe = build("DiT" if told else "LDM", diffusers.DDIMScheduler())
    pipe.save_pretrained(tmp_path / "model")
    sets = ("--reference", tmp_path / "test.npz", "--held-out", tmp_path / "validation.npz")
    common = (tmp_path / "model", *inputs_of(tmp_path, 8))
    starts = ("--starts", "none@2,gaussian:t=600@2", "--samples", "12", "--out", tmp_path / "compared")
    result = run("compare", *common, *sets, *starts, "--device", "cpu", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "compared" / "report.json").read_text())
    # (A transformer told a class is guided by default.)
    assert [row["guidance"] for row in report["rows"]] == [4.0 if told else 1.0] * 2
    prior = tmp_path / "compared.work" / "priors" / "gaussian"
    assert Prior.from_pretrained(prior).shape == (4, 8, 8)
    own = ("--scheduler", "unipc", "--spacing", "grid:log_snr", "--steps", "2", "--seeds", "0-2")
    classes = ("--label", "0-2", "--guidance-scale", "4") if told else ()
    sample = ("sample", tmp_path / "model", "--prior", prior, "--timestep", "600", *own, *classes)
    result = run(*sample, "--out", tmp_path / "images")
    assert result.exit_code == 0, result.output
    blocks = [np.load(path)["pixels"] for path in (tmp_path / "compared.work").glob("images/*/*.npz")]
    wanted = pixels(tmp_path / "images").transpose(0, 3, 1, 2).astype(int)
    assert min(np.abs(block[:3].astype(int) - wanted).max() for block in blocks) <= 1
    if told:
        # (The search is to last until a grid would be fitted.)
        words = ("--validation", tmp_path / "test.npz", "--prior", "gaussian", "--samples", "12")
        words += ("--steps", "2", "--copy-margin", "1", "--out", tmp_path / "tuned")
        result = run("tune", *common, *words)
        assert result.exit_code == 0, result.output
        assert (tmp_path / "tuned" / "settings.json").is_file()


def test_a_prior_without_classes_names_the_option(model: Path, prior: Path, tmp_path: Path) -> None:
    command = ("sample", model, "--prior", prior, "--prompt", "a cat", "--seeds", "0", *SMALL)
    result = run(*command, "--timestep", "300", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "--label" in words
    assert "condition=" not in words


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
    assert_refused(run("audit", model, "--crop", "16"), "--crop", "DATA")
    assert_refused(run("audit", "sdxl", "--variant", "fp16"), "--variant")


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


@pytest.mark.parametrize(("name", "classes"), [("DiT", 1000), ("PixArtSigma", None)])
def test_only_a_pipeline_told_classes_has_some(name: str, classes: int | None, tmp_path: Path) -> None:
    pipe = build(name, diffusers.DDIMScheduler())
    assert "num_embeds_ada_norm" in pipe.transformer.config  # of both
    pipe.save_pretrained(tmp_path)
    assert stock_latents(tmp_path).classes == classes


def test_a_transformer_of_few_classes_has_labels_and_guidance_it_knows() -> None:
    pipe = diffusers.DiTPipeline(dit_network(num_embeds_ada_norm=3), None, diffusers.DDIMScheduler())
    StockPlan([0], 2, 1, labels=[3], guidance_scale=1.0).check(pipe, None)
    with pytest.raises(ValueError, match="class-labels must be at most 3"):
        StockPlan([0], 2, 1, labels=[4], guidance_scale=1.0).check(pipe, None)
    # (4, the pipeline's own scale.)
    with pytest.raises(ValueError, match="guidance-scale must be at most 1"):
        StockPlan([0], 2, 1, labels=[0]).check(pipe, None)


def test_a_transformer_told_a_class_is_sampled(tmp_path: Path) -> None:
    build("DiT", diffusers.DDIMScheduler()).save_pretrained(tmp_path / "dit")
    photographs = write_photographs(tmp_path / "photographs")
    fit = run("fit", tmp_path / "dit", photographs, "--prior", "gaussian", "--out", tmp_path / "prior")
    assert fit.exit_code == 0, fit.output
    command = ("sample", tmp_path / "dit", "--prior", tmp_path / "prior", "--seeds", "0-2", *SMALL, "--out")
    assert_refused(run(*command, tmp_path / "out"), "--class-labels", "told classes")
    assert run(*command, tmp_path / "out", "--label", "3,5").exit_code == 0
    assert pixels(tmp_path / "out").shape == (3, 8, 8, 3)


def evaluate(samples: Path) -> Any:
    return run("evaluate", samples, "--out", samples.parent / "evaluation")


def test_films_are_fitted_and_sampled(tmp_path: Path) -> None:
    text_to_film().save_pretrained(tmp_path / "ltx")
    films = torch.rand(6, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "films", images=(255 * films).byte().numpy())
    model, prior = tmp_path / "ltx", tmp_path / "prior"
    fit = run("fit", model, tmp_path / "films.npz", "--prior", "gaussian", "--out", prior)
    assert fit.exit_code == 0, fit.output
    assert Prior.from_pretrained(prior).shape == (4, 2, 8, 8)
    command = ("sample", model, "--prior", prior, "--prompt", "a cat", "--steps", "2", "--seeds", "0-1")
    for name, options in (("pngs", ("--grid",)), ("array", ("--format", "npz"))):
        result = run(*command, *options, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert_refused(evaluate(tmp_path / name), "pictures; got films")
    array = np.load(tmp_path / "array" / "images.npz")["images"]
    assert array.shape == (2, 5, 32, 32, 3)
    frames = sorted((tmp_path / "pngs" / "images").glob("*/*.png"))
    assert [path.relative_to(tmp_path / "pngs" / "images").as_posix() for path in frames[4:6]] == [
        "000000/004.png",
        "000001/000.png",
    ]
    assert np.array_equal(
        np.stack([np.asarray(Image.open(path)) for path in frames]), array.reshape(10, 32, 32, 3)
    )
    pipe = attach(diffusers.LTXPipeline.from_pretrained(model), Prior.from_pretrained(prior))
    pipe.set_progress_bar_config(disable=True)
    told = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "output_type": "np"}
    own = pipe(["a cat"] * 2, **told, generator=seeds_to_generators([0, 1])).frames
    assert np.abs(array.astype(int) - np.round(own * 255).astype(int)).max() <= 1
    assert_refused(run(*command, "--frames", "9", "--out", tmp_path / "out"), "(4, 2, 8, 8)")


def test_sounds_are_fitted_and_sampled(tmp_path: Path) -> None:
    text_to_sound().save_pretrained(tmp_path / "audio")
    latents = torch.randn(30, 4, 12, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "latents", images=(0.5 * latents).numpy())
    model, prior = tmp_path / "audio", tmp_path / "prior"
    fit = ("fit", model, tmp_path / "latents.npz", "--prior", "gaussian", "--out", prior)
    assert_refused(run(*fit), "--value-range", "latents")
    result = run(*fit, "--value-range", "none")
    assert result.exit_code == 0, result.output
    assert Prior.from_pretrained(prior).shape == (4, 12)
    command = (
        "sample",
        model,
        "--prior",
        prior,
        "--prompt",
        "rain",
        "--steps",
        "2",
        "--seeds",
        "0-1",
        "--out",
    )
    assert run(*command, tmp_path / "wavs").exit_code == 0
    assert run(*command, tmp_path / "array", "--format", "npz").exit_code == 0
    for name in ("wavs", "array"):
        assert_refused(evaluate(tmp_path / name), "pictures; got sounds")
    found = np.load(tmp_path / "array" / "sounds.npz")
    assert found["rate"] == 24
    for seed, sound in enumerate(found["sounds"]):
        with wave.open(str(tmp_path / "wavs" / "sounds" / f"{seed:06d}.wav")) as file:
            assert (file.getframerate(), file.getnchannels()) == (24, 2)
            levels = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T
        assert np.abs(levels - np.round(32767 * sound.clip(-1, 1))).max() <= 1
    assert_refused(run(*command, tmp_path / "out", "--grid"), "--grid")


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
