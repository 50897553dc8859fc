"""The parts of a report's page that are tables and lists: figures, gates, how to read, how to repeat."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from otprior.report.rows import (
    COPY_MARGIN,
    METRICS,
    Metric,
    copies_more,
    interval,
    reference_row,
    start_detail,
    start_label,
    with_excess,
)

_GENERAL = (
    (
        "start",
        "Where sampling begins. N(0, I) at T is the usual start from white noise. The others begin at an "
        "earlier time t*, from noise that a prior has mapped towards what the noised data look like there.",
    ),
    (
        "NFE",
        "Number of network evaluations for one image: what a sample costs. Guidance takes two a step.",
    ),
    (
        "95% interval",
        "What other seeds would have given, in 95 of 100 cases; the reference images, the training images "
        "and the fitted prior are held fixed. Two overlapping intervals may be one value.",
    ),
    (
        "held-out real images",
        "Real images that neither the network nor the prior has seen, measured as if they were samples. No "
        "sampler can be expected to do better, nor to show fewer chance likenesses with training images.",
    ),
)


def section(heading: str, content: str, introduction: str = "", kind: str = "") -> str:
    """A part of the page; `content` is HTML, the other words are escaped."""
    opening = f'<section class="{kind}">' if kind else "<section>"
    text = f'<p class="note">{escape(introduction)}</p>\n' if introduction else ""
    return f"{opening}\n<h2>{escape(heading)}</h2>\n{text}{content}\n</section>"


def all_figures(report: dict[str, Any]) -> str:
    """Every figure of every row, held-out real images first."""
    metrics = _shown(report)
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("start", "NFE"))
    heads += "".join(f'<th scope="col">{escape(metric.heading)}</th>' for metric in metrics)
    heads += '<th scope="col">samples</th>'
    lines = [_line(report, reference_row(report), metrics, "floor")]
    before = None
    for row in report["rows"]:
        changes = before is not None and (row["prior"] == "none") != (before == "none")
        lines.append(_line(report, with_excess(report, row), metrics, "rule" if changes else ""))
        before = row["prior"]
    name = report["features"]["name"]
    introduction = "Below a figure stands its 95% interval where one was measured; a dash means not measured."
    if name:
        introduction += (
            f" FID, KID, precision, recall, density and coverage are taken on the features of {name}."
        )
    introduction += (
        f" An arrow marks a share of copies that is more than {100 * COPY_MARGIN:g} percentage point above "
        "that of held-out images."
    )
    return section("All figures", table("wide", heads, lines), introduction, "landscape")


def gates(report: dict[str, Any]) -> str:
    """What was to be shown, and whether it was."""
    if not report.get("gates"):
        return ""
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("statement", "", "measured", "threshold"))
    lines = []
    for gate in report["gates"]:
        within = _ends(gate.get("interval") or (None, gate.get("upper")))
        below = f"<small>95%: {within}</small>" if within else ""
        answer = '<td class="yes">✓ reached</td>' if gate["reached"] else '<td class="no">✗ not reached</td>'
        lines.append(
            f'<tr><th scope="row">{escape(gate["statement"])}</th>'
            f"{answer}<td>{number(gate['statistic'])}{below}</td><td>{number(gate['threshold'])}</td></tr>"
        )
    return section("What was to be shown", table("gates", heads, lines))


def further_tables(report: dict[str, Any]) -> str:
    """Tables of figures that are no row's."""
    parts = []
    for each in report.get("tables") or []:
        heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in each["columns"])
        lines = []
        for first, *others in each["lines"]:
            cells = "".join(f"<td>{escape(number(value))}</td>" for value in others)
            lines.append(f'<tr><th scope="row">{escape(number(first))}</th>{cells}</tr>')
        parts.append(section(each["title"], table("wide", heads, lines), each["note"], "landscape"))
    return "\n".join(parts)


def reading(report: dict[str, Any]) -> str:
    """The words of this report, each with its meaning."""
    return reading_list([*_GENERAL, *((metric.heading, metric.meaning) for metric in _shown(report))])


def reading_list(pairs: Iterable[tuple[str, str]]) -> str:
    """The section on how to read a page: words with their meanings."""
    items = (f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs)
    return section("How to read it", '<dl class="reading">\n' + "\n".join(items) + "\n</dl>")


def made_with(report: dict[str, Any]) -> str:
    """Settings, the transport solve, times, versions and the command."""
    ot = report.get("ot")
    cards = [
        _facts("Settings", report.get("settings")),
        _facts("Transport solve", None if ot is None else _solve(ot)),
        _facts("Seconds", report.get("timings")),
        _facts("Environment", report.get("environment")),
    ]
    content = (
        '<div class="facts">\n' + "\n".join(card for card in cards if card) + "\n</div>" if any(cards) else ""
    )
    command = report.get("command")
    if command:
        text = command if isinstance(command, str) else shlex.join(command)
        content += f'\n<div class="card command"><h3>Made by</h3><pre>{escape(text)}</pre></div>'
    return section("How it was made", content) if content else ""


def _shown(report: dict[str, Any]) -> list[Metric]:
    """The metrics that some row has."""
    every = [reference_row(report), *(with_excess(report, row) for row in report["rows"])]
    return [metric for metric in METRICS if any(row.get(metric.key) is not None for row in every)]


def table(kind: str, heads: str, lines: Iterable[str]) -> str:
    """A table from its head's cells and its body's rows, which are HTML."""
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _line(report: dict[str, Any], row: dict[str, Any], metrics: Iterable[Metric], kind: str) -> str:
    details = (text for text in (start_detail(row), row.get("note")) if text)
    below = "".join(f"<small>{escape(text)}</small>" for text in details)
    cells = [f'<th scope="row">{escape(start_label(row))}{below}</th>']
    cells.append(f"<td>{number(row.get('nfe'))}</td>")
    for metric in metrics:
        more = metric.key == "copy_rate" and bool(copies_more(report, row))
        ends = metric.interval_text(interval(row, metric.key))
        text = escape(metric.text(row.get(metric.key))) + (" ↑" if more else "")
        text += f"<small>{escape(ends)}</small>" if ends else ""
        cells.append(f'<td class="more">{text}</td>' if more else f"<td>{text}</td>")
    cells.append(f"<td>{number(row.get('samples'))}</td>")
    return f'<tr class="{kind}">{"".join(cells)}</tr>' if kind else f"<tr>{''.join(cells)}</tr>"


def _solve(ot: dict[str, Any]) -> dict[str, Any]:
    """The solve in words: chi2 is the mean squared relative error of the cells' masses."""
    ends = _ends(ot.get("chi2_interval") or (None, None))
    shown = {
        "atoms": ot["atoms"],
        "dimensions": ot["dim"],
        "χ² of cell masses": None if ot["chi2"] is None else f"{number(ot['chi2'])} {ends}".strip(),
        "its upper 95% limit": ot.get("chi2_upper"),
        "draws": ot.get("draws"),
        "seconds": ot["seconds"],
        "outcome": ot.get("outcome"),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _facts(heading: str, values: dict[str, Any] | None) -> str:
    if not values:
        return ""
    items = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _flat(values))
    return f'<div class="card"><h3>{escape(heading)}</h3><dl>{"".join(items)}</dl></div>'


def _flat(values: dict[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Names and values of a nested dictionary as text; a name holds those it lies under."""
    for name, value in values.items():
        place = f"{before}{name}".replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{place} · ")
        elif isinstance(value, list | tuple):
            yield place, ", ".join(number(item) for item in value)
        else:
            yield place, number(value)


def _ends(ends: Sequence[float | None]) -> str:
    low, high = ends
    if low is None:
        return "" if high is None else f"≤ {number(high)}"
    return f"≥ {number(low)}" if high is None else f"[{number(low)}, {number(high)}]"


def number(value: Any) -> str:
    """A value as a person reads it: thousands separated, four figures, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)
