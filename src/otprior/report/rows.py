"""Reading a report: names of starts, the figures and what they mean, quality above the floor.

With F the FID of a row and F0 that of as many held-out real images, both against the same reference
images, the excess F − F0 is what the sampler adds: an FID of n images is biased upward by about the same
amount in both. Shares of copies are read beside those of held-out images in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Interval = tuple[float, float]

# A share of copies up to one percentage point above that of held-out images counts as their level.
COPY_MARGIN = 0.01

_FAMILIES: dict[tuple[str | None, str | None], str] = {
    ("none", None): "N(0, I) at T",
    ("identity", None): "identity",
    ("gaussian", None): "gaussian",
    ("mixture", None): "mixture",
    ("mixture", "fresh"): "mixture fresh",
    ("semidiscrete", "coupled"): "semidiscrete coupled",
    ("semidiscrete", "fresh"): "semidiscrete fresh",
    ("semidiscrete", "frozen"): "semidiscrete frozen",
    ("random_atom", None): "random image + noise",
    ("boosted_atom", None): "random image + noise, boosted",
    ("mini_batch", None): "mini-batch transport",
    ("unsolved", "coupled"): "coupled, potential unsolved",
    ("latents", "frozen"): "latents handed back",
}


@dataclass(frozen=True)
class Metric:
    """A figure of a row: `key` in report.json, and how a person is shown it.

    Arguments:
        group: The part of the table it belongs to: "quality", "copying" or "seed".
        scale: What the stored value is multiplied by (100 for shares, shown in per cent).
        better: "lower", "higher", "floor" (near the held-out images' is best), or "" for neither.
        meaning: One or two sentences for a reader who knows diffusers but not transport.
    """

    key: str
    heading: str
    group: str
    meaning: str
    scale: float = 1.0
    better: str = ""

    def text(self, value: float | None) -> str:
        """The value as shown; an absent one is a dash."""
        if value is None:
            return "–"
        shown = value * self.scale
        if self.scale == 100:
            return f"{shown:.1f}%"
        # Three figures; a distance of 0.00 to 9.99 keeps two places.
        digits = 2 if abs(shown) < 10 else 1 if abs(shown) < 100 else 0
        return f"{shown:.{digits}f}".replace("-", "−")

    def interval_text(self, ends: Interval | None) -> str:
        """The 95% interval as shown; nothing for an absent one."""
        if ends is None:
            return ""
        low, high = (self.text(end).removesuffix("%") if math.isfinite(end) else "" for end in ends)
        if low and high:
            return f"[{low}, {high}]"
        return f"≤ {high}" if high else f"≥ {low}" if low else ""


METRICS = (
    Metric(
        "excess_fid", "FID above floor", "quality",
        "The FID less that of held-out real images. Zero means: on these features, as good as unseen "
        "real images. It is the figure to compare.",
        better="lower",
    ),
    Metric(
        "copy_rate", "copies", "copying",
        "Share of samples whose nearest training image is more than 1.5 times nearer, in pixels, than the "
        "second nearest: an image that singles out one training image. Held-out real images have such "
        "neighbours too, so their share is the level to compare with, not zero.",
        scale=100, better="floor",
    ),
    Metric(
        "source_rate", "from source", "copying",
        "Share of samples whose nearest training image is the very one that their start was built on. "
        "It tells how much of that image came through the sampler; closeness of this kind is not yet a "
        "copy. Only starts built on an image have it.",
        scale=100,
    ),
    Metric(
        "duplicate_rate", "duplicates", "copying",
        "Share of samples that equal an earlier sample of the same row. A start drawn from a finite list "
        "repeats itself as soon as the list is used up.",
        scale=100, better="lower",
    ),
    Metric(
        "fid", "FID", "quality",
        "Fréchet distance between the samples and the reference images, on features of the classifier "
        "named in this report. Zero is best; it does not compare with published (Inception) FIDs, and it "
        "grows as the number of images falls.",
        better="lower",
    ),
    Metric(
        "kid", "KID × 1000", "quality",
        "Kernel distance on the same features, times 1000. Unbiased at any number of images; it may fall "
        "below zero when two sets cannot be told apart.",
        scale=1000, better="lower",
    ),
    Metric(
        "precision", "precision", "quality",
        "Share of samples that fall inside the region of the real images.", better="higher",
    ),
    Metric(
        "recall", "recall", "quality",
        "Share of real images that fall inside the region of the samples: variety.", better="higher",
    ),
    Metric(
        "density", "density", "quality",
        "As precision, but counting in how many real neighbourhoods a sample lies; may exceed 1.",
        better="higher",
    ),
    Metric(
        "coverage", "coverage", "quality",
        "Share of real images with a sample in their neighbourhood.", better="higher",
    ),
    Metric(
        "nearest_pixel_distance", "nearest, pixels", "copying",
        "Distance from a sample to its nearest training image, in pixels, on average.",
        better="floor",
    ),
    Metric(
        "nearest_pixel_below_1pct", "closer than 1% (pixels)", "copying",
        "Share of samples nearer to a training image, in pixels, than 99% of held-out real images are: "
        "1% by construction for real images.",
        scale=100, better="floor",
    ),
    Metric(
        "nearest_feature_distance", "nearest, features", "copying",
        "Distance from a sample to its nearest training image, on the classifier's features, on average.",
        better="floor",
    ),
    Metric(
        "nearest_feature_below_1pct", "closer than 1% (features)", "copying",
        "The same share with distances on the classifier's features.",
        scale=100, better="floor",
    ),
    Metric(
        "seed_agreement", "seed kept", "seed",
        "Share of seeds for which this row and the full sampler, started from the same noise, give images "
        "of the same class. Chance is one over the number of classes.",
        scale=100, better="higher",
    ),
    Metric(
        "class_accuracy", "class kept", "quality",
        "Share of samples that the classifier takes for the class they were asked to be.",
        scale=100, better="higher",
    ),
    Metric(
        "excess_class_fid", "class FID above floor", "quality",
        "FID of each class's samples to the real images of that class, averaged over classes, less that of "
        "held-out real images.", better="lower",
    ),
    Metric(
        "mode_mixture", "mode mixture", "quality",
        "Share of samples that the classifier takes for two classes at once. Real images between two classes are "
        "among them: compare with held-out real images, not with zero.",
        scale=100, better="floor",
    ),
    Metric(
        "excess_mode_mixture", "mode mixture above real", "quality",
        "The same share less that of held-out real images.", scale=100, better="lower",
    ),
    Metric(
        "fit_seconds", "s to fit", "seed", "Seconds that fitting the prior took, once.", better="lower",
    ),
    Metric(
        "break_even", "breaks even after", "seed",
        "Number of images after which the time that fitting the prior took is saved, against the N(0, I) row that "
        "is as good in the least time; if none is, against the fastest of those whose intervals overlap the best's.",
        better="lower",
    ),
    Metric(
        "seconds_per_image", "s / image", "seed", "Seconds an image took, on the machine named below.",
        better="lower",
    ),
)  # fmt: skip


def family(row: dict[str, Any]) -> str:
    """What kind of start a row has, whatever its sampler and number of evaluations."""
    kind = (row.get("prior"), row.get("noise"))
    name = _FAMILIES.get(kind) or _FAMILIES.get((kind[0], None))
    return name or row.get("label") or "samples"


def start_label(row: dict[str, Any]) -> str:
    """The row's own label, or its family's name where it has none."""
    return row.get("label") or family(row)


def start_detail(row: dict[str, Any]) -> str:
    """Where and how the sampler starts: "t* = 500 · DPM++2M · trailing"."""
    parts = []
    if row.get("start_timestep") is not None:
        parts.append(f"{'t' if row.get('prior') == 'none' else 't*'} = {row['start_timestep']:g}")
    parts += [row[key] for key in ("scheduler", "spacing") if row.get(key)]
    if row.get("guidance") not in (None, 1):
        parts.append(f"guidance {row['guidance']:g}")
    if row.get("smoothing"):
        parts.append(f"smoothing {row['smoothing']:g}")
    return " · ".join(parts)


def interval(row: dict[str, Any], key: str) -> Interval | None:
    """The 95% interval of figure `key`, infinite where the data set no limit; or None."""
    return limits(row.get(f"{key}_interval"))


def limits(ends: Sequence[float | None] | None) -> Interval | None:
    """An interval of report.json, whose null ends are infinite."""
    if ends is None:
        return None
    low, high = ends
    return -math.inf if low is None else low, math.inf if high is None else high


def quality(report: dict[str, Any], row: dict[str, Any]) -> tuple[float | None, Interval | None]:
    """FID above the floor with its interval: as measured, else the FID less the floor.

    In the second case the interval is the FID's, shifted: it leaves out the floor's own error. Without a
    floor it is the FID itself.
    """
    if row.get("excess_fid") is not None:
        return row["excess_fid"], interval(row, "excess_fid")
    if row.get("fid") is None:
        return None, None
    floor = report["reference"].get("fid_floor") or 0.0
    ends = interval(row, "fid")
    return row["fid"] - floor, None if ends is None else (ends[0] - floor, ends[1] - floor)


def with_excess(report: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The row with its FID above the floor, where a floor is known and the row was not given one."""
    if report["reference"].get("fid_floor") is None or row.get("excess_fid") is not None:
        return row
    value, ends = quality(report, row)
    return row | {"excess_fid": value, "excess_fid_interval": ends}


def quality_name(report: dict[str, Any]) -> str:
    """What `quality` returns, in words."""
    known = report["reference"].get("fid_floor") is not None
    return "FID above held-out real images" if known else "FID (no floor was measured)"


def copies_more(report: dict[str, Any], row: dict[str, Any]) -> bool | None:
    """Whether a row's share of copies lies more than `COPY_MARGIN` above that of held-out images.

    None where either was not measured.
    """
    level = real_copy_rate(report, row)
    if level is None or row.get("copy_rate") is None:
        return None
    return row["copy_rate"] > level + COPY_MARGIN


def real_copy_rate(report: dict[str, Any], row: dict[str, Any]) -> float | None:
    """How often held-out images count as copies of the atoms that the row's samples could be copies of."""
    own = row.get("held_out_copy_rate")
    return report["reference"].get("copy_rate") if own is None else own


def reference_row(report: dict[str, Any]) -> dict[str, Any]:
    """The held-out real images in the form of a row, to stand in the same table."""
    reference = report["reference"]
    row = {name: value for name, value in reference.items() if not name.startswith("fid_floor")}
    floor: Sequence[float] | None = reference.get("fid_floor_interval")
    return row | {
        "label": reference.get("label") or "held-out real images",
        "fid": reference["fid_floor"],
        "fid_interval": floor,
        "excess_fid": None if reference["fid_floor"] is None else 0.0,
        "samples": reference["n"],
    }
