"""`fit`, `sample` and `evaluate` on the bundled network and a little of the bundled data, one after another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import assert_refused, run, write_images, write_model
from PIL import Image

from otprior.cli.evaluate import find_sources
from otprior.data import bundled
from otprior.data.images import ImageSet
from otprior.data.samples import read_samples
from otprior.priors import GaussianPrior, MixturePrior, Prior, SemiDiscretePrior
from otprior.report import SamplingReport
from otprior.transport import run as transport_run
from otprior.transport.methods.sgd import AveragedSgd, SgdState

# Rounding in another batch or on more threads is 1e-6 to 1e-5; another image is off by 1.
SAME = 1e-4


def _report(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    SamplingReport.from_json(report)
    return report


def _images(folder: Path) -> np.ndarray:
    with np.load(folder / "images.npz") as file:
        return file["images"]


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted") / "prior"
    result = run("fit", "bundled", "bundled", "--limit", 300, "--tol", 0.2, "--out", folder)
    assert result.exit_code == 0, result.output
    assert "upper 95 % limit" in result.stdout
    assert "it holds the images themselves" in result.stdout
    return folder


@pytest.fixture(scope="module")
def samples(prior: Path) -> Path:
    folder = prior.parent / "samples"
    result = run("sample", "bundled", "--prior", prior, "--seeds", "3-14", "--out", folder, "--grid")
    assert result.exit_code == 0, result.output
    assert f"12 images in {folder}: 5 network evaluations each" in result.stdout
    return folder


def test_fit(prior: Path) -> None:
    fitted = Prior.from_pretrained(prior)
    assert isinstance(fitted, SemiDiscretePrior)
    assert fitted.atoms.shape == (300, 784)
    assert fitted.facts["license"].startswith("MIT")
    ot = _report(prior)["ot"]
    assert ot["atoms"] == 300
    assert ot["outcome"] == "converged"
    assert ot["chi2"] <= ot["chi2_upper"] <= 0.2
    # The images drawn are some of the bundled ones, in their order.
    everything = {image.numpy().tobytes(): i for i, image in enumerate(bundled.atoms().images.flatten(1))}
    chosen = [everything[atom.numpy().tobytes()] for atom in fitted.atoms]
    assert chosen == sorted(set(chosen))


def test_fit_again_gives_the_same_prior(prior: Path) -> None:
    again = prior.parent / "again"
    result = run("fit", "bundled", "bundled", "--limit", 300, "--tol", 0.2, "--out", again)
    assert result.exit_code == 0
    assert (again / "model.safetensors").read_bytes() == (prior / "model.safetensors").read_bytes()


def test_sample(samples: Path, prior: Path) -> None:
    names = sorted(path.name for path in (samples / "images").iterdir())
    assert names == [f"{seed:06d}.png" for seed in range(3, 15)]
    assert Image.open(samples / "grid.png").size == (10 * 58 - 2, 2 * 58 - 2)
    with np.load(samples / "starts.npz") as file:
        assert file["seeds"].tolist() == list(range(3, 15))
        sources = file["sources"]
    # What is written is what the library says of these seeds.
    z = torch.stack(
        [torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(s)) for s in range(3, 15)]
    )
    assert sources.tolist() == Prior.from_pretrained(prior).source(z).tolist()
    (row,) = _report(samples)["rows"]
    assert (row["prior"], row["noise"], row["start_timestep"]) == ("semidiscrete", "coupled", 500)
    assert (row["nfe"], row["samples"], row["seeds"]) == (5, 12, "3-14")


def test_evaluate(samples: Path, prior: Path, tmp_path: Path) -> None:
    for name, split, count in (("reference", "reference", 120), ("held", "held_out", 80)):
        some = bundled.split(split).images[:count]
        np.save(tmp_path / f"{name}.npy", ((some + 1) * 127.5).round().to(torch.uint8).numpy())
    sets = ["--reference", tmp_path / "reference.npy", "--held-out", tmp_path / "held.npy", "--atoms", prior]
    result = run("evaluate", samples, *sets, "--out", tmp_path / "out", "--label", "mine")
    assert result.exit_code == 0, result.output
    assert "held-out real images" in result.stdout
    report = _report(tmp_path / "out")
    assert report["features"] == {"name": bundled.extractor().name, "dim": 128}
    assert report["reference"]["n"] == 12
    assert report["ot"]["atoms"] == 300
    (row,) = report["rows"]
    assert (row["label"], row["prior"], row["nfe"], row["samples"]) == ("mine", "semidiscrete", 5, 12)
    # 300 atoms at t* = 500 lead most samples back to their own atom.
    assert row["source_rate"] > 0.5
    for name in ("fid", "kid", "precision", "recall", "copy_rate", "duplicate_rate"):
        assert row[name] is not None
    names = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert names == {"report.html", "report.json", "quality.png", "copying.png", "images.png"}


def test_atoms_by_the_name_of_a_prior_without_images_are_refused(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GaussianPrior.fit(bundled.atoms().select(slice(20)), bundled.load_scheduler()).save_pretrained(tmp_path)
    monkeypatch.setattr("otprior.utils.hub.snapshot_download", lambda *_, **__: str(tmp_path))
    sets = ("--reference", "bundled", "--held-out", "bundled", "--atoms", "someone/prior")
    assert_refused(run("evaluate", samples, *sets, "--out", tmp_path / "out"), "--atoms", "GaussianPrior")


def test_sources_are_not_matched_with_other_atoms(
    samples: Path, prior: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = read_samples(samples)
    assert made.sources is not None
    fitted = Prior.from_pretrained(prior)
    assert find_sources(made, None, ImageSet(fitted.atoms.reshape(-1, 1, 28, 28))) is made.sources
    assert find_sources(made, None, bundled.atoms()) is None
    assert "name the prior's folder as --atoms" in caplog.text


def test_images_of_unknown_origin(samples: Path) -> None:
    made, unknown = read_samples(samples), read_samples(samples / "images")
    assert torch.equal(made.images.images, unknown.images.images)
    assert made.row["prior"] == "semidiscrete"
    assert (unknown.row, unknown.seeds, unknown.sources) == ({}, None, None)


@pytest.mark.parametrize(
    "options",
    [
        ["--scheduler", "dpm++2m", "--spacing", "grid:karras"],
        ["--scheduler", "ddim", "--class-labels", "0-9", "--guidance-scale", "2", "--steps", "2"],
    ],
)
def test_batches_do_not_change_images(prior: Path, tmp_path: Path, options: list[str]) -> None:
    shared = ["sample", "bundled", "--prior", prior, "--seeds", "0-5", "--format", "npz", "--float", *options]
    for size in (1, 4, 6):
        result = run(*shared, "--batch-size", size, "--out", tmp_path / str(size))
        assert result.exit_code == 0, result.output
    expected = _images(tmp_path / "6")
    assert expected.shape == (6, 1, 28, 28)
    for size in (1, 4):
        assert np.abs(_images(tmp_path / str(size)) - expected).max() < SAME
    # Nor does the company: the last seed alone.
    result = run(*shared, "--seeds", "5", "--out", tmp_path / "alone")
    assert np.abs(_images(tmp_path / "alone") - expected[5:]).max() < SAME


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--noise", "fresh"], ["--noise", "frozen"]])
def test_batches_and_threads_do_not_change_images(tmp_path: Path, options: list[str]) -> None:
    prior = tmp_path / "prior"
    assert (
        run("fit", "bundled", "bundled", "--limit", 1000, "--tol", 0.2, *options, "--out", prior).exit_code
        == 0
    )
    threads = torch.get_num_threads()
    try:
        for size in (1, 7, 64):
            for count in (1, 2):
                result = run(
                    "sample", "bundled", "--prior", prior, "--seeds", "0-63", "--format", "npz", "--float",
                    "--batch-size", size, "--out", tmp_path / f"{size}-{count}", threads=count,
                )  # fmt: skip
                assert result.exit_code == 0, result.output
    finally:
        torch.set_num_threads(threads)
    expected = _images(tmp_path / "64-1")
    for size in (1, 7, 64):
        for count in (1, 2):
            assert np.abs(_images(tmp_path / f"{size}-{count}") - expected).max() < SAME


def test_start_at_T_and_at_another_timestep(prior: Path, tmp_path: Path) -> None:
    common = ["--seeds", "0-1", "--steps", 2, "--format", "npz"]
    result = run(
        "sample", "bundled", "--prior", "none", *common, "--scheduler", "unipc", "--out", tmp_path / "T"
    )
    assert result.exit_code == 0, result.output
    (row,) = _report(tmp_path / "T")["rows"]
    assert (row["prior"], row["start_timestep"], row["scheduler"]) == ("none", 999, "UniPCMultistepScheduler")
    result = run("sample", "bundled", "--prior", prior, *common, "--timestep", 300, "--out", tmp_path / "t")
    assert result.exit_code == 0, result.output
    assert _report(tmp_path / "t")["rows"][0]["start_timestep"] == 300
    assert _images(tmp_path / "t").shape == (2, 28, 28)


def _a_hundred_images(path: Path) -> ImageSet:
    """Labelled images of all classes, written to `path`."""
    data = bundled.atoms().select(torch.arange(0, 10_000, 100))
    assert data.labels is not None
    np.savez(path, images=data.images.numpy(), labels=data.labels.numpy())
    return data


def test_gaussian_and_identity_and_conditional(tmp_path: Path) -> None:
    data = _a_hundred_images(tmp_path / "data.npz")
    common = ["bundled", tmp_path / "data.npz"]
    result = run(
        "fit", *common, "--prior", "gaussian", "--rank", 20, "--timestep", 400, "--out", tmp_path / "g"
    )
    assert result.exit_code == 0, result.output
    fitted = Prior.from_pretrained(tmp_path / "g")
    assert isinstance(fitted, GaussianPrior)
    assert (fitted.timestep, fitted.bases.shape) == (400, (1, 784, 20))
    assert run("fit", *common, "--prior", "identity", "--out", tmp_path / "i").exit_code == 0
    result = run("fit", *common, "--conditional", "--tol", 0.3, "--out", tmp_path / "c")
    assert result.exit_code == 0, result.output
    assert Prior.from_pretrained(tmp_path / "c").num_classes == 10
    sampled = [
        "sample",
        "bundled",
        "--prior",
        tmp_path / "c",
        "--seeds",
        "8-11",
        "--steps",
        1,
        "--format",
        "npz",
    ]
    result = run(*sampled, "--class-labels", "0-9", "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "s" / "starts.npz") as file:
        assert file["labels"].tolist() == [8, 9, 0, 1]
        assert data.labels[file["sources"]].tolist() == [8, 9, 0, 1]
    assert run(*sampled, "--out", tmp_path / "without").exit_code == 2


def test_a_mixture_stores_no_image_and_says_so(tmp_path: Path) -> None:
    _a_hundred_images(tmp_path / "data.npz")
    fitting = ["fit", "bundled", tmp_path / "data.npz", "--prior", "mixture", "--tol", 0.3]
    few = ["--components", 2, "--rank", 3]
    result = run(*fitting, *few, "--conditional", "--out", tmp_path / "m")
    assert result.exit_code == 0, result.output
    assert "components" in result.output
    assert "holds the images" not in result.output
    assert not (tmp_path / "m" / "README.md").exists()
    fitted = Prior.from_pretrained(tmp_path / "m")
    assert isinstance(fitted, MixturePrior)
    assert (fitted.timestep, fitted.bases.shape[1:]) == (400, (784, 3))
    assert json.loads((tmp_path / "m" / "report.json").read_text())["ot"]["atoms"] == len(fitted.means)
    sampled = [
        "sample",
        "bundled",
        "--prior",
        tmp_path / "m",
        "--seeds",
        "0-1",
        "--steps",
        1,
        "--format",
        "npz",
    ]
    result = run(*sampled, "--class-labels", "0-9", "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert _report(tmp_path / "s")["rows"][0]["prior"] == "mixture"
    with np.load(tmp_path / "s" / "starts.npz") as file:
        assert "sources" not in file
    result = run(*fitting, "--components", 51, "--out", tmp_path / "many")
    assert result.exit_code == 2
    assert "components must be at most half of 100 images" in result.output
    assert run(*fitting, *few, "--noise", "frozen", "--out", tmp_path / "frozen").exit_code == 2
    assert run(*fitting, *few, "--noise", "fresh", "--out", tmp_path / "fresh").exit_code == 0
    assert Prior.from_pretrained(tmp_path / "fresh").needs_fresh
    hasty = [*fitting, "--components", 20, "--max-draws", 10, "--tol", 0.01]
    result = run(*hasty, "--out", tmp_path / "hasty")
    assert result.exit_code == 1
    assert "--keep-unconverged saves it" in " ".join(result.output.split())
    assert run(*hasty, "--keep-unconverged", "--out", tmp_path / "hasty").exit_code == 0
    for wrong in (["--smoothing", 0.2], ["--weights", tmp_path / "data.npz"]):
        result = run(*fitting, *wrong, "--out", tmp_path / "wrong")
        assert result.exit_code == 2
        assert f"{wrong[0]} is an option neither of this command nor of --prior mixture" in result.output


def test_a_folder_that_holds_its_prior_needs_none_named(prior: Path, tmp_path: Path) -> None:
    from otprior import OTPriorPipeline

    pipe = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), null_class_label=10)
    pipe.prior = Prior.from_pretrained(prior)
    pipe.save_pretrained(tmp_path / "model")
    common = ["--seeds", "0", "--steps", 1, "--format", "npz"]
    assert run("sample", tmp_path / "model", *common, "--out", tmp_path / "own").exit_code == 0
    assert run("sample", "bundled", "--prior", prior, *common, "--out", tmp_path / "named").exit_code == 0
    assert np.array_equal(_images(tmp_path / "own"), _images(tmp_path / "named"))


def test_fit_along_principal_axes(tmp_path: Path) -> None:
    """The table and report.json say what few axes keep and cost; the prior that is loaded finds cells along them."""
    out = tmp_path / "prior"
    result = run("fit", "bundled", "bundled", "--limit", 300, "--tol", 0.2, "--rank", "0.9", "--out", out)
    assert result.exit_code == 0, result.output
    assert "of 784, 90." in result.output
    solve = json.loads((out / "report.json").read_text())["ot"]
    assert 0.9 <= solve["variance_kept"] < 0.92
    assert 0 < solve["cost_excess_share"] < 0.02
    prior = Prior.from_pretrained(out)
    z = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    seen = z.flatten(1).double() @ prior.axes
    scores = seen @ (prior.atoms.double() @ prior.axes).T + prior.potential
    assert torch.equal(prior.source(z), scores.argmax(dim=1))


@pytest.mark.slow
def test_fit_by_two_processes_is_fit_by_one(tmp_path: Path) -> None:
    """Under torchrun, as a user starts it: bit for bit the same prior, written once."""
    options = ["fit", "bundled", "bundled", "--limit", "600", "--tol", "0.1", "--threads", "1", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "otprior"]
    for name, launch in (("one", ["-m", "otprior"]), ("two", torchrun)):
        command = [sys.executable, *launch, *options, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("written to") == 1
    one, two = (Prior.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert torch.equal(one.potential, two.potential)
    assert one.facts["chi2"] == two.facts["chi2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_what_lies_in_the_work_folder_is_kept_unless_it_is_a_solves_state(tmp_path: Path) -> None:
    work = tmp_path / "p.work"
    work.mkdir()
    (work / "study.json").write_text("another command's")
    (work / "map-0.safetensors").write_bytes(b"a solve's")
    words = ["fit", "bundled", "--out", tmp_path / "p", "--prior", "identity"]
    assert_refused(run(*words, "bundled"), "unfinished solve")
    # A slip in the command costs nothing.
    assert_refused(run(*words, "typo.npz", "--overwrite"), "typo.npz")
    assert (work / "map-0.safetensors").exists()
    assert run(*words, "bundled", "--overwrite").exit_code == 0
    assert [path.name for path in work.iterdir()] == ["study.json"]


def test_a_fit_that_was_stopped_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By class, stopped in the second class: the first is read back, the second goes on, the third begins."""
    for name in ("PROGRESS_SECONDS", "KEPT_FROM_SECONDS"):
        monkeypatch.setattr(transport_run, name, 0.0)
    write_model(tmp_path / "model")
    write_images(tmp_path / "data.npz", count=240)
    fitting = ["fit", tmp_path / "model", tmp_path / "data.npz", "--conditional", "--tol", 0.1, "--out"]
    assert run(*fitting, tmp_path / "whole").exit_code == 0

    solvers: list[AveragedSgd] = []
    honest = AveragedSgd.step

    def step(self: AveragedSgd, state: SgdState) -> SgdState:
        if self.stream == "trial":
            return honest(self, state)
        if self not in solvers:
            solvers.append(self)
        elif len(solvers) == 2:  # at the second class's second step
            raise KeyboardInterrupt
        return honest(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(AveragedSgd, "step", step)
        stopped = run(*fitting, tmp_path / "cut")
    assert stopped.exit_code == 130, stopped.output
    assert not (tmp_path / "cut").exists()
    assert len(list((tmp_path / "cut.work").glob("map-*"))) == 2
    assert run(*fitting, tmp_path / "cut", "--resume").exit_code == 0
    potentials = [Prior.from_pretrained(tmp_path / name).potential for name in ("whole", "cut")]
    assert torch.equal(*potentials)
    assert not (tmp_path / "cut.work").exists()


def test_a_schedule_is_enough_to_fit_to_latents(tmp_path: Path) -> None:
    """No network is asked for what only the images tell."""
    write_model(tmp_path / "model")
    latents = np.random.default_rng(0).normal(size=(40, 4, 4, 4)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    common = [tmp_path / "latents.npy", "--value-range", "none", "--tol", 0.5, "--out"]
    for name, t in (("sdxl", 711), (tmp_path / "model" / "scheduler", 500)):
        out = tmp_path / str(t)
        result = run("fit", name, *common, out)
        assert result.exit_code == 0, result.output
        prior = Prior.from_pretrained(out)
        assert prior.shape == (4, 4, 4)
        assert prior.timestep == pytest.approx(t, abs=5)
