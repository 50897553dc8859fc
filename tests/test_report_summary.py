"""The sentences of a report hold for any outcome: those that were hoped for, and the others."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_example import example_json

from otprior.report import SamplingReport
from otprior.report.rows import start_label
from otprior.report.summary import headline, key_rows, summary


def _report(
    *rows: dict[str, Any], floor: float | None = 2.0, copies: float | None = 0.01, **more: Any
) -> SamplingReport:
    return SamplingReport.from_json(
        {
            "features": {"name": "a classifier", "dim": 128},
            "ot": None,
            "reference": {"n": 500, "fid_floor": floor, "copy_rate": copies},
            "rows": [{"samples": 500, "fid": None, "copy_rate": None} | row for row in rows],
        }
        | more
    )


def _plain(nfe: int, fid: float, **more: Any) -> dict[str, Any]:
    return {"prior": "none", "nfe": nfe, "fid": fid, "copy_rate": 0.0, **more}


def _coupled(nfe: int, fid: float, copies: float | None = 0.01, **more: Any) -> dict[str, Any]:
    return {"prior": "semidiscrete", "noise": "coupled", "label": "coupled", "nfe": nfe, "fid": fid,
            "copy_rate": copies, **more}  # fmt: skip


def _text(report: SamplingReport) -> str:
    return " ".join(summary(report))


def test_a_gain_is_told_with_what_it_would_cost_from_noise() -> None:
    report = _report(_plain(5, 44.0), _plain(20, 9.0), _plain(100, 3.0, scheduler="DDIM"), _coupled(5, 5.0))
    assert headline(report) == "“coupled” with 5 evaluations is ahead of N(0, I) with 20"
    text = _text(report)
    assert "has an FID 3.00 above that of held-out real images (FID 5.00)" in text
    assert "that FID takes 100 evaluations (DDIM, 1.00 above the floor)" in text
    assert "5 evaluations (42.0 above the floor); 20 evaluations (7.00 above the floor)" in text
    assert "No interval was computed" in text


def test_a_title_says_so_where_only_a_dearer_start_from_noise_was_measured() -> None:
    report = _report(_plain(20, 4.0), _coupled(5, 5.0))
    assert headline(report) == "“coupled” with 5 evaluations; N(0, I) with 20 is at least as good"


def test_a_frontier_puts_a_start_of_few_evaluations_first() -> None:
    report = _report(_plain(20, 9.0), _coupled(5, 5.0), _coupled(20, 4.0))
    assert headline(report).startswith("“coupled” with 20 evaluations")
    limited = report.replace(headline_nfe=5)
    assert headline(limited) == "“coupled” with 5 evaluations is ahead of N(0, I) with 20"


def test_a_study_of_something_else_leads_with_it() -> None:
    lead = {"title": "Schedules end early", "sentences": ["One leaks 0.26."]}
    report = _report(_plain(20, 9.0), _coupled(5, 5.0), lead=lead)
    assert headline(report) == "Schedules end early"
    assert _text(report).startswith("One leaks 0.26.")
    assert "has an FID" not in _text(report)
    assert "held-out real images score" in _text(report)


def test_a_start_that_saves_nothing_is_said_to() -> None:
    report = _report(_plain(5, 4.0), _plain(20, 3.0), _coupled(5, 5.0))
    assert headline(report) == "N(0, I) with 5 is at least as good as “coupled” with 5 evaluations"
    assert "That saves nothing: N(0, I) at T has no higher FID with 5 evaluations" in _text(report)


def test_equal_fids_at_equal_cost_are_no_gain() -> None:
    assert "at least as good" in headline(_report(_plain(5, 5.0), _coupled(5, 5.0)))


def test_a_start_better_than_every_row_from_noise() -> None:
    report = _report(_plain(5, 44.0), _plain(100, 6.0), _coupled(5, 1.5))
    assert headline(report).endswith("is ahead of N(0, I) with 100")
    assert "has an FID 0.50 below that of held-out real images" in _text(report)
    assert "No N(0, I) row here reaches that FID" in _text(report)


def test_intervals_that_overlap_are_no_lead() -> None:
    report = _report(_plain(20, 5.2, fid_interval=[4.9, 5.5]), _coupled(5, 5.0, fid_interval=[4.7, 5.3]))
    assert headline(report) == "“coupled” with 5 evaluations is on a par with N(0, I) with 20"
    assert "95% intervals overlap" in _text(report)


def test_the_lowest_fid_does_not_lead_when_it_copies() -> None:
    frozen = _coupled(5, 2.5, 0.55) | {"noise": "frozen", "label": "frozen"}
    report = _report(_plain(20, 9.0), frozen, _coupled(5, 5.0))
    assert headline(report).startswith("“coupled”")
    assert "More copies than held-out images show: “frozen” at 5 (55.0%, against 1.0%)" in _text(report)


def test_when_every_start_copies_the_headline_says_so() -> None:
    report = _report(_plain(20, 9.0), _coupled(5, 2.5, 0.55), _coupled(3, 4.0, 0.55))
    assert "more copies than real images" in headline(report)
    assert "No start with a prior is known to come within a percentage point" in _text(report)


def test_one_set_of_samples_is_compared_with_no_others() -> None:
    copying, honest = _report(_coupled(5, 2.5, 0.55)), _report(_coupled(5, 5.0))
    assert headline(copying) == "“coupled” with 5 evaluations makes more copies than real images have"
    assert "starts with a prior" not in _text(copying)
    assert headline(honest).endswith("has an FID 3.00 above that of held-out real images")
    assert headline(_report(_coupled(5, 5.0), floor=None)).endswith("has an FID of 5.00")


@pytest.mark.parametrize("unknown", ["row", "reference"])
def test_quality_without_copying_is_called_that(unknown: str) -> None:
    row = _coupled(5, 5.0, None if unknown == "row" else 0.01)
    report = _report(_plain(20, 9.0), row, copies=None if unknown == "reference" else 0.01)
    assert headline(report).endswith("quality was measured, copying was not")


def test_reports_with_little_in_them() -> None:
    assert "No start with a prior is among these rows" in _text(_report(_plain(20, 9.0)))
    assert "nothing is said about quality" in _text(_report({"prior": "gaussian", "nfe": 5}))
    assert headline(_report()) == "Samples measured against held-out real images"
    assert "has an FID of 5.00" in _text(_report(_coupled(5, 5.0), floor=None))


def test_gates_are_counted_as_they_came_out() -> None:
    report = example_json()
    for reached, count in (([True, False], "1"), ([False, False], "none")):
        for gate, value in zip(report["gates"], reached):
            gate["reached"] = value
        sentences = summary(SamplingReport.from_json(report))
        assert f"Of 2 statements that were to be shown, {count} is reached." in sentences


_ROWS = st.lists(
    st.builds(
        lambda plain, nfe, fid, copies, width: {
            "prior": "none" if plain else "semidiscrete",
            "noise": None if plain else "coupled",
            "label": "noise" if plain else "coupled",
            "nfe": nfe,
            "fid": fid,
            "copy_rate": copies,
            "fid_interval": None if width is None else [fid - width, fid + width],
        },
        st.booleans(),
        st.integers(1, 30),
        st.floats(0.0, 50.0).map(lambda value: round(value, 1)),
        st.none() | st.floats(0.0, 1.0),
        st.none() | st.floats(0.0, 5.0),
    ),
    max_size=8,
)


@given(_ROWS)
@settings(max_examples=200, deadline=None)
def test_what_is_claimed_follows_from_the_rows(rows: list[dict[str, Any]]) -> None:
    report = _report(*rows)
    title, text = headline(report), _text(report)
    best = key_rows(report).best
    plain = [row for row in rows if row["prior"] == "none"]
    if best is None:
        return
    relation = re.search(r"is (ahead of|on a par with) N\(0, I\) with (\d+)$", title)
    if relation:
        assert best.copy_rate is not None
        assert best.copy_rate <= 0.02 + 1e-12
        behind = [row for row in plain if row["nfe"] <= int(relation[2])]
        assert behind
        assert all(row["fid"] > best.fid for row in behind)
    if "That saves nothing" in text:
        assert any(row["nfe"] <= best.nfe and row["fid"] <= best.fid for row in plain)
    takes = re.search(r"that FID takes (\d+) eval", text)
    if takes:
        enough = [row["nfe"] for row in plain if row["fid"] <= best.fid]
        assert min(enough) == int(takes[1]) > best.nfe
    if "No N(0, I) row here reaches" in text:
        assert all(row["fid"] > best.fid for row in plain)


def test_a_sampler_that_diverged_is_no_rival() -> None:
    rows = [_coupled(5, 6.0), _plain(20, 2437.0, diverged=0.97), _plain(10, 9.0, diverged=0.02)]
    report = _report(*rows)
    found = key_rows(report)
    assert found.closest is not None
    assert found.closest.nfe == 10
    assert all(row.nfe != 20 for row in found.short)
    assert "2437" not in _text(report).split("diverged")[0]
    assert "diverged" in _text(report)
    assert "diverged" not in _text(_report(rows[0], rows[2]))
    assert "diverged" in start_label(report.rows[1])
