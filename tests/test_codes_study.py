"""The study of codes: truths of exact networks, layouts, resuming, and `otprior codes`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_helpers import assert_refused, run, write_images, write_tame_model, written
from diffusers import DDIMScheduler
from exact_denoiser import ExactDenoiser
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.data.streams import load_images
from otprior.diffusion.codes import Codes, Encoder
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.study import StageProgress
from otprior_studies.claims.power import TurnedMap, rotate
from otprior_studies.codes import pieces
from otprior_studies.codes.layout import Leg, layout_figures
from otprior_studies.codes.maps import map_figures, power_curve
from otprior_studies.codes.record import CodesReport
from otprior_studies.codes.run import run_code_study
from otprior_studies.codes.study import CodeStudy, CodeSubject, Network, check_subject

RK4 = Encoder("rk4", steps=12)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """A network that is exact for N(0.3, 0.25 I) in four dimensions; its encoder is the optimal map."""
    scheduler = DDIMScheduler()
    unet = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.5)
    monkeypatch.setattr(pieces, "_pipeline", lambda network: SimpleNamespace(unet=unet, scheduler=scheduler))
    pieces._coder.cache_clear()
    yield Network(Path("exact"))
    pieces._coder.cache_clear()


def test_codes_of_gaussian_data_are_paired_best_and_have_no_skew(exact: Network) -> None:
    images = 0.3 + 0.5 * _normal(60, 1, 2, 2)
    codes = pieces.encoded(exact, RK4, images, None)["codes"]
    turned = TurnedMap(images, codes, 0)
    found = map_figures(images, codes, 20, turned, 0)
    for statistic in found["statistics"].values():
        assert statistic == {"whole": 0, "mean": 0, "interval": [0, 0], "alike": None}
    assert (found["points"], found["subset"], found["sets"], found["longest_cycle"]) == (60, 20, 3, 1)
    skew = pieces.probed(exact, RK4, images[:3], codes[:3], None, 1, 0, 0)
    # The network is told its timestep in float32; the map is linear, and isotropic.
    assert float(skew["skew"].max()) < 1e-6
    assert float(skew["own"].max()) < 1e-6
    assert skew["own"].shape == (3, 4)
    back = pieces.decoded(exact, RK4, codes, None)["images"]
    assert float((back - images).abs().max()) < 2e-3


def test_swapping_codes_of_a_network_with_itself_gives_the_images_back(exact: Network) -> None:
    images = 0.3 + 0.5 * _normal(5, 1, 2, 2)
    found = pieces.swapped(exact, exact, RK4, images, None, (None, None))["images"]
    assert found.shape == (5, 2, 1, 2, 2)
    assert float((found - images[:, None]).abs().max()) < 2e-3


def test_a_turned_encoder_is_caught_and_said_to_be_turned_as_it_is() -> None:
    images = _normal(240, 1, 1, 2)
    optimal = 2 * images.flatten(1) + 1
    seen = rotate(optimal - 1, 30.0, torch.Generator().manual_seed(4))
    at_subset = TurnedMap(images[:80], optimal[:80] - 1, seed=1)
    found = map_figures(images, seen, 80, at_subset, 0)
    for name in ("excess", "lost"):
        statistic = found["statistics"][name]
        assert statistic["interval"][0] > 0
        # Three sets of 80 points differ by a fifth from another 80.
        assert statistic["alike"] == pytest.approx(30, abs=12)
    assert found["statistics"]["crossed"]["mean"] == 0
    (row,) = power_curve(at_subset, [80])
    # Fewer than 240 points in the plane see little less than 1°; pairs by themselves nothing below a right angle.
    assert 0.1 < row["excess"] < 30
    assert row["excess"] == row["lost"] == row["moved"]
    assert row["crossed"] > 80


def test_layout_of_a_moved_mean_survives_whole_and_of_strangers_not() -> None:
    sources = _normal(400, 1, 8, 8)
    shift = 5 * _normal(1, 8, 8, seed=1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(2))
    rows = torch.arange(100)
    leg = Leg(
        "one", rows, sources, sources[order] + shift, sources[rows] + shift, sources.mean(dim=0) + shift
    )
    found = layout_figures([leg, replace(leg, kind="other")], seed=0)
    assert (found["images"], found["pairs"]) == (200, 200)
    for kind in ("code swap", "optimal partner"):
        assert found["rows"][kind]["kept"] == pytest.approx(1, abs=1e-6)
        assert found["rows"][kind]["by_frequency"] == pytest.approx([1] * 7, abs=1e-6)
    stranger = found["rows"]["random pair"]
    # About 29 coefficients below four cycles: a spread of 0.19 each, over 200; five standard errors.
    assert abs(stranger["kept"]) < 5 * 0.19 / 200**0.5
    assert stranger["interval"][0] < stranger["interval"][1]


def test_partners_of_few_sources_come_from_all_images_of_both_kinds() -> None:
    sources, targets = _normal(30, 1, 2, 2), _normal(20, 1, 2, 2, seed=1)
    rows = torch.tensor([25, 3])
    leg = Leg("one", rows, sources, targets, sources[rows], targets[0])
    others = [k for k in range(30) if k not in (25, 3)][:18]
    from otprior.transport.assignment import best_partners

    expected = targets[best_partners(sources[[25, 3, *others]], targets)][:2]
    assert torch.equal(leg.partners(), expected)


# Running ----------------------------------------------------------------------------------------------------

SMALL = CodeStudy(
    images=24, subset=8, encoder=Encoder("heun", steps=4), refined=4, probed=2, probes=1, swaps=2, timestep=300,
    fast_steps=2, tol=0.5, block=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    write_tame_model(folder / "model")
    write_images(folder / "data.npz")
    return folder


def _subject(place: Path) -> CodeSubject:
    images = load_images(place / "data.npz")
    return CodeSubject("tiny", Network(place / "model", 3, 3), images, images)


def test_an_interrupted_study_ends_as_one_that_was_not(place: Path, tmp_path: Path) -> None:
    subject, whole = _subject(place), tmp_path / "whole"
    expected = run_code_study(SMALL, subject, whole, workers=0)
    assert [row.label for row in expected.swaps] == ["image", *(f"its code as class {k}" for k in range(3))]
    assert [row.label for row in expected.beside][-2:] == ["optimal partner", "random pair"]

    def stop(at: StageProgress) -> None:
        if at.stage == "swapping codes" and at.done > 0:
            raise KeyboardInterrupt

    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        run_code_study(SMALL, subject, work, workers=0, listen=stop)
    first = work / "codes" / "000000.npz"
    written = first.stat().st_mtime_ns
    found = run_code_study(SMALL, subject, work, workers=0)
    assert first.stat().st_mtime_ns == written
    assert found.part == expected.part
    assert torch.equal(found.codes.codes, expected.codes.codes)
    with pytest.raises(ValueError, match="must be empty, or one of this very study; got another's"):
        run_code_study(replace(SMALL, seed=1), subject, work, workers=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": 60}, "images must be at least 60; got 40"),
        ({"swaps": 9}, "swaps must be at most 8, the images of class 0"),
    ],
)
def test_a_subject_that_is_too_small_is_refused(place: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_subject(replace(SMALL, **changed), _subject(place))


def test_a_subject_without_classes_has_none_to_swap(place: Path) -> None:
    subject = _subject(place)
    unlabelled = replace(subject, images=ImageSet(subject.images.images))
    for other in (unlabelled, replace(subject, network=Network(place / "model"))):
        with pytest.raises(ValueError, match="swaps must be 0 without labelled images and a network with"):
            check_subject(SMALL, other)
    with pytest.raises(ValueError, match="conditional must be left out"):
        check_subject(replace(SMALL, swaps=0, conditional=True), unlabelled)
    beyond = replace(subject, images=replace(subject.images, labels=subject.images.labels + 30_000))
    with pytest.raises(ValueError, match=r"labels of .* must be in \[0, 2\]; got 3000"):
        check_subject(replace(SMALL, swaps=0, conditional=True), beyond)


def test_studies_need_two_subsets() -> None:
    with pytest.raises(ValueError, match="images must be at least two subsets of 500; got 999"):
        CodeStudy(images=999)


# The command ------------------------------------------------------------------------------------------------

WORDS = (
    *("codes", "model", "data.npz", "--images", 16, "--subset", 8),
    *("--method", "heun", "--steps", 3, "--probed", 2, "--threads", 1),
)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder has model and images; the work is done in this process."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("otprior_studies.cli.codes.default_workers", lambda *_: 0)
    return place


def test_command_writes_report_page_pictures_and_codes(here: Path) -> None:
    result = run(*WORDS, "--swaps", 2, "--out", "study")
    assert result.exit_code == 0, result.output
    names = {"report.json", "report.html", "maps.png", "power.png", "layout.png", "swaps.png", "beside.png"}
    assert set(written(here / "study")) == names | {"codes.safetensors"}
    report = json.loads((here / "study" / "report.json").read_text())
    assert CodesReport.from_json(report).to_json() == report
    part = report["codes"]
    assert (part["images"], part["dim"], part["told"], part["evaluations"]) == (16, 64, "no class", 6)
    by_name = {(group["name"], row["name"]): row for group in part["groups"] for row in group["maps"]}
    for (_, name), row in by_name.items():
        if row["optimal_by_construction"]:
            assert row["statistics"]["excess"]["whole"] == 0, name
    assert by_name["images to codes", "random pairs"]["statistics"]["lost"]["mean"] > 0.3
    for words in ("images to codes", "seeds to images", "[low, high]", "layout kept", "report: "):
        assert words in result.output
    page = (here / "study" / "report.html").read_text()
    assert "<script" not in page
    assert Codes.load(here / "study" / "codes.safetensors").codes.shape == (16, 1, 8, 8)


def test_command_decodes_with_another_network(here: Path) -> None:
    given = ("--classes", "0,1", "--other", "model", "--other-classes", 2, "--swaps", 3, "--probed", 0)
    result = run(*WORDS, *given, "--out", "other")
    assert result.exit_code == 0, result.output
    part = json.loads((here / "other" / "report.json").read_text())["codes"]
    assert part["jacobian"] is None
    assert (part["swaps"]["between"], part["swaps"]["pairs"]) == ("networks", 3)


def test_command_refuses_before_it_works(here: Path) -> None:
    refused = {
        "--images 16 --subset 9": "images must be at least two subsets of 9; got 16",
        "--images 1000": "images must be at least 1,000; got 40",
        "--swaps 30": "swaps must be at most",
        "--classes 7": "--classes must be labels that some image has; got 7, of which no image has 7",
        "--other-data data.npz": "--other-data must be left out without --other",
        "--method dop853 --steps 9": "--steps must be left out with encoding by dop853",
        "--other missing": "model missing: there is no such file or folder",
    }
    for words, message in refused.items():
        assert_refused(run(*WORDS, *words.split(), "--out", "refused"), message)
    assert_refused(
        run("codes", "model", "--out", "refused"), "DATA must be given, unless the model is 'bundled'"
    )
    assert not (here / "refused").exists()
    assert not (here / "refused.work").exists()
