"""What reproductions that train their own networks share: settings as they hold here, images as files, features."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from otprior.data.images import ImageSet, to_uint8
from otprior.experiments.comparison import Listener, StageProgress
from otprior.experiments.sampling import network_precision
from otprior.metrics.features import classify, save_extractor
from otprior.utils.files import output_file
from otprior_studies.papers.reproduction import Request
from otprior_studies.training.classifier import train_classifier


def settled(request: Request) -> Request:
    """The request with every precision that is "auto" as what it means on this machine."""
    given = request.settings
    auto = [entry.name for entry in fields(given) if getattr(given, entry.name) == "auto"]
    return replace(request, settings=replace(given, **dict.fromkeys(auto, network_precision("auto"))))


def write_images(path: Path, images: ImageSet) -> None:
    """Writes 8-bit images with their labels, as `load_images` reads them."""
    assert images.labels is not None
    with output_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, images=to_uint8(images.images), labels=images.labels.numpy())


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
        images: That it is trained on, labelled.
        validation: That its accuracy is measured on, labelled.
        folder: Where it is and goes.
        name: Printed beside every figure.
        dim: Number of features.
        epochs: Of the training.
        listen: Called after each.
    """
    if folder.is_dir():
        return
    assert images.labels is not None
    assert validation.labels is not None

    def told(epoch: int, loss: float) -> None:
        listen(StageProgress("training the classifier", epoch, epochs, f"loss {loss:.3f}"))

    extractor = train_classifier(
        images.images,
        images.labels,
        name=name,
        classes=int(images.labels.max()) + 1,
        dim=dim,
        epochs=epochs,
        listen=told,
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
