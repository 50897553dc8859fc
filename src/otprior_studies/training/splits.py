"""Splits images by hashes rather than by a random generator, so that a split can be checked in any language.

Images are in ascending order of the hexadecimal SHA-256 of the ASCII text "<key>/<index>".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from otprior.data.images import ImageSet
from otprior.utils.validation import require


def in_hash_order(key: str, indices: np.ndarray) -> np.ndarray:
    """`indices` in ascending order of SHA-256 of "<key>/<index>"."""
    return np.array(sorted(indices.tolist(), key=lambda i: hashlib.sha256(f"{key}/{i}".encode()).hexdigest()))


def split_images(images: ImageSet, sizes: Mapping[str, int], key: str) -> dict[str, ImageSet]:
    """Disjoint parts of the given sizes, by name.

    Raises:
        ValueError: If there are fewer images than that.
    """
    wanted = sum(sizes.values())
    require(len(images) >= wanted, f"images {images.name}", f"at least {wanted}", len(images))
    order = torch.from_numpy(in_hash_order(key, np.arange(len(images))))
    parts = order[:wanted].split(list(sizes.values()))
    return {
        name: replace(images.select(part), name=f"{images.name}/{name}")
        for name, part in zip(sizes, parts, strict=True)
    }


def select_classes(images: ImageSet, classes: Sequence[int]) -> ImageSet:
    """The images of some classes, relabelled 0, 1, … in the order given.

    Raises:
        ValueError: If the images have no labels, a class is given twice, or one has no image.
    """
    require(images.labels is not None, f"images {images.name}", "labelled", "without labels")
    assert images.labels is not None
    require(len(set(classes)) == len(classes) > 0, "classes", "different", list(classes))
    new = torch.full_like(images.labels, -1)
    for place, label in enumerate(classes):
        chosen = images.labels == label
        require(bool(chosen.any()), "classes", f"among the labels of {images.name}", label)
        new[chosen] = place
    rows = torch.nonzero(new >= 0).reshape(-1)
    names = images.class_names
    kept = None if names is None else tuple(names[label] for label in classes)
    return replace(images.select(rows), labels=new[rows], class_names=kept)
