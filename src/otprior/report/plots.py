"""Plots of a sampling report: quality against evaluations with copying below it, and quality against copying."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from otprior.report.rows import Ends, ends, evaluations, family, level, quality, quality_name
from otprior.report.sampling_report import ReportRow, SamplingReport
from otprior.report.theme import LINES, MARKERS, PNG, Canvas, Style, Theme
from otprior.utils.validation import require

# Copies are shown linearly up to here and by decades above.
_LINEAR_COPIES = 0.02

Values = Sequence[tuple[float | None, Ends | None]]


@dataclass(frozen=True)
class _Look:
    """How the rows of a family are drawn."""

    colour: str
    marker: str
    line: Any


def has_quality(report: SamplingReport) -> bool:
    """Whether any row has an FID and a number of evaluations, so that there is something to plot."""
    return bool(_plotted(report))


def has_copying(report: SamplingReport) -> bool:
    """Whether some row with an FID also has a share of copies."""
    return any(row.copy_rate is not None for row in _plotted(report))


def quality_against_nfe(report: SamplingReport, style: Style = PNG) -> bytes:
    """FID above the floor against network evaluations, with the share of copies below, sharing the axis.

    Evaluations stand at equal steps, in order; rows with the same number stand side by side. A value
    at or below the floor has no logarithm: it is drawn on the lower edge as an arrow. Lines join the best
    row of a family at each number of evaluations.

    Arguments:
        report: With at least one row that has an FID and a number of evaluations.
        style: How it is drawn.
    """
    rows = _plotted(report)
    require(bool(rows), "rows", "such that one has an FID and a number of evaluations", "none")
    steps = sorted({evaluations(row) for row in rows})
    looks, places = family_looks(rows, style.theme), _places(rows, steps)
    with_copies = has_copying(report)
    canvas = Canvas(style, 6.2 if with_copies else 4.2, (3, 2) if with_copies else (1,), "y")
    above, below = canvas.axes[0], canvas.axes[-1]
    values = [quality(report, row) for row in rows]
    bottom = _log_axis(above, values)
    _points(above, rows, values, places, looks, bottom)
    for name, look in looks.items():
        best = _best(report, [row for row in rows if family(row) == name])
        if len(best) < 2:
            continue
        x = [places[id(row)] for row in best]
        line: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "linewidth": 1.4, "zorder": 2}
        above.plot(x, [max(level(report, row), bottom) for row in best], **line)
        copies = [row.copy_rate for row in best if row.copy_rate is not None]
        if with_copies and len(copies) == len(best):
            below.plot(x, copies, **line)
    if with_copies:
        shares = [(row.copy_rate, ends(row, "copy_rate")) for row in rows]
        _copy_axis(below, "y", report, shares)
        _points(below, rows, shares, places, looks, 0.0)
        _floor(below, "y", report, style.theme)
        below.set_ylabel("counted as copies", color=style.theme.ink)
    for axis in canvas.axes:
        for index in range(0, len(steps), 2):
            axis.axvspan(index - 0.5, index + 0.5, color=style.theme.band, zorder=0)
    below.set_xticks(range(len(steps)), [str(step) for step in steps])
    below.set_xlim(-0.5, len(steps) - 0.5)
    canvas.label("network evaluations an image (NFE)", quality_name(report))
    _legend(canvas, looks)
    return canvas.file()


def quality_against_copying(report: SamplingReport, style: Style = PNG) -> bytes:
    """FID above the floor against the share of copies, the number of evaluations at each point.

    Rows are to be compared at equal copying: further down is better only on the same vertical line.

    Arguments: as for `quality_against_nfe`; some row also has a share of copies.
    """
    rows = [row for row in _plotted(report) if row.copy_rate is not None]
    require(bool(rows), "rows", "such that one has an FID and a share of copies", "none")
    looks = family_looks(rows, style.theme)
    canvas = Canvas(style, 4.6)
    (axis,) = canvas.axes
    values = [quality(report, row) for row in rows]
    bottom = _log_axis(axis, values)
    shares = [(row.copy_rate, ends(row, "copy_rate")) for row in rows]
    _copy_axis(axis, "x", report, shares)
    places = {id(row): row.copy_rate or 0.0 for row in rows}
    _points(axis, rows, values, places, looks, bottom)
    for row, (_, limits) in zip(rows, shares):
        x, y = places[id(row)], max(level(report, row), bottom)
        if limits is not None:
            colour = looks[family(row)].colour
            axis.plot([max(limits[0], 0), min(limits[1], 1)], [y, y], color=colour, linewidth=1.0, alpha=0.6)
        axis.annotate(
            str(row.nfe), (x, y), (6, 5), textcoords="offset points", fontsize=8, color=style.theme.ink
        )
    _floor(axis, "x", report, style.theme)
    canvas.label("samples that count as copies (numbers at points: NFE)", quality_name(report))
    _legend(canvas, looks)
    return canvas.file()


def family_looks(rows: Sequence[ReportRow], theme: Theme) -> dict[str, _Look]:
    """The look of each family, in the order of the rows; N(0, I) has one of its own."""
    looks: dict[str, _Look] = {}
    place = 0
    for row in rows:
        name = family(row)
        if name in looks:
            continue
        if row.prior == "none":
            looks[name] = _Look(theme.plain, "o", "-")
            continue
        colour = theme.starts[place % len(theme.starts)]
        looks[name] = _Look(colour, MARKERS[place % len(MARKERS)], LINES[place % len(LINES)])
        place += 1
    return looks


def _plotted(report: SamplingReport) -> list[ReportRow]:
    return [row for row in report.rows if quality(report, row)[0] is not None and row.nfe is not None]


def _places(rows: Sequence[ReportRow], steps: Sequence[int]) -> dict[int, float]:
    """Horizontal place of each row: its step, moved aside from the others of the same step."""
    places = {}
    for index, step in enumerate(steps):
        same = [row for row in rows if row.nfe == step]
        reach = min(0.36, 0.09 * (len(same) - 1) / 2)
        for place, row in enumerate(same):
            shift = 0.0 if len(same) == 1 else reach * (2 * place / (len(same) - 1) - 1)
            places[id(row)] = index + shift
    return places


def _best(report: SamplingReport, rows: Iterable[ReportRow]) -> list[ReportRow]:
    """The row of lowest FID at each number of evaluations."""
    best: dict[int, ReportRow] = {}
    for row in rows:
        other = best.get(evaluations(row))
        if other is None or level(report, row) < level(report, other):
            best[evaluations(row)] = row
    return [best[step] for step in sorted(best)]


def _points(
    axis: Axes,
    rows: Sequence[ReportRow],
    values: Values,
    places: Mapping[int, float],
    looks: Mapping[str, _Look],
    bottom: float,
) -> None:
    """Each row's value with its interval; below `bottom` an arrow on the lower edge."""
    for row, (value, limits) in zip(rows, values):
        if value is None:
            continue
        look, x = looks[family(row)], places[id(row)]
        if limits is not None:
            high = axis.get_ylim()[1] if math.isinf(limits[1]) else limits[1]
            low = max(limits[0], bottom)
            axis.plot([x, x], [low, max(high, low)], color=look.colour, linewidth=1.4, zorder=3)
        below = value < bottom
        axis.plot(
            [x], [max(value, bottom)], color=look.colour, linestyle="none", zorder=4, clip_on=False,
            marker=7 if below else look.marker, markersize=8 if below or look.marker in "XP*" else 7,
            markeredgecolor=axis.get_facecolor(), markeredgewidth=0.8,
        )  # fmt: skip


def _log_axis(axis: Axes, values: Values) -> float:
    """A logarithmic vertical axis over the positive values; returns its lower end."""
    positive = [value for value, _ in values if value is not None and value > 0]
    tops = [limits[1] for _, limits in values if limits is not None and 0 < limits[1] < math.inf]
    # Values so near the floor that only their noise has a logarithm would stretch the axis.
    bottom = max(min(positive, default=0.1) / 1.6, max(positive, default=0.0) / 3000)
    axis.set_yscale("log")
    axis.set_ylim(bottom, 1.4 * max([*positive, *tops, 10 * bottom]))
    axis.yaxis.set_major_locator(FixedLocator([m * 10.0**e for e in range(-3, 5) for m in (1, 2, 5)]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return bottom


def _copy_axis(axis: Axes, letter: str, report: SamplingReport, shares: Values) -> None:
    """An axis of shares in per cent: linear near zero, by decades above where some row needs it."""
    highs = [limits[1] for _, limits in shares if limits is not None]
    real = ends(report.reference, "copy_rate")
    known = [share for share, _ in shares if share is not None]
    known += [report.reference.copy_rate or 0.0, real[1] if real else 0.0]
    top = min(1.0, 1.15 * max([0.02, *known, *(high for high in highs if high <= 1.0)]))
    ticks: Sequence[float] = [0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05]
    if top > 0.06:
        getattr(axis, f"set_{letter}scale")("symlog", linthresh=_LINEAR_COPIES, linscale=0.6)
        ticks = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    getattr(axis, f"set_{letter}lim")(-0.02 * min(top, 0.1), top)
    which = axis.yaxis if letter == "y" else axis.xaxis
    which.set_major_locator(FixedLocator([tick for tick in ticks if tick <= top]))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def _floor(axis: Axes, letter: str, report: SamplingReport, theme: Theme) -> None:
    """The share of copies among held-out real images: a line, with its interval as a band."""
    real = report.reference.copy_rate
    # (Rows with atoms of their own have levels of their own.)
    if real is None or any(row.held_out_copy_rate is not None for row in report.rows):
        return
    line, band = (axis.axhline, axis.axhspan) if letter == "y" else (axis.axvline, axis.axvspan)
    look: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (4, 2)), "zorder": 1}
    line(real, color=theme.muted, label="held-out real images", **look)
    limits = ends(report.reference, "copy_rate")
    if limits is not None:
        band(max(limits[0], 0), min(limits[1], 1), color=theme.muted, alpha=0.18, zorder=0.5, linewidth=0)


def _legend(canvas: Canvas, looks: Mapping[str, _Look]) -> None:
    """One entry for each family, held-out images last, above the plot."""
    entries: dict[str, Any] = {}
    for name, look in looks.items():
        (entries[name],) = canvas.axes[0].plot(
            [], [], color=look.colour, marker=look.marker, linestyle=look.line, linewidth=1.4
        )
    for axis in canvas.axes:
        entries |= {name: handle for handle, name in zip(*axis.get_legend_handles_labels())}
    canvas.legend(3 if canvas.style.width > 6 else 2, entries)
