"""The tables of a study of codes, its page, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from otprior.report.folder import write_folder
from otprior.report.images import ReportImages, image_grid
from otprior.report.page import Block, Page, Section, Text, Tile, how_it_was_made, how_to_read, plot, png
from otprior.report.tables import Cell, Table, build_table
from otprior_studies.codes.plots import layout_by_frequency, maps_on_one_scale, power_by_points
from otprior_studies.codes.record import CodeFigures, CodeMap, CodesReport, MapGroup
from otprior_studies.codes.text import (
    STATISTICS,
    alike_text,
    codes_headline,
    codes_summary,
    degrees,
    figure_text,
    interval_text,
    with_interval,
)

# Statistics that a table of 100 columns has room for.
_SHORT = ("excess", "lost", "moved", "crossed_near")

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


def write_codes_report(
    directory: str | Path,
    report: CodesReport,
    swaps: Sequence[ReportImages] = (),
    beside: Sequence[ReportImages] = (),
) -> dict[str, Path]:
    """Writes report.html, plots, pictures and, last, report.json into a folder; returns them by name.

    Arguments:
        directory: Is made if it is not there.
        report: What report.json holds.
        swaps: Rows of images, the code of each decoded as every kind; none leaves the picture out.
        beside: Rows of images, what their codes become as another kind and their rivals; none leaves it out.
    """
    contents = {
        "report.html": codes_page(report, swaps, beside),
        "maps.png": maps_on_one_scale(report.codes),
        "power.png": power_by_points(report.codes),
    }
    if report.codes.swaps is not None:
        contents["layout.png"] = layout_by_frequency(report.codes)
    for name, rows in (("swaps.png", swaps), ("beside.png", beside)):
        if rows:
            contents[name] = image_grid(rows)
    return write_folder(directory, report, contents)


def codes_page(
    report: CodesReport, swaps: Sequence[ReportImages] = (), beside: Sequence[ReportImages] = ()
) -> bytes:
    """The file report.html; the arguments are those of `write_codes_report`."""
    codes = report.codes
    power = (
        "A known optimal map is turned: the smallest angle at which each statistic is above 0. What lies below the "
        "curve, pairing does not see."
    )
    sections = [
        _pictures(codes, swaps, beside),
        _maps(codes),
        Section("What the test would have caught", [plot(partial(power_by_points, codes), power)]),
        _details(codes),
        how_to_read(_READING),
        how_it_was_made(report),
    ]
    page = Page("codes", codes_headline(codes), _tiles(codes), codes_summary(codes), sections)
    return page.render(report)


def codes_tables(codes: CodeFigures) -> list[Table]:
    """Maps on one scale, and what swaps keep, for a terminal of 100 columns."""
    tables = [_map_table(group, short=True) for group in codes.groups]
    if codes.swaps is not None:
        lines = [(name, with_interval(row.kept, row.interval)) for name, row in codes.swaps.rows.items()]
        tables.append(build_table(("pair", "correlation"), lines, title="layout kept"))
    return tables


def _map_table(group: MapGroup, short: bool = False) -> Table:
    """Maps with their statistics; a short table has fewer of them, and does not say what all points give."""
    keys = _SHORT if short else tuple(STATISTICS)
    headings = ["map", *(STATISTICS[key][0] for key in keys), "looks like a turn of", "longest exchange"]
    if short:
        headings = [heading.replace(" ", "\n", 1) for heading in headings[:-1]]
    lines = []
    for row in group.maps:
        cells = [Cell(row.name, (row.note,), "name" if short else "")]
        cells += [_statistic_cell(row, key, short) for key in keys]
        cells.append(Cell(alike_text(group, row)))
        lines.append(cells if short else [*cells, row.longest_cycle])
    note = f"Sets of {group.maps[0].subset:,}; [low, high]: 95 % over disjoint sets."
    return build_table(headings, lines, title=group.name, note=note, first_width=(22, None))


def _statistic_cell(row: CodeMap, key: str, short: bool) -> Cell:
    found = row.statistics[key]
    below = (interval_text(found.interval),)
    return Cell(figure_text(found.mean), below if short else (*below, f"all: {figure_text(found.whole)}"))


def _tiles(codes: CodeFigures) -> list[Tile]:
    found = codes.network.statistics
    name = "of images have their own code as partner"
    tiles = [
        Tile(f"{1 - found['moved'].mean:.1%}", name, "1 for an optimal map"),
        Tile(figure_text(found["lost"].mean), "of the gain of pairing is lost", "0 optimal, 1 random"),
    ]
    if codes.jacobian is not None:
        angle = degrees(codes.jacobian.degrees)
        tiles.append(Tile(angle, "is the Jacobian turned by", "0 for an optimal map"))
    if codes.swaps is not None:
        rows = codes.swaps.rows
        note = f"random pairs {rows['random pair'].kept:.2f}"
        kept = f"{rows['code swap'].kept:.2f}"
        tiles.append(Tile(kept, "of the layout survives a swap of codes", note))
    return tiles


def _pictures(codes: CodeFigures, swaps: Sequence[ReportImages], beside: Sequence[ReportImages]) -> Section:
    blocks: list[Block] = []
    if codes.swaps is not None:
        captions = {
            "Images of one kind, what their codes become as another, and what they are paired with otherwise.": beside,
            "The code of each image decoded as every kind.": swaps,
        }
        blocks += [png(image_grid(rows), caption) for caption, rows in captions.items() if rows]
        caption = (
            "Correlation with the image by frequency, class means removed. Shaded: what counts as layout."
        )
        blocks.append(plot(partial(layout_by_frequency, codes), caption))
    return Section("What a code carries from one kind of image to another", blocks)


def _maps(codes: CodeFigures) -> Section:
    caption = (
        "Part of the gain that each map loses over sets of points: 0 is the best pairing, 1 a random one. Grey: "
        "optimal by construction. Linear below 0.001."
    )
    blocks: list[Block] = [plot(partial(maps_on_one_scale, codes), caption)]
    for group in codes.groups:
        blocks += [Text(group.name, "heading"), _map_table(group)]
    sizes = codes.network
    note = (
        f"Means over {sizes.sets} disjoint sets of {sizes.subset:,} points with their 95 % interval; below, the "
        f"figure of all {sizes.points:,} at once."
    )
    return Section("Maps between images and noise, on one scale", blocks, note, "landscape")


def _details(codes: CodeFigures) -> Section:
    refined, jacobian = codes.refined, codes.jacobian
    shown: dict[str, float | None] = {
        "mean square of an entry of a code": codes.mean_square,
        "images encoded with twice the evaluations": refined.images,
        "their codes move by (of their length)": refined.codes_change_by,
        "gain lost, before": refined.lost,
        "gain lost, after": refined.lost_finer,
        "round trip, mean error of a pixel": refined.round_trip_mean,
        "round trip, largest": refined.round_trip_largest,
    }
    if jacobian is not None:
        shown |= {
            "|J − Jᵀ|/|J + Jᵀ|, mean": jacobian.mean,
            "its interval, low": jacobian.interval[0],
            "its interval, high": jacobian.interval[1],
            "error of its differences": jacobian.error,
            "largest turn, degrees": jacobian.largest_degrees,
        }
        for own in jacobian.own:
            shown[f"the same of the network by itself, at log-SNR {own.log_snr:.1f}"] = own.mean
    return Section("Details", [build_table(("of the encoder", ""), shown.items(), look="gates")])
