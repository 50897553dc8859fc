"""A report of codes as one page to read, on the template of the sampling report, and its files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from otprior.report.folder import write_folder
from otprior.report.html import figure, fill, tile
from otprior.report.html_tables import (
    made_with,
    number,
    reading_list,
    section,
    table,
)
from otprior.report.images import ReportImages, image_grid
from otprior.report.schema import validate_report
from otprior_studies.codes.plots import layout_by_frequency, maps_on_one_scale, power_by_points
from otprior_studies.codes.text import (
    STATISTICS,
    alike_text,
    codes_headline,
    codes_summary,
    degrees,
    figure_text,
)

Row = dict[str, Any]

_READING = (
    (
        "code",
        "The seed noise from which the network's own flow makes an image; a sampler that starts from it returns the "
        "image. A code has as many entries as the image, and is nearly a draw of N(0, I).",
    ),
    (
        "best pairing",
        "Exact optimal transport between the two sets of points at hand: the pairing of least mean square distance. "
        "An optimal map pairs any points in the best way; one that is not may do so too, if the points are few.",
    ),
    (
        "looks like a turn of",
        "A map that is known to be optimal, the gaussian one at the same points, is turned by an angle in every plane "
        "of a random frame. Given is the angle at which it loses as much. “< 60°” says that a map looks optimal, and "
        "that any turn below 60° would have looked so, too.",
    ),
    (
        "Jacobian",
        "An optimal map is a gradient, so that its derivative J is symmetric. |J − Jᵀ|/|J + Jᵀ| is the tangent of a "
        "turn, and does not need many points; but it also sees that a network is no exact denoiser, which alone makes "
        "it skew.",
    ),
    (
        "layout",
        "What an image has below a few cycles an image, once the mean image of its class is taken away. A correlation "
        "of 1 keeps it, 0 forgets it.",
    ),
)


def codes_page(report: Row, swaps: Sequence[ReportImages] = (), beside: Sequence[ReportImages] = ()) -> str:
    """The whole page.

    Arguments:
        report: With "codes"; `validate_report` accepts it.
        swaps, beside: Rows of images; none leaves a picture out.
    """
    parts = (
        _pictures(report, swaps, beside),
        _maps(report),
        _power(report),
        _details(report),
        reading_list(_READING),
        made_with(report),
    )
    return fill(report, "codes", codes_headline(report), _tiles(report), codes_summary(report), parts)


def write_codes_report(
    directory: str | Path,
    report: Row,
    swaps: Sequence[ReportImages] = (),
    beside: Sequence[ReportImages] = (),
) -> dict[str, Path]:
    """Writes report.html, plots, pictures and, last, report.json into a folder; returns them by name.

    Raises:
        ValueError: If the report breaks its schema; nothing is written then.
    """
    validate_report(report)
    contents = {
        "report.html": codes_page(report, swaps, beside).encode("utf-8"),
        "maps.png": maps_on_one_scale(report),
        "power.png": power_by_points(report),
    }
    if report["codes"]["swaps"] is not None:
        contents["layout.png"] = layout_by_frequency(report)
    for name, rows in (("swaps.png", swaps), ("beside.png", beside)):
        if rows:
            contents[name] = image_grid(rows)
    return write_folder(directory, report, contents)


def _tiles(report: Row) -> str:
    part = report["codes"]
    network = part["groups"][0]["maps"][0]
    found = network["statistics"]
    tiles = [
        tile(
            f"{1 - found['moved']['mean']:.1%}",
            "of images have their own code as partner",
            "1 for an optimal map",
        ),
        tile(figure_text(found["lost"]["mean"]), "of the gain of pairing is lost", "0 optimal, 1 random"),
    ]
    if part["jacobian"] is not None:
        tiles.append(
            tile(degrees(part["jacobian"]["degrees"]), "is the Jacobian turned by", "0 for an optimal map")
        )
    if part["swaps"] is not None:
        rows = part["swaps"]["rows"]
        beside = f"random pairs {rows['random pair']['kept']:.2f}"
        tiles.append(
            tile(f"{rows['code swap']['kept']:.2f}", "of the layout survives a swap of codes", beside)
        )
    return '<ul class="figures">\n' + "\n".join(tiles) + "\n</ul>"


def _pictures(report: Row, swaps: Sequence[ReportImages], beside: Sequence[ReportImages]) -> str:
    if report["codes"]["swaps"] is None:
        return ""
    parts = []
    for rows, text in (
        (
            beside,
            "Images of one kind, what their codes become as another, and what they are paired with otherwise.",
        ),
        (swaps, "The code of each image decoded as every kind."),
    ):
        if rows:
            address = "data:image/png;base64," + base64.b64encode(image_grid(rows)).decode("ascii")
            picture = f'<div class="scroll"><img src="{address}" alt="{escape(text)}"></div>'
            parts.append(
                f'<figure><div class="card">{picture}</div><figcaption>{escape(text)}</figcaption></figure>'
            )
    parts.append(
        figure(
            partial(layout_by_frequency, report),
            "Correlation with the image by frequency, class means removed. Shaded: what counts as layout.",
        )
    )
    return section("What a code carries from one kind of image to another", "\n".join(parts))


def _maps(report: Row) -> str:
    part = report["codes"]
    parts = [
        figure(
            partial(maps_on_one_scale, report),
            "Part of the gain that each map loses over sets of points: 0 is the best pairing, 1 a random one. Grey: "
            "optimal by construction. Linear below 0.001.",
        )
    ]
    heads = "".join(
        f'<th scope="col">{escape(name)}</th>'
        for name in (
            "map",
            *(name for name, _ in STATISTICS.values()),
            "looks like a turn of",
            "longest exchange",
        )
    )
    for group in part["groups"]:
        lines = []
        for row in group["maps"]:
            cells = "".join(_cell(row["statistics"][key]) for key in STATISTICS)
            cells += f"<td>{escape(alike_text(part, group['name'], row))}</td><td>{number(row['longest_cycle'])}</td>"
            note = f"<small>{escape(row['note'])}</small>"
            lines.append(f'<tr><th scope="row">{escape(row["name"])}{note}</th>{cells}</tr>')
        parts.append(f"<h3>{escape(group['name'])}</h3>\n" + table("wide", heads, lines))
    sizes = part["groups"][0]["maps"][0]
    note = (
        f"Means over {sizes['sets']} disjoint sets of {sizes['subset']:,} points with their 95 % interval; below, the "
        f"figure of all {sizes['points']:,} at once."
    )
    return section("Maps between images and noise, on one scale", "\n".join(parts), note, "landscape")


def _cell(found: Row) -> str:
    low, high = found["interval"]
    below = f"[{figure_text(low)}, {figure_text(high)}]"
    return (
        f"<td>{figure_text(found['mean'])}<small>{below}</small>"
        f"<small>all: {figure_text(found['whole'])}</small></td>"
    )


def _power(report: Row) -> str:
    caption = (
        "A known optimal map is turned: the smallest angle at which each statistic is above 0. What lies below the "
        "curve, pairing does not see."
    )
    return section("What the test would have caught", figure(partial(power_by_points, report), caption))


def _details(report: Row) -> str:
    part = report["codes"]
    shown = {"mean square of an entry of a code": part["mean_square"]}
    refined = part["refined"]
    shown |= {
        "images encoded with twice the evaluations": refined["images"],
        "their codes move by (of their length)": refined["codes_change_by"],
        "gain lost, before": refined["lost"],
        "gain lost, after": refined["lost_finer"],
        "round trip, mean error of a pixel": refined["round_trip_mean"],
        "round trip, largest": refined["round_trip_largest"],
    }
    if part["jacobian"] is not None:
        found = part["jacobian"]
        shown |= {
            "|J − Jᵀ|/|J + Jᵀ|, mean": found["mean"],
            "its interval, low": found["interval"][0],
            "its interval, high": found["interval"][1],
            "error of its differences": found["error"],
            "largest turn, degrees": found["largest_degrees"],
        }
        for own in found["own"]:
            shown[f"the same of the network by itself, at log-SNR {own['log_snr']:.1f}"] = own["mean"]
    lines = [
        f'<tr><th scope="row">{escape(name)}</th><td>{number(value)}</td></tr>'
        for name, value in shown.items()
    ]
    return section(
        "Details", table("gates", '<th scope="col">of the encoder</th><th scope="col"></th>', lines)
    )
