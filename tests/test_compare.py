"""Comparisons: resumable, independent of how the work is split, and judged by the rule that the gates state."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_example import bare_report

from otprior.experiments.comparison import Comparison, ComparisonResult
from otprior.experiments.gates import copy_gate, headline_gates
from otprior.experiments.measuring import over_sets
from otprior.experiments.processes import kept_processes
from otprior.experiments.run import run_comparison
from otprior.experiments.sampling import Block, Samples
from otprior.report import SamplingReport
from otprior.sampling.start_spec import StartSpec

COUPLED = StartSpec("semidiscrete", 500, 2, label="coupled", options=(("correlation", 0.7),))
ROWS = (
    COUPLED,
    replace(COUPLED.with_prior("random_atom"), label="random"),
    StartSpec("none", 999, 2, spacing="trailing", label="white"),
)
STUDY = Comparison("test", ROWS, samples=12, atoms=60, tol=0.5, block=6)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ComparisonResult]:
    work = tmp_path_factory.mktemp("study")
    with kept_processes(2):
        return work, run_comparison(STUDY, work, workers=2)


def test_report_is_valid_and_every_row_is_measured(done: tuple[Path, ComparisonResult]) -> None:
    _, result = done
    assert SamplingReport.from_json(result.report.to_json()) == result.report
    for row in result.report.rows:
        assert row.nfe == 2
        assert row.samples == 12
        assert row.copy_rate is not None
        assert row.fid > 0
    assert [row.source_rate is None for row in result.report.rows] == [False, False, True]
    assert result.report.ot.atoms == 60
    # A random atom takes no map: only the coupled row's prior was fitted for it.
    assert [row.fit_seconds is not None for row in result.report.rows] == [True, False, False]


def test_an_interrupted_study_goes_on_and_ends_the_same(done: tuple[Path, ComparisonResult]) -> None:
    work, result = done
    blocks = sorted((work / "images").rglob("*.npz"))
    assert len(blocks) == 2 * len(ROWS)
    before = {path: path.stat().st_mtime_ns for path in blocks}
    blocks[0].unlink()
    for path in (work / "figures").glob("*.json"):
        path.unlink()
    again = run_comparison(STUDY, work, workers=0)
    assert again.report.rows == tuple(
        row.replace(seconds_per_image=other.seconds_per_image)
        for row, other in zip(result.report.rows, again.report.rows)
    )
    assert all(path.stat().st_mtime_ns == before[path] for path in blocks[1:])


def test_images_do_not_depend_on_the_cut_into_blocks(
    done: tuple[Path, ComparisonResult], tmp_path: Path
) -> None:
    work, _ = done
    other = tmp_path / "other"
    other.mkdir()
    (other / "priors").symlink_to(work / "priors")
    run_comparison(replace(STUDY, starts=(COUPLED,), block=5), other, workers=0)

    def images(folder: Path, size: int) -> Samples:
        paths = sorted((folder / "images" / COUPLED.key).glob("*.npz"))
        return Samples.read([Block(COUPLED, 0, size, path) for path in paths])

    one, two = images(work, 6), images(other, 5)
    # 8-bit images of float32 samples that agree to 1e-4 differ by at most one level.
    assert abs(one.pixels.astype(int) - two.pixels.astype(int)).max() <= 1
    assert (one.sources == two.sources).all()


def test_samples_without_end_are_refused() -> None:
    start = StartSpec("none", 999, 2)
    for numbers in ({"samples": 10**9}, {"samples": 12, "seed_sets": 10**9}):
        with pytest.raises(ValueError, match="must be an integer in"):
            Comparison("endless", (start,), **numbers)


def test_a_folder_of_another_study_is_refused(done: tuple[Path, ComparisonResult]) -> None:
    work, _ = done
    with pytest.raises(ValueError, match="this very study"):
        run_comparison(replace(STUDY, samples=24), work)


def result_with(fids: dict[str, list[float]], copies: list[float], real_copy: float) -> ComparisonResult:
    rows = {name: replace(COUPLED, steps=index + 1) for index, name in enumerate(fids)}
    sets = {
        rows[name].key: [{"fid": fid, "copy_rate": copy} for fid, copy in zip(values, copies)]
        for name, values in fids.items()
    }
    report = bare_report(reference={"n": 2000, "fid_floor": 2.0, "copy_rate": real_copy})
    return ComparisonResult(report, [], sets)


def test_gates_follow_the_upper_limits() -> None:
    fids = {
        "coupled_5": [5.0, 5.1, 4.9, 5.0, 5.0],
        "coupled_3": [7.0, 7.1, 6.9, 7.0, 7.0],
        "none_10": [10.0, 10.1, 9.9, 10.1, 9.9],
        "none_20": [9.0, 9.1, 8.9, 9.0, 9.0],
    }
    rows = {name: replace(COUPLED, steps=index + 1) for index, name in enumerate(fids)}
    quality, fewer, copying, _ = headline_gates(result_with(fids, [0.012] * 5, 0.010), rows)
    assert quality.statistic == pytest.approx(3 / 7, rel=1e-3)
    assert quality.statistic < quality.upper < 0.5
    assert quality.reached is True  # (a bool of NumPy would be no JSON)
    assert fewer.statistic == pytest.approx(5 / 8, rel=1e-3)
    assert copying.statistic == pytest.approx(0.002)
    assert copying.statistic < copying.upper < 0.01
    assert copying.reached is True
    assert not headline_gates(result_with(fids, [0.019] * 5, 0.010), rows)[2].reached
    worse = {**fids, "coupled_5": [9.0, 9.1, 8.9, 9.0, 9.0]}
    assert not headline_gates(result_with(worse, [0.012] * 5, 0.010), rows)[0].reached


@pytest.mark.parametrize(("excess", "least", "most"), [(0.01, 0.0, 0.08), (0.002, 0.9, 1.0)])
def test_a_copy_rate_at_the_margin_is_let_through_in_one_of_twenty_studies(
    excess: float, least: float, most: float
) -> None:
    """Both rates are estimates: of 5 sets of 2,000 samples, and of 4,000 real images."""
    draws, studies, real = np.random.default_rng(0), 400, 0.01
    reached = 0
    for _ in range(studies):
        copies = (draws.binomial(2000, real + excess, 5) / 2000).tolist()
        result = result_with({"coupled_5": [5.0] * 5}, copies, draws.binomial(4000, real) / 4000)
        reached += copy_gate(result, replace(COUPLED, steps=1), "copies", 4000).reached
    # (Three standard errors of a share of 5 % of 400 are 3 %.)
    assert least <= reached / studies <= most


def test_an_interval_of_a_share_stays_below_one() -> None:
    given = {"recall_interval": [0, 1], "density_interval": [0, 1]}
    sets = [given | {"recall": value, "density": value} for value in (0.99, 0.96)]
    figures = over_sets(sets, 400)
    assert figures["recall_interval"][1] == 1.0
    assert figures["density_interval"][1] > 1.1


def test_a_study_is_marked_by_what_comes_back_from_a_file() -> None:
    settings = replace(STUDY, value_range=(0.0, 1.0)).settings()
    assert json.loads(json.dumps(settings)) == settings
    with pytest.raises(ValueError, match="value_range must be a range of pixels"):
        replace(STUDY, value_range=None)


def test_sets_without_a_copy_do_not_prove_that_there_is_none() -> None:
    sets = [{"copy_rate": 0.0, "copy_rate_interval": [0.0, 0.0]} for _ in range(5)]
    figures = over_sets(sets, 400)
    # The rule of three, two-sided: 3.69/n.
    assert figures["copy_rate_interval"] == [0.0, pytest.approx(3.69 / 2000, rel=0.01)]
    many = [{"copy_rate": rate, "copy_rate_interval": [0.0, 1.0]} for rate in (0.01, 0.02, 0.03)]
    assert over_sets(many, 1000)["copy_rate_interval"][1] == pytest.approx(
        0.02 + 4.303 * 0.01 / 3**0.5, rel=1e-3
    )
