"""A report of claims: the table on a terminal, the page, the plots, the files.

Functions of a dictionary in the form of `report.schema.json`, as the rest of this package: a report.json that was
written once can be drawn again.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from otprior.report.curves import curve_plot
from otprior.report.folder import write_folder
from otprior.report.schema import validate_report

_COLOURS = {
    "holds": ("green", "good"),
    "holds within error": ("green", "good"),
    "does not hold": ("red", "bad"),
    "not distinguishable": ("yellow", "open"),
}


def counts(report: dict[str, Any]) -> str:
    """How many claims came to which verdict, in words."""
    found = Counter(claim["verdict"] for claim in report["claims"])
    parts = [f"{found[verdict]} {verdict}" for verdict in _COLOURS if found[verdict]]
    return f"{len(report['claims'])} claims: " + ", ".join(parts) + "."


def claims_table(report: dict[str, Any]) -> Table:
    """Claims, statistics and verdicts as a table for `rich`; it needs 100 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 1, 0), pad_edge=False)
    table.add_column("claim", min_width=44, overflow="fold")
    table.add_column("statistic\n95 %", justify="right", no_wrap=True)
    table.add_column("claimed\nat most", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for claim in report["claims"]:
        name = Text(claim["id"], style="bold")
        name.append(f"\n{claim['statement']}", style="not bold")
        name.append(f"\n{claim['paper']}", style="not bold dim")
        if claim["power"] is not None:
            name.append(f"\nwould have caught a {claim['power']}", style="not bold dim")
        verdict = Text(claim["verdict"], style=f"bold {_COLOURS[claim['verdict']][0]}")
        value = Text(f"{claim['statistic']:.4g}")
        value.append("\n" + _interval(claim, "\n"), style="dim")
        table.add_row(name, value, Text(f"{claim['threshold']:.4g}"), verdict)
    return table


def claims_page(report: dict[str, Any]) -> str:
    """The whole page: no scripts, nothing fetched."""
    template = resources.files("otprior_studies.claims").joinpath("page.html").read_text(encoding="utf-8")
    details = report.get("details") or {}
    made = (report.get("environment") or {}).get("otprior")
    return Template(template).substitute(
        title="What the papers claim, and what came out",
        counts=escape(counts(report)),
        articles="\n".join(_article(claim, details.get(claim["id"])) for claim in report["claims"]),
        footer=escape(f"Written by otprior {made or ''}".strip())
        + ". The same figures, for programs, are in <code>report.json</code>.",
    )


def write_claims_report(directory: str | Path, report: dict[str, Any]) -> dict[str, Path]:
    """Writes report.json, report.html and a plot for each of the claims' curves into a folder.

    Raises:
        ValueError: If the report breaks the schema; nothing is written then.
    """
    validate_report(report)
    contents = {"report.html": claims_page(report).encode("utf-8")}
    for details in (report.get("details") or {}).values():
        for curves in details["curves"]:
            contents[f"{curves['name']}.png"] = curve_plot(curves)
    return write_folder(directory, report, contents)


def _interval(claim: dict[str, Any], break_: str = " ") -> str:
    low, high = claim["interval"]
    return f"[{low:.3g},{break_}{high:.3g}]"


def _article(claim: dict[str, Any], details: dict[str, Any] | None) -> str:
    rows = [
        ("statistic", f"{claim['statistic']:.6g} {_interval(claim)}"),
        ("claimed", f"at most {claim['threshold']:.6g}"),
    ]
    if claim["power"] is not None:
        rows.append(("power", f"would have caught a {claim['power']}"))
    rows.append(("paper", claim["paper"]))
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    parts = [
        f'<article id="{escape(claim["id"])}">',
        f'<p class="verdict {_COLOURS[claim["verdict"]][1]}">{escape(claim["verdict"])}</p>',
        f"<h2>{escape(claim['statement'])}</h2>",
    ]
    if details is not None:
        parts.append(f"<p>{escape(details['why'])}</p>")
    parts.append(f"<dl>{facts}</dl>")
    if details is not None:
        for curves in details["curves"]:
            svg = base64.b64encode(curve_plot(curves, "svg")).decode("ascii")
            parts.append(
                f'<figure><img alt="{escape(curves["title"])}" src="data:image/svg+xml;base64,{svg}"></figure>'
            )
        if details["figures"]:
            figures = escape(json.dumps(details["figures"], ensure_ascii=False, indent=1))
            parts.append(f"<details><summary>all figures</summary><pre>{figures}</pre></details>")
    return "\n".join([*parts, f'<p class="note">{escape(claim["id"])}</p>', "</article>"])
