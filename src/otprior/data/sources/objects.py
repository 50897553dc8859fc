"""Images that Python hands over: Hugging Face and torch data sets, loaders, lists and generators.

An item is a picture (of Pillow, or as bytes, or the path of a file), pixels (an array or tensor of two or three axes),
a pair (image, label), or a dictionary with one of `IMAGE_KEYS` and perhaps a label. Arrays of four axes and more are
batches, and so is all that a `DataLoader` yields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.data.sources.source import IMAGE_KEYS, LABEL_KEYS, Item, Source
from otprior.utils.files import require_regular
from otprior.utils.validation import invalid, require


class IterableSource(Source):
    """Whatever can be iterated.

    Arguments:
        data: A torch data set, a `DataLoader`, a list, a generator.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._once = isinstance(data, Iterator)
        self._used = False
        self._batched = isinstance(data, torch.utils.data.DataLoader)
        # (The length of a loader, or of a list of batches, is another number.)
        in_batches = isinstance(data, list | tuple) and any(getattr(each, "ndim", 0) >= 4 for each in data)
        known = hasattr(data, "__len__") and not self._batched and not in_batches
        self.count = len(data) if known else None
        self.name = type(data).__name__

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        rule = "something that can be iterated again, such as a list"
        require(not (self._once and self._used), "data", rule, "a generator that has been used up")
        self._used = True
        if rows is not None and hasattr(self._data, "__getitem__"):
            for row in sorted(rows):
                yield from _unpacked(self._data[row], row, False)
            return
        row = 0
        for value in self._values():
            for item in _unpacked(value, row, self._batched):
                if rows is None or row in rows:
                    yield item
                row += 1

    def _values(self) -> Iterator[Any]:
        if hasattr(self._data, "__iter__"):
            yield from self._data
        else:
            # A torch data set need only know its length and its items.
            for row in range(len(self._data)):
                yield self._data[row]


class HubDatasetSource(Source):
    """A `datasets.Dataset` or `IterableDataset`: its pictures are decoded here, with this package's care.

    Arguments:
        data: The data set; one part of it, such as `dataset["train"]`.
    """

    def __init__(self, data: Any) -> None:
        import datasets

        features = data.features
        if features is None:
            features = data._resolve_features().features
        pictures = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
        if not pictures:
            pictures = [key for key in IMAGE_KEYS if key in features]
        require(len(pictures) > 0, "data", "a data set with a column of images", f"one with {list(features)}")
        self._image = next((key for key in pictures if key in IMAGE_KEYS), pictures[0])
        classes = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        labels = [key for key in LABEL_KEYS if key in features]
        self._label = (labels or classes or [None])[0]
        self.class_names = tuple(features[self._label].names) if self._label in classes else None
        data = data.select_columns([key for key in (self._image, self._label) if key is not None])
        if isinstance(features[self._image], datasets.Image):
            data = data.cast_column(self._image, datasets.Image(decode=False))
        self._data = data
        self.count = len(data) if hasattr(data, "__len__") else None
        self.name = str(getattr(getattr(data, "info", None), "dataset_name", None) or "images")

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        if rows is not None and self.count is not None:
            data, numbers = self._data.select(sorted(rows)), iter(sorted(rows))
        else:
            data, numbers = self._data, iter(range(1 << 62))
        for row, value in zip(numbers, data):
            if rows is None or row in rows:
                label = None if self._label is None else value[self._label]
                yield Item(self._content(value[self._image]), label, f"row {row} of {self.name}")

    def _content(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return np.asarray(value) if isinstance(value, list) else value
        if value.get("bytes") is not None:
            return value["bytes"]
        path = value.get("path")
        if path is not None and Path(path).is_file():
            return Path(path)
        import datasets

        # What is read from elsewhere while it streams.
        return datasets.Image().decode_example(dict(value))


def _unpacked(value: Any, row: int, batched: bool) -> Iterator[Item]:
    """The images of one value that an iterable yielded."""
    image, label = _image_and_label(value)
    batch = batched or (isinstance(image, np.ndarray | Tensor) and image.ndim >= 4)
    if not batch:
        where = str(image) if isinstance(image, str | Path) else f"image {row}"
        if isinstance(image, str | Path):
            require_regular(image, "picture")
            image = Path(image)
        yield Item(image, _plain(label), where)
        return
    labels = None if label is None else np.asarray(label).reshape(-1).tolist()
    fits = labels is None or len(labels) == len(image)
    require(fits, "labels of a batch", f"{len(image)}, one an image", len(labels or ()))
    for k, each in enumerate(image):
        yield Item(each, None if labels is None else labels[k], f"image {row + k}")


def _image_and_label(value: Any) -> tuple[Any, Any]:
    if isinstance(value, Mapping):
        image = next((value[key] for key in IMAGE_KEYS if key in value), None)
        if image is None:
            raise invalid(
                "data", f"items with one of {', '.join(IMAGE_KEYS)}", f"with {sorted(map(str, value))}"
            )
        return image, next((value[key] for key in LABEL_KEYS if key in value), None)
    if isinstance(value, tuple | list):
        require(len(value) > 0, "data", "items that are images, or pairs of image and label", "an empty one")
        label = value[1] if len(value) > 1 else None
        # (Targets may be captions, boxes and whatever else.)
        return value[0], label if _is_label(label) else None
    return value, None


def _is_label(label: Any) -> bool:
    """Whether it is a whole number, or an array or list of them."""
    if isinstance(label, Tensor):
        return label.ndim <= 1 and not (label.is_floating_point() or label.is_complex())
    if isinstance(label, np.ndarray | np.integer):
        return label.ndim <= 1 and label.dtype.kind in "iu"
    return all(isinstance(each, int) for each in (label if isinstance(label, list | tuple) else (label,)))


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.ndarray | Tensor | np.generic) else label
