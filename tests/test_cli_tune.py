"""`otprior tune`, what takes its settings, and images that the model drew: on a user's own model and images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from cli_helpers import SIZE, assert_refused, run, write_images, write_model

from otprior.experiments.search import FIRST_SEED
from otprior.metrics.features import FeatureExtractor, save_extractor
from otprior.priors import GaussianPrior, Prior
from otprior.sampling.settings import read_settings, write_settings
from otprior.sampling.start_spec import StartSpec


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of 8 x 8 images, images to fit to and to judge by, and an extractor."""
    folder = tmp_path_factory.mktemp("material")
    write_model(folder / "model")
    write_images(folder / "train.npz", 60)
    write_images(folder / "validation.npz", 50)
    write_images(folder / "held.npz", 30)
    torch.manual_seed(0)
    extractor = FeatureExtractor("tiny", (1, SIZE, SIZE), (4, 4, 4), dim=6, classes=3)
    save_extractor(extractor, folder / "extractor", torch.float32)
    row = StartSpec("semidiscrete", 450, 3, spacing="grid:karras", options=(("correlation", 0.7),))
    write_settings(folder / "settings.json", {"semidiscrete_3": row}, "validation", "by hand")
    return folder


@pytest.mark.parametrize("command", ["tune", "compare"])
@pytest.mark.parametrize(
    "damaged", ["model/unet/diffusion_pytorch_model.safetensors", "extractor/model.safetensors"]
)
def test_what_is_damaged_is_refused_before_the_work(
    material: Path, tmp_path: Path, command: str, damaged: str
) -> None:
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:-100])
    held_out = tmp_path / "train.npz"
    own = {
        "tune": ["--validation"],
        "compare": ["--starts", "gaussian@1", "--held-out", held_out, "--reference"],
    }
    words = [command, tmp_path / "model", tmp_path / "train.npz", *own[command], tmp_path / "validation.npz"]
    words += ["--extractor", tmp_path / "extractor"]
    assert_refused(run(*words, "--out", tmp_path / "out"), "damaged")
    assert not (tmp_path / "out.work").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["tune", "missing", "bundled"], ["model missing: there is no such file"]),
        (["tune", "bundled", "missing"], ["data missing: there is no such file"]),
        (["tune", "bundled", "TRAIN"], ["--validation must be given unless the data are bundled"]),
        (["tune", "bundled", "bundled", "--extractor", "missing"], ["--extractor missing: there is no such"]),
        (["tune", "bundled", "bundled", "--prior", "nowhere"], ["prior must be one of", "gaussian"]),
        (
            ["tune", "bundled", "TRAIN", "--validation", "bundled"],
            ["images validation must be of the shape of those of train", "(1, 8, 8); got (1, 28, 28)"],
        ),
        (["fit", "bundled", "bundled", "--settings", "missing"], ["settings missing: there is no such file"]),
        (
            ["fit", "bundled", "bundled", "--prior", "gaussian", "--settings", "SETTINGS"],
            ["for a gaussian prior", "semidiscrete"],
        ),
        (
            ["sample", "bundled", "--prior", "none", "--settings", "missing"],
            ["--settings missing: there is no"],
        ),
        (
            ["sample", "bundled", "--prior", "none", "--settings", "SETTINGS"],
            ["--settings must be left out with --prior none"],
        ),
        (
            ["sample", "bundled", "--settings", "SETTINGS", "--steps", "7"],
            ["steps must be a number of steps for which the settings have one start", "for 3"],
        ),
        (
            ["compare", "--preset", "baselines", "--training", "x"],
            ["--training must be left out: baselines has no such setting"],
        ),
        (["compare", "--preset", "frontier", "--training", "x"], ["training x: there is no such file"]),
        (
            ["compare", "--preset", "perfect", "--extractor", "x"],
            ["--extractor must be given together with --training"],
        ),
        (
            ["compare", "--preset", "baselines", "--extractor", "x"],
            ["--extractor must be left out: baselines has no such setting"],
        ),
        (["compare", "--seed-sets", "1"], ["seed_sets must be an integer >= 2"]),
    ],
)
def test_bad_input_is_refused(material: Path, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    names = {"TRAIN": material / "train.npz", "SETTINGS": material / "settings.json"}
    result = run(*(names.get(word, word) for word in arguments), "--out", tmp_path / "out")
    assert_refused(result, *parts)
    assert not (tmp_path / "out").exists()


def test_settings_decide_what_is_fitted_and_sampled(material: Path, tmp_path: Path) -> None:
    settings, prior = material / "settings.json", tmp_path / "prior"
    fitted = run("fit", material / "model", material / "train.npz", "--settings", settings, "--out", prior)
    assert fitted.exit_code == 0, fitted.output
    config = json.loads((prior / "config.json").read_text())
    assert (config["timestep"], config["correlation"], config["noise"]) == (450, 0.7, "coupled")
    # Another prior is given the settings' options; what is said on the command line goes first.
    plain = tmp_path / "plain"
    run("fit", material / "model", material / "train.npz", "--out", plain)
    out = tmp_path / "samples"
    sampled = run(
        "sample",
        material / "model",
        "--prior",
        plain,
        "--settings",
        settings,
        "--timestep",
        400,
        "--out",
        out,
    )
    assert sampled.exit_code == 0, sampled.output
    (row,) = json.loads((out / "report.json").read_text())["rows"]
    assert (row["nfe"], row["spacing"], row["start_timestep"], row["correlation"]) == (
        3,
        "grid:karras",
        400,
        0.7,
    )


def test_starts_are_compared_by_class_and_with_guidance(material: Path, tmp_path: Path) -> None:
    words = [material / "train.npz", "--starts", "none@2,gaussian@2", "--samples", 12, "--workers", 1]
    sets = ["--reference", material / "validation.npz", "--held-out", material / "held.npz"]
    words += [*sets, "--extractor", material / "extractor", "--conditional", "--guidance-scale", 2]
    result = run("compare", material / "model", *words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["nfe"] for row in report["rows"]] == [4, 4]
    assert all(0 <= row["class_accuracy"] <= 1 for row in [report["reference"], *report["rows"]])
    assert all(row["conditional"] for row in report["rows"])
    assert "by class · guidance 2" in (tmp_path / "out" / "report.html").read_text()
    (prior,) = (tmp_path / "out.work" / "priors").glob("*by-class")
    assert Prior.from_pretrained(prior).num_classes == 3


@pytest.mark.parametrize("command", ["tune", "compare"])
@pytest.mark.parametrize(
    ("changed", "labels", "parts"),
    [
        ("train", None, ["train.npz must be labelled, for starts by class"]),
        ("train", [0, 1, 3], ["labels of", "in [0, 2]; got 3"]),
        ("train", [0, 1, 1], ["each of the network's 3 classes", "got 0 of class 2"]),
        ("validation", None, ["validation.npz must be labelled, for starts by class"]),
        ("validation", [*[0, 1] * 24, 1, 2], ["at least 2 of each", "got 1 of class 2"]),
    ],
)
def test_starts_by_class_take_images_with_classes(
    material: Path, tmp_path: Path, command: str, changed: str, labels: list[int] | None, parts: list[str]
) -> None:
    for name in ("train", "validation"):
        arrays = dict(np.load(material / f"{name}.npz"))
        if name == changed:
            del arrays["labels"]
            arrays |= {} if labels is None else {"labels": np.resize(labels, len(arrays["images"]))}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    own: dict[str, list[object]] = {
        "tune": ["--validation"],
        "compare": ["--starts", "gaussian@1", "--held-out", material / "held.npz", "--reference"],
    }
    words = [command, material / "model", tmp_path / "train.npz", *own[command], tmp_path / "validation.npz"]
    words += ["--extractor", material / "extractor", "--samples", 12, "--workers", 1, "--conditional"]
    assert_refused(run(*words, "--out", tmp_path / "out"), *parts)
    assert not (tmp_path / "out.work" / "study.json").exists()


@pytest.mark.parametrize(
    ("model", "options", "parts"),
    [
        ("plain", "--conditional", ["how many class labels", "by class"]),
        ("plain", "--conditional --guidance-scale 2", ["how many class labels", "by class"]),
        ("plain", "--guidance-scale 2", ["--guidance-scale must be left out: the model's network"]),
        ("model", "--guidance-scale 2", ["--guidance-scale must be left out without --conditional"]),
        ("stock", "", ["--conditional must be given, or --null-label"]),
        ("stock", "--conditional --guidance-scale 2", ["--null-label must be given for guidance"]),
        ("stock", "--conditional", ["got 0 of class 3", "no class, give --null-label"]),
        (
            "model",
            "--conditional --extractor EXTRACTOR",
            ["classifier of the network's 3", "one of 5 classes"],
        ),
    ],
)
def test_starts_by_class_take_a_network_with_classes(
    material: Path, tmp_path: Path, model: str, options: str, parts: list[str]
) -> None:
    folder = material / "model" if model == "model" else write_model(tmp_path / "plain", classes=None)
    if model == "stock":
        # (A folder of diffusers does not say which label means no class.)
        unet = diffusers.UNet2DModel.from_pretrained(material / "model" / "unet")
        folder = tmp_path / "stock"
        diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
    extractor = FeatureExtractor("five", (1, SIZE, SIZE), (4, 4, 4), dim=6, classes=5)
    save_extractor(extractor, tmp_path / "five", torch.float32)
    words = ["compare", folder, material / "train.npz", "--starts", "gaussian@1", "--samples", 12]
    words += ["--workers", 1, "--reference", material / "validation.npz", "--held-out", material / "held.npz"]
    words += ["--extractor", material / "extractor"]
    options = options.replace("EXTRACTOR", str(tmp_path / "five"))
    assert_refused(run(*words, *options.split(), "--out", tmp_path / "out"), *parts)


def test_settings_of_a_prior_that_has_no_use_for_labels_ask_for_none(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = StartSpec("gaussian", 450, 3, conditional=True)
    write_settings(tmp_path / "settings.json", {"gaussian_3": row}, "validation", "by hand")
    takes = GaussianPrior.fit_takes
    monkeypatch.setattr(GaussianPrior, "fit_takes", lambda name: name != "labels" and takes(name))
    words = ["fit", material / "model", material / "train.npz", "--prior", "gaussian"]
    words += ["--settings", tmp_path / "settings.json", "--out", tmp_path / "prior"]
    assert run(*words).exit_code == 0


def test_settings_by_class_are_taken(material: Path, tmp_path: Path) -> None:
    row = StartSpec("gaussian", 450, 3, conditional=True, guidance=2.0)
    write_settings(tmp_path / "settings.json", {"gaussian_3": row}, "validation", "by hand")
    words = ["fit", material / "model", material / "train.npz", "--prior", "gaussian"]
    words += ["--settings", tmp_path / "settings.json", "--out", tmp_path / "prior"]
    assert_refused(run(*words), "--conditional must be given: the settings are those of a prior by class")
    assert run(*words, "--conditional").exit_code == 0
    words = ["sample", material / "model", "--prior", tmp_path / "prior", "--seeds", "0-2"]
    words += ["--settings", tmp_path / "settings.json", "--out", tmp_path / "out"]
    assert_refused(run(*words), "--class-labels are given")
    result = run(*words, "--class-labels", "0-2")
    assert result.exit_code == 0, result.output
    (sampled,) = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert (sampled["nfe"], sampled["guidance"]) == (6, 2.0)


def test_a_prior_of_images_that_the_model_drew(material: Path, tmp_path: Path) -> None:
    """`fit` reads the folder of `sample`, with its labels."""
    drawn = ["sample", material / "model", "--prior", "none", "--steps", 2, "--seeds", "0-39"]
    result = run(*drawn, "--class-labels", "0-2", "--out", tmp_path / "drawn")
    assert result.exit_code == 0, result.output
    words = ["fit", material / "model", tmp_path / "drawn", "--tol", 0.5, "--conditional"]
    result = run(*words, "--out", tmp_path / "prior")
    assert result.exit_code == 0, result.output
    prior = Prior.from_pretrained(tmp_path / "prior")
    assert prior.num_classes == 3
    assert sorted(torch.bincount(prior.classes).tolist()) == [13, 13, 14]  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_search_whose_time_is_up_says_how_good_the_network_is(material: Path, tmp_path: Path) -> None:
    words = ["--validation", material / "validation.npz", "--extractor", material / "extractor", "--steps", 2]
    words += ["--samples", 24, "--copy-margin", 1, "--prior", "gaussian", "--workers", 1, "--minutes", 0.01]
    words += ["--conditional"]
    found = run("tune", material / "model", material / "train.npz", *words, "--out", tmp_path / "tuned")
    assert found.exit_code == 0, found.output
    assert "on 12 seeds" in " ".join(found.output.split())
    assert Prior.from_pretrained(tmp_path / "tuned" / "prior").num_classes == 3
    page = (tmp_path / "tuned" / "report.html").read_text()
    assert "starts by class were tried" in re.sub("<[^>]*>", "", page)
    trials = json.loads((tmp_path / "tuned" / "trials.json").read_text())["trials"]
    assert all(0 <= trial["class_accuracy"] <= 1 for trial in trials)


@pytest.mark.slow
def test_a_search_chooses_and_its_settings_are_taken(material: Path, tmp_path: Path) -> None:
    words = ["--validation", material / "validation.npz", "--extractor", material / "extractor", "--steps", 2]
    words += ["--samples", 24, "--copy-margin", 1, "--tol", 0.5, "--workers", 1]
    first = run("tune", material / "model", material / "train.npz", *words, "--out", tmp_path / "tuned")
    assert first.exit_code == 0, first.output
    (row,) = read_settings(tmp_path / "tuned" / "settings.json").values()
    found = json.loads((tmp_path / "tuned" / "trials.json").read_text())
    trials, own = found["trials"], found["own_sampler"]
    assert own["words"] in " ".join(first.output.split())
    low, high = own["gain_interval"]
    assert low <= own["gain"] <= high
    # Every kind and noise had its turn.
    kinds = {(trial["row"]["prior"], trial["row"].get("options", {}).get("noise")) for trial in trials}
    assert kinds >= {
        ("gaussian", None),
        ("mixture", "fresh"),
        ("semidiscrete", "whitened"),
        ("semidiscrete", "fresh"),
    }
    last = [trial for trial in trials if trial["samples"] == 24]
    # (On seeds that no report uses.)
    assert all(int(path.stem) >= FIRST_SEED for path in (tmp_path / "tuned.work" / "images").rglob("*.npz"))
    assert StartSpec.from_json(min(last, key=lambda trial: trial["fid"])["row"]) == row
    assert (tmp_path / "tuned" / "tuning.png").is_file()
    assert row.label in (tmp_path / "tuned" / "report.html").read_text(encoding="utf-8").replace(
        "\u00a0", " "
    )
    prior = Prior.from_pretrained(tmp_path / "tuned" / "prior")
    assert prior.timestep == row.start_timestep
    sampled = run(
        "sample", material / "model", "--prior", tmp_path / "tuned" / "prior",
        "--settings", tmp_path / "tuned" / "settings.json", "--out", tmp_path / "samples",
    )  # fmt: skip
    assert sampled.exit_code == 0, sampled.output
    # Done again it takes nothing anew, and finds the same.
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "tuned.work" / "images").rglob("*.npz")}
    run(
        "tune", material / "model", material / "train.npz", *words, "--out", tmp_path / "tuned", "--overwrite"
    )
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert list(read_settings(tmp_path / "tuned" / "settings.json").values()) == [row]


@pytest.mark.slow
def test_a_limit_that_nothing_keeps_ends_with_what_was_tried(material: Path, tmp_path: Path) -> None:
    words = ["--validation", material / "validation.npz", "--extractor", material / "extractor", "--steps", 2]
    words += ["--samples", 12, "--copy-limit", 0, "--copy-margin", 0, "--tol", 0.5, "--workers", 1]
    result = run("tune", material / "model", material / "train.npz", *words, "--out", tmp_path / "tuned")
    # (No number of samples without a copy has an upper limit of 0.)
    assert_refused(result, "no start keeps the copying limit", code=1)
    assert (tmp_path / "tuned" / "trials.json").is_file()
    assert not (tmp_path / "tuned" / "settings.json").exists()
    assert not (tmp_path / "tuned" / "prior").exists()


@pytest.mark.parametrize("limit", [(), ("--copy-limit", 0.5)])
def test_validation_images_that_are_atoms_are_refused(
    material: Path, tmp_path: Path, limit: tuple[Any, ...]
) -> None:
    words = ["--validation", material / "train.npz", "--extractor", material / "extractor", "--steps", 2]
    words += ["--samples", 24, "--tol", 0.5, "--workers", 1]
    result = run(
        "tune", material / "model", material / "train.npz", *words, *limit, "--out", tmp_path / "tuned"
    )
    assert_refused(
        result, "must be images that are not among those that starts or networks are made of", "got 60"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "searched"),
    [
        ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"),
        ("FlowMatchEulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_a_search_on_a_process_of_another_kind(
    material: Path, tmp_path: Path, scheduler: str, searched: str
) -> None:
    shutil.copytree(material / "model", tmp_path / "model")
    getattr(diffusers, scheduler)().save_pretrained(tmp_path / "model" / "scheduler")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", scheduler]
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    words = ["--validation", material / "validation.npz", "--extractor", material / "extractor", "--steps", 2]
    words += ["--samples", 24, "--copy-margin", 1, "--tol", 0.5, "--workers", 1]
    result = run("tune", tmp_path / "model", material / "train.npz", *words, "--out", tmp_path / "tuned")
    assert result.exit_code == 0, result.output
    (row,) = read_settings(tmp_path / "tuned" / "settings.json").values()
    assert row.scheduler == searched
