"""Trains the classifier whose penultimate layer gives the bundled features.

Trains on the 60,000 training images of Fashion-MNIST alone; the 10,000 test images are read once, at the
end, for the accuracy that is stored beside the weights. `otprior.training.classifier` does the training.

    python scripts/train_classifier.py            # about 4 minutes on one core
    python scripts/build_assets.py                # then refresh the manifest
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from fashion_mnist import ASSETS, CLASS_NAMES, DEFAULT_SOURCE, read_source
from torch import Tensor

from otprior.metrics.features import (
    FeatureExtractor,
    classify,
    extract_features,
    load_extractor,
    save_extractor,
)
from otprior.training import train_classifier


def pixels(images: np.ndarray) -> Tensor:
    """uint8 (N, 28, 28) to float32 (N, 1, 28, 28) in [-1, 1]."""
    return torch.from_numpy(images.copy()).float().div_(127.5).sub_(1.0).unsqueeze(1)


def accuracy(model: FeatureExtractor, images: Tensor, labels: Tensor) -> float:
    return float((classify(model, images) == labels).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=DEFAULT_SOURCE, help="folder of the four IDX files")
    parser.add_argument("--out", type=Path, default=ASSETS / "classifier", help="replaced when training ends")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    data = read_source(arguments.source)
    images, labels = pixels(data["train"].images), torch.tensor(data["train"].labels).long()
    start = time.monotonic()

    def show(epoch: int, loss: float) -> None:
        seconds = time.monotonic() - start
        print(f"epoch {epoch}/{arguments.epochs}  loss {loss:.4f}  {seconds:.0f} s", flush=True)

    model = train_classifier(
        images,
        labels,
        name="fashion-mnist-cnn-128",
        classes=len(CLASS_NAMES),
        class_names=CLASS_NAMES,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        rate=arguments.rate,
        seed=arguments.seed,
        listen=show,
    )

    test_images, test_labels = pixels(data["test"].images), torch.tensor(data["test"].labels).long()
    full_accuracy, full = accuracy(model, test_images, test_labels), extract_features(model, test_images)
    model.half().float()  # rounded weights are what is stored, so their accuracy is what is stated
    model.info = {
        "trained_on": "the 60,000 training images of Fashion-MNIST (MIT licence, Zalando SE)",
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
        "torch": torch.__version__,
        "stored_precision": "float16, run in float32",
        "test_accuracy": round(accuracy(model, test_images, test_labels), 4),
        "test_images": len(test_images),
    }
    save_extractor(model, arguments.out, torch.float16, overwrite=True)
    rounded = extract_features(load_extractor(arguments.out), test_images)
    error = float((rounded - full).double().norm() / full.double().norm())
    print(f"test accuracy {full_accuracy:.4f} in float32, {model.info['test_accuracy']:.4f} as stored")
    print(f"features as stored differ by {error:.2e} (relative, root mean square)")


if __name__ == "__main__":
    main()
