"""Plots of a report: quality against evaluations with copying below it, and quality against copying.

Kinds of start differ by marker and line as well as by colour (Okabe & Ito's palette, 2008), so that a grey
print and most colour-blind readers lose nothing. No pyplot, no rcParams: nothing outside the figure changes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from otprior.report.rows import (
    Interval,
    family,
    interval,
    quality,
    quality_name,
)
from otprior.utils.validation import check_choice, require

# Marker, line and place in the palette of each kind of start, in the order of appearance.
_STYLES = (
    ("s", "-"), ("D", "--"), ("^", "-."), ("X", ":"), ("v", (0, (5, 1, 1, 1))),
    ("P", (0, (3, 1))), ("<", (0, (1, 1))), ("*", (0, (8, 2))),
)  # fmt: skip
# Copies are shown linearly up to here and by decades above.
_LINEAR_COPIES = 0.02

Row = dict[str, Any]


@dataclass(frozen=True)
class Theme:
    """Colours of a plot: background, text, lines behind the data, N(0, I), and the kinds of start."""

    paper: str
    ink: str
    muted: str
    grid: str
    band: str
    plain: str
    starts: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#1d2129", "#5c6470", "#e3e5e8", "#f4f5f6", "#3b3f46",
    ("#0072b2", "#009e73", "#d55e00", "#a24b83", "#c98700", "#2f9bd6", "#7a5c00", "#6b6b6b"),
)  # fmt: skip
DARK = Theme(
    "#171a1f", "#e8eaed", "#a2a9b4", "#2e333b", "#1e2228", "#c9ced6",
    ("#56b4e9", "#2ec49a", "#ff8a3d", "#e59ac6", "#f0c14b", "#8fd0ff", "#d2b45c", "#b5b5b5"),
)  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    name: str
    colour: str
    marker: str
    line: Any


def has_quality(report: dict[str, Any]) -> bool:
    """Whether any row has an FID and a number of evaluations, so that there is something to plot."""
    return bool(_plotted(report))


def has_copying(report: dict[str, Any]) -> bool:
    """Whether some row with an FID also has a share of copies."""
    return any(row["copy_rate"] is not None for row in _plotted(report))


def quality_against_nfe(
    report: dict[str, Any], theme: Theme = LIGHT, kind: str = "png", width: float = 7.6
) -> bytes:
    """FID above the floor against network evaluations, with the share of copies below, sharing the axis.

    Evaluations stand at equal steps, in order; rows with the same number stand beside one another. A value
    at or below the floor has no logarithm: it is drawn on the lower edge as an arrow. Lines join the best
    row of a kind at each number of evaluations.

    Arguments:
        report: A sampling report with at least one row that has an FID.
        theme: Colours.
        kind: "png" (200 dots an inch) or "svg".
        width: Inches; text keeps its size, so half of the default suits a phone.
    """
    rows = _plotted(report)
    require(has_quality(report), "rows", "such that one has an FID and a number of evaluations", "none")
    steps = sorted({row["nfe"] for row in rows})
    kinds = _kinds(rows, theme)
    places = _places(rows, steps)
    with_copies = has_copying(report)
    figure = Figure(figsize=(width, 6.2 if with_copies else 4.2), facecolor=theme.paper)
    ratios = (3, 2) if with_copies else (1,)
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]

    for axis in axes:
        frame(axis, theme, "y")
    values = [quality(report, row) for row in rows]
    bottom = _log_axis(axes[0], values, quality_name(report), theme)
    _points(axes[0], rows, values, places, kinds, bottom)
    for name, style in kinds.items():
        best = _best(report, [row for row in rows if family(row) == name])
        if len(best) < 2:
            continue
        x = [places[id(row)] for row in best]
        y = [max(_known(report, row), bottom) for row in best]
        axes[0].plot(x, y, color=style.colour, linestyle=style.line, linewidth=1.4, zorder=2)
        if with_copies and all(row["copy_rate"] is not None for row in best):
            copies = [row["copy_rate"] for row in best]
            axes[1].plot(x, copies, color=style.colour, linestyle=style.line, linewidth=1.4, zorder=2)
    if with_copies:
        shares = [(row["copy_rate"], interval(row, "copy_rate")) for row in rows]
        _copy_axis(axes[1].yaxis, axes[1], report, shares, theme)
        _points(axes[1], rows, shares, places, kinds, 0.0)
        _floor(axes[1], report, theme, horizontal=True)
        axes[1].set_ylabel("counted as copies", color=theme.ink)
    for axis in axes:
        for index in range(0, len(steps), 2):
            axis.axvspan(index - 0.5, index + 0.5, color=theme.band, zorder=0)
    axes[-1].set_xticks(range(len(steps)), [str(step) for step in steps])
    axes[-1].set_xlim(-0.5, len(steps) - 0.5)
    axes[-1].set_xlabel("network evaluations an image (NFE)", color=theme.ink)
    _legend(figure, axes[0], kinds, theme)
    return rendered(figure, kind)


def quality_against_copying(
    report: dict[str, Any], theme: Theme = LIGHT, kind: str = "png", width: float = 7.6
) -> bytes:
    """FID above the floor against the share of copies, the number of evaluations at each point.

    Rows are to be compared at equal copying: further down is better only on the same vertical line.

    Arguments: as for `quality_against_nfe`.
    """
    rows = [row for row in _plotted(report) if row["copy_rate"] is not None]
    require(has_copying(report), "rows", "such that one has an FID and a share of copies", "none")
    kinds = _kinds(rows, theme)
    figure = Figure(figsize=(width, 4.6), facecolor=theme.paper)
    axis = figure.subplots()
    frame(axis, theme, "both")
    values = [quality(report, row) for row in rows]
    bottom = _log_axis(axis, values, quality_name(report), theme)
    shares = [(row["copy_rate"], interval(row, "copy_rate")) for row in rows]
    _copy_axis(axis.xaxis, axis, report, shares, theme)
    places = {id(row): row["copy_rate"] for row in rows}
    _points(axis, rows, values, places, kinds, bottom)
    for row, (share, ends) in zip(rows, shares):
        y = max(_known(report, row), bottom)
        colour = kinds[family(row)].colour
        if ends is not None:
            axis.plot([max(ends[0], 0), min(ends[1], 1)], [y, y], color=colour, linewidth=1.0, alpha=0.6)
        axis.annotate(
            str(row["nfe"]), (share, y), (6, 5), textcoords="offset points", fontsize=8, color=theme.ink
        )
    _floor(axis, report, theme, horizontal=False)
    axis.set_xlabel("samples that count as copies (numbers at points: NFE)", color=theme.ink)
    _legend(figure, axis, kinds, theme)
    return rendered(figure, kind)


def _plotted(report: dict[str, Any]) -> list[Row]:
    return [row for row in report["rows"] if quality(report, row)[0] is not None and row["nfe"] is not None]


def _known(report: dict[str, Any], row: Row) -> float:
    value = quality(report, row)[0]
    assert value is not None
    return value


def _kinds(rows: Sequence[Row], theme: Theme) -> dict[str, _Kind]:
    """A style for each kind of start, in the order of the rows; N(0, I) has one of its own."""
    kinds: dict[str, _Kind] = {}
    for row in rows:
        name = family(row)
        if name in kinds:
            continue
        if row["prior"] == "none":
            kinds[name] = _Kind(name, theme.plain, "o", "-")
            continue
        place = sum(kind.colour != theme.plain for kind in kinds.values())
        marker, line = _STYLES[place % len(_STYLES)]
        kinds[name] = _Kind(name, theme.starts[place % len(theme.starts)], marker, line)
    return kinds


def _places(rows: Sequence[Row], steps: Sequence[int]) -> dict[int, float]:
    """Horizontal place of each row: its step, moved aside from the others of the same step."""
    places = {}
    for index, step in enumerate(steps):
        same = [row for row in rows if row["nfe"] == step]
        reach = min(0.36, 0.09 * (len(same) - 1) / 2)
        for place, row in enumerate(same):
            shift = 0.0 if len(same) == 1 else reach * (2 * place / (len(same) - 1) - 1)
            places[id(row)] = index + shift
    return places


def _best(report: dict[str, Any], rows: Iterable[Row]) -> list[Row]:
    """The row of lowest FID at each number of evaluations."""
    best: dict[int, Row] = {}
    for row in rows:
        other = best.get(row["nfe"])
        if other is None or _known(report, row) < _known(report, other):
            best[row["nfe"]] = row
    return [best[step] for step in sorted(best)]


def _points(
    axis: Axes,
    rows: Sequence[Row],
    values: Sequence[tuple[float | None, Interval | None]],
    places: dict[int, float],
    kinds: dict[str, _Kind],
    bottom: float,
) -> None:
    """Each row's value with its interval; below `bottom` an arrow on the lower edge."""
    for row, (value, ends) in zip(rows, values):
        if value is None:
            continue
        style, x = kinds[family(row)], places[id(row)]
        if ends is not None:
            high = axis.get_ylim()[1] if math.isinf(ends[1]) else ends[1]
            low = max(ends[0], bottom)
            axis.plot([x, x], [low, max(high, low)], color=style.colour, linewidth=1.4, zorder=3)
        below = value < bottom
        axis.plot(
            [x], [max(value, bottom)], color=style.colour, linestyle="none", zorder=4, clip_on=False,
            marker=7 if below else style.marker, markersize=8 if below or style.marker in "XP*" else 7,
            markeredgecolor=axis.get_facecolor(), markeredgewidth=0.8,
        )  # fmt: skip


def _log_axis(
    axis: Axes, values: Sequence[tuple[float | None, Interval | None]], name: str, theme: Theme
) -> float:
    """A logarithmic vertical axis over the positive values; returns its lower end."""
    positive = [value for value, _ in values if value is not None and value > 0]
    tops = [ends[1] for _, ends in values if ends is not None and 0 < ends[1] < math.inf]
    # Values so near the floor that only their noise has a logarithm would stretch the axis.
    bottom = max(min(positive, default=0.1) / 1.6, max(positive, default=0.0) / 3000)
    axis.set_yscale("log")
    axis.set_ylim(bottom, 1.4 * max([*positive, *tops, 10 * bottom]))
    axis.yaxis.set_major_locator(FixedLocator([m * 10.0**e for e in range(-3, 5) for m in (1, 2, 5)]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_ylabel(name, color=theme.ink)
    return bottom


def _copy_axis(
    which: Axis,
    axis: Axes,
    report: dict[str, Any],
    shares: Sequence[tuple[float | None, Interval | None]],
    theme: Theme,
) -> None:
    """An axis of shares in per cent: linear near zero, by decades above where some row needs it."""
    vertical = which is axis.yaxis
    ends = [ends[1] for _, ends in shares if ends is not None]
    held_out = interval(report["reference"], "copy_rate")
    known = [share for share, _ in shares if share is not None]
    known += [report["reference"]["copy_rate"] or 0.0, held_out[1] if held_out else 0.0]
    top = min(1.0, 1.15 * max([0.02, *known, *(end for end in ends if end <= 1.0)]))
    ticks: Sequence[float] = [0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05]
    if top > 0.06:
        scale = axis.set_yscale if vertical else axis.set_xscale
        scale("symlog", linthresh=_LINEAR_COPIES, linscale=0.6)
        ticks = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    (axis.set_ylim if vertical else axis.set_xlim)(-0.02 * min(top, 0.1), top)
    which.set_major_locator(FixedLocator([tick for tick in ticks if tick <= top]))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def _floor(axis: Axes, report: dict[str, Any], theme: Theme, horizontal: bool) -> None:
    """The share of copies among held-out real images: a line, with its interval as a band."""
    level = report["reference"]["copy_rate"]
    # (Rows with atoms of their own have as many levels.)
    if level is None or any(row.get("held_out_copy_rate") is not None for row in report["rows"]):
        return
    line, band = (axis.axhline, axis.axhspan) if horizontal else (axis.axvline, axis.axvspan)
    line(
        level, color=theme.muted, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1, label="held-out real images"
    )
    ends = interval(report["reference"], "copy_rate")
    if ends is not None:
        band(max(ends[0], 0), min(ends[1], 1), color=theme.muted, alpha=0.18, zorder=0.5, linewidth=0)


def frame(axis: Axes, theme: Theme, lines: Any) -> None:
    """Light lines behind the data, no box."""
    axis.set_facecolor(theme.paper)
    axis.set_axisbelow(True)
    axis.grid(axis=lines, color=theme.grid, linewidth=0.8)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.muted)
    axis.tick_params(colors=theme.muted, labelcolor=theme.ink, length=3, labelsize=9)


def _legend(figure: Figure, axis: Axes, kinds: dict[str, _Kind], theme: Theme) -> None:
    """One line for each kind of start, held-out images last, above the plot."""
    for kind in kinds.values():
        axis.plot(
            [], [], color=kind.colour, marker=kind.marker, linestyle=kind.line, linewidth=1.4, label=kind.name
        )
    entries = dict(pair[::-1] for part in figure.axes for pair in zip(*part.get_legend_handles_labels()))
    entries = {name: entries[name] for name in sorted(entries, key=lambda name: name not in kinds)}
    figure.legend(
        entries.values(), entries.keys(), loc="outside upper left",
        ncols=3 if figure.get_figwidth() > 6 else 2, fontsize=9, frameon=False,
        labelcolor=theme.ink, handlelength=2.6, columnspacing=1.4,
    )  # fmt: skip


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure's file: "png" or "svg"."""
    check_choice("kind", kind, ("png", "svg"))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # A date would make equal reports differ.
    metadata = {"Date": None} if kind == "svg" else {}
    figure.savefig(buffer, format=kind, dpi=200, facecolor=figure.get_facecolor(), metadata=metadata)
    return buffer.getvalue()
