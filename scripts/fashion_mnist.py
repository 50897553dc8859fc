"""Reads Fashion-MNIST as Debian's package `dataset-fashion-mnist` installs it: four gzipped IDX files."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEFAULT_SOURCE = Path("/usr/share/datasets/fashion-mnist")
ASSETS = Path(__file__).resolve().parents[1] / "src" / "otprior" / "data" / "assets" / "fashion-mnist"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


@dataclass(frozen=True)
class LabelledImages:
    """uint8 images (N, 28, 28) and labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes: magic 0, 0, 8, ndim; the sizes as big-endian uint32; the data."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    ndim = content[3]
    shape = tuple(np.frombuffer(content, ">u4", count=ndim, offset=4).tolist())
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * ndim)
    if values.size != np.prod(shape):
        raise ValueError(f"{path} holds {values.size} bytes of data where its header says {shape}")
    return values.reshape(shape)


def read_source(folder: Path) -> dict[str, LabelledImages]:
    """The training and test images, keyed "train" and "test".

    Raises:
        FileNotFoundError: If one of the four files is missing.
    """
    for name in (name for pair in FILES.values() for name in pair):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: install Debian's dataset-fashion-mnist, or pass --source"
            )
    return {
        part: LabelledImages(*(read_idx(folder / name) for name in names)) for part, names in FILES.items()
    }
