"""Images in one array: .npz, .npy and .safetensors files, and arrays in memory.

Python objects are never loaded (`otprior.utils.numpy_files`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from otprior.data.images import check_labels
from otprior.data.layout import as_tensor, channels_first
from otprior.data.sources.source import Item, Source
from otprior.utils.files import require_regular
from otprior.utils.numpy_files import load_numpy
from otprior.utils.validation import invalid, require


class ArraySource(Source):
    """Images of an array, with labels.

    Arguments:
        values: An array or tensor.
        labels: (N,), or None.
        path: The file that they are from, or None.
        strict: Whether a layout that can be read in two ways is refused.
    """

    def __init__(
        self, values: Any, labels: Any = None, path: Path | None = None, strict: bool = True
    ) -> None:
        self._values, self._labels, self._strict = values, labels, strict
        self.name = "images" if path is None else path.stem
        self.path = None if path is None else str(path)
        self._where = "images" if path is None else f"images of {path}"
        has_rows = getattr(values, "ndim", 0) > 0
        require(has_rows, self._where, "of shape (N, C, H, W) or (N, H, W)", getattr(values, "shape", values))
        self.count = len(values)
        if labels is not None:
            self._labels = check_labels(labels, self.count, name=f"labels of {path or 'the data'}")

    def whole(self, channels: int | None, latents: bool) -> tuple[Tensor, Any]:
        values = channels_first(self._values, channels, latents, self._strict, self._where)
        return as_tensor(values, self._where, copy=self.path is None), self._labels

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        for row in range(len(self._values)) if rows is None else sorted(rows):
            label = None if self._labels is None else int(self._labels[row])
            yield Item(self._values[row], label, f"{self._where}, row {row}")


def open_arrays(path: Path) -> ArraySource:
    """The source of a .npz, .npy or .safetensors file.

    Raises:
        ValueError: If the file is damaged, holds Python objects or no images, or is no regular file.
    """
    if path.suffix == ".safetensors":
        arrays, keys = _read_safetensors(path), ("images", "labels")
    else:
        arrays = load_numpy(path, ("images", "labels", "arr_0", "arr_1"))
        keys = ("images", "labels") if "images" in arrays else ("arr_0", "arr_1")
    if keys[0] not in arrays:
        raise invalid(str(path), "a file with an array named 'images'", sorted(arrays))
    values, labels = arrays[keys[0]], arrays.get(keys[1])
    # (Tensors are (N, C, H, W) by agreement.)
    return ArraySource(values, labels, path, strict=path.suffix != ".safetensors")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_regular(path, "data")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
