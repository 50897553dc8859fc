"""A report of claims: the table on a terminal, the page, the plots, the files.

Functions of a dictionary in the form of `report.schema.json`, as the rest of this package: a report.json that was
written once can be drawn again.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from rich import box
from rich.table import Table
from rich.text import Text

from otprior.report.folder import write_folder
from otprior.report.plots import LIGHT
from otprior.report.schema import validate_report

__all__ = ["claim_plot", "claims_page", "claims_table", "counts", "write_claims_report"]

# Of more, the legend would lie on the curves.
FEW_CURVES = 3
# More points than this are drawn small, as a cloud.
FEW_POINTS = 50

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


def claim_plot(curves: dict[str, Any], kind: str = "png") -> bytes:
    """One plot of a claim's details.

    Arguments:
        curves: An entry of "curves".
        kind: "png" or "svg".
    """
    figure = Figure(figsize=(7.0, 4.2), facecolor=LIGHT.paper, layout="constrained")
    axis = figure.subplots()
    # (Many points are a cloud in the plane, whose two coordinates have one unit.)
    cloud = curves["points"] and max(map(len, curves["series"].values()), default=0) > FEW_POINTS
    for place, (name, points) in enumerate(curves["series"].items()):
        # A logarithmic axis has no place for what came out as exactly zero.
        shown = [
            (x, y)
            for x, y in points
            if (x > 0 or "x" not in curves["log"]) and (y > 0 or "y" not in curves["log"])
        ]
        colour = LIGHT.starts[place % len(LIGHT.starts)]
        style: dict[str, Any] = (
            {"linestyle": "none", "marker": "o", "markersize": max(1, 3 - place), "zorder": 2 + place}
            if cloud
            else {"marker": "os^Dv"[place % 5], "markersize": 4, "linewidth": 0 if curves["points"] else 1.4}
        )
        axis.plot([x for x, _ in shown], [y for _, y in shown], color=colour, label=name, **style)
    for letter in curves["log"]:
        getattr(axis, f"set_{letter}scale")("log")
        which = getattr(axis, f"{letter}axis")
        # Plain numbers: 30, not 3 x 10^1.
        which.set_major_formatter(LogFormatter())
        which.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    if cloud:
        axis.set_aspect("equal")
    axis.set_xlabel(curves["x"])
    axis.set_ylabel(curves["y"])
    axis.set_title(curves["title"], fontsize=11, loc="left")
    axis.grid(color=LIGHT.grid, linewidth=0.8)
    axis.set_axisbelow(True)
    if len(curves["series"]) > FEW_CURVES:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    else:
        axis.legend(frameon=False, fontsize=9)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # A date would make equal reports differ.
    figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {})
    return buffer.getvalue()


def claims_page(report: dict[str, Any]) -> str:
    """The whole page: no scripts, nothing fetched."""
    template = resources.files("otprior.report").joinpath("claims.html").read_text(encoding="utf-8")
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
            contents[f"{curves['name']}.png"] = claim_plot(curves)
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
            svg = base64.b64encode(claim_plot(curves, "svg")).decode("ascii")
            parts.append(
                f'<figure><img alt="{escape(curves["title"])}" src="data:image/svg+xml;base64,{svg}"></figure>'
            )
        if details["figures"]:
            figures = escape(json.dumps(details["figures"], ensure_ascii=False, indent=1))
            parts.append(f"<details><summary>all figures</summary><pre>{figures}</pre></details>")
    return "\n".join([*parts, f'<p class="note">{escape(claim["id"])}</p>', "</article>"])
