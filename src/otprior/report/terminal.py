"""The table of a report on a terminal, readable at 100 columns and clean when piped.

A row takes two lines: figures, and below them intervals and what goes in pairs (precision over recall,
density over coverage, mode mixture over the part of it that real images do not have, from source over
duplicates). Quality never stands without copying.
"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from otprior.report.html_tables import number
from otprior.report.rows import (
    METRICS,
    copies_more,
    interval,
    reference_row,
    start_detail,
    start_label,
    with_excess,
)

_METRIC = {metric.key: metric for metric in METRICS}
_COLUMNS = (
    ("fid", "FID"),
    ("excess_fid", "above\nfloor"),
    ("kid", "KID\n×1000"),
    ("precision", "prec.\nrecall"),
    ("density", "dens.\ncover."),
    ("mode_mixture", "mixed\nabove"),
    ("copy_rate", "copies"),
    ("source_rate", "source\ndupl."),
    ("seed_agreement", "seed\nkept"),
)
_BELOW = {
    "precision": "recall",
    "density": "coverage",
    "mode_mixture": "excess_mode_mixture",
    "source_rate": "duplicate_rate",
}
# An interval of these takes a line; those of the others stand in report.json and report.html.
_WITH_INTERVAL = ("fid", "copy_rate")


def table(report: dict[str, Any]) -> Table:
    """A report's rows as a table for `rich`, held-out real images first.

    It needs 100 columns: pass `Console(width=100)` where the output is not a terminal.

    Arguments:
        report: A sampling report, in the form of `report.schema.json`.
    """
    rows = [with_excess(report, row) for row in report["rows"]]
    every = [reference_row(report), *rows]
    columns = [
        (key, heading)
        for key, heading in _COLUMNS
        if any(row.get(name) is not None for row in every for name in (key, _BELOW.get(key, key)))
    ]
    result = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        caption=_caption(report),
        caption_justify="left",
        caption_style="dim",
    )
    result.add_column("start", min_width=20, max_width=34, overflow="fold")
    result.add_column("NFE", justify="right")
    for _, heading in columns:
        result.add_column(heading, justify="right", no_wrap=True)
    _add(result, columns, reference_row(report), report)
    result.add_section()
    for index, row in enumerate(rows):
        _add(result, columns, row, report)
        # A rule between N(0, I) at T and the accelerated starts, wherever the order changes.
        following = rows[index + 1]["prior"] if index + 1 < len(rows) else row["prior"]
        if (row["prior"] == "none") != (following == "none"):
            result.add_section()
    return result


def further_tables(report: dict[str, Any]) -> list[Table]:
    """Tables of figures that are no row's."""
    results = []
    for each in report.get("tables") or []:
        result = Table(
            title=each["title"],
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
            caption=Text(each["note"]),
            caption_justify="left",
            caption_style="dim",
        )
        for place, name in enumerate(each["columns"]):
            result.add_column(name, justify="right" if place else "left", overflow="fold")
        for line in each["lines"]:
            result.add_row(*(Text(number(value)) for value in line))
        results.append(result)
    return results


def _add(result: Table, columns: list[tuple[str, str]], row: dict[str, Any], report: dict[str, Any]) -> None:
    name = Text(start_label(row), style="bold" if "prior" not in row else "")
    detail = start_detail(row)
    if detail:
        name.append(f"\n{detail}", style="dim")
    nfe = row.get("nfe")
    cells = [_cell(row, key, copies_more(report, row)) for key, _ in columns]
    result.add_row(name, Text("" if nfe is None else str(nfe)), *cells)


def _cell(row: dict[str, Any], key: str, copies: bool | None) -> Text:
    text = Text(_METRIC[key].text(row.get(key)))
    if key == "copy_rate" and copies:
        text.stylize("bold red")
    if key in _BELOW:
        text.append("\n" + _METRIC[_BELOW[key]].text(row.get(_BELOW[key])))
    elif key in _WITH_INTERVAL:
        text.append("\n" + _METRIC[key].interval_text(interval(row, key)), style="dim")
    return text


def _caption(report: dict[str, Any]) -> Text:
    features, reference = report["features"], report["reference"]
    parts = []
    if features["name"]:
        parts.append(f"FID, KID, precision, recall, density, coverage: on features of {features['name']}.")
    sizes = sorted({row["samples"] for row in report["rows"] if row["samples"] is not None})
    if sizes:
        parts.append("Samples a row: " + ", ".join(f"{size:,}" for size in sizes))
        parts[-1] += f"; held-out images: {reference['n']:,}." if reference["n"] is not None else "."
    parts.append("[low, high]: 95%. Copies are to be read against the first line.")
    return Text(" ".join(parts))
