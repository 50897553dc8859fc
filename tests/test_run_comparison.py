"""Comparisons by class, with guidance, with a full sampler, growing, with rivals; and statements about them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from report_example import bare_report, bare_row
from torch import Tensor

from otprior.data import bundled
from otprior.data.images import to_uint8
from otprior.experiments import inputs, measuring
from otprior.experiments.comparison import Comparison, ComparisonResult
from otprior.experiments.gates import difference_gate, paired_fid_difference
from otprior.experiments.measuring import real_figures
from otprior.experiments.priors import load_fitted
from otprior.experiments.run import claim_work
from otprior.experiments.run import run_comparison as run_in_any_process
from otprior.experiments.sampling import class_turns
from otprior.metrics.features import classify
from otprior.priors import Prior, SemiDiscretePrior
from otprior.report import ReportRow, SamplingReport
from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons.frontier import break_even

WHITE = StartSpec("none", 999, 1, spacing="trailing", label="white")
RANDOM = StartSpec("random_atom", 500, 1, label="random")
COUPLED = StartSpec("semidiscrete", 500, 1, label="coupled")
# (Starting other processes takes longer than what they would do here.)
run_comparison = partial(run_in_any_process, workers=0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A study of 20 images on 60 atoms, against 120 real images, beside another 120."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("reference", "held_out"):
        images = bundled.split(name).select(slice(120))
        assert images.labels is not None
        np.savez(folder / f"{name}.npz", images=to_uint8(images.images), labels=images.labels.numpy())
    paths = {"split": str(folder / "reference.npz"), "real_split": str(folder / "held_out.npz")}
    return Comparison("small", (WHITE,), samples=20, atoms=60, tol=0.5, block=10, **paths)


def test_without_a_classifier_images_to_judge_by_need_no_labels(small: Comparison, tmp_path: Path) -> None:
    torch.jit.script(torch.nn.AvgPool2d(14)).save(tmp_path / "pool.pt")  # type: ignore[no-untyped-call]
    paths = {}
    for field in ("split", "real_split"):
        paths[field] = str(tmp_path / f"{field}.npz")
        np.savez(paths[field], images=np.load(getattr(small, field))["images"])
    starts = (replace(WHITE, conditional=True),)
    study = replace(small, starts=starts, extractor=str(tmp_path / "pool.pt"), atoms=150, **paths)
    claim_work(tmp_path / "work", study, growing=False)
    assert real_figures(study, tmp_path).class_accuracy is None


def test_the_floor_does_not_depend_on_the_order_of_held_out_images(small: Comparison, tmp_path: Path) -> None:
    held_out = dict(np.load(small.real_split))
    rows = np.argsort(held_out["labels"])
    np.savez(tmp_path / "sorted.npz", images=held_out["images"][rows], labels=held_out["labels"][rows])
    by_class = replace(small, real_split=str(tmp_path / "sorted.npz"))
    floors = [real_figures(each, tmp_path / "figures").measured("fid_floor") for each in (small, by_class)]
    # (Sets of 20 out of 120 sorted images hold two classes of ten: a floor twice as high.)
    assert floors[1] == pytest.approx(floors[0], rel=0.2)


def test_where_all_starts_are_by_class_so_are_the_sets_of_held_out_images(
    small: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def note(
        _inputs: object, _features: Tensor, _images: Tensor, labels: Tensor, _: object
    ) -> dict[str, Any]:
        counts.append(torch.bincount(labels, minlength=10).tolist())
        return {"class_accuracy": None}

    monkeypatch.setattr(measuring, "_by_class", note)
    # (Only so many atoms are of all ten classes.)
    starts = (replace(WHITE, conditional=True),)
    real_figures(replace(small, starts=starts, atoms=600), tmp_path / "all")
    *sets, whole = counts
    # (Sets that would want for some class are left out.)
    assert sets == [[2] * 10] * (min(whole) // 2)
    assert sum(whole) == 120
    counts.clear()
    real_figures(replace(small, starts=(*starts, WHITE), atoms=600), tmp_path / "some")
    assert counts[:3] != [[2] * 10] * 3


def test_conditional_rows_are_asked_for_each_class_in_turn_and_judged_by_it(
    small: Comparison, tmp_path: Path
) -> None:
    rows = [
        replace(WHITE, conditional=True),
        replace(WHITE, conditional=True, guidance=2.0),
        replace(COUPLED, conditional=True),
        replace(RANDOM, conditional=True),
        replace(RANDOM, prior="identity", conditional=True, label="white at t*"),
    ]
    # (Among 60 atoms not every class has one.)
    result = run_comparison(replace(small, starts=tuple(rows), atoms=150), tmp_path)
    assert SamplingReport.from_json(result.report.to_json()) == result.report
    figures = result.report.rows
    assert [row.nfe for row in figures] == [1, 2, 1, 1, 1]
    assert [row.guidance for row in figures] == [1.0, 2.0, 1.0, 1.0, 1.0]
    for spec, row in zip(rows, figures):
        samples = result.samples(spec)
        assert samples.labels is not None
        assert samples.labels.tolist() == [seed % 10 for seed in range(20)]
        right = classify(bundled.extractor(), samples.images) == torch.from_numpy(samples.labels)
        assert row.class_accuracy == pytest.approx(float(right.double().mean()))
        assert row.class_fid > 0
    # Real images are taken for what they are, but for the classifier's errors: 1 in 10, ± 0.03 for 120 images.
    assert result.report.reference.class_accuracy > 0.8
    # Starts are built on images of the class.
    labels = bundled.atoms().labels
    assert labels is not None
    for spec in rows[2:4]:
        samples = result.samples(spec)
        assert samples.sources is not None
        assert np.array_equal(labels[torch.from_numpy(samples.sources)], samples.labels)


def test_seeds_ask_for_classes_of_different_sizes_as_often_as_the_data_has_them(
    small: Comparison, tmp_path: Path
) -> None:
    """Or else FID, against images of all classes, is that of the wrong classes: 240 instead of 20 on emoji."""
    images = bundled.split("validation").select(slice(400))
    assert images.labels is not None
    rows = (images.labels == 3).nonzero()[:30, 0].tolist()
    rows += [int((images.labels == k).nonzero()[j]) for k in range(10) for j in range(5) if k != 3]
    path = tmp_path / "uneven.npz"
    np.savez(path, images=to_uint8(images.images[rows]), labels=images.labels[rows].numpy())
    start = replace(WHITE, conditional=True)
    found = run_comparison(replace(small, starts=(start,), atoms=75, atoms_from=str(path)), tmp_path / "work")
    turns = class_turns(10, images.labels[rows])
    assert found.samples(start).labels.tolist() == list(turns[:20])
    assert np.bincount(turns).tolist() == [5, 5, 5, 30, 5, 5, 5, 5, 5, 5]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.randoms())
def test_turns_have_each_class_in_proportion(sizes: list[int], random: Any) -> None:
    labels = [k for k, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(labels)
    turns = class_turns(len(sizes), torch.tensor(labels))
    share = np.array(sizes) / sum(sizes)
    if len(turns) == len(sizes):
        return  # (equal, but for chance)
    assert np.bincount(turns).tolist() == sizes
    for k in range(len(sizes)):
        seen = np.cumsum(np.array(turns) == k)
        # Any other class is ahead or behind by half an image when one of this class is asked for.
        assert abs(seen - share[k] * np.arange(1, len(turns) + 1)).max() <= 1 + len(sizes) / 2


def test_agreement_is_taken_to_the_flow_that_a_study_names(small: Comparison, tmp_path: Path) -> None:
    flow = replace(WHITE, steps=2, label="flow")
    result = run_comparison(replace(small, starts=(WHITE, flow), flow=flow), tmp_path)
    white, full = result.report.rows
    assert full.seed_agreement == 1.0
    # The same image: a cosine of 1 to float32's rounding of features.
    assert full.seed_likeness == pytest.approx(1.0, abs=1e-6)
    assert full.seed_pixel_distance == 0.0
    assert 0 <= white.seed_agreement <= 1
    assert white.seed_agreement_interval[0] <= white.seed_agreement
    images = [result.samples(row).images.flatten(1).double() for row in (WHITE, flow)]
    apart = (images[0] - images[1]).norm(dim=1)
    assert white.seed_pixel_distance == pytest.approx(float(apart.mean()))
    low, high = white.seed_likeness_interval
    assert -1 <= low <= white.seed_likeness <= high < 1
    # A flow that is no row is sampled too, and not reported.
    other = run_comparison(replace(small, flow=flow), tmp_path / "other")
    assert len(other.report.rows) == 1
    assert other.report.rows[0].seed_agreement == white.seed_agreement


def test_whitened_noise_needs_no_second_solve(
    small: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved = []
    fit_with = SemiDiscretePrior.fit_with.__func__  # type: ignore[attr-defined]
    counted = classmethod(lambda cls, *args, **kwargs: solved.append(args) or fit_with(cls, *args, **kwargs))
    monkeypatch.setattr(SemiDiscretePrior, "fit_with", counted)
    study = replace(small, starts=(COUPLED.with_options(noise="whitened"),))
    run_comparison(study, tmp_path)
    assert len(solved) == 1
    plain, white = (
        load_fitted(tmp_path / "priors" / f"semidiscrete{name}") for name in ("", "-noise-whitened")
    )
    assert torch.equal(plain.potential, white.potential)
    assert (plain.noise, white.noise) == ("coupled", "whitened")


def test_a_growing_study_takes_over_what_it_has(small: Comparison, tmp_path: Path) -> None:
    study = replace(small, starts=(WHITE,))
    run_comparison(study, tmp_path, growing=True)
    images = sorted((tmp_path / "images").rglob("*.npz"))
    before = {path: path.stat().st_mtime_ns for path in images}
    grown = run_comparison(replace(study, samples=35), tmp_path, growing=True)
    assert all(path.stat().st_mtime_ns == before[path] for path in images)
    assert grown.report.rows[0].samples == 35
    fresh = run_comparison(replace(study, samples=35), tmp_path / "fresh")
    assert fresh.report.rows[0].fid == grown.report.rows[0].fid
    # Its last block, which was cut off, is not taken for a whole one, nor a whole one for that.
    further = run_comparison(replace(study, samples=45), tmp_path, growing=True)
    assert len(further.samples(WHITE).pixels) == 45
    again = run_comparison(replace(study, samples=35), tmp_path, growing=True)
    assert again.report.rows[0].fid == grown.report.rows[0].fid != further.report.rows[0].fid
    with pytest.raises(ValueError, match="this very study"):
        run_comparison(replace(study, atoms=50, samples=35), tmp_path, growing=True)


def test_a_work_folder_knows_its_network_and_images_by_what_is_in_them(tmp_path: Path) -> None:
    def written(where: str, weights: bytes, seed: int) -> Comparison:
        folder = tmp_path / where
        (folder / "model" / "unet").mkdir(parents=True)
        (folder / "model" / "unet" / "weights.safetensors").write_bytes(weights)
        (folder / "model" / "model_index.json").write_text("{}")
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 28, 28), dtype=np.uint8)
        np.savez(folder / "images.npz", images=pixels)
        return replace(study, model=str(folder / "model"), split=str(folder / "images.npz"))

    study = Comparison("small", (WHITE,), samples=20, atoms=60)
    one = written("one", b"weights", 0)
    claim_work(tmp_path / "work", one, growing=False)
    claim_work(tmp_path / "work", written("same", b"weights", 0), growing=False)
    for name, weights, seed in (("retrained", b"others", 0), ("other images", b"weights", 1)):
        with pytest.raises(ValueError, match="another's"):
            claim_work(tmp_path / "work", written(name, weights, seed), growing=False)


def test_rivals_are_rows_like_others(small: Comparison, tmp_path: Path) -> None:
    rows = (
        COUPLED,
        replace(COUPLED.with_prior("unsolved", potential="zero"), label="unsolved"),
        replace(RANDOM.with_prior("boosted_atom", direction="mean"), label="boosted"),
        replace(RANDOM, prior="mini_batch", label="mini-batch"),
        replace(RANDOM.with_prior("mixture", components=5, rank=3), label="mixture"),
        replace(RANDOM, prior="mixture", label="mixture of the default size"),
    )
    result = run_comparison(replace(small, starts=rows), tmp_path)
    assert SamplingReport.from_json(result.report.to_json()) == result.report
    kinds = [row.prior for row in result.report.rows]
    assert kinds == ["semidiscrete", "unsolved", "boosted_atom", "mini_batch", "mixture", "mixture"]
    one, other = result.report.rows[-2:]
    assert one.fid != other.fid


def test_atoms_from_a_file_and_copies_of_others(small: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, images=to_uint8(bundled.split("validation").images[:60]))
    study = replace(small, starts=(RANDOM,), atoms_from=str(path))
    own = run_comparison(study, tmp_path / "own")
    assert own.report.settings["atoms_from"] == "mine.npz"  # no folder of this machine
    assert own.report.ot is None  # nothing was solved
    assert Prior.from_pretrained(tmp_path / "own" / "priors" / "random_atom").config["num_atoms"] == 60
    assert own.report.rows[0].source_rate is not None
    other = run_comparison(replace(study, copies_of=small.real_split), tmp_path / "other")
    assert other.report.rows[0].source_rate is None
    assert other.report.rows[0].fid == own.report.rows[0].fid
    # The real images are then at no distance from what could be copied, which is themselves.
    distances = [part.report.reference.nearest_pixel_distance for part in (own, other)]
    assert distances[0] > distances[1] == 0
    np.savez(path, images=np.zeros((60, 28, 28), dtype=np.uint8))
    inputs._images.cache_clear()
    inputs._inputs.cache_clear()
    with pytest.raises(ValueError, match="this very study"):
        run_comparison(study, tmp_path / "own")


# Statements ------------------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed(small: Comparison, tmp_path: Path) -> None:
    result = run_comparison(replace(small, starts=(WHITE, COUPLED)), tmp_path)
    same = paired_fid_difference(result, WHITE, WHITE)
    # A study of its own for the rival makes no difference.
    alone = run_comparison(replace(small, starts=(COUPLED,)), tmp_path / "alone")
    apart = paired_fid_difference(result, WHITE, COUPLED, rival_in=alone)
    assert apart == paired_fid_difference(result, WHITE, COUPLED)
    assert (same.lo, same.estimate, same.hi) == (0.0, 0.0, 0.0)
    there, back = (paired_fid_difference(result, *pair) for pair in ((WHITE, COUPLED), (COUPLED, WHITE)))
    assert there.estimate == pytest.approx(-back.estimate)
    figures = [row.fid for row in result.report.rows]
    assert there.estimate == pytest.approx(figures[0] - figures[1], rel=1e-4)
    entry = difference_gate(result, COUPLED, WHITE, "coupled less white")
    assert entry.upper <= entry.interval[1]  # one-sided at 95 % is two-sided at 90 %
    assert entry.reached is (entry.upper <= 0)


def test_differences_over_sets_are_students() -> None:
    sets = {WHITE.key: [{"fid": 5.0}, {"fid": 7.0}], COUPLED.key: [{"fid": 4.0}, {"fid": 5.0}]}
    found = paired_fid_difference(ComparisonResult(bare_report(), [], sets), WHITE, COUPLED)
    # Differences 1 and 2: a mean of 1.5 and a standard error of 0.5, times 12.706.
    assert found.estimate == pytest.approx(1.5)
    assert found.hi == pytest.approx(1.5 + 0.5 * 12.706, rel=1e-4)


def test_break_even() -> None:
    def row(prior: str, fid: float, seconds: float, fit: float | None = None) -> ReportRow:
        ends = [fid - 1.5, fid + 1.5]
        times = {"seconds_per_image": seconds, "fit_seconds": fit}
        return bare_row(prior=prior, fid=fid, fid_interval=ends, **times)

    rows = [row("none", 12.0, 0.03), row("none", 9.0, 0.06), row("none", 8.0, 0.12)]
    assert break_even(row("semidiscrete", 9.5, 0.02, 100.0), rows) == pytest.approx(100 / 0.04)
    # None is as good: against the fastest that cannot be told from the best, which 9.0 cannot and 12.0 can.
    assert break_even(row("semidiscrete", 5.0, 0.02, 100.0), rows) == pytest.approx(100 / 0.04)
    # Two processes draw twice as many images in the time that fitting takes.
    assert break_even(row("semidiscrete", 8.5, 0.02, 100.0), rows, 2) == pytest.approx(200 / 0.10)
    # The rival is as fast.
    assert break_even(row("semidiscrete", 13.0, 0.03, 100.0), rows) is None
    assert break_even(row("random_atom", 13.0, 0.01), rows) is None


@pytest.mark.parametrize("tol", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_is_checked_before_any_work(tol: float) -> None:
    with pytest.raises(ValueError, match=r"tol must be a positive number; got"):
        Comparison("small", (WHITE,), samples=20, tol=tol)
