"""DPM-OT again: the authors' filter by hand, maps and laws by closed forms, rows as functions of their seeds."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import SIZE, assert_refused, run, write_model
from PIL import Image
from scipy.stats import norm

from otprior.data import bundled
from otprior.experiments.comparison import Comparison
from otprior.experiments.inputs import Inputs
from otprior.experiments.sampling import Block, Samples
from otprior.experiments.study import find_study, read_pairs, study_names
from otprior.metrics import mixture_mask
from otprior.metrics.features import FeatureExtractor, save_extractor
from otprior.sampling import seeds_to_generators
from otprior.sampling.start_spec import StartSpec
from otprior.utils.files import read_json
from otprior_studies.papers.dpm_ot import Settings
from otprior_studies.papers.dpm_ot.filters import (
    FilterLaw,
    batch_table,
    check_keeps,
    filter_curves,
    filter_table,
)
from otprior_studies.papers.dpm_ot.maps import LatentMap, noised, published_map, solved_map
from otprior_studies.papers.dpm_ot.published import adam, cube_draws, kept_in_batch
from otprior_studies.papers.dpm_ot.sampling import SAMPLER, kept_cells, sample_start, starting_latents
from otprior_studies.papers.dpm_ot.singular import AngleFilter
from otprior_studies.papers.dpm_ot.starts import Starts, level_of

SMALL = Settings(atoms=40, code_atoms=20, code_steps=5, tol=0.5)


def quiet(*_: Any) -> None:
    """Hears a solve's progress."""


def line(atoms: list[float], offsets: list[float], source: str = "normal") -> LatentMap:
    """A map on the line."""
    latents = torch.tensor(atoms).reshape(-1, 1, 1, 1)
    return LatentMap(latents, torch.tensor(offsets, dtype=torch.float64), source, {})


# The authors' code -----------------------------------------------------------------------------------------


def test_the_authors_filter_by_hand() -> None:
    cells = torch.tensor([[7, 3], [2, 5], [4, 9], [3, 7], [8, 1]])
    # Rescaled: 0, 0.25, 0.75, 0.5, 1.
    angles = torch.tensor([[0.2], [0.3], [0.5], [0.4], [0.6]])
    # The lower index of each pair that is kept, each once, though 3 was kept twice and 7 was the first one's own.
    assert kept_in_batch(cells, angles, 0.7).tolist() == [2, 3]
    assert kept_in_batch(cells, angles, 0.76).tolist() == [2, 3, 4]
    assert kept_in_batch(cells, angles, 0.0).tolist() == [3]
    # One wider pair in the batch, and another draw is kept.
    wider = torch.cat([angles, torch.tensor([[1.0]])])
    assert kept_in_batch(torch.cat([cells, torch.tensor([[6, 0]])]), wider, 0.7).tolist() == [1, 2, 3, 4]
    assert kept_in_batch(cells, torch.full((5, 1), 0.3), 0.1).tolist() == [1, 2, 3, 4]


def test_the_authors_solver_balances_two_cells_of_the_cube() -> None:
    """Atoms 0 and 1 on [0, 1]: the cell of 1 is x > h_0 − h_1, so masses are equal at h = (¼, −¼)."""
    iterates = adam(
        torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.5]), cube_draws(1), 0.01, 4000, torch.Generator()
    )
    states = list(itertools.islice(iterates, 300))
    # Frequencies of 4,000 draws are off by 0.008; Adam's last steps are of 0.01 at most.
    torch.testing.assert_close(states[-1].offsets, torch.tensor([0.25, -0.25]), rtol=0, atol=0.03)
    # At h = 0 the piece of 1 is the higher one on all of [0, 1].
    assert (states[0].empty, states[-1].empty) == (1, 0)
    assert states[-1].draws >= 300 * 4000


def test_the_authors_solver_doubles_its_draws_three_times() -> None:
    iterates = adam(
        torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.5]), cube_draws(1), 0.1, 10, torch.Generator()
    )
    draws = [state.draws for state in itertools.islice(iterates, 600)]
    sizes = [later - earlier for earlier, later in itertools.pairwise(draws)]
    assert sorted(set(sizes)) == [10, 20, 40, 80]


# Maps ------------------------------------------------------------------------------------------------------


def test_latents_are_images_of_the_unit_range_noised_once() -> None:
    images = torch.zeros(200, 1, 4, 4)
    latents = noised(images, 0.3)
    assert torch.equal(latents, noised(images, 0.3))
    # Of 3,200 draws: five standard errors.
    assert float(latents.mean()) == pytest.approx(0.5, abs=5 * 0.3 / 3200**0.5)
    assert float(latents.std()) == pytest.approx(0.3, rel=5 / 6400**0.5)


def test_maps_balance_their_cells_and_come_back_from_their_folders(tmp_path: Path) -> None:
    latents = noised(bundled.atoms().images[:40], 0.1)
    solved = solved_map(latents, 0.2, quiet)
    assert solved.facts["chi2_upper"] <= 0.2
    assert solved.source == "normal"
    solved.save(tmp_path / "map")
    again = LatentMap.load(tmp_path / "map")
    assert torch.equal(again.latents, latents)
    assert torch.equal(again.offsets, solved.offsets)
    assert (again.source, again.facts) == (solved.source, solved.facts)

    said = []
    published = published_map(latents[:5], 4, lambda *at: said.append(at[:2]))
    assert published.source == "cube"
    assert said == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert published.facts["outcome"] == "4 steps"
    # Five atoms, 50 draws a step.
    assert published.facts["draws"] == 200


# Filters ---------------------------------------------------------------------------------------------------


def test_rejection_draws_from_the_law_given_that_a_draw_is_kept() -> None:
    """Pieces −z, ½ and 2 z: within 50° are the draws below 0, of which Φ(−½)/½ fall in the first cell."""
    found = line([-1.0, 0.0, 2.0], [0.0, 0.5, 0.0])
    angle = AngleFilter(2, 0.87)
    count = 2000
    cells = kept_cells(found, seeds_to_generators(range(count)), angle)
    share = float(norm.cdf(-0.5)) / 0.5
    error = (share * (1 - share) / count) ** 0.5
    assert float((cells == 0).double().mean()) == pytest.approx(share, abs=5 * error)
    assert not (cells == 2).any()
    # A seed's start depends on no other seed.
    assert torch.equal(kept_cells(found, seeds_to_generators(range(100, 120)), angle), cells[100:120])


def test_a_filter_that_rejects_everything_is_refused() -> None:
    found = line([-1.0, 0.0, 2.0], [0.0, 0.5, 0.0])
    with pytest.raises(
        ValueError, match="threshold must be so large that every seed has a draw that is kept"
    ):
        kept_cells(found, seeds_to_generators([0]), AngleFilter(2, 0.5))
    law = FilterLaw(torch.tensor([0, 1]), torch.tensor([[0.8], [0.9]]), 3)
    with pytest.raises(ValueError, match=r"threshold must be at least about 0\.8.* got 0\.5, which keeps 0"):
        check_keeps(law, AngleFilter(2, 0.5))
    check_keeps(law, AngleFilter(2, 0.85))


def test_a_filters_table_splits_the_samples_and_counts_the_kept_cells() -> None:
    found = line([-1.0, 0.0, 2.0], [0.0, 0.5, 0.0])
    count, first = 400, 7
    # The first draw of each seed decides; mixed are those that a filter within 50° rejects, the draws above 0.
    z = torch.cat([torch.randn(1, 1, generator=g) for g in seeds_to_generators(range(first, first + count))])
    mixed = z[:, 0] > 0
    law = FilterLaw(torch.tensor([0] * 30 + [1] * 30 + [2] * 40), torch.zeros(100, 2).add(0.8), 3)
    law.angles[60:] = 1.1
    table = filter_table("row", found, law, AngleFilter(2, 0.87), mixed, first)
    assert len(table.columns) == len(table.lines[0])
    assert table.lines[0][:3] == ("none", None, 1.0)
    k, angle, kept, chi2, in_kept, in_rejected, difference, interval = table.lines[1]
    assert (k, angle, kept) == (2, 0.87, 0.6)
    assert (in_kept, in_rejected, difference) == (0.0, 1.0, -1.0)
    # Nothing in one part and all in the other: Wilson's limits are z²/(n + z²) from the ends.
    ends = [1.96**2 / (len(part) + 1.96**2) for part in (mixed[~mixed], mixed[mixed])]
    assert interval == f"[-1.000, {math.hypot(*ends) - 1:+.3f}]"
    # Σ c (c − 1)/(n (n − 1) ν) − 1 with c = (30, 30, 0), ν = ⅓.
    assert chi2.startswith(f"{2 * 30 * 29 / (60 * 59) * 3 - 1:.3f}")
    assert all(len(curves.series) > 0 for curves in filter_curves({"row": law}))


def test_the_batch_filters_masses_are_those_of_its_lower_indices() -> None:
    """Two pieces, of which every pair returns the first: χ² = ½ · 1 + ½ · 1 = 1, and one latent for 100 draws."""
    found = line([0.0, 1.0], [0.25, -0.25], source="cube")
    plain, own, coded = batch_table(found, 2, 0.7, 1000).lines
    assert (plain[1], own[1], coded[1]) == (1.0, 1.0, 0.01)
    assert coded[2] == "1.000 ± 0.000"
    # Equal masses: 1,000 draws of two cells have an error of √2/1,000.
    assert abs(float(plain[2].split(" ")[0])) < 5 * 2**0.5 / 1000 + 0.001
    assert plain[2:] == own[2:]


def test_authors_batches_give_each_seed_a_latent() -> None:
    found = line([-1.0, 0.0, 2.0], [0.0, 0.5, 0.0], source="cube")
    given = {"rule": "batch", "topk": 2, "threshold": 0.7}
    starts = starting_latents(found, given, seeds_to_generators(range(10)), 0)
    assert starts.shape == (10,)
    # On [0, 1] the pieces ½ and 2 z lead, in either order, at one angle: the lower index is 1 in every pair.
    assert set(starts.tolist()) == {1}
    assert torch.equal(starts, starting_latents(found, given, seeds_to_generators(range(10)), 0))


# Rows ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> Starts:
    return Starts(SMALL, Inputs.of(Comparison("", (StartSpec("none", 0, 1),), 12)).schedule)


@pytest.fixture(scope="module")
def maps(rows: Starts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The map that the published row draws by."""
    folder = tmp_path_factory.mktemp("maps")
    row = rows.published()
    spec = rows.maps[dict(row.options)["map"]]
    solved_map(noised(bundled.atoms().images[: spec.atoms], spec.sigma), spec.effort, quiet).save(
        folder / spec.name
    )
    return folder


def test_rows_take_the_same_number_of_evaluations_but_for_those_of_many_levels(rows: Starts) -> None:
    main = rows.main([0.6, 1.3])
    longer = [rows.fine(0.05), rows.fine(0.5), rows.described()]
    # ln 5 and ln 50 in steps of ln 5000/231, the last level and the denoising; 10 levels of 5 steps and the denoising.
    assert [row.steps for row in longer] == [43 + 2, 106 + 2, 51]
    assert dict(longer[0].options)["begin"] == pytest.approx(0.01 * 5000 ** (43 / 231), rel=1e-12)
    others = {row.key for row in main} - {row.key for row in longer}
    assert {row.steps for row in main if row.key in others} == {11}
    assert {row.steps for row in rows.code()} == {11}
    assert len({row.key for row in main}) == len(main)
    given = dict(rows.published().options)
    # The last two of 232 levels, of which the latents' is the tenth from the end.
    assert (given["count"], given["steps"]) == (2, 5)
    assert given["begin"] == pytest.approx(0.01 * 5000 ** (1 / 231), rel=1e-12)
    for own in (rows.described(), rows.short()):
        assert dict(own.options)["begin"] == level_of(SMALL) == pytest.approx(0.0139, abs=5e-5)
    # (α, σ) of the network at a row's t* are those of pixels in [−1, 1].
    t = rows.timestep(0.5)
    assert rows.schedule.sigma(t) / rows.schedule.alpha(t) == pytest.approx(1.0, rel=1e-9)


def sampled(rows: Starts, maps: Path, folder: Path, row: StartSpec, first: int, count: int) -> Samples:
    models = Inputs.of(Comparison("", (row,), 12)).models(folder / "priors")
    block = Block(row, first, count, folder / f"{row.key}-{first}-{count}.npz")
    return Samples.read([sample_start(maps, models, block)])


def test_a_rows_images_are_functions_of_their_seeds(rows: Starts, maps: Path, tmp_path: Path) -> None:
    # (Two levels of one step: what is tested is not how good the images are.)
    short = replace(rows.published(), options=_shorter(rows.published()))
    kept = replace(rows.filtered(short, 1.2), label="")
    for row in (short, kept):
        whole = sampled(rows, maps, tmp_path, row, 0, 4)
        part = sampled(rows, maps, tmp_path, row, 2, 2)
        assert whole.nfe == 3
        assert whole.sources is not None
        assert part.sources is not None
        assert (whole.sources[2:] == part.sources).all()
        # 8-bit images of float32 samples that agree to 1e-4 differ by at most one level.
        assert np.abs(whole.pixels[2:].astype(int) - part.pixels.astype(int)).max() <= 1


def test_published_starts_come_back_as_the_images_they_were_made_of(
    rows: Starts, maps: Path, tmp_path: Path
) -> None:
    """At the published noise an image is its latent's, to a few grey levels on average."""
    found = sampled(rows, maps, tmp_path, rows.published(), 0, 3)
    assert found.sources is not None
    assert found.nfe == 11
    originals = bundled.atoms().images[torch.from_numpy(found.sources)]
    assert float((found.images - originals).square().mean().sqrt()) < 0.04


def test_white_noise_has_no_source(rows: Starts, maps: Path, tmp_path: Path) -> None:
    white = next(row for row in rows.main([0.6, 1.3]) if row.prior == "none" and row.scheduler == SAMPLER)
    found = sampled(rows, maps, tmp_path, replace(white, options=_shorter(white)), 0, 2)
    assert found.sources is None
    assert found.nfe == 3


def _shorter(row: StartSpec) -> tuple[tuple[str, Any], ...]:
    return tuple((name, {"count": 2, "steps": 1}.get(name, value)) for name, value in row.options)


# Mode mixture ----------------------------------------------------------------------------------------------


def test_an_image_is_mixed_if_two_classes_reach_the_limit() -> None:
    shares = torch.tensor([[0.78, 0.21, 0.01], [0.5, 0.3, 0.2], [0.9, 0.05, 0.05]])
    logits = shares.log() + 3.0
    assert mixture_mask(logits, 0.2).tolist() == [True, True, False]
    assert mixture_mask(logits, 0.25).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="limit must be in"):
        mixture_mask(logits, 0.6)
    with pytest.raises(ValueError, match="two classes at least"):
        mixture_mask(logits[:, :1], 0.2)


# The command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("level=232", "level must be one of the schedule's levels, 0 to 231; got 232"),
        ("level=-1", "level must be one of the schedule's levels, 0 to 231; got -1"),
        ("topk=1001", "topk must be between 2 and the number of atoms (1000); got 1001"),
        ("atoms=500", "code_atoms must be an integer in [3, 500]; got 1000"),
        ("threshold=0", "threshold must be an angle in (0, π) radians; got 0.0"),
        ("mixture=0.5", "mixture must be in (0, 0.5); got 0.5"),
        ("calls=7", "calls must be a multiple of steps_per_level (5); got 7"),
        ("sigma_end=60", "sigma_begin and sigma_end must be with 0 < sigma_end < sigma_begin"),
        ("topk=few", "--set topk must be a valid integer; got 'few'"),
        ("atom=3", "the NAME of --set must be one of"),
        ("atoms", "--set must be NAME=VALUE"),
        ("model=here", "model, images, reference, held_out, extractor must be all given, or none"),
    ],
)
def test_bad_settings_are_refused_at_once(given: str, message: str, tmp_path: Path) -> None:
    assert_refused(run("reproduce", "dpm-ot", "--set", given, "--out", tmp_path / "new"), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("threshold=0.01", "radians, the least angle between two of the published latents; got 0.01"),
        ("sigma_begin=90", "sigma_begin must be a level that the network's process has; got 90.0"),
        ("sigma_end=0.001", "sigma_end must be a level that the network's process has; got 0.001"),
        ("atoms=20000", "atoms must be at most 10,000, the number of images; got 20000"),
        ("calls=30", "calls must be at most 26: the network has no more timesteps from σ = 0.05 on; got 30"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_long(
    given: str, message: str, tmp_path: Path
) -> None:
    few = () if given.startswith("atoms") else ("--set", "atoms=50")
    out = tmp_path / "new"
    result = run(
        "reproduce", "dpm-ot", *few, "--set", "code_atoms=20", "--set", given, "--out", out, "--workers", 1
    )
    assert_refused(result, message)
    assert not list(tmp_path.iterdir())


def test_settings_are_read_as_what_their_defaults_are() -> None:
    given = read_pairs(["level=3", "step=0.5"])
    settings = find_study("dpm-ot").request(Path("work"), settings=given).settings
    assert (settings.level, settings.step) == (3, 0.5)
    assert isinstance(settings, Settings)
    result = run("reproduce", "--list")
    assert result.exit_code == 0
    for name in study_names():
        assert name in result.output
    assert "--set threshold=0.6" in result.output
    assert find_study("dpm-ot").request(Path("work"), "fast", settings={"atoms": 700}).settings.atoms == 700
    assert_refused(run("reproduce", "no-such"), "NAME must be one of")


def write_folder(folder: Path, count: int, seed: int) -> Path:
    """A folder of PNG files: of every seed other images, with the same few directions."""
    directions = np.random.default_rng(0).normal(size=(4, SIZE * SIZE))
    rows = np.tanh(np.random.default_rng(seed + 1).normal(size=(count, 4)) @ directions)
    folder.mkdir()
    for number, row in enumerate(((rows + 1) * 127.5).astype(np.uint8)):
        Image.fromarray(row.reshape(SIZE, SIZE)).save(folder / f"{number}.png")
    return folder


@pytest.mark.slow
def test_the_whole_reproduction_on_a_folder_of_ones_own_and_again_from_its_pieces(tmp_path: Path) -> None:
    """An untrained network of 8 x 8 images stands in for one of CIFAR-10: what is run there is this."""
    write_model(tmp_path / "model")
    parts = ("images", "reference", "held_out")
    folders = {name: write_folder(tmp_path / name, 60, seed) for seed, name in enumerate(parts)}
    extractor = FeatureExtractor("tiny", (1, SIZE, SIZE), (4, 4, 4), dim=6, classes=3)
    save_extractor(extractor, tmp_path / "extractor", torch.float32)
    given = {"model": tmp_path / "model", "extractor": tmp_path / "extractor"}
    given |= folders
    given |= {
        "atoms": 40,
        "code_atoms": 20,
        "code_steps": 5,
        "tol": 0.5,
        "filter_draws": 300,
        "threshold": 1.2,
    }
    out = tmp_path / "dpm-ot"

    def command(given: dict[str, Any]) -> list[Any]:
        words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        return ["--samples", "12", "--workers", "1", "--out", out, *words]

    for name in ("reference", "held_out"):
        seen = command({**given, name: folders["images"]})
        assert_refused(
            run("reproduce", "dpm-ot", *seen),
            "not among those that starts or networks are made of",
            "got 60 that are",
        )
    words = command(given)
    first = run("reproduce", "dpm-ot", *words)
    assert first.exit_code == 0, (first.output, first.exception)
    assert "What the filter keeps" in first.output
    pieces = {path: path.stat().st_mtime_ns for path in tmp_path.glob("dpm-ot.work/**/*.npz")}
    # A block of each of 24 rows, and the draws that two filters are judged on.
    assert len(pieces) == 26
    for name in ("report.html", "report.json", "kept.png", "chi2.png", "code/report.json"):
        assert (out / name).is_file()
    report = read_json(out / "report.json")
    assert sorted({row["nfe"] for row in report["rows"]}) == [11, 45, 51, 108]
    assert all(row["mode_mixture"] is not None for row in report["rows"])
    assert str(tmp_path) not in json.dumps({**report, "command": None})

    assert_refused(run("reproduce", "dpm-ot", *words), "is not empty")
    assert run("reproduce", "dpm-ot", *words, "--overwrite").exit_code == 0
    assert all(path.stat().st_mtime_ns == before for path, before in pieces.items())
