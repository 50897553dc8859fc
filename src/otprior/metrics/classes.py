"""Figures from a classifier: whether images have the class asked for, how good they are of it, how many are mixed.

- *Class accuracy*: the share of samples that the classifier takes for the class asked for. Compare it with that of real
  images (the classifier is not perfect) and of the network's full sampler.
- *Class FID*: the Fréchet distance of each class's samples to the real images of that class, averaged over classes. It
  sees what an FID over all classes does not: images of the wrong class in the right number. As each class has few
  images it is biased upward more; compare its excess over that of as many held-out real images.
- *Mode mixture*: the share of images that the classifier takes for two things at once, at least two classes having a
  probability of at least `limit`. Real images that lie between two classes are mixed too, the more of them the weaker
  the classifier: what the sampler adds is the difference from held-out real images. The rule is that of the evaluation
  script published with DPM-OT, which tries limits from 0.1 to 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from otprior.metrics.frechet import FeatureMoments, frechet_distance
from otprior.metrics.intervals import block_interval, bootstrap_mean
from otprior.utils.validation import require

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
        labels: The classes asked for, int64 (n,).
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


def mixture_mask(logits: Tensor, limit: float) -> Tensor:
    """Finds mixed images: those that a classifier takes for two things at once.

    Arguments:
        logits: The classifier's, shape (n, classes), at least two classes.
        limit: Probability that at least two classes reach, in (0, 0.5].

    Returns:
        True for mixed images, shape (n,), bool.

    Raises:
        ValueError: If there are not at least two classes, or the limit is not in (0, 0.5].

    Examples:
        >>> mixture_mask(torch.tensor([[2.0, 2.0, -3.0], [9.0, 0.0, 0.0]]), limit=0.4)
        tensor([ True, False])
    """
    right = logits.ndim == 2 and logits.shape[1] >= 2
    require(right, "logits", "of shape (n, classes) with two classes at least", tuple(logits.shape))
    require(0.0 < limit <= 0.5, "limit", "in (0, 0.5]: two classes cannot both reach more", limit)
    second = torch.softmax(logits.double(), dim=1).topk(2, dim=1).values[:, 1]
    return second >= limit
