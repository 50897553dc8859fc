"""Quality and copying of samples, from features and pixels, with intervals.

`evaluate` computes all figures of a report's row at once; the parts are here for other uses. Features come
from `otprior.metrics.features`, and figures mean nothing without the name of the extractor beside them.
"""

from __future__ import annotations

from otprior.metrics.copying import (
    Atoms,
    below_quantile,
    copy_mask,
    duplicate_rate,
    first_equal,
    source_mask,
)
from otprior.metrics.evaluation import Reference, evaluate
from otprior.metrics.frechet import FeatureMoments, frechet_distance
from otprior.metrics.intervals import (
    Interval,
    block_interval,
    bootstrap_mean,
    disjoint_blocks,
    paired_difference,
    paired_share_difference,
    ratio_interval,
    seed_set_interval,
)
from otprior.metrics.kernel import KernelSample, kernel_distance
from otprior.metrics.modes import mixture_mask
from otprior.metrics.neighbours import nearest, precision_recall_density_coverage

__all__ = [
    "Atoms",
    "FeatureMoments",
    "Interval",
    "KernelSample",
    "Reference",
    "below_quantile",
    "block_interval",
    "bootstrap_mean",
    "copy_mask",
    "disjoint_blocks",
    "duplicate_rate",
    "evaluate",
    "first_equal",
    "frechet_distance",
    "kernel_distance",
    "mixture_mask",
    "nearest",
    "paired_difference",
    "paired_share_difference",
    "precision_recall_density_coverage",
    "ratio_interval",
    "seed_set_interval",
    "source_mask",
]
