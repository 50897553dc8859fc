"""Plots of a report of codes: maps on one scale, the power of the test, and what of a layout swaps keep."""

from __future__ import annotations

import math

from matplotlib.ticker import MaxNLocator, NullLocator

from otprior.report.theme import LINES, MARKERS, PNG, Canvas, Style
from otprior.utils.validation import require
from otprior_studies.codes.record import CodeFigures
from otprior_studies.codes.text import STATISTICS


def maps_on_one_scale(codes: CodeFigures, style: Style = PNG) -> bytes:
    """The part of the gain that each map loses, from 0 (optimal) to 1 (random), with its interval.

    Arguments:
        codes: What to draw.
        style: How it is drawn.
    """
    names = [f"{row.name}, {group.name}" for group in codes.groups for row in group.maps]
    canvas = Canvas(style, 1.2 + 0.42 * len(names), lines="x")
    (axis,) = canvas.axes
    place = 0
    for index, group in enumerate(codes.groups):
        for row in group.maps:
            found = row.statistics["lost"]
            ends = [math.nan if end is None else end for end in found.interval]
            colour = style.theme.plain if row.optimal_by_construction else style.theme.starts[index]
            axis.plot(ends, [place, place], color=colour, linewidth=1.6, zorder=2)
            axis.plot(
                [found.mean], [place], color=colour, marker=MARKERS[index], markersize=6, linestyle="none",
                zorder=3, clip_on=False,
            )  # fmt: skip
            place += 1
    # Linear below a part in a thousand, where an optimal map is, and by decades above.
    axis.set_xscale("symlog", linthresh=1e-3, linscale=0.5)
    axis.set_xlim(-1e-4, 1.6)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    canvas.label("part of the attainable gain that is lost")
    return canvas.file()


def power_by_points(codes: CodeFigures, style: Style = PNG) -> bytes:
    """The smallest turn of an optimal map that each statistic catches, against the number of points.

    Arguments: as for `maps_on_one_scale`.
    """
    canvas = Canvas(style, 4.2)
    (axis,) = canvas.axes
    shown = {"lost": "better pairing"} | {key: STATISTICS[key][0] for key in ("crossed", "crossed_near")}
    for line, group in zip(LINES, codes.groups):
        points = [row.points for row in group.power]
        for index, (key, name) in enumerate(shown.items()):
            values = [getattr(row, key) for row in group.power]
            axis.plot(
                points, values, **style.series(index) | {"linestyle": line}, label=f"{name}, {group.name}"
            )
    axis.set_xscale("log")
    sizes = sorted({row.points for group in codes.groups for row in group.power})
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylim(0, 95)
    canvas.label("points", "smallest turn caught, degrees")
    canvas.legend()
    return canvas.file()


def layout_by_frequency(codes: CodeFigures, style: Style = PNG) -> bytes:
    """Correlation of pairs of images by spatial frequency: code swaps, optimal partners, random pairs.

    Arguments: as for `maps_on_one_scale`; some codes were swapped.
    """
    swaps = codes.swaps
    require(swaps is not None, "codes", "with swaps", None)
    assert swaps is not None
    canvas = Canvas(style, 4.2)
    (axis,) = canvas.axes
    axis.axvspan(-0.5, swaps.cutoff + 0.5, color=style.theme.band, zorder=0)
    for index, (name, row) in enumerate(swaps.rows.items()):
        axis.plot(range(len(row.by_frequency)), row.by_frequency, **style.series(index), label=name)
    axis.axhline(0, color=style.theme.muted, linewidth=0.8)
    axis.set_xlim(-0.5, len(row.by_frequency) - 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    canvas.label("spatial frequency, cycles an image", "correlation with the image")
    canvas.legend(3)
    return canvas.file()
