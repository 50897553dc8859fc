"""`otprior audit`: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import assert_refused, run, write_images, write_model
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, ScoreSdeVeScheduler
from torch import Tensor

from otprior import GaussianPrior, IdentityPrior, NoiseSchedule, Prior, SemiDiscretePrior
from otprior.data.images import ImageSet
from otprior.data.streams import load_images
from otprior.diffusion.known_schedules import known_schedule
from otprior.error.audit import AuditRequest, default_timesteps, run_audit
from otprior.report.audit import AuditReport
from otprior.report.audit.text import audit_summary

FAST = (
    "--threads",
    1,
    "--timesteps",
    "200,500,999",
    "--draws",
    8,
    "--pairs",
    2,
    "--steps",
    2,
    "--fine-steps",
    3,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("audit") / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("audit") / "images.npz")


@pytest.fixture(scope="module")
def audited(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("audit")
    data = load_images(images)
    held_out = write_images(folder / "held_out.npz", count=64)
    priors = []
    for noise in ("coupled", "frozen"):
        prior = SemiDiscretePrior.fit(
            data, DDPMScheduler(), 500, noise=noise, tol=0.2, generator=torch.Generator().manual_seed(0)
        )
        priors += ["--prior", folder / f"prior-{len(priors)}"]
        prior.save_pretrained(priors[-1])
    result = run(
        "audit",
        model,
        images,
        "--out",
        folder / "audit",
        "--held-out",
        held_out,
        *priors,
        "--estimated-bound",
        *FAST,
    )
    assert result.exit_code == 0, result.output
    return folder / "audit", result.stdout


def report_of(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    assert AuditReport.from_json(report).to_json() == report
    return report


def test_an_audit_leaves_a_valid_report_a_page_and_plots(audited: tuple[Path, str]) -> None:
    folder, printed = audited
    assert sorted(path.name for path in folder.glob("[!.]*")) == [
        "error.png",
        "report.html",
        "report.json",
        "spectrum.png",
    ]
    report = report_of(folder)
    page = (folder / "report.html").read_text()
    for sentence in audit_summary(AuditReport.from_json(report).audit):
        assert sentence in printed
    assert "<script" not in page
    assert "How wrong each start is" in page
    assert "prior-2 (semidiscrete, frozen)" in " ".join(printed.split())


def test_the_report_has_every_start_at_every_timestep_for_data_and_population(
    audited: tuple[Path, str],
) -> None:
    audit = report_of(audited[0])["audit"]
    rows = audit["errors"]
    starts = {(row["name"], row["prior"], row["noise"]) for row in rows}
    assert starts == {
        (None, "identity", None),
        (None, "gaussian", None),
        ("prior-0", "semidiscrete", "coupled"),
        ("prior-2", "semidiscrete", "frozen"),
    }
    for target in ("data", "population"):
        found = [row for row in rows if row["target"] == target]
        assert len(found) == 4 * 3
        assert all(row["upper"] is None or row["lower"] <= row["upper"] for row in found)
    identity = [row for row in rows if row["prior"] == "identity" and row["target"] == "data"]
    lows = [row["lower"] for row in sorted(identity, key=lambda row: row["timestep"])]
    assert lows == sorted(lows, reverse=True)
    for row in identity:
        assert row["mean_part"] ** 2 + row["covariance_part"] ** 2 == pytest.approx(
            row["bounds"][0]["value"] ** 2
        )


def test_costs_stand_beside_discretisation_and_frozen_starts_have_none(audited: tuple[Path, str]) -> None:
    audit = report_of(audited[0])["audit"]
    coupled = [("identity", None), ("gaussian", None), ("semidiscrete", "coupled")]
    assert [(row["timestep"], row["prior"], row["noise"]) for row in audit["costs"]] == [
        (timestep, *start) for timestep in (500, 999) for start in coupled
    ]
    for row in audit["costs"]:
        assert (row["nfe"], row["fine_nfe"], row["pairs"]) == (2, 3, 2)
        assert row["cost_interval"][0] <= row["cost"] <= row["cost_upper"]
        assert row["total"] <= row["total_upper"]
    decision = audit["decision"]
    own = {(row["prior"], row["noise"], row["timestep"]): row["total_upper"] for row in audit["costs"]}
    assert decision["total"] == own[decision["prior"], decision["noise"], decision["timestep"]]
    assert decision["white_total"] == own["identity", None, 999]
    assert all(check["consistent"] for check in audit["checks"])
    assert {row["prior"] for row in audit["bounds"]} == {"identity", "gaussian"}
    assert len(audit["stability"]) == 4
    assert all(row["gap"] <= row["bound"] for row in audit["stability"])


def test_a_schedule_alone_is_audited_by_name_by_file_and_by_folder(tmp_path: Path) -> None:
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path / "flow")
    for name in ("sdxl", tmp_path / "flow", tmp_path / "flow" / "scheduler_config.json"):
        result = run("audit", name)
        assert result.exit_code == 0, result.output
    result = run("audit", "stable-diffusion", "--out", tmp_path / "out")
    assert "brightness bias" in result.stdout
    audit = report_of(tmp_path / "out")["audit"]
    assert audit["data"] is None
    assert audit["errors"] == []
    assert audit["verdict"]["grade"] == "large"


# The audit itself, without files -----------------------------------------------------------------------------


def audit_of(data: ImageSet, scheduler: Any = None, **options: Any) -> dict[str, Any]:
    scheduler = scheduler or DDPMScheduler()
    times = options.pop("timesteps", (200.0, 500.0, 999.0))
    request = AuditRequest(scheduler, "test", data=data, timesteps=tuple(times), draws=8, **options)
    return run_audit(request).to_json()


def test_the_same_seed_gives_the_same_audit(images: Path) -> None:
    data = load_images(images)
    assert audit_of(data) == audit_of(data)
    assert audit_of(data) != audit_of(data, seed=1)


def test_a_prior_of_few_axes_is_audited_without_figures_of_stability(images: Path) -> None:
    data = load_images(images)
    prior = SemiDiscretePrior.fit(data, DDPMScheduler(), 500, rank=4, tol=0.5)
    audit = audit_of(data, priors={"few axes": prior})
    assert "few axes" in {row["name"] for row in audit["errors"]}
    assert audit["stability"] == []


def test_a_prior_of_another_package_is_audited_by_samples_of_its_starts(images: Path) -> None:
    """Such a prior says nothing about its law: errors come from draws, and so do costs and checks."""

    class Shrunk(IdentityPrior):
        kind = "shrunk"

        def gaussian_law(self, label: int | None = None) -> None:
            return Prior.gaussian_law(self, label)

        def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
            return 0.9 * z

    data = load_images(images)
    scheduler = DDPMScheduler()
    prior = Shrunk.build((1, 8, 8), scheduler, 500)
    request = AuditRequest(
        scheduler, "a model", data=data, priors={"mine": prior}, timesteps=(300.0, 800.0), draws=16
    )
    audit = run_audit(request)
    rows = [row for row in audit.errors if row.prior == "shrunk"]
    assert [(row.name, row.timestep, row.target) for row in rows] == [
        ("mine", 300.0, "data"),
        ("mine", 800.0, "data"),
    ]
    for row in rows:
        assert {bound.by for bound in row.bounds} == {"dual", "flow"}
        assert row.upper is not None
        assert row.lower <= row.upper
    assert any(check.prior == "shrunk" for check in audit.checks)


def test_classes_are_audited_one_by_one(images: Path) -> None:
    audit = audit_of(load_images(images), conditional=True)
    assert {row["class"] for row in audit["errors"]} == {None, 0, 1, 2, "all classes"}
    whole = [row for row in audit["errors"] if row["class"] == "all classes" and row["prior"] == "identity"]
    parts = [row for row in audit["errors"] if row["class"] in (0, 1, 2) and row["prior"] == "identity"]
    assert len(whole) == 3
    for row in whole:
        same = [part["lower"] ** 2 for part in parts if part["timestep"] == row["timestep"]]
        shares = np.array([14, 13, 13]) / 40
        assert row["lower"] ** 2 == pytest.approx(float(shares @ same))
    report = AuditReport.from_json({"audit": audit})
    assert len(report.audit.errors_by_start("data", "all classes")) == 2


@pytest.mark.parametrize("name", ["edm", "flow-shift-3", "zero-snr"])
def test_any_schedule_is_audited_against_data(name: str, images: Path) -> None:
    scheduler = known_schedule(name).scheduler
    times = default_timesteps(NoiseSchedule.from_scheduler(scheduler))
    audit = audit_of(load_images(images), scheduler, timesteps=times)
    rows = [row for row in audit["errors"] if row["prior"] == "identity"]
    assert len(rows) == len(times) >= 8
    # Flow matching and zero terminal SNR begin without signal: no error. EDM leaves a little.
    last = max(rows, key=lambda row: row["timestep"])
    assert (last["upper"] < 1e-7) is (name != "edm")


def test_few_or_constant_images_are_audited_with_a_word_of_caution(caplog: pytest.LogCaptureFixture) -> None:
    few = ImageSet(torch.tanh(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))))
    audit_of(few)
    assert "5 images in 64 dimensions" in caplog.text
    rows = audit_of(ImageSet(torch.full((40, 1, 8, 8), -0.5)))["errors"]
    # One image: the gaussian prior has its law, and the error of white noise is known.
    assert all(row["upper"] < 1e-5 for row in rows if row["prior"] == "gaussian")
    assert all(row["ratio"] < 1 + 1e-6 for row in rows if row["prior"] == "identity")


# What is refused ---------------------------------------------------------------------------------------------


def test_bad_input_is_refused_before_any_work(model: Path, images: Path, tmp_path: Path) -> None:
    assert_refused(run("audit", tmp_path / "nothing"), "no such file or folder", "sdxl")
    (tmp_path / "empty").mkdir()
    assert_refused(run("audit", tmp_path / "empty"), "scheduler_config.json")
    assert_refused(run("audit", model, tmp_path / "nothing"), "no such file or folder")
    assert_refused(run("audit", model, images, "--timesteps", "a,b"), "--timesteps", "timesteps such as")
    assert_refused(run("audit", model, images, "--timesteps", "5,5"), "different timesteps")
    assert_refused(run("audit", model, images, "--timesteps", "5000"), "in [0, 999]")
    assert_refused(run("audit", model, images, "--prior", tmp_path / "nothing"), "otprior fit")
    assert_refused(
        run("audit", model, images, "--timesteps", "3,9", "--steps", "5"), "num_steps", "at most 4"
    )
    bound = run("audit", "sdxl", images, "--estimated-bound")
    assert_refused(bound, "left out without a network, data and draws")
    by_class = GaussianPrior.fit(load_images(images), DDPMScheduler(), 500, load_images(images).labels)
    by_class.save_pretrained(tmp_path / "by-class")
    whole = run("audit", model, images, "--prior", tmp_path / "by-class", *FAST)
    assert_refused(whole, "fitted without labels, unless the audit is by class")
    assert_refused(run("audit", "sdxl", "--held-out", images), "given with held_out")
    assert_refused(run("audit", "sdxl", "--scheduler", "ddim"), "unless a model is audited")
    assert_refused(run("audit", "sdxl", images, "--cost-at", "500"), "without a network")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert_refused(run("audit", "sdxl", "--out", tmp_path / "full"), "not empty")
    stochastic = run("audit", model, images, "--scheduler", "EulerAncestralDiscrete", *FAST)
    assert_refused(stochastic, "deterministic", "EulerAncestralDiscreteScheduler")
    ScoreSdeVeScheduler().save_pretrained(tmp_path / "sde")
    assert_refused(run("audit", tmp_path / "sde"), "VP, EDM or flow-matching", "ScoreSdeVeScheduler")


def test_bad_data_are_refused(model: Path, tmp_path: Path) -> None:
    gap = write_images(tmp_path / "gap.npz", labels=np.where(np.arange(40) % 2, 0, 2))
    assert_refused(
        run("audit", model, gap, "--conditional", *FAST), "at least 2 images of every class", "0 of class 1"
    )
    unlabelled = tmp_path / "plain.npy"
    np.save(unlabelled, np.linspace(-1, 1, 10 * 64, dtype=np.float32).reshape(10, 1, 8, 8))
    assert_refused(run("audit", model, unlabelled, "--conditional", *FAST), "labelled")
    few = tmp_path / "few.npy"
    np.save(few, -np.load(unlabelled) * 0.9)
    other = write_images(tmp_path / "other.npz", size=6)
    assert_refused(run("audit", model, other, *FAST), "8x8")
    assert_refused(run("audit", model, unlabelled, "--held-out", few, *FAST), "at least 32 images")
    single = tmp_path / "single.npy"
    np.save(single, np.full((1, 1, 8, 8), -0.5, dtype=np.float32))
    assert_refused(run("audit", model, single, *FAST), "at least two images")
    prior = SemiDiscretePrior.fit(
        torch.randn(5, 1, 4, 4),
        DDPMScheduler(),
        500,
        value_range=None,
        tol=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    prior.save_pretrained(tmp_path / "prior")
    assert_refused(run("audit", model, unlabelled, "--prior", tmp_path / "prior", *FAST), "latents of shape")
