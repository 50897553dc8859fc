"""Trains a classifier whose penultimate layer gives the features that quality is measured with.

It trains on your own labelled images, of a height and width divisible by 4; or, if you name none, it trains the
bundled classifier on the 60,000 training images of Fashion-MNIST. Test images are read once, at the end, for the
accuracy that is stored with the weights. `otprior_studies.training.classifier` does the training.

    python scripts/train_classifier.py train.npz --test test.npz --name mine --out classifier
    python scripts/train_classifier.py            # the bundled one: about 4 minutes on one core
    python scripts/build_assets.py                # then refresh the manifest
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import torch
from fashion_mnist import ASSETS, CLASS_NAMES, DEFAULT_SOURCE, read_source

from otprior.data.images import ImageSet, to_pixels
from otprior.data.streams import load_images
from otprior.metrics.features import (
    FeatureExtractor,
    classify,
    extract_features,
    load_classifier,
    save_extractor,
)
from otprior.utils.files import check_output_dir
from otprior_studies.training.classifier import train_classifier


def bundled_images(source: Path) -> dict[str, ImageSet]:
    """The training and test images of Fashion-MNIST, keyed "train" and "test"."""
    name = "Fashion-MNIST (MIT licence, Zalando SE)"
    return {
        key: ImageSet(
            to_pixels(torch.from_numpy(part.images.copy()).unsqueeze(1)),
            torch.tensor(part.labels).long(),
            name,
            class_names=CLASS_NAMES,
        )
        for key, part in read_source(source).items()
    }


def accuracy(model: FeatureExtractor, images: ImageSet) -> float:
    return float((classify(model, images.images) == images.labels).double().mean())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="?", help="labelled images: a folder of one folder a class, .npz or .safetensors"
    )
    parser.add_argument("--test", help="further labelled images, of as many classes, for the accuracy")
    parser.add_argument(
        "--name", help="name of the features, which every report shows; by default the name of DATA"
    )
    parser.add_argument("--out", type=Path, help="a new folder; without DATA the bundled folder is replaced")
    parser.add_argument(
        "--source", type=Path, default=DEFAULT_SOURCE, help="without DATA: folder of the four IDX files"
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    own = arguments.data is not None
    if own != (arguments.out is not None) or (not own and (arguments.test or arguments.name)):
        parser.error("DATA and --out go together; --test and --name need both")
    return arguments


def load_data(arguments: argparse.Namespace) -> tuple[ImageSet, ImageSet | None]:
    """The labelled images to train on, and those for the accuracy, if there are any."""
    if arguments.data is None:
        train, test = bundled_images(arguments.source).values()
        return train, test
    train = load_images(arguments.data)
    test = load_images(arguments.test) if arguments.test else None
    if train.labels is None or (test is not None and test.labels is None):
        sys.exit("train_classifier.py: the images have to be labelled")
    return train, test


def train(arguments: argparse.Namespace, images: ImageSet) -> FeatureExtractor:
    start = time.monotonic()

    def show(epoch: int, loss: float) -> None:
        seconds = time.monotonic() - start
        print(f"epoch {epoch}/{arguments.epochs}  loss {loss:.4f}  {seconds:.0f} s", flush=True)

    assert images.labels is not None
    return train_classifier(
        images.images,
        images.labels,
        name="fashion-mnist-cnn-128" if arguments.data is None else arguments.name or images.name,
        classes=int(images.labels.max()) + 1,
        class_names=images.class_names,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        rate=arguments.rate,
        seed=arguments.seed,
        listen=show,
    )


def main() -> None:
    arguments = parse_arguments()
    own = arguments.data is not None
    out = arguments.out if own else ASSETS / "classifier"
    if own:
        check_output_dir(out)
    torch.set_num_threads(arguments.threads)
    images, test = load_data(arguments)
    model = train(arguments, images)
    seen = images if test is None else test
    full = extract_features(model, seen.images)
    model.half().float()  # the stored weights are rounded, so the accuracy is that of rounded weights
    model.info = {
        "trained_on": f"the {len(images):,} training images of {images.name}",
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
        "torch": torch.__version__,
        "stored_precision": "float16, run in float32",
    }
    if test is not None:
        model.info |= {"test_accuracy": round(accuracy(model, test), 4), "test_images": len(test)}
        print(f"test accuracy {model.info['test_accuracy']:.4f}")
    if not own:
        shutil.rmtree(out)  # it is under version control
    save_extractor(model, out, torch.float16)
    rounded = extract_features(load_classifier(out), seen.images)
    error = float((rounded - full).double().norm() / full.double().norm())
    print(f"features as stored differ by {error:.2e} (relative, root mean square)")


if __name__ == "__main__":
    main()
