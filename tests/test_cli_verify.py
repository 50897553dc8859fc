"""`otprior verify`: the table, the JSON, the folder, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import assert_refused, run, written

from otprior.report import Curves
from otprior.report.curves import curve_plot
from otprior_studies.claims.page import claims_page, counts
from otprior_studies.claims.record import ClaimsReport

QUICK = ("verify", "--fast", "--only", "vp-rate", "--only", "ve-contraction", "--threads", "1")


def _claim(**replaced: Any) -> dict[str, Any]:
    claim = {
        "id": "some-claim",
        "paper": "arXiv:0000.00000",
        "statement": "Everything <is> well.",
        "statistic": 0.5,
        "interval": [0.4, 0.6],
        "power": "rotation of 2° or more",
        "threshold": 1.0,
        "verdict": "holds within error",
    }
    return claim | replaced


def test_table_says_verdict_interval_and_reason() -> None:
    result = run("verify", "--fast", "--only", "ve-contraction", "--threads", "1")
    assert result.exit_code == 0, result.output
    for part in ("ve-contraction", "does not hold", "[1,", "a shift stays", "1 claims: 1 does not hold."):
        assert part in result.output


def test_json_is_the_report_and_nothing_else() -> None:
    result = run(*QUICK, "--json")
    report = json.loads(result.stdout)
    assert ClaimsReport.from_json(report).to_json() == report
    rate, exploding = sorted(report["claims"], key=lambda claim: claim["id"])[::-1]
    assert (rate["id"], rate["verdict"]) == ("vp-rate", "holds")
    assert (exploding["id"], exploding["verdict"]) == ("ve-contraction", "does not hold")
    assert set(report["details"]) == {"vp-rate", "ve-contraction"}
    assert set(rate) == {
        "id", "paper", "statement", "statistic", "interval", "power", "threshold", "verdict"
    }  # fmt: skip


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second, other = (
        json.loads(run(*QUICK, "--json", "--seed", seed).stdout)["claims"] for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_folder_holds_report_page_and_plots(tmp_path: Path) -> None:
    result = run(*QUICK, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert set(written(tmp_path / "out")) == {"report.json", "report.html", "vp-rate.png", "ve-limit.png"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    ClaimsReport.from_json(report)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<section class="claim">') == 2
    assert "<script" not in page


def test_list_runs_nothing() -> None:
    result = run("verify", "--list")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) >= 18
    assert "codes-gaussian: " in result.stdout


def test_refusals(tmp_path: Path) -> None:
    assert_refused(run("verify", "--only", "no-such"), "claim must be one of ", "vp-rate", "got no-such")
    assert_refused(run("verify", "--only", "", "--list"), "claim must be one of ")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "something").touch()
    refused = run("verify", "--fast", "--only", "vp-rate", "--out", tmp_path / "here")
    assert_refused(refused, "is not empty; pass --overwrite")


def test_page_escapes_and_counts() -> None:
    claims = [_claim(), _claim(id="other", power=None, verdict="holds")]
    report = ClaimsReport.from_json({"claims": claims})
    page = claims_page(report).decode("utf-8")
    assert "Everything &lt;is&gt; well." in page
    assert "would have caught a rotation of 2° or more" in page
    assert counts(report) == "2 claims: 1 holds, 1 holds within error."


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
def test_plots_leave_out_what_a_logarithm_cannot_show(log: str) -> None:
    values = {
        "name": "n", "title": "t", "x": "x", "y": "y", "log": log, "points": log == "",
        "series": {"a": [[0.0, 0.0], [1.0, 2.0]], "b": [[1.0, -1.0], [2.0, 3.0]]},
    }  # fmt: skip
    assert curve_plot(Curves.from_json(values)).startswith(b"\x89PNG")


@pytest.mark.slow
def test_every_claim_runs_and_keeps_its_verdict() -> None:
    """The verdicts of docs/claims.md, at the fast preset."""
    result = run("verify", "--fast", "--json", "--threads", "1")
    assert result.exit_code == 0, result.output
    verdicts = {claim["id"]: claim["verdict"] for claim in json.loads(result.stdout)["claims"]}
    text = (Path(__file__).parents[1] / "docs" / "claims.md").read_text(encoding="utf-8")
    for name, verdict in verdicts.items():
        assert re.search(rf"^\| `{name}` \|[^|]*\| {verdict} \|", text, re.MULTILINE)
