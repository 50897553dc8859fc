"""What papers that train their own networks share: images as files, and the classifier whose features judge them."""

from __future__ import annotations

from pathlib import Path

import torch

from otprior.data.images import ImageSet, to_uint8
from otprior.experiments.study import Listener, StageProgress
from otprior.metrics.features import classify, save_extractor
from otprior.utils.arrays import write_arrays
from otprior_studies.training.classifier import train_classifier


def write_images(path: Path, images: ImageSet) -> None:
    """Writes 8-bit images with their labels, as `load_images` reads them."""
    assert images.labels is not None
    write_arrays(path, {"images": to_uint8(images.images), "labels": images.labels.numpy()}, compressed=True)


def train_features(
    images: ImageSet,
    validation: ImageSet,
    folder: Path,
    *,
    name: str,
    dim: int,
    epochs: int,
    listen: Listener,
) -> None:
    """Trains the classifier whose features a study is judged by, and saves it, unless it is there.

    Arguments:
        images: Labelled images to train on.
        validation: Labelled images on which its accuracy is measured.
        folder: The classifier's folder.
        name: Its name in reports.
        dim: Number of features.
        epochs: Epochs of the training.
        listen: Called after each epoch.
    """
    if folder.is_dir():
        return
    assert images.labels is not None
    assert validation.labels is not None

    def report(epoch: int, loss: float) -> None:
        listen(StageProgress("training the classifier", epoch, epochs, f"loss {loss:.3f}"))

    extractor = train_classifier(
        images.images,
        images.labels,
        name=name,
        classes=int(images.labels.max()) + 1,
        dim=dim,
        epochs=epochs,
        listen=report,
    )
    extractor.half().float()  # as it is stored
    right = classify(extractor, validation.images) == validation.labels
    extractor.info = {
        "trained_on": f"{len(images)} images",
        "epochs": epochs,
        "validation_accuracy": round(float(right.double().mean()), 4),
        "validation_images": len(validation),
        "torch": torch.__version__,
    }
    save_extractor(extractor, folder, torch.float16)
