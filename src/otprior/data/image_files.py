"""Readers of image files: folders of pictures, .npz and .npy, .safetensors, and the folders of `otprior sample`.

They return arrays as they stand in the files; `otprior.data.images.load_images` checks and scales them.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from otprior.utils.files import read_json
from otprior.utils.validation import invalid, require

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}

# What marks a folder of `otprior sample`; `otprior.data.samples` describes such folders.
STARTS_FILE = "starts.npz"
REPORT_FILE = "report.json"
ARRAYS_FILE = "images.npz"


class ImageFile(NamedTuple):
    """What a file or folder holds.

    Attributes:
        values: (N, C, H, W) or (N, H, W), uint8 or floating.
        labels: (N,), or None.
        class_names: One name for each label, where subfolders have names.
        as_sampled: Whether the values are a sampler's float32, which may overshoot [-1, 1]; None if they are not of
            `otprior sample`, and could be anything.
    """

    values: Tensor | np.ndarray
    labels: Tensor | np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    as_sampled: bool | None = None


def read_image_file(path: Path, channels: int | None = None) -> ImageFile:
    """Reads whatever is at `path`.

    Arguments:
        path: A file or folder.
        channels: Number of channels C, to tell (N, C, H, W) from (N, H, W, C).

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If a file is damaged, of an unknown kind, or holds Python objects.
    """
    if not path.exists():
        raise FileNotFoundError(f"data {path}: there is no such file or folder")
    if (path / STARTS_FILE).is_file():
        return _read_sample_folder(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix in (".npz", ".npy"):
        return _read_numpy(path, channels)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise invalid("data", "a folder of images, or a .npz, .npy or .safetensors file", path)


def read_starts(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a sample folder's starts.npz: `seeds`, and where there are any `labels` and `sources`."""
    path = folder / STARTS_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        # (numpy and zipfile raise a dozen kinds.)
        raise ValueError(f"{path} is damaged: {error}") from error


def read_sample_report(folder: Path) -> dict[str, Any]:
    """The report.json of a sample folder; {} where there is none."""
    path = folder / REPORT_FILE
    report = read_json(path) if path.is_file() else {}
    return report if isinstance(report, dict) else {}


def _read_sample_folder(folder: Path) -> ImageFile:
    in_one_file = (folder / ARRAYS_FILE).is_file()
    floating = in_one_file and (read_sample_report(folder).get("settings") or {}).get("pixels") == "float32"
    if in_one_file:
        found = _read_numpy(folder / ARRAYS_FILE, None, channels_first=floating)
    else:
        found = _read_folder(folder / "images")
    starts = read_starts(folder)
    for name, values in starts.items():
        count = len(found.values)
        require(len(values) == count, f"{name} of {folder / STARTS_FILE}", f"{count}", len(values))
    return ImageFile(found.values, starts.get("labels"), as_sampled=floating)


def _read_numpy(path: Path, channels: int | None, channels_first: bool = False) -> ImageFile:
    try:
        # Mapped, so that a file larger than memory can be fitted; copied on write, as tensors are writable.
        loaded = np.load(path, mmap_mode="c", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"images": loaded}
        else:
            with loaded:
                wanted = [key for key in ("images", "labels", "arr_0", "arr_1") if key in loaded]
                arrays, names = {key: loaded[key] for key in wanted}, list(loaded)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        reason = f"damaged or not a numpy file: {error}"
        if isinstance(error, ValueError) and re.search("pickle|Python object", str(error)):
            reason = "damaged or holds Python objects, which are never loaded; save plain arrays"
        raise ValueError(f"{path} is {reason}") from error
    key, label_key = ("images", "labels") if "images" in arrays else ("arr_0", "arr_1")
    if key not in arrays:
        raise invalid(str(path), "a file with an array named 'images'", names)
    images, labels = arrays[key], arrays.get(label_key)
    if images.ndim == 4 and not channels_first:
        last = (channels,) if channels in (images.shape[1], images.shape[3]) else (1, 3, 4)
        if images.shape[3] in last:
            images = images.transpose(0, 3, 1, 2)
    return ImageFile(images, labels)


def _read_safetensors(path: Path) -> ImageFile:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    require("images" in tensors, str(path), "a file with a tensor named 'images'", sorted(tensors))
    return ImageFile(tensors["images"], tensors.get("labels"))


def _read_folder(folder: Path) -> ImageFile:
    """uint8 images (N, C, H, W), labels and class names of a folder of image files."""
    from PIL import Image, UnidentifiedImageError

    paths = sorted(path for path in folder.rglob("*") if _is_image_file(path, folder))
    require(len(paths) > 0, "data", "a folder with image files", f"{folder}, which has none")
    first: tuple[Path, np.ndarray] | None = None
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
                pixels = _pixels_of(image, path)
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is damaged or not an image: {error}") from error
        if first is None:
            first = (path, pixels)
        if pixels.shape != first[1].shape:
            raise ValueError(
                f"images of {folder} must be of one size and kind; {first[0].name} is {_describe(first[1])}, "
                f"{path.relative_to(folder)} is {_describe(pixels)}"
            )
        images.append(pixels)
    labels, class_names = _labels_of([path.relative_to(folder) for path in paths])
    return ImageFile(np.stack(images), labels, class_names)


def _is_image_file(path: Path, folder: Path) -> bool:
    # Hidden files and folders hold thumbnails and resource forks, not data.
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()


def _pixels_of(image: Any, path: Path) -> np.ndarray:
    """uint8 (C, H, W) of an opened image: grey stays grey, a palette becomes RGB, the rest is refused."""
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")
    rule = "8-bit grey or RGB without transparency"
    require(image.mode in ("L", "RGB"), str(path), rule, f"an image of mode {image.mode}", "Convert it first")
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _describe(pixels: np.ndarray) -> str:
    channels, height, width = pixels.shape
    return f"{height}x{width} with {channels} channel(s)"


def _labels_of(paths: list[Path]) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels by top-level subfolder, if every image lies in one and there are at least two."""
    names = sorted({path.parts[0] for path in paths if len(path.parts) > 1})
    if len(names) < 2 or any(len(path.parts) == 1 for path in paths):
        return None, None
    if all(name.isascii() and name.isdigit() for name in names):
        return np.array([int(path.parts[0]) for path in paths]), None
    index = {name: label for label, name in enumerate(names)}
    return np.array([index[path.parts[0]] for path in paths]), tuple(names)
