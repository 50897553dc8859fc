"""A study of codes in words."""

from __future__ import annotations

import math

from otprior.report.record import Limits
from otprior_studies.codes.record import CodeFigures, CodeMap, MapGroup

# Statistics of a pairing by key: heading, and what it means.
STATISTICS = {
    "excess": ("excess cost", "how much dearer the map's pairs are than the best pairing of the same points"),
    "lost": ("gain lost", "0 for the best pairing, 1 for a random one: the part of what pairing can gain"),
    "moved": ("other partner", "share of images whose best partner is not their own code or seed"),
    "crossed": ("crossing pairs", "share of pairs of images that are cheaper with their codes exchanged"),
    "crossed_near": ("crossing neighbours", "the same for each image and the image nearest to it"),
}


def codes_headline(codes: CodeFigures) -> str:
    """What was found, in a sentence."""
    network = codes.network
    lost = network.statistics["lost"]
    if network.statistics["excess"].interval[1] == 0:
        seen = degrees(codes.groups[0].power_at(network.subset).lost)
        text = f"No better pairing of {network.subset:,} images with their codes, nor of one turned by less than {seen}"
    else:
        text = f"The encoder loses {lost.mean:.2%} of what the best pairing of {network.subset:,} gains"
    if codes.jacobian is None:
        return text
    return f"{text}; its Jacobian is turned by {degrees(codes.jacobian.degrees)}"


def codes_summary(codes: CodeFigures) -> list[str]:
    """The same in some more sentences."""
    network, refined, power = codes.network, codes.refined, codes.groups[0].power
    own, few, many = network.statistics["moved"], power[0], power[-1]
    sentences = [
        f"{codes.images:,} images of {codes.data}, d = {codes.dim:,}, encoded in {codes.evaluations} network "
        f"evaluations each (label: {codes.labels}). With all images at once, an image's own code is its best partner "
        f"in {1 - own.whole:.1%} of cases, over sets of {network.subset:,} in {1 - own.mean:.1%}.",
        "Exact transport of finitely many points notices a map only when it is far enough from optimal: "
        f"a known optimal map, turned, is caught from {degrees(many.lost)} ({many.points:,} points) or "
        f"{degrees(few.lost)} ({few.points:,}) on.",
    ]
    if codes.jacobian is not None:
        means = [moment.mean for moment in codes.jacobian.own]
        skewness = with_interval(codes.jacobian.mean, codes.jacobian.interval)
        sentences.append(
            f"The Jacobian sees more: |J − Jᵀ|/|J + Jᵀ| is {skewness} at the codes of {codes.jacobian.images} "
            "images, where optimal transport has 0. The network by itself, at "
            f"one moment, has {min(means):.2g} to {max(means):.2g}, where an exact denoiser has 0: part of it is the "
            "network's error."
        )
    if codes.swaps is not None:
        rows = codes.swaps.rows
        sentences.append(
            f"Of an image's layout (up to {codes.swaps.cutoff} cycles an image) swapping codes between "
            f"{codes.swaps.between} keeps a correlation of {rows['code swap'].kept:.2f}; optimal transport "
            f"between real images {rows['optimal partner'].kept:.2f}, random pairs "
            f"{rows['random pair'].kept:.2f}."
        )
    sentences.append(
        f"With twice the evaluations codes move by {refined.codes_change_by:.1%} of their length and the gain lost "
        f"changes from {refined.lost:.2g} to {refined.lost_finer:.2g} ({refined.images} images)."
    )
    return sentences


def figure_text(value: float | None) -> str:
    """Three figures, and 0 as 0."""
    return "–" if value is None else "0" if value == 0 else f"{value:.3g}"


def interval_text(limits: Limits) -> str:
    """An interval in three figures."""
    return f"[{figure_text(limits[0])}, {figure_text(limits[1])}]"


def with_interval(value: float, limits: Limits) -> str:
    """A figure with its interval, whose open ends are infinite."""
    low, high = (-math.inf if limits[0] is None else limits[0], math.inf if limits[1] is None else limits[1])
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def degrees(value: float) -> str:
    """An angle; 90 reads as "90° or more"."""
    return "90° or more" if value >= 90 else f"{value:.2g}°"


def alike_text(group: MapGroup, row: CodeMap) -> str:
    """The turn that a map looks like, or the smallest one that would have been noticed."""
    alike = row.statistics["lost"].alike
    return f"< {degrees(group.power_at(row.subset).lost)}" if alike is None else degrees(alike)
