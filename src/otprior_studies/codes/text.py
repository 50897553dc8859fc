"""A report of codes in words and as terminal tables."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]

# Statistics of a pairing by key: heading, and what it means.
STATISTICS = {
    "excess": ("excess cost", "how much dearer the map's pairs are than the best pairing of the same points"),
    "lost": ("gain lost", "0 for the best pairing, 1 for a random one: the part of what pairing can gain"),
    "moved": ("other partner", "share of images whose best partner is not their own code or seed"),
    "crossed": ("crossing pairs", "share of pairs of images that are cheaper with their codes exchanged"),
    "crossed_near": ("crossing neighbours", "the same for each image and the image nearest to it"),
}


def codes_headline(report: Row) -> str:
    """What was found, in a sentence."""
    part = report["codes"]
    network = _map(part, "images to codes", "network")
    lost = network["statistics"]["lost"]
    jacobian = part["jacobian"]
    if network["statistics"]["excess"]["interval"][1] == 0:
        pairs = f"No better pairing of {network['subset']:,} images with their codes, nor of one turned by less than "
        pairs += degrees(_power(part, "images to codes", network["subset"])["lost"])
    else:
        pairs = (
            f"The encoder loses {lost['mean']:.2%} of what the best pairing of {network['subset']:,} gains"
        )
    if jacobian is None:
        return pairs
    return f"{pairs}; its Jacobian is turned by {degrees(jacobian['degrees'])}"


def codes_summary(report: Row) -> list[str]:
    """The same in some more sentences."""
    part = report["codes"]
    network = _map(part, "images to codes", "network")
    own = network["statistics"]["moved"]
    sentences = [
        f"{part['images']:,} images of {part['data']}, d = {part['dim']:,}, encoded in {part['evaluations']} network "
        f"evaluations each (told {part['told']}). At the full number an image's own code is its best partner in "
        f"{1 - own['whole']:.1%} of cases, over sets of {network['subset']:,} in {1 - own['mean']:.1%}.",
        "Exact transport of finitely many points notices a map only when it is far enough from optimal: "
        f"a known optimal map, turned, is caught from {_power_range(part, 'images to codes')} on.",
    ]
    if part["jacobian"] is not None:
        found = part["jacobian"]
        own = [moment["mean"] for moment in found["own"]]
        sentences.append(
            f"The Jacobian sees more: |J − Jᵀ|/|J + Jᵀ| is {_ends(found['mean'], found['interval'])} at the codes "
            f"of {found['images']} images, where optimal transport has 0. The network by itself, at one moment, has "
            f"{min(own):.2g} to {max(own):.2g}, where an exact denoiser has 0: part of it is the network's error."
        )
    if part["swaps"] is not None:
        rows = part["swaps"]["rows"]
        sentences.append(
            f"Of an image's layout (up to {part['swaps']['cutoff']} cycles an image) swapping codes between "
            f"{part['swaps']['between']} keeps a correlation of {rows['code swap']['kept']:.2f}; optimal transport "
            f"between real images {rows['optimal partner']['kept']:.2f}, random pairs "
            f"{rows['random pair']['kept']:.2f}."
        )
    refined = part["refined"]
    sentences.append(
        f"With twice the evaluations codes move by {refined['codes_change_by']:.1%} of their length and the gain lost "
        f"changes from {refined['lost']:.2g} to {refined['lost_finer']:.2g} ({refined['images']} images)."
    )
    return sentences


def codes_tables(report: Row) -> list[Table]:
    """Maps on one scale, and what swaps keep, as tables for `rich`; they need 100 columns."""
    part = report["codes"]
    tables = []
    for group in part["groups"]:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=group["name"])
        table.add_column("map", min_width=22, overflow="fold")
        for key in ("excess", "lost", "moved", "crossed_near"):
            table.add_column(STATISTICS[key][0].replace(" ", "\n"), justify="right", no_wrap=True)
        table.add_column("looks like\na turn of", justify="right", no_wrap=True)
        for row in group["maps"]:
            name = Text(row["name"], style="bold")
            name.append(f"\n{row['note']}", style="not bold dim")
            cells = []
            for key in ("excess", "lost", "moved", "crossed_near"):
                found = row["statistics"][key]
                cell = Text(figure_text(found["mean"]))
                cell.append("\n" + _interval(found["interval"]), style="dim")
                cells.append(cell)
            table.add_row(name, *cells, alike_text(part, group["name"], row))
        table.caption = Text(f"Sets of {group['maps'][0]['subset']:,}; [low, high]: 95 % over disjoint sets.")
        table.caption_justify = "left"
        tables.append(table)
    if part["swaps"] is not None:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title="layout kept")
        table.add_column("pair")
        table.add_column("correlation", justify="right")
        for name, row in part["swaps"]["rows"].items():
            table.add_row(name, _ends(row["kept"], row["interval"]))
        tables.append(table)
    return tables


def figure_text(value: float) -> str:
    """Three figures, and 0 as 0."""
    return "0" if value == 0 else f"{value:.3g}"


def degrees(value: float) -> str:
    """An angle; 90 reads as "90° or more"."""
    return "90° or more" if value >= 90 else f"{value:.2g}°"


def alike_text(part: Row, group: str, row: Row) -> str:
    """The turn that a map looks like, or below what it would have been noticed."""
    alike = row["statistics"]["lost"]["alike"]
    if alike is not None:
        return degrees(alike)
    return f"< {degrees(_power(part, group, row['subset'])['lost'])}"


def _map(part: Row, group: str, name: str) -> Row:
    maps = next(each["maps"] for each in part["groups"] if each["name"] == group)
    return next(row for row in maps if row["name"] == name)


def _power(part: Row, group: str, points: int) -> Row:
    rows = next(each["power"] for each in part["groups"] if each["name"] == group)
    return next(row for row in rows if row["points"] == points)


def _power_range(part: Row, group: str) -> str:
    rows = next(each["power"] for each in part["groups"] if each["name"] == group)
    first, last = rows[0], rows[-1]
    return f"{degrees(last['lost'])} ({last['points']:,} points) or {degrees(first['lost'])} ({first['points']:,})"


def _interval(ends: list[float]) -> str:
    return f"[{figure_text(ends[0])}, {figure_text(ends[1])}]"


def _ends(value: float, ends: list[float | None]) -> str:
    low, high = (-math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1])
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
