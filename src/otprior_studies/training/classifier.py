"""Training the classifier whose penultimate layer gives the features of a data set.

There is no augmentation and no label smoothing: features should distinguish the errors that a generator may make (a
mirrored shoe, a shifted digit). A training takes a few minutes, so an interrupted one begins again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from otprior.metrics.features import FeatureExtractor
from otprior.utils.validation import check_integer, require

DROPOUT = 0.3
WEIGHT_DECAY = 0.05


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    name: str,
    classes: int,
    epochs: int = 8,
    batch_size: int = 128,
    rate: float = 3e-3,
    seed: int = 0,
    listen: Callable[[int, float], None] = lambda epoch, loss: None,
    **options: Any,
) -> FeatureExtractor:
    """Trains a feature extractor by AdamW with a one-cycle rate; one seed gives weights, order and dropout.

    Arguments:
        images: (N, C, H, W) in [-1, 1], H and W divisible by 4.
        labels: (N,), in 0 … classes − 1.
        name: Name of the features, printed with every figure measured with them.
        classes: Number of classes.
        epochs: Passes over the images.
        batch_size: Images in a step.
        rate: Largest learning rate.
        seed: Seed of every draw.
        listen: Called after each epoch with its number, from 1, and its mean loss.
        options: Further options of `FeatureExtractor`.

    Returns:
        The extractor in evaluation mode, float32.
    """
    check_integer("epochs", epochs, 1)
    check_integer("batch_size", batch_size, 2)
    require(len(images) == len(labels) >= 2, "labels", "one an image, of two images or more", len(labels))
    fits = int(labels.min()) >= 0 and int(labels.max()) < classes
    require(fits, "labels", f"in [0, {classes - 1}]", f"up to {int(labels.max())}")
    channels, height, width = (int(size) for size in images.shape[1:])
    # Layers and dropout draw from the global generator, whose state is restored for the caller.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FeatureExtractor(name, image_shape=(channels, height, width), classes=classes, **options)
        # (torch's own annotations lack memory formats.)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        _train(model, images, labels, epochs, batch_size, rate, seed, listen)
    return model.to(memory_format=torch.contiguous_format).eval()


def _train(
    model: FeatureExtractor,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    batch_size: int,
    rate: float,
    seed: int,
    listen: Callable[[int, float], None],
) -> None:
    dropout = nn.Dropout(DROPOUT)
    steps = -(-len(images) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps * epochs, pct_start=0.25
    )
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images), generator=generator).split(batch_size):
            batch = images[rows].contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model.head(dropout(model(batch))), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        listen(epoch + 1, total / len(images))
