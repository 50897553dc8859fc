"""Plots of an audit: errors against t*, and what of the images' spectrum is left."""

from __future__ import annotations

from otprior.report.audit.record import Audit
from otprior.report.theme import PNG, Canvas, Style, in_legend
from otprior.utils.validation import require

# Errors below this share of the largest are drawn on the lower edge.
SMALLEST = 1e-5


def error_against_time(audit: Audit, style: Style = PNG, target: str = "data") -> bytes:
    """The interval of each start's error at every t*, as a band between its two ends.

    Arguments:
        audit: With errors.
        style: How it is drawn.
        target: "data" or "population".
    """
    groups = audit.errors_by_start(target)
    require(bool(groups), "audit", f"with errors for {target!r}", "none")
    canvas = Canvas(style, 4.6)
    (axis,) = canvas.axes
    top = max(row.upper or row.lower for rows in groups for row in rows)
    bottom = SMALLEST * max(top, 1e-12)
    axis.set_yscale("log")
    for place, rows in enumerate(groups):
        look = style.series(place, marker=False)
        times = [row.timestep for row in rows]
        low = [max(row.lower, bottom) for row in rows]
        high = [max(row.upper, bottom) if row.upper is not None else 2 * top for row in rows]
        axis.fill_between(times, low, high, color=look["color"], alpha=0.22, linewidth=0)
        axis.plot(times, high, **look, label=in_legend(rows[0].title))
        axis.plot(times, low, **look | {"linewidth": 0.8})
    axis.set_ylim(bottom, 1.5 * top)
    canvas.label("t*, from clean to noisy", "W2 to the latents' law")
    canvas.legend()
    return canvas.file()


def spectrum_left(audit: Audit, style: Style = PNG) -> bytes:
    """Power of the images' signal by frequency, at T and at some t*, as a multiple of that of the noise.

    Arguments:
        audit: With data and errors.
        style: How it is drawn.
    """
    data = audit.data
    require(data is not None, "audit", "of data", None)
    assert data is not None
    rows = audit.errors_by_start("data")[0]
    canvas = Canvas(style, 4.2)
    (axis,) = canvas.axes
    chosen = [rows[0], rows[len(rows) // 3], rows[2 * len(rows) // 3], rows[-1]]
    moments = {row.timestep: row for row in chosen if row.alpha > 0}
    for place, (timestep, row) in enumerate(moments.items()):
        ratio = (row.alpha / row.sigma) ** 2
        power = [max(ratio * value, 1e-12) for value in data.power]
        axis.plot(data.frequency, power, **style.series(place, marker=False), label=f"t* = {timestep:g}")
    axis.axhline(1.0, color=style.theme.muted, linewidth=1.2, linestyle=(0, (4, 2)), label="noise")
    axis.set_yscale("log")
    canvas.label("spatial frequency, cycles an image", "power of the signal / of the noise")
    canvas.legend(3)
    return canvas.file()
