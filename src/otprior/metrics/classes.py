"""Figures of class-conditional samples: does an image have the class that was asked for, and is it a good one of it?

- *Class accuracy*: the share of samples that the classifier takes for the class asked for. Real images have one too
  (the classifier is not perfect), and a full sampler of the network has one that no shortcut need beat.
- *Class FID*: the Fréchet distance of each class's samples to the real images of that class, averaged over classes. It
  sees what an FID over all classes does not: images of the wrong class in the right number. Being of few images each
  it is biased upward more; compare it above that of held-out real images in the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from otprior.metrics.frechet import FeatureMoments, frechet_distance
from otprior.metrics.intervals import block_interval, bootstrap_mean

MOST_BLOCKS = 5


def class_moments(features: Tensor, labels: Tensor) -> list[FeatureMoments]:
    """Moments of each class 0, 1, …, of features (N, D) with labels (N,)."""
    return [FeatureMoments.from_features(features[labels == k]) for k in range(int(labels.max()) + 1)]


def class_figures(
    features: Tensor,
    predicted: Tensor,
    labels: Tensor,
    reference: Sequence[FeatureMoments],
    generator: torch.Generator,
) -> dict[str, Any]:
    """Class accuracy and class FID of samples, with intervals.

    Arguments:
        features: Shape (n, D).
        predicted: The classifier's classes, int64 (n,).
        labels: The classes asked for, int64 (n,), with equally many of each up to one.
        reference: Moments of the real images of each class.
        generator: Source of resampling and blocks.

    Returns:
        "class_accuracy" and "class_fid" with their "_interval"; "class_fid" is None with fewer than two images of
        some class, and its interval with fewer than four.
    """
    accuracy = bootstrap_mean(predicted == labels, generator)
    figures: dict[str, Any] = {
        "class_accuracy": accuracy.estimate,
        "class_accuracy_interval": accuracy.limits(),
        "class_fid": None,
        "class_fid_interval": None,
    }
    classes, dim = len(reference), features.shape[1]
    smallest = int(torch.bincount(labels, minlength=classes).min())
    if smallest < 2:
        return figures
    distances = [frechet_distance(features[labels == k], reference[k]) for k in range(classes)]
    figures["class_fid"] = sum(distances) / classes
    if smallest < 4:
        return figures
    # One image of each class makes a row, so that a block of rows holds every class as often as any other.
    grouped = torch.stack([features[labels == k][:smallest] for k in range(classes)], dim=1)

    def mean_distance(rows: Tensor) -> float:
        parts = rows.reshape(len(rows), classes, dim)
        return sum(frechet_distance(parts[:, k], reference[k]) for k in range(classes)) / classes

    blocks = min(MOST_BLOCKS, smallest // 2)
    spread = block_interval(mean_distance, grouped.flatten(1), generator, blocks)
    half = spread.hi - spread.estimate
    figures["class_fid_interval"] = [max(figures["class_fid"] - half, 0.0), figures["class_fid"] + half]
    return figures
