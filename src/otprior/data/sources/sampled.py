"""Folders that `otprior sample` wrote, as `otprior.data.samples` describes them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.data.sources.arrays import ArraySource
from otprior.data.sources.source import Item, Source
from otprior.data.sources.tree import FolderTree, TreeSource
from otprior.utils.files import read_json
from otprior.utils.numpy_files import load_numpy
from otprior.utils.validation import require

# The first marks such a folder.
STARTS_FILE = "starts.npz"
REPORT_FILE = "report.json"
ARRAYS_FILE = "images.npz"

ELSEWHERE = "Measure films and sounds by .npz files of features that you make of them."


class SampledSource(Source):
    """Images that were sampled, with the labels asked for.

    Attributes:
        floating: Whether they are a sampler's float32, whose range is known, and which overshoots it a little.
    """

    def __init__(self, folder: Path) -> None:
        self.name, self.path = folder.stem, str(folder)
        in_one_file = (folder / ARRAYS_FILE).is_file()
        settings = read_sample_report(folder).get("settings") or {}
        self.floating = in_one_file and settings.get("pixels") == "float32"
        self._inner: Source
        if in_one_file:
            images: Any = load_numpy(folder / ARRAYS_FILE, ("images",)).get("images")
            require(
                images is not None, str(folder / ARRAYS_FILE), "a file with an array named 'images'", "none"
            )
            require(np.ndim(images) < 5, f"samples of {folder}", "pictures", "films", ELSEWHERE)
            if not self.floating and images.ndim == 4:
                images = images.transpose(0, 3, 1, 2)
            self._inner = ArraySource(images, None, folder / ARRAYS_FILE, strict=False)
        else:
            pictures = folder / "images"
            sounds = (folder / "sounds").is_dir() or (folder / "sounds.npz").is_file()
            films = pictures.is_dir() and any(each.is_dir() for each in pictures.iterdir())
            kind = "sounds" if sounds else "films"
            require(not (films or sounds), f"samples of {folder}", "pictures", kind, ELSEWHERE)
            self._inner = TreeSource(FolderTree(pictures))
        self.count = self._inner.count
        starts = read_starts(folder)
        for name, values in starts.items():
            right = len(values) == self.count
            require(right, f"{name} of {folder / STARTS_FILE}", f"{self.count}", len(values))
        self._labels = starts.get("labels")

    def whole(self, channels: int | None, latents: bool) -> tuple[Tensor, Any] | None:
        found = self._inner.whole(None, True)
        if found is None:
            return None
        images = found[0]
        if self.floating and not latents:
            images = images.clamp(-1.0, 1.0)
        return images, None if self._labels is None else torch.from_numpy(self._labels)

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        numbers = range(self.count or 0) if rows is None else sorted(rows)
        for row, item in zip(numbers, self._inner.items(rows)):
            label = None if self._labels is None else int(self._labels[row])
            image = item.image
            if self.floating:
                image = np.clip(image, -1.0, 1.0)
            yield Item(image, label, item.where)


def read_starts(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a sample folder's starts.npz: `seeds`, and where there are any `labels` and `sources`.

    Raises:
        ValueError: If it is damaged, without seeds, or one of these is no row of integers.
    """
    starts = load_numpy(folder / STARTS_FILE)
    for name in ("seeds", "labels", "sources"):
        array = starts.get(name)
        right = name != "seeds" if array is None else array.dtype.kind in "iu" and array.ndim == 1
        require(
            right, f"{name} of {folder / STARTS_FILE}", "a row of integers", getattr(array, "dtype", None)
        )
    return starts


def read_sample_report(folder: Path) -> dict[str, Any]:
    """The report.json of a sample folder; {} where there is none.

    Raises:
        ValueError: If it is damaged, or its rows and settings are no objects.
    """
    path = folder / REPORT_FILE
    report = read_json(path) if path.is_file() else {}
    require(isinstance(report, dict), str(path), "a JSON object", type(report).__name__)
    rows, settings = report.get("rows") or [], report.get("settings") or {}
    whole = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    require(whole, f"rows of {path}", "a list of objects", f"{rows!r:.40}")
    require(isinstance(settings, dict), f"settings of {path}", "an object", f"{settings!r:.40}")
    return report
