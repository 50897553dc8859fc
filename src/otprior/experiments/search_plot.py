"""The curve of a search: quality against t*, rung by rung, and the best so far against the work done.

Trials are dictionaries with "start_timestep", "samples", "fid", "copy_rate", "evaluations" (network evaluations of this
trial that no earlier one had done) and "allowed" (whether its copying passes the rule on so many seeds), in order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from otprior.report.theme import LIGHT, Theme
from otprior.utils.validation import require

MARKERS = ("o", "s", "^", "D", "v", "P")


def search_curve(
    trials: Sequence[dict[str, Any]], chosen: dict[str, Any] | None, limit: float, theme: Theme = LIGHT
) -> bytes:
    """A PNG: FID and copying of every trial against t*, and the lowest FID so far against evaluations.

    Arguments:
        trials: As the module says; at least one.
        chosen: The trial that was chosen, or None.
        limit: The copy rate that the rule allows, drawn as a line.
        theme: Colours.
    """
    require(len(trials) > 0, "trials", "at least one", 0)
    figure = Figure(figsize=(9.6, 6.4), facecolor=theme.paper, layout="constrained")
    quality, progress, copying, words = figure.subplots(2, 2, width_ratios=(3, 2)).flat
    words.axis("off")
    sizes = sorted({trial["samples"] for trial in trials})
    for place, size in enumerate(sizes):
        mine = [trial for trial in trials if trial["samples"] == size]
        colour, marker = theme.starts[place % len(theme.starts)], MARKERS[place % len(MARKERS)]
        for allowed in (True, False):
            some = [trial for trial in mine if trial["allowed"] is allowed]
            times = [trial["start_timestep"] for trial in some]
            face = colour if allowed else "none"
            style: dict[str, Any] = {"marker": marker, "edgecolors": colour, "facecolors": face, "zorder": 3}
            label = f"{size:,} seeds" if allowed else None
            quality.scatter(times, [trial["fid"] for trial in some], label=label, **style)
            copying.scatter(times, [trial["copy_rate"] for trial in some], **style)
    if chosen is not None:
        for axis, key in ((quality, "fid"), (copying, "copy_rate")):
            axis.scatter(
                [chosen["start_timestep"]], [chosen[key]], s=220, facecolors="none", edgecolors=theme.ink
            )
    copying.axhline(limit, color=theme.muted, linestyle="--", linewidth=1.0)
    done, best, lowest = 0.0, [], float("inf")
    for trial in trials:
        done += trial["evaluations"]
        if trial["samples"] == sizes[-1] and trial["allowed"]:
            lowest = min(lowest, trial["fid"])
        best.append((done, lowest))
    reached = [(work, fid) for work, fid in best if fid < float("inf")]
    if reached:
        progress.step(
            [work for work, _ in reached], [fid for _, fid in reached], where="post", color=theme.ink
        )
    progress.set_xlim(0, done)
    quality.set_ylabel("FID, validation images", color=theme.ink)
    copying.set_ylabel("counted as copies", color=theme.ink)
    copying.set_xlabel("start t*", color=theme.ink)
    progress.set_xlabel("network evaluations", color=theme.ink)
    progress.set_ylabel(f"best on {sizes[-1]:,} seeds", color=theme.ink)
    entries = quality.get_legend_handles_labels()
    words.legend(*entries, loc="lower left", frameon=False, labelcolor=theme.ink, fontsize=9)
    note = "hollow: copies too much to be allowed on so many seeds\ndashed: the copying limit\ncircle: chosen"
    words.text(0.0, 0.9, note, color=theme.muted, fontsize=9, va="top")
    for axis in (quality, progress, copying):
        _dress(axis, theme)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def _dress(axis: Any, theme: Theme) -> None:
    axis.set_facecolor(theme.paper)
    axis.grid(color=theme.grid, linewidth=0.8, zorder=0)
    axis.tick_params(colors=theme.muted, labelsize=8)
    for name, spine in axis.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(theme.grid)
