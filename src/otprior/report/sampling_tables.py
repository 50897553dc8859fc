"""Tables of a sampling report: the short one for a terminal, all figures, gates, and further figures.

The short table is readable at 100 columns. A row takes two lines: figures, and below them intervals and what goes in
pairs (precision over recall, density over coverage, mode mixture over the part of it that real images do not have, from
source over duplicates). Quality never stands without copying.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from otprior.report.metric import METRIC, METRICS, Metric
from otprior.report.rows import copies_more, reference_row, start_detail, start_label, with_excess
from otprior.report.sampling_report import Gate, ReportRow, SamplingReport
from otprior.report.tables import Cell, Line, Table, build_table, limits_text, number

# What each column of the short table holds, and below it, if anything.
_SHORT = {
    "FID": ("fid",),
    "above\nfloor": ("excess_fid",),
    "KID\n×1000": ("kid",),
    "prec.\nrecall": ("precision", "recall"),
    "dens.\ncover.": ("density", "coverage"),
    "mixed\nabove": ("mode_mixture", "excess_mode_mixture"),
    "copies": ("copy_rate",),
    "source\ndupl.": ("source_rate", "duplicate_rate"),
    "seed\nkept": ("seed_agreement",),
    "class\nkept": ("class_accuracy",),
}
# Below this share of planted copies found, a table says so.
WEAK = 0.9
# An interval of these takes a line; those of the others stand in report.json and report.html.
_WITH_INTERVAL = ("fid", "copy_rate")


def short_table(report: SamplingReport) -> Table:
    """The rows as a table of 100 columns, held-out real images first."""
    rows = _every_row(report)
    columns = {
        heading: keys
        for heading, keys in _SHORT.items()
        if any(getattr(row, key) is not None for row in rows for key in keys)
    }
    lines = [
        [
            Cell(
                start_label(row), tuple(filter(None, [start_detail(row)])), "" if row is rows[0] else "name"
            ),
            Cell("" if row.nfe is None else str(row.nfe)),
            *(_short_cell(report, row, keys) for keys in columns.values()),
        ]
        for row in rows
    ]
    return Table(
        ("start", "NFE", *columns), tuple(_ruled(rows, lines)), note=_caption(report), first_width=(20, 34)
    )


def _short_cell(report: SamplingReport, row: ReportRow, keys: Sequence[str]) -> Cell:
    first, *others = keys
    below = [METRIC[key].text(getattr(row, key)) for key in others]
    if first in _WITH_INTERVAL:
        below.append(METRIC[first].interval_text(getattr(row, f"{first}_interval")))
    copies = first == "copy_rate" and copies_more(report, row)
    return Cell(METRIC[first].text(getattr(row, first)), tuple(below), "bad" if copies else "")


def _caption(report: SamplingReport) -> str:
    parts = []
    if report.features.name:
        parts.append(
            f"FID, KID, precision, recall, density, coverage: on features of {report.features.name}."
        )
    sizes = sorted({row.samples for row in report.rows if row.samples is not None})
    if sizes:
        text = "Samples a row: " + ", ".join(f"{size:,}" for size in sizes)
        n = report.reference.n
        parts.append(text + (f"; held-out images: {n:,}." if n is not None else "."))
    parts.append("[low, high]: 95%. Copies are to be read against the first line.")
    power = report.reference.copy_power
    if power is not None and power < WEAK:
        parts.append(f"Of training images altered by 8 grey levels only {power:.0%} count as copies.")
    return " ".join(parts)


def full_table(report: SamplingReport) -> Table:
    """Every figure of every row, held-out real images first."""
    metrics, rows = shown_metrics(report), _every_row(report)
    lines = []
    for row in rows:
        below = (start_detail(row), row.note)
        cells = [Cell(start_label(row), tuple(filter(None, below))), Cell(number(row.nfe))]
        for metric in metrics:
            more = metric.key == "copy_rate" and bool(copies_more(report, row))
            limits = metric.interval_text(getattr(row, f"{metric.key}_interval", None))
            text = metric.text(getattr(row, metric.key)) + (" ↑" if more else "")
            cells.append(Cell(text, (limits,) if limits else (), "bad" if more else ""))
        lines.append([*cells, Cell(number(row.samples))])
    headings = ("start", "NFE", *(metric.heading for metric in metrics), "samples")
    return Table(headings, tuple(_ruled(rows, lines)))


def shown_metrics(report: SamplingReport) -> list[Metric]:
    """The metrics that some row has."""
    rows = _every_row(report)
    return [metric for metric in METRICS if any(getattr(row, metric.key) is not None for row in rows)]


def gate_table(gates: Sequence[Gate]) -> Table:
    """What was to be shown, and whether it was."""
    lines = []
    for gate in gates:
        within = limits_text(gate.interval or (None, gate.upper))
        answer = Cell("✓ reached", style="good") if gate.reached else Cell("✗ not reached", style="bad")
        measured = Cell(number(gate.statistic), (f"95%: {within}",) if within else ())
        lines.append([gate.statement, answer, measured, gate.threshold])
    return build_table(("statement", "", "measured", "threshold"), lines, look="gates")


def further_tables(report: SamplingReport) -> list[Table]:
    """Tables of figures that are no row's."""
    return [
        build_table(each.columns, each.lines, title=each.title, note=each.note)
        for each in report.tables or ()
    ]


def _every_row(report: SamplingReport) -> list[ReportRow]:
    return [reference_row(report), *(with_excess(report, row) for row in report.rows)]


def _ruled(rows: Sequence[ReportRow], lines: Sequence[Sequence[Cell]]) -> Iterator[Line]:
    """The real images' line, then the starts', with a rule wherever N(0, I) at T and priors meet."""
    yield Line(tuple(lines[0]), "floor")
    for place in range(1, len(rows)):
        meet = place > 1 and (rows[place].prior == "none") != (rows[place - 1].prior == "none")
        yield Line(tuple(lines[place]), "rule" if meet else "")
