"""Quality and copying of samples, from features and pixels, with intervals.

`evaluate` computes all figures of a set of samples at once, compared with a `Reference`; the parts are here for other
uses. Features come from an extractor (`load_extractor`, `extract_features`): name it with every figure, since figures
of different extractors do not compare.
"""

from __future__ import annotations

from otprior.metrics.classes import mixture_mask
from otprior.metrics.copying import Atoms, copy_mask, duplicate_rate
from otprior.metrics.evaluation import Reference, evaluate
from otprior.metrics.extractors import load_extractor
from otprior.metrics.features import FeatureExtractor, extract_features
from otprior.metrics.frechet import FeatureMoments, frechet_distance
from otprior.metrics.intervals import (
    Interval,
    block_interval,
    bootstrap_mean,
    paired_difference,
    paired_share_difference,
    ratio_interval,
    seed_set_interval,
)
from otprior.metrics.kernel import KernelSample, kernel_distance
from otprior.metrics.neighbours import nearest, precision_recall_density_coverage

__all__ = [
    "Atoms",
    "FeatureExtractor",
    "FeatureMoments",
    "Interval",
    "KernelSample",
    "Reference",
    "block_interval",
    "bootstrap_mean",
    "copy_mask",
    "duplicate_rate",
    "evaluate",
    "extract_features",
    "frechet_distance",
    "kernel_distance",
    "load_extractor",
    "mixture_mask",
    "nearest",
    "paired_difference",
    "paired_share_difference",
    "precision_recall_density_coverage",
    "ratio_interval",
    "seed_set_interval",
]
