"""Plots of a report of codes: maps on one scale, the power of the test, and what of a layout swaps keep."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from otprior.report.plots import (
    LIGHT,
    Theme,
    frame,
    rendered,
)
from otprior.utils.validation import require
from otprior_studies.codes.text import STATISTICS

_MARKERS = ("o", "s", "^", "D", "v")
_LINES = ("-", "--", ":")


def maps_on_one_scale(
    report: dict[str, Any], theme: Theme = LIGHT, kind: str = "png", width: float = 7.6
) -> bytes:
    """The part of the gain that each map loses, from 0 (optimal) to 1 (random), with its interval.

    Arguments:
        report: With "codes".
        theme: Colours.
        kind: "png" or "svg".
        width: Inches.
    """
    groups = report["codes"]["groups"]
    names = [f"{row['name']}, {group['name']}" for group in groups for row in group["maps"]]
    figure = Figure(figsize=(width, 1.2 + 0.42 * len(names)), facecolor=theme.paper)
    axis = figure.subplots()
    frame(axis, theme, "x")
    place = 0
    for index, group in enumerate(groups):
        for row in group["maps"]:
            found = row["statistics"]["lost"]
            colour = theme.plain if row["optimal_by_construction"] else theme.starts[index]
            axis.plot(found["interval"], [place, place], color=colour, linewidth=1.6, zorder=2)
            axis.plot(
                [found["mean"]], [place], color=colour, marker=_MARKERS[index], markersize=6, linestyle="none",
                zorder=3, clip_on=False,
            )  # fmt: skip
            place += 1
    # Linear below a part in a thousand, where an optimal map is, and by decades above.
    axis.set_xscale("symlog", linthresh=1e-3, linscale=0.5)
    axis.set_xlim(-1e-4, 1.6)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("part of the attainable gain that is lost", color=theme.ink)
    return rendered(figure, kind)


def power_by_points(
    report: dict[str, Any], theme: Theme = LIGHT, kind: str = "png", width: float = 7.6
) -> bytes:
    """The smallest turn of an optimal map that each statistic catches, against the number of points.

    Arguments: as for `maps_on_one_scale`.
    """
    figure = Figure(figsize=(width, 4.2), facecolor=theme.paper)
    axis = figure.subplots()
    frame(axis, theme, "both")
    shown = {
        "lost": "better pairing",
        "crossed": STATISTICS["crossed"][0],
        "crossed_near": STATISTICS["crossed_near"][0],
    }
    for line, group in zip(_LINES, report["codes"]["groups"]):
        for index, (key, name) in enumerate(shown.items()):
            axis.plot(
                [row["points"] for row in group["power"]], [row[key] for row in group["power"]],
                color=theme.starts[index], linestyle=line, marker=_MARKERS[index], markersize=5, linewidth=1.4,
                label=f"{name}, {group['name']}",
            )  # fmt: skip
    axis.set_xscale("log")
    sizes = sorted({row["points"] for group in report["codes"]["groups"] for row in group["power"]})
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(0, 95)
    axis.set_xlabel("points", color=theme.ink)
    axis.set_ylabel("smallest turn caught, degrees", color=theme.ink)
    figure.legend(loc="outside upper left", ncols=2, fontsize=9, frameon=False, labelcolor=theme.ink)
    return rendered(figure, kind)


def layout_by_frequency(
    report: dict[str, Any], theme: Theme = LIGHT, kind: str = "png", width: float = 7.6
) -> bytes:
    """Correlation of pairs of images by spatial frequency: code swaps, optimal partners, random pairs.

    Arguments: as for `maps_on_one_scale`.
    """
    swaps = report["codes"]["swaps"]
    require(swaps is not None, "report", "with swaps", None)
    figure = Figure(figsize=(width, 4.2), facecolor=theme.paper)
    axis = figure.subplots()
    frame(axis, theme, "both")
    axis.axvspan(-0.5, swaps["cutoff"] + 0.5, color=theme.band, zorder=0)
    for index, (name, row) in enumerate(swaps["rows"].items()):
        values = row["by_frequency"]
        axis.plot(
            range(len(values)), values, color=theme.starts[index], linestyle=_LINES[index], marker=_MARKERS[index],
            markersize=5, linewidth=1.4, label=name,
        )  # fmt: skip
    axis.axhline(0, color=theme.muted, linewidth=0.8)
    axis.set_xlim(-0.5, len(values) - 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("spatial frequency, cycles an image", color=theme.ink)
    axis.set_ylabel("correlation with the image", color=theme.ink)
    figure.legend(loc="outside upper left", ncols=3, fontsize=9, frameon=False, labelcolor=theme.ink)
    return rendered(figure, kind)
