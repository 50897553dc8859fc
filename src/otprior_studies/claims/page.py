"""A report of claims: the table on a terminal, the page, the plots, the files."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

from otprior.report.curves import curve_plot
from otprior.report.folder import write_folder
from otprior.report.page import Block, FactCards, Page, Section, Text, plot
from otprior.report.record import Limits
from otprior.report.tables import Cell, Table, build_table
from otprior_studies.claims.claim import Verdict
from otprior_studies.claims.record import ClaimDetails, ClaimRow, ClaimsReport

_STYLES = {
    Verdict.HOLDS: "good",
    Verdict.WITHIN_ERROR: "good",
    Verdict.FAILS: "bad",
    Verdict.UNDECIDED: "open",
}
_READING = (
    "Each claim is turned into a statistic such that it says “statistic ≤ threshold”; the verdict follows from the "
    "interval. “holds”: the interval is rounding and solver error; “holds within error”: it is a statistical one, "
    "95 %. A test that may miss something has a power: the smallest rotation of the map that it would have caught. "
    "Where that is large, zero reads “not distinguishable”. A statement marked (abstract) is known from the paper’s "
    "abstract alone."
)


def counts(report: ClaimsReport) -> str:
    """How many claims came to which verdict, in words."""
    found = Counter(claim.verdict for claim in report.claims)
    parts = [f"{found[verdict]} {verdict}" for verdict in _STYLES if found[verdict]]
    return f"{len(report.claims)} claims: " + ", ".join(parts) + "."


def claims_table(report: ClaimsReport) -> Table:
    """Claims, statistics and verdicts, for a terminal of 100 columns."""
    lines = []
    for claim in report.claims:
        below = [claim.statement, claim.paper, *_power(claim), ""]
        statistic = Cell(_number(claim.statistic, 4), tuple(_interval(claim.interval, "\n").splitlines()))
        verdict = Cell(claim.verdict, style=_STYLES[claim.verdict])
        lines.append([Cell(claim.id, tuple(below), "name"), statistic, _number(claim.threshold, 4), verdict])
    columns = ("claim", "statistic\n95 %", "claimed\nat most", "verdict")
    return build_table(columns, lines, first_width=(44, None))


def claims_page(report: ClaimsReport) -> bytes:
    """The file report.html."""
    details = report.details or {}
    sections = [_claim(claim, details.get(claim.id)) for claim in report.claims]
    title = "What the papers claim, and what was found"
    return Page("claims of the papers", title, (), (counts(report), _READING), sections).render(report)


def write_claims_report(directory: str | Path, report: ClaimsReport) -> dict[str, Path]:
    """Writes report.html, a plot for each of the claims' curves and, last, report.json; returns them by name."""
    contents = {"report.html": claims_page(report)}
    for details in (report.details or {}).values():
        for curves in details.curves:
            contents[f"{curves.name}.png"] = curve_plot(curves)
    return write_folder(directory, report, contents)


def _claim(claim: ClaimRow, details: ClaimDetails | None) -> Section:
    facts = [
        ("statistic", f"{_number(claim.statistic, 6)} {_interval(claim.interval)}"),
        ("claimed", f"at most {_number(claim.threshold, 6)}"),
        *(("power", text) for text in _power(claim)),
        ("paper", claim.paper),
    ]
    blocks: list[Block] = [Text(claim.verdict, _STYLES[claim.verdict])]
    blocks += [Text(details.why)] if details else []
    blocks.append(FactCards((("", tuple(facts)),)))
    if details is not None:
        blocks += [plot(partial(curve_plot, curves), curves.title) for curves in details.curves]
        if details.figures:
            blocks.append(Text(json.dumps(details.figures, ensure_ascii=False, indent=1), "details"))
    return Section(claim.statement, [*blocks, Text(claim.id, "note")], kind="claim")


def _power(claim: ClaimRow) -> list[str]:
    return [] if claim.power is None else [f"would have caught a {claim.power}"]


def _number(value: float | None, figures: int) -> str:
    return "–" if value is None else f"{value:.{figures}g}"


def _interval(limits: Limits | None, between: str = " ") -> str:
    return "" if limits is None else f"[{_number(limits[0], 3)},{between}{_number(limits[1], 3)}]"
