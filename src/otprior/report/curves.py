"""One plot of named curves: of a claim's details, or of a report's further figures."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from otprior.report.plots import LIGHT

# With more curves than this the legend would cover them.
FEW_CURVES = 3
# More points than this are drawn small, as a cloud.
FEW_POINTS = 50


def curve_plot(curves: dict[str, Any], kind: str = "png") -> bytes:
    """Draws the series of `curves` into one plot.

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
