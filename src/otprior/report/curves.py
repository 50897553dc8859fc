"""One plot of named curves: of a claim's details, or of a report's further figures."""

from __future__ import annotations

from typing import Any

from matplotlib.ticker import LogFormatter

from otprior.report.record import Curves
from otprior.report.theme import PNG, Canvas, Style, in_legend, plain

# With more curves than this the legend would cover them.
FEW_CURVES = 3
# More points than this are drawn small, as a cloud.
FEW_POINTS = 50


def curve_plot(curves: Curves, style: Style = PNG) -> bytes:
    """Draws all series into one plot.

    Arguments:
        curves: What to draw.
        style: How it is drawn.
    """
    canvas = Canvas(style, 4.2)
    (axis,) = canvas.axes
    # (Many points are a cloud in the plane, whose two coordinates have one unit.)
    cloud = curves.points and max(map(len, curves.series.values()), default=0) > FEW_POINTS
    for place, (name, points) in enumerate(curves.series.items()):
        # A logarithmic axis has no place for what came out as exactly zero.
        shown = [
            (x, y) for x, y in points if (x > 0 or "x" not in curves.log) and (y > 0 or "y" not in curves.log)
        ]
        look: dict[str, Any] = style.series(place) | {
            "label": in_legend(name),
            "linestyle": "-",
            "markersize": 4,
        }
        if cloud:
            look |= {"marker": "o", "markersize": max(1, 3 - place), "zorder": 2 + place}
        if curves.points:
            look["linestyle"] = "none"
        axis.plot([x for x, _ in shown], [y for _, y in shown], **look)
    for letter in curves.log:
        getattr(axis, f"set_{letter}scale")("log")
        which = getattr(axis, f"{letter}axis")
        # Plain numbers: 30, not 3 x 10^1.
        which.set_major_formatter(LogFormatter())
        which.set_minor_formatter(LogFormatter(labelOnlyBase=False))
        which.set_tick_params(which="minor", labelsize=9, labelcolor=style.theme.ink)
    if cloud:
        axis.set_aspect("equal")
    canvas.label(curves.x, curves.y)
    axis.set_title(plain(curves.title), fontsize=11, loc="left", color=style.theme.ink)
    if len(curves.series) > FEW_CURVES:
        canvas.figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=style.theme.ink)
    else:
        axis.legend(frameon=False, fontsize=9, labelcolor=style.theme.ink)
    return canvas.file()
