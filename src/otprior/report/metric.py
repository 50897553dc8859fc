"""Figures of a report's rows: how each is called, shown and to be read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from otprior.report.record import Limits


@dataclass(frozen=True)
class Metric:
    """A figure of a row, and how it is shown.

    Attributes:
        key: Name in report.json.
        heading: Name in tables.
        meaning: One or two sentences for a reader who knows diffusers but not transport.
        scale: What the stored value is multiplied by (100 for shares, shown in per cent).
    """

    key: str
    heading: str
    meaning: str
    scale: float = 1.0

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

    def interval_text(self, limits: Limits | None) -> str:
        """The 95% interval as shown; nothing for an absent one."""
        if limits is None:
            return ""
        low, high = (
            "" if end is None or math.isinf(end) else self.text(end).removesuffix("%") for end in limits
        )
        if low and high:
            return f"[{low}, {high}]"
        return f"≤ {high}" if high else f"≥ {low}" if low else ""


METRICS = (
    Metric(
        "excess_fid", "FID above floor",
        "The FID less that of held-out real images. Zero means: on these features, as good as unseen "
        "real images. It is the figure to compare.",
    ),
    Metric(
        "copy_rate", "copies",
        "Share of samples whose nearest training image is more than 1.5 times nearer, in pixels, than the "
        "second nearest: an image that singles out one training image. Held-out real images have such "
        "neighbours too, so their share is the level to compare with, not zero.",
        scale=100,
    ),
    Metric(
        "source_rate", "from source",
        "Share of samples whose nearest training image is the very one that their start was built on. "
        "It tells how much of that image came through the sampler; closeness of this kind is not yet a "
        "copy. Only starts built on an image have it.",
        scale=100,
    ),
    Metric(
        "duplicate_rate", "duplicates",
        "Share of samples that equal an earlier sample of the same row. A start drawn from a finite list "
        "repeats itself as soon as the list is used up.",
        scale=100,
    ),
    Metric(
        "fid", "FID",
        "Fréchet distance between the samples and the reference images, on features of the classifier "
        "named in this report. Zero is best; it does not compare with published (Inception) FIDs, and it "
        "grows as the number of images falls.",
    ),
    Metric(
        "kid", "KID × 1000",
        "Kernel distance on the same features, times 1000. Unbiased at any number of images; it may fall "
        "below zero when two sets cannot be told apart.",
        scale=1000,
    ),
    Metric(
        "precision", "precision",
        "Share of samples that fall inside the region of the real images.",
    ),
    Metric(
        "recall", "recall",
        "Share of real images that fall inside the region of the samples: variety.",
    ),
    Metric(
        "density", "density",
        "As precision, but counting in how many real neighbourhoods a sample lies; may exceed 1.",
    ),
    Metric(
        "coverage", "coverage",
        "Share of real images with a sample in their neighbourhood.",
    ),
    Metric(
        "nearest_pixel_distance", "nearest, pixels",
        "Distance from a sample to its nearest training image, in pixels, on average.",
    ),
    Metric(
        "nearest_pixel_below_1pct", "closer than 1% (pixels)",
        "Share of samples nearer to a training image, in pixels, than 99% of held-out real images are: "
        "1% by construction for real images.",
        scale=100,
    ),
    Metric(
        "nearest_feature_distance", "nearest, features",
        "Distance from a sample to its nearest training image, on the classifier's features, on average.",
    ),
    Metric(
        "nearest_feature_below_1pct", "closer than 1% (features)",
        "The same share with distances on the classifier's features.",
        scale=100,
    ),
    Metric(
        "seed_agreement", "seed kept",
        "Share of seeds for which this row and the full sampler, started from the same noise, give images "
        "of the same class. Chance is one over the number of classes.",
        scale=100,
    ),
    Metric(
        "seed_likeness", "like the seed's",
        "Cosine between the features of a sample and those of the full sampler's image of the same seed, on average.",
    ),
    Metric(
        "seed_pixel_distance", "from the seed's, pixels",
        "Distance from a sample to the full sampler's image of the same seed, in pixels, on average.",
    ),
    Metric(
        "class_accuracy", "class kept",
        "Share of samples that the classifier takes for the class they were asked to be.",
        scale=100,
    ),
    Metric(
        "excess_class_fid", "class FID above floor",
        "FID of each class's samples to the real images of that class, averaged over classes, less that of "
        "held-out real images.",
    ),
    Metric(
        "mode_mixture", "mode mixture",
        "Share of samples that the classifier takes for two classes at once. Real images between two classes are "
        "among them: compare with held-out real images, not with zero.",
        scale=100,
    ),
    Metric(
        "excess_mode_mixture", "mode mixture above real",
        "The same share less that of held-out real images.", scale=100,
    ),
    Metric(
        "fit_seconds", "s to fit", "Seconds that fitting the prior took, once.",
    ),
    Metric(
        "break_even", "breaks even after",
        "Number of images after which the time that fitting the prior took is saved, against the N(0, I) row that "
        "is as good in the least time; if none is, against the fastest of those whose intervals overlap the best's.",
    ),
    Metric(
        "seconds_per_image", "s / image", "Seconds an image took, on the machine named below.",
    ),
)  # fmt: skip

METRIC = {metric.key: metric for metric in METRICS}
