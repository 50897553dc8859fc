"""Prior mismatch: what is sampled where, how errors and figures are brought together; and all of it at toy size."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from otprior import NoiseSchedule
from otprior.data import bundled
from otprior.data.images import ImageSet
from otprior.data.streams import load_images
from otprior.error import Target, gaussian_error
from otprior.experiments.study import Request, find_study, read_pairs
from otprior.report import SamplingReport
from otprior.transport.gaussian import isotropic
from otprior_studies.papers.prior_mismatch import STUDY, Settings
from otprior_studies.papers.prior_mismatch.networks import image_files, shrunk
from otprior_studies.papers.prior_mismatch.places import places
from otprior_studies.papers.prior_mismatch.tables import gates
from otprior_studies.training.schedules import training_scheduler


def test_every_start_is_sampled_at_the_end_and_at_one_log_snr() -> None:
    settings = Settings()
    for name in settings.names:
        schedule = NoiseSchedule.from_scheduler(training_scheduler(name))
        found = places(schedule, settings, name)
        assert [(place.name, place.conditional) for place in found] == [
            ("T", False),
            ("t*", False),
            ("T", True),
            ("t*", True),
        ]
        end, star, by_class, _ = found
        assert end.timestep == 999
        # t* is the nearest of a thousand timesteps; log-SNR moves by less than 0.02 from one to the next there.
        assert schedule.log_snr(float(star.timestep)) == pytest.approx(settings.level, abs=0.02)
        corrected = [start.name for start in end.starts[1:]]
        assert corrected == ([] if name == "zero-snr" else ["gaussian", "fresh", "coupled"])
        assert [row.steps for row in end.starts[0].specs] == [settings.few, settings.many]
        assert all(row.conditional for start in by_class.starts for row in start.specs)
        rows = [row for place in found for start in place.starts for row in start.specs]
        assert len({row.key for row in rows}) == len({row.label for row in rows}) == len(rows)


def test_at_the_end_the_error_of_white_noise_follows_from_leak_and_moments() -> None:
    """Between Gaussians W2² is exact: α²|μ|² + Σ (√(α² λ + σ²) − 1)²; a narrow law is as good as its Gaussian."""
    schedule = NoiseSchedule.from_scheduler(training_scheduler("shifted:16"))
    alpha, sigma = schedule.alpha(999.0), schedule.sigma(999.0)
    generator = torch.Generator().manual_seed(0)
    # Eight points at ± along each of four axes: a mean, and a covariance of equal eigenvalues.
    points = torch.cat([torch.eye(4), -torch.eye(4)]).double() + torch.randn(4, generator=generator).double()
    found = gaussian_error(Target.of(points), alpha, sigma, isotropic(torch.zeros(4), 1.0))
    mean = points.mean(dim=0)
    exact = alpha**2 * float(mean @ mean) + 4 * (math.sqrt(alpha**2 / 4 + sigma**2) - 1) ** 2
    assert found.lower.value**2 >= exact * (1 - 1e-9)
    assert found.lower.value <= found.upper.value
    assert (
        found.upper.value**2 <= alpha**2 * float((points**2).sum(dim=1).mean()) + 4 * (sigma - 1) ** 2 + 1e-12
    )


def test_images_are_averaged_over_two_by_two() -> None:
    images = torch.linspace(-1, 1, 28 * 28).reshape(1, 1, 28, 28)
    small = shrunk(images)
    assert small.shape == (1, 1, 16, 16)
    assert torch.equal(small[0, 0, 0], -torch.ones(16))
    assert float(small[0, 0, 1, 1]) == pytest.approx(float(images[0, 0, :2, :2].mean()))
    # The border is dark: the sum over the image is that of its pixels and 240 times −1, a quarter of it.
    assert float(small.sum()) == pytest.approx((float(images.sum()) - 240) / 4, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["schedules=linear,linear"], "schedules must be different names"),
        (["many=10"], "many must be an integer >= 11"),
        (["level=1"], "a log-SNR in"),
        (["atoms=3"], "atoms must be an integer >= 100"),
        (["tol=inf"], "tol must be a positive number"),
        (["sampling=half"], "sampling must be one of"),
    ],
)
def test_settings_are_checked_at_once(given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STUDY.request(Path("unused"), settings=read_pairs(given))


def request_of(work: Path, *given: str, **options: Any) -> Request:
    """A rehearsal in this process."""
    return STUDY.request(work, "fast", 12, read_pairs(given), workers=0, **options)


def test_an_unknown_schedule_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    assert find_study("prior-mismatch") is STUDY
    request = request_of(tmp_path / "work", "schedules=sigmoid")
    with pytest.raises(ValueError, match="schedule must be one of linear"):
        STUDY.run(request)
    # At the end of ve:1 there is more signal than at t*.
    request = request_of(tmp_path / "work", "schedules=ve:1")
    with pytest.raises(ValueError, match="level must be a log-SNR that schedule ve:1 has; got -2"):
        STUDY.run(request)
    request = request_of(tmp_path / "work", "schedules=linear", "many=1001")
    with pytest.raises(ValueError, match="many must be at most 1000: schedule linear has no more timesteps"):
        STUDY.run(request)
    assert not (tmp_path / "work").exists()


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 real images a split, and little training."""

    whole = bundled.split

    def split(name: str) -> ImageSet:
        return whole(name).select(slice(600))

    monkeypatch.setattr(bundled, "split", split)
    monkeypatch.setattr("otprior_studies.papers.prior_mismatch.networks.ROUNDS", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_the_whole_run_and_nothing_twice(tmp_path: Path) -> None:
    given = ["steps=2", "batch_size=4", "atoms=200", "few=2", "many=3", "from_start=2", "draws=2"]
    seen: list[str] = []

    def run() -> dict[str, Any]:
        seen.clear()
        request = request_of(tmp_path / "work", *given, listen=lambda at: seen.append(at.stage))
        return STUDY.run(request)

    parts = run()
    assert list(parts) == ["", "shifted-16", "zero-snr"]
    for part in parts.values():
        assert SamplingReport.from_json(part.report.to_json()) == part.report
    whole = parts[""].report
    ends, shifted, zero = whole.tables
    assert [line[0] for line in ends.lines] == ["shifted:16", "zero-snr"]
    assert ends.lines[1][2:7] == ("−∞", 0.0, 0.0, 0.0, "0")
    # Four starts at T twice and at t*, and by class three and four; without signal at T there is one.
    assert len(shifted.lines) == 4 * 2 + 4 + 3 + 4
    assert len(zero.lines) == 1 * 2 + 4 + 1 + 4
    assert all(line[2] for line in [*shifted.lines, *zero.lines])
    assert len(whole.gates) == 3
    assert [row.label for row in whole.rows] == [
        f"{name}: N(0, I) at T{told}, 3" for name in ("shifted:16", "zero-snr") for told in ("", ", by class")
    ]
    assert whole.lead.title.endswith("of 3 comparisons")
    shift, control, copies = whole.lead.sentences
    assert shift.startswith("shifted:16 (leak 0.26): N(0, I) is at W2 ")
    assert "zero-snr at " in control
    assert "held-out images" in copies
    images = load_images(tmp_path / "work" / "images" / "held_out.npz")
    assert images.images.shape == (600, 1, 16, 16)

    again = run()
    assert "training networks" not in seen
    assert again[""].report.rows == whole.rows
    assert again[""].report.tables == whole.tables


def test_atoms_are_the_first_of_the_bundled_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "SPLITS", ())
    (path,) = image_files(tmp_path, 7).values()
    found, expected = load_images(path), bundled.atoms().select(slice(7))
    assert torch.equal(found.labels, expected.labels)  # type: ignore[arg-type]
    # Eight bits: half a grey level.
    torch.testing.assert_close(found.images, shrunk(expected.images), atol=1 / 255 + 1e-6, rtol=0)


def test_no_statement_is_made_where_there_is_nothing_to_correct() -> None:
    control = SimpleNamespace(terminal=SimpleNamespace(leak=0.006))
    assert gates(control) == []  # type: ignore[arg-type]
