"""The bundled images at 16 x 16, as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from otprior.data import bundled
from otprior_studies.papers.material import write_images

BORDER, FACTOR = 2, 2


def shrunk(images: Tensor) -> Tensor:
    """Images (N, C, 28, 28) in [-1, 1] with a dark border of two pixels, averaged over 2 x 2: (N, C, 16, 16)."""
    return avg_pool2d(pad(images, (BORDER,) * 4, value=-1.0), FACTOR)


def image_files(folder: Path, atoms: int) -> dict[str, Path]:
    """The files of the bundled parts, written unless they are there; of the atoms the first so many."""
    paths = {}
    for name in ("atoms", *bundled.SPLITS):
        path = folder / (f"atoms-{atoms}.npz" if name == "atoms" else f"{name}.npz")
        if not path.is_file():
            images = bundled.atoms().select(slice(atoms)) if name == "atoms" else bundled.split(name)
            write_images(path, replace(images, images=shrunk(images.images)))
        paths[name] = path
    return paths
