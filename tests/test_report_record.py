"""report.json: what is accepted, what is refused and in which words, what is written and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from report_example import example_images, example_json, example_report

from otprior.metrics import Reference, evaluate
from otprior.report import ReportRow, SamplingReport, report_schema, write_report
from otprior.report.audit import AuditReport
from otprior.report.rows import family, start_label
from otprior.report.sampling_page import sampling_page
from otprior.report.sampling_report import RealImages
from otprior_studies.claims.record import ClaimsReport
from otprior_studies.codes.page import codes_page
from otprior_studies.codes.record import CodesReport

RESULTS = Path(__file__).parents[1] / "results"


def _committed(part: str) -> list[Path]:
    """The reports under results/ that have a part of this name."""
    paths = sorted(RESULTS.rglob("*.json"))
    values = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    return [path for path, value in values.items() if isinstance(value, dict) and part in value]


def _named(path: Path) -> str:
    return path.relative_to(RESULTS).as_posix()


@pytest.mark.parametrize("path", _committed("features"), ids=_named)
def test_a_committed_report_is_read_drawn_and_written_as_it_was(path: Path) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    report = SamplingReport.from_json(values)
    assert report.to_json() == values
    # Plots take the time, and tests of their own.
    page = sampling_page(report.replace(rows=[], curves=None)).decode("utf-8")
    assert "How it was made" in page


@pytest.mark.parametrize("path", _committed("codes"), ids=_named)
def test_a_committed_report_of_codes_is_read_drawn_and_written_as_it_was(path: Path) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    report = CodesReport.from_json(values)
    assert report.to_json() == values
    assert "looks like a turn of" in codes_page(report).decode("utf-8")


def test_there_are_committed_reports() -> None:
    assert len(_committed("features")) >= 29
    assert len(_committed("codes")) >= 2


@pytest.mark.parametrize("kind", [SamplingReport, AuditReport, CodesReport, ClaimsReport])
def test_every_kind_of_report_has_a_schema(kind: Any) -> None:
    schema = report_schema(kind)
    json.dumps(schema)
    assert schema["additionalProperties"] is False
    assert {"format_version", "settings", "environment", "timings", "command"} <= set(schema["properties"])
    for name, part in schema["$defs"].items():
        assert part["description"], name


def test_the_schema_names_what_a_row_has_to_have() -> None:
    row = report_schema()["$defs"]["ReportRow"]
    assert {"prior", "nfe", "fid", "copy_rate"} == set(row["required"])
    assert row["properties"]["copy_rate"]["anyOf"][0] == {"maximum": 1, "minimum": 0, "type": "number"}


def test_a_report_without_the_optional_parts_is_accepted() -> None:
    report = SamplingReport.from_json(
        {
            "format_version": 1,
            "features": {"name": None, "dim": None},
            "ot": None,
            "reference": {"n": None, "fid_floor": None, "copy_rate": None},
            "rows": [{"prior": None, "nfe": 5, "fid": None, "copy_rate": None}],
        }
    )
    assert SamplingReport.from_json(report.to_json()) == report


def test_an_interval_may_be_a_tuple_and_open_at_an_end() -> None:
    report = example_json()
    report["rows"][0]["fid_interval"] = (1.0, 2.0)
    report["rows"][1]["fid_interval"] = [None, 2.0]
    rows = SamplingReport.from_json(report).rows
    assert [row.fid_interval for row in rows[:2]] == [(1.0, 2.0), (None, 2.0)]


def test_a_prior_of_any_kind_is_reported() -> None:
    report = example_json()
    report["rows"][8] |= {"prior": "their_own", "noise": "paired", "label": None}
    assert start_label(SamplingReport.from_json(report).rows[8]) == "their own paired"
    report["rows"][8] |= {"family": "optimal guesses"}
    assert start_label(SamplingReport.from_json(report).rows[8]) == "optimal guesses"


@pytest.mark.parametrize(
    ("prior", "noise", "words"),
    [
        ("none", None, "N(0, I) at T"),
        ("semidiscrete", "coupled", "semidiscrete coupled"),
        ("mixture", None, "mixture"),
        ("random_atom", None, "random atom"),
        ("experimental", None, "theirs"),
        (None, None, "theirs"),
    ],
)
def test_families_of_old_reports_follow_from_kind_and_noise(
    prior: str | None, noise: str | None, words: str
) -> None:
    assert family(ReportRow(prior=prior, noise=noise, label="theirs", nfe=5, fid=1.0, copy_rate=0.0)) == words


def _drop(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda report: report["rows"][2].pop(name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: r.pop("rows"), ["report must be", "rows"]),
        (_drop("copy_rate"), ["report.rows[2] must be", "copy_rate", "null"]),
        (lambda r: r["rows"][2].update(copy_rate=1.2), ["report.rows[2].copy_rate must be", "1; got 1.2"]),
        (lambda r: r["rows"][10].update(prior=3), ["report.rows[10].prior must be", "string", "got 3"]),
        (lambda r: r["rows"][0].update(fid="low"), ["report.rows[0].fid must be", "number", "got 'low'"]),
        (lambda r: r["rows"][0].update(fidd=1.0), ["report.rows[0] must be", "fidd"]),
        (lambda r: r["rows"][0].update(source_interval=[0, 1]), ["source_interval"]),
        (lambda r: r["rows"][0].update(kid_interval=[1.0]), ["report.rows[0].kid_interval must be"]),
        (lambda r: r["rows"][0].update(kid_interval=[2.0, 1.0]), ["kid_interval", "low <= high"]),
        (lambda r: r["rows"][0].update(fid=float("nan")), ["report.rows[0].fid must be", "finite", "nan"]),
        (lambda r: r["reference"].update(fid_floor=float("inf")), ["report.reference.fid_floor must be", "finite"]),
        (lambda r: r["settings"].update(tol={"at": float("nan")}), ["report.settings must be", "finite"]),
        (lambda r: r["gates"][0].update(reached="yes"), ["report.gates[0].reached must be", "boolean"]),
        (lambda r: r["gates"][0].pop("reached"), ["report.gates[0] must be", "reached", "got"]),
        (lambda r: r.update(format_version=2), ["report.format_version must be 1; got 2"]),
        (lambda r: r["rows"][2].update(fid="low", kid="low"), ["report.rows[2]", "1 more"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_its_rule_and_what_came(
    spoil: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    report = example_json()
    spoil(report)
    with pytest.raises(ValueError, match="must be") as error:
        SamplingReport.from_json(report)
    for word in words:
        assert word in str(error.value)


def test_a_row_is_written_with_what_was_not_measured_as_null() -> None:
    row = ReportRow(prior="gaussian", nfe=5, fid=3.0, fid_interval=(2.0, 4.0), copy_rate=None)
    values = row.to_json()
    assert values["fid_interval"] == [2.0, 4.0]
    assert values["copy_rate"] is values["recall"] is values["seed_agreement"] is None
    assert "class_fid" not in values
    with pytest.raises(ValueError, match="frozen"):
        row.fid = 1.0  # type: ignore[misc]


def test_a_changed_copy_is_checked_and_the_record_stays() -> None:
    report = example_report()
    other = report.replace(gates=None, headline_nfe=5)
    assert (other.gates, other.headline_nfe) == (None, 5)
    assert report == example_report()
    with pytest.raises(ValueError, match="headline_nfe must be"):
        report.replace(headline_nfe=0)


def test_what_evaluate_returns_is_a_row_and_a_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(30, 4, generator=generator) for _ in range(4)]
    pixels = [torch.rand(30, 1, 4, 4, generator=generator) * 2 - 1 for _ in range(3)]
    reference = Reference.build(features[0], pixels[0], features[1], pixels[1], features[2])
    sources = torch.arange(30)
    row = evaluate(features[3], pixels[2], reference=reference, generator=generator, sources=sources)
    held_out = evaluate(features[2], pixels[1], reference=reference, generator=generator)
    real = RealImages.from_figures(30, held_out, "held-out images")
    report = example_report().replace(reference=real, rows=[{"prior": "semidiscrete", "nfe": 5, **row}])
    assert report.reference.fid_floor == held_out["fid"]
    assert report.to_json()["reference"]["fid_floor_interval"] == held_out["fid_interval"]
    assert report.rows[0].fid == row["fid"]


def test_writing_gives_whole_files_and_the_report_as_it_was(tmp_path: Path) -> None:
    written = write_report(tmp_path / "out", example_report(), example_images(3))
    names = {"report.html", "report.json", "quality.png", "copying.png", "images.png"}
    assert set(written) == names
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    values = json.loads(written["report.json"].read_text())
    assert values == example_report().to_json()
    assert SamplingReport.from_json(values) == example_report()


def test_a_full_disk_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = example_json()
    # Without an FID there is no plot to draw, which is what takes the time.
    for row in values["rows"]:
        row.update(fid=None, excess_fid=None)
    report = SamplingReport.from_json(values)
    write_report(tmp_path, report)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, report.replace(command="another"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
