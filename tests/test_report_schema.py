"""report.json: what is accepted, what is refused and in which words, what is written and when."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from report_example import example_images, example_report

from otprior.metrics import Reference, evaluate
from otprior.report import (
    FORMAT_VERSION,
    report_reference,
    report_row,
    report_schema,
    validate_report,
    write_report,
)

_CLAIMS = {
    "claims": [
        {
            "id": "flow-is-not-ot",
            "paper": "2202.07477",
            "statement": "the encoder map equals the OT map",
            "statistic": 0.01,
            "interval": [0.002, 0.02],
            "power": "a rotation of 3 degrees",
            "threshold": 0.0,
            "verdict": "does not hold",
        }
    ]
}


def test_the_schema_is_one_of_its_draft() -> None:
    Draft202012Validator.check_schema(report_schema())


@pytest.mark.parametrize("report", [example_report(), _CLAIMS])
def test_reports_of_both_kinds_are_accepted(report: dict[str, Any]) -> None:
    validate_report(report)


def test_a_report_without_the_optional_parts_is_accepted() -> None:
    validate_report(
        {
            "format_version": FORMAT_VERSION,
            "features": {"name": None, "dim": None},
            "ot": None,
            "reference": {"n": None, "fid_floor": None, "copy_rate": None},
            "rows": [report_row(nfe=5)],
        }
    )


def test_an_interval_may_be_a_tuple_and_open_at_an_end() -> None:
    report = example_report()
    report["rows"][0]["fid_interval"] = (1.0, 2.0)
    report["rows"][1]["fid_interval"] = [None, 2.0]
    validate_report(report)


def _drop(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda report: report["rows"][2].pop(name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: r.pop("rows"), ["report must be", "rows"]),
        (_drop("copy_rate"), ["report.rows[2] must be", "copy_rate", "null"]),
        (lambda r: r["rows"][2].update(copy_rate=1.2), ["report.rows[2].copy_rate must be <= 1; got 1.2"]),
        (lambda r: r["rows"][10].update(prior="ot"), ["report.rows[10].prior must be one of", "gaussian", "'ot'"]),
        (lambda r: r["rows"][0].update(fid="low"), ["report.rows[0].fid must be number or null; got 'low'"]),
        (lambda r: r["rows"][0].update(fidd=1.0), ["report.rows[0] must be", "fidd"]),
        (lambda r: r["rows"][0].update(source_interval=[0, 1]), ["source_interval"]),
        (lambda r: r["rows"][0].update(kid_interval=[1.0]), ["report.rows[0].kid_interval must be a pair"]),
        (lambda r: r["rows"][0].update(kid_interval=[2.0, 1.0]), ["kid_interval", "low <= high"]),
        (lambda r: r["rows"][0].update(fid=float("nan")), ["report.rows[0].fid must be finite", "nan"]),
        (lambda r: r["reference"].update(fid_floor=float("inf")), ["report.reference.fid_floor must be finite"]),
        (lambda r: r["gates"][0].update(reached="yes"), ["report.gates[0].reached must be boolean"]),
        (lambda r: r.update(format_version=2), ["report.format_version must be 1; got 2"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_its_rule_and_what_came(
    spoil: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    report = example_report()
    spoil(report)
    with pytest.raises(ValueError, match="must be") as error:
        validate_report(report)
    for word in words:
        assert word in str(error.value)


def test_a_row_has_every_required_name_and_no_unknown_one() -> None:
    row = report_row(prior="gaussian", fid=3.0, fid_interval=[2.0, 4.0])
    assert set(report_schema()["$defs"]["row"]["required"]) <= set(row)
    assert row["fid"] == 3.0
    assert row["copy_rate"] is None
    with pytest.raises(ValueError, match="known to the schema; got fiid"):
        report_row(fiid=3.0)


def test_what_evaluate_returns_is_a_row_and_a_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(30, 4, generator=generator) for _ in range(4)]
    pixels = [torch.rand(30, 1, 4, 4, generator=generator) * 2 - 1 for _ in range(3)]
    reference = Reference.build(features[0], pixels[0], features[1], pixels[1], features[2])
    sources = torch.arange(30)
    row = evaluate(features[3], pixels[2], reference=reference, generator=generator, sources=sources)
    held_out = evaluate(features[2], pixels[1], reference=reference, generator=generator)
    report = example_report() | {
        "reference": report_reference(30, held_out, "held-out images"),
        "rows": [report_row(prior="semidiscrete", noise="coupled", nfe=5, **row)],
    }
    validate_report(report)
    assert report["reference"]["fid_floor"] == held_out["fid"]
    assert report["reference"]["fid_floor_interval"] == held_out["fid_interval"]


def test_writing_gives_whole_files_and_the_report_as_it_was(tmp_path: Path) -> None:
    report = example_report()
    before = copy.deepcopy(report)
    written = write_report(tmp_path / "out", report, example_images(3))
    names = {"report.html", "report.json", "quality.png", "copying.png", "images.png"}
    assert set(written) == names
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert json.loads(written["report.json"].read_text()) == report == before


def test_a_report_of_claims_writes_json_alone(tmp_path: Path) -> None:
    assert set(write_report(tmp_path, _CLAIMS)) == {"report.json"}


def test_a_bad_report_writes_nothing(tmp_path: Path) -> None:
    report = example_report()
    report["rows"][0]["fid"] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        write_report(tmp_path / "out", report)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = example_report()
    # Without an FID there is no plot to draw, which is what takes the time.
    for row in report["rows"]:
        row.update(fid=None, excess_fid=None)
    write_report(tmp_path, report)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, report | {"command": "another"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
