"""Figures by class: against their definitions, and against samples of which the answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from otprior.metrics import frechet_distance
from otprior.metrics.classes import class_figures, class_moments

CLASSES, DIM = 3, 4


def features(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`count` rows of each class, around means far apart, in turn; and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(count)
    rows = torch.randn(len(labels), DIM, generator=generator) + 5.0 * labels[:, None]
    return rows, labels


def measured(rows: Tensor, labels: Tensor, predicted: Tensor | None = None) -> dict[str, float]:
    real, real_labels = features(400, seed=9)
    generator = torch.Generator().manual_seed(0)
    reference = class_moments(real, real_labels)
    return class_figures(rows, labels if predicted is None else predicted, labels, reference, generator)


def test_class_fid_is_the_mean_over_classes() -> None:
    rows, labels = features(50)
    real, real_labels = features(400, seed=9)
    parts = [frechet_distance(rows[labels == k], real[real_labels == k]) for k in range(CLASSES)]
    figures = measured(rows, labels)
    assert figures["class_fid"] == pytest.approx(sum(parts) / CLASSES)
    low, high = figures["class_fid_interval"]
    assert 0 <= low <= figures["class_fid"] <= high


def test_class_fid_sees_what_an_fid_over_all_classes_does_not() -> None:
    """The right images under the wrong labels."""
    rows, labels = features(50)
    swapped = measured(rows, (labels + 1) % CLASSES)
    # Means two or one times 5 √4 apart: 100, 100 and 400.
    assert swapped["class_fid"] == pytest.approx(200, rel=0.1)
    assert measured(rows, labels)["class_fid"] < 1


def test_class_accuracy_is_a_share_with_exact_limits_for_few_misses() -> None:
    _, labels = features(20)
    rows = torch.randn(60, DIM, generator=torch.Generator().manual_seed(1))
    predicted = labels.clone()
    predicted[:3] = (labels[:3] + 1) % CLASSES
    figures = measured(rows, labels, predicted)
    assert figures["class_accuracy"] == pytest.approx(57 / 60)
    # Clopper & Pearson for 57 of 60.
    assert figures["class_accuracy_interval"] == pytest.approx([0.8608, 0.9896], abs=1e-3)


@pytest.mark.parametrize(("count", "fid", "interval"), [(1, False, False), (3, True, False), (4, True, True)])
def test_few_images_of_a_class_have_no_figure(count: int, fid: bool, interval: bool) -> None:
    figures = measured(*features(count))
    assert (figures["class_fid"] is not None, figures["class_fid_interval"] is not None) == (fid, interval)
