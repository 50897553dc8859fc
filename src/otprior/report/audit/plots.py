"""Plots of an audit: errors against t*, and what of the images' spectrum is left."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from otprior.report.audit.text import rows_of, start_name
from otprior.report.plots import (
    LIGHT,
    Theme,
    frame,
    rendered,
)
from otprior.utils.validation import require

# Errors below this share of the largest are drawn on the lower edge.
SMALLEST = 1e-5
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1)))


def error_against_time(
    report: dict[str, Any], theme: Theme = LIGHT, kind: str = "png", width: float = 7.6, target: str = "data"
) -> bytes:
    """The interval of each start's error at every t*, as a band between its two ends.

    Arguments:
        report: An audit's, with errors.
        theme: Colours.
        kind: "png" or "svg".
        width: Inches.
        target: "data" or "population".
    """
    groups = rows_of(report, target)
    require(bool(groups), "report", f"with errors for {target!r}", "none")
    figure = Figure(figsize=(width, 4.6), facecolor=theme.paper)
    axis = figure.subplots()
    frame(axis, theme, "both")
    tops = [row["upper"] or row["lower"] for rows in groups for row in rows]
    bottom = SMALLEST * max(max(tops), 1e-12)
    axis.set_yscale("log")
    for index, rows in enumerate(groups):
        colour, line = theme.starts[index % len(theme.starts)], _LINES[index % len(_LINES)]
        times = [row["timestep"] for row in rows]
        low = [max(row["lower"], bottom) for row in rows]
        high = [max(row["upper"], bottom) if row["upper"] is not None else 2 * max(tops) for row in rows]
        axis.fill_between(times, low, high, color=colour, alpha=0.22, linewidth=0)
        axis.plot(times, high, color=colour, linestyle=line, linewidth=1.5, label=start_name(rows[0]))
        axis.plot(times, low, color=colour, linestyle=line, linewidth=0.8)
    axis.set_ylim(bottom, 1.5 * max(tops))
    axis.set_xlabel("t*, from clean to noisy", color=theme.ink)
    axis.set_ylabel("W2 to the latents' law", color=theme.ink)
    figure.legend(loc="outside upper left", ncols=2, fontsize=9, frameon=False, labelcolor=theme.ink)
    return rendered(figure, kind)


def spectrum_left(
    report: dict[str, Any], theme: Theme = LIGHT, kind: str = "png", width: float = 7.6
) -> bytes:
    """Power of the images' signal by frequency, at T and at some t*, beside that of the noise.

    Arguments: as for `error_against_time`.
    """
    data = report["audit"]["data"]
    require(data is not None, "report", "with data", None)
    rows = rows_of(report, "data")[0]
    figure = Figure(figsize=(width, 4.2), facecolor=theme.paper)
    axis = figure.subplots()
    frame(axis, theme, "both")
    chosen = [rows[0], rows[len(rows) // 3], rows[2 * len(rows) // 3], rows[-1]]
    moments = {row["timestep"]: row for row in chosen if row["alpha"] > 0}
    for index, (timestep, row) in enumerate(moments.items()):
        ratio = (row["alpha"] / row["sigma"]) ** 2
        power = [max(ratio * value, 1e-12) for value in data["power"]]
        colour, line = theme.starts[index % len(theme.starts)], _LINES[index % len(_LINES)]
        axis.plot(
            data["frequency"], power, color=colour, linestyle=line, linewidth=1.5, label=f"t* = {timestep:g}"
        )
    axis.axhline(1.0, color=theme.muted, linewidth=1.2, linestyle=(0, (4, 2)), label="noise")
    axis.set_yscale("log")
    axis.set_xlabel("spatial frequency, cycles an image", color=theme.ink)
    axis.set_ylabel("power of the signal / of the noise", color=theme.ink)
    figure.legend(loc="outside upper left", ncols=3, fontsize=9, frameon=False, labelcolor=theme.ink)
    return rendered(figure, kind)
