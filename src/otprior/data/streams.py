"""Images read block by block from any source, or all at once.

`open_images` looks at a source and reads nothing more of it than it has to; an `ImageStream` then hands out blocks of
float32 images, so that what needs each image once (moments) never holds them all. `load_images` reads all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from otprior.data.images import (
    MOST_CLASSES,
    ImageSet,
    PixelRule,
    ValueRange,
    check_images,
    check_labels,
    to_pixels,
)
from otprior.data.layout import as_tensor, channels_first
from otprior.data.pictures import Preparation, Size, as_picture, opened
from otprior.data.sources import find_source
from otprior.data.sources.sampled import SampledSource
from otprior.data.sources.source import Item, Source
from otprior.data.sources.tree import numbered
from otprior.utils.validation import check_integer, invalid, require

logger = logging.getLogger(__name__)

BLOCK = 256


class _Pixels(NamedTuple):
    """One image as an array (C, H, W), its label, and what errors call it."""

    values: Tensor
    label: int | str | None
    where: str


@dataclass
class ImageStream:
    """Images that are read when they are iterated: blocks (B, C, H, W), float32, in [-1, 1] unless they are latents.

    Attributes:
        source: Where they come from.
        preparation: What is done to pictures.
        size: Height and width that they must have, or None.
        channels: Channels that they must have, or None.
        value_range: Of floating-point pixels; see `otprior.data.images.to_pixels`.
        license: Under what terms; None if not given.
        films: Whether arrays may be films (N, C, F, H, W).
        rows: Numbers of the images that are read, ascending; None for all.
        shape: (C, H, W), known after the first block.
        labels: Always None: a stream makes no prior conditional; `read` has the labels.

    Examples:
        >>> stream = open_images(images.images)
        >>> [tuple(block.shape) for block in stream]
        [(200, 1, 28, 28)]
    """

    source: Source
    preparation: Preparation = field(default_factory=Preparation)
    size: tuple[int, int] | None = None
    channels: int | None = None
    value_range: ValueRange = "auto"
    license: str | None = None
    films: bool = False
    rows: Tensor | None = None
    shape: tuple[int, ...] | None = None
    labels: None = None
    _read: int = 0

    @property
    def count(self) -> int | None:
        """How many images there are; None if that is known only once they have been read."""
        if self.rows is not None:
            return len(self.rows)
        return self.source.count if self.source.count is not None else (self._read or None)

    def __len__(self) -> int:
        if self.count is None:
            raise TypeError("the number of images is known only once they have been read")
        return self.count

    @property
    def name(self) -> str:
        """What errors call the images."""
        return f"images of {self.source.path}" if self.source.path else "images"

    def __iter__(self) -> Iterator[Tensor]:
        return (block for block, _ in self.labelled())

    def labelled(self) -> Iterator[tuple[Tensor, list[int | str | None]]]:
        """The blocks, each with the labels of its images (None where there are none).

        Raises:
            ValueError: If there is no image, or one is not of the size, range or kind that was asked for.
        """
        rule, read = PixelRule(self._range, self.name), 0
        whole = self._whole()
        for values, labels in self._blocks() if whole is None else self._split(*whole):
            block = rule.convert(values)
            read += len(block)
            self.shape = tuple(block.shape[1:])
            yield block, labels
        require(read > 0, self.name, "one at least", "none")
        rule.finish()
        self._read = read

    def _split(self, values: Tensor, labels: Any) -> Iterator[tuple[Tensor, list[int | str | None]]]:
        """Blocks of an array."""
        _check_form(values.shape[1:], self)
        for rows in (torch.arange(len(values)) if self.rows is None else self.rows).split(BLOCK):
            some = [None] * len(rows) if labels is None else labels[rows]
            yield values[rows], [None if label is None else int(label) for label in some]

    def read(self) -> ImageSet:
        """All images, with their labels.

        Raises:
            ValueError: If there is no image, or one is not of the size, range or kind that was asked for.
        """
        whole = self._whole()
        if whole is not None:
            values, given = whole
            if self.rows is not None:
                values, given = values[self.rows], None if given is None else given[self.rows]
            if self._range is None or values.ndim == 5:
                _check_form(values.shape[1:], self)
                checked = to_pixels(values, self._range, self.name)
            else:
                wanted: dict[str, Any] = {"size": self.size, "channels": self.channels}
                checked = check_images(values, **wanted, value_range=self._range, name=self.name)
            return self._set(checked, given, self.source.class_names)
        rule, filled = PixelRule(self._range, self.name), 0
        images: Tensor | None = None
        labels: list[int | str | None] = []
        waiting: list[Tensor] = []
        for values, more in self._blocks():
            labels += more
            if self.count is None:
                waiting.append(values)  # (As they came: pictures are a quarter of their size.)
                continue
            block = rule.convert(values)
            if images is None:
                images = block.new_empty((self.count, *block.shape[1:]))
            require(filled + len(block) <= self.count, self.name, f"the {self.count:,} that it says", "more")
            images[filled : filled + len(block)] = block
            filled += len(block)
        if waiting:
            images = torch.empty((sum(map(len, waiting)), *waiting[0].shape[1:]))
            while waiting:
                block = rule.convert(waiting.pop(0))
                images[filled : filled + len(block)] = block
                filled += len(block)
        if images is None:
            raise invalid(self.name, "one at least", "none")
        rule.finish()
        found, names = self._numbered(labels)
        return self._set(images[:filled], found, names)

    def sample(self, count: int, seed: int = 0) -> ImageStream:
        """`count` of the images, drawn without replacement; others are not decoded. The same as `ImageSet.sample`.

        Raises:
            ValueError: If it is not known how many there are.
        """
        if self.count is None:
            raise invalid("limit", "left out where the number of images is not known beforehand", count)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(self.count, generator=generator)[:count].sort().values
        return replace(self, rows=chosen if self.rows is None else self.rows[chosen])

    @property
    def _range(self) -> ValueRange:
        # What `otprior sample` wrote has a known range.
        if isinstance(self.source, SampledSource):
            own: ValueRange = (-1.0, 1.0) if self.source.floating else "auto"
            return None if self.value_range is None and self.source.floating else own
        return self.value_range

    def _whole(self) -> tuple[Tensor, Any] | None:
        """All values (N, C, H, W) and labels, where they are an array that needs no preparation."""
        if self.preparation.changes:
            return None
        found = self.source.whole(self.channels, self.value_range is None)
        if found is None:
            return None
        values, labels = found
        if labels is not None:
            labels = check_labels(labels, len(values), name=f"labels of {self.source.path or 'the data'}")
        grey = values.ndim == 3 and self._range is not None
        return (values[:, None] if grey else values), labels

    def _blocks(self) -> Iterator[tuple[Tensor, list[int | str | None]]]:
        """Blocks of values (B, C, H, W) as they are in the source, with labels."""
        rows = None if self.rows is None else set(self.rows.tolist())
        found = _Found(self)
        pixels = (found.pixels(item) for item in self.source.items(rows))
        while part := list(islice(pixels, BLOCK)):
            yield torch.stack([each.values for each in part]), [each.label for each in part]
        found.report()

    def _numbered(self, labels: list[int | str | None]) -> tuple[Any, tuple[str, ...] | None]:
        known = [label for label in labels if label is not None]
        if not known:
            return None, None
        rule = "given for all images or for none"
        require(len(known) == len(labels), f"labels of {self.name}", rule, f"{len(known)} of {len(labels)}")
        found, names = numbered(known, f"labels of {self.name}")
        return torch.tensor(found), names or self.source.class_names

    def _set(self, images: Tensor, labels: Any, names: tuple[str, ...] | None) -> ImageSet:
        if labels is not None:
            labels = check_labels(labels, len(images), name=f"labels of {self.source.path or 'the data'}")
        return ImageSet(images, labels, self.source.name, self.source.path, self.license, names)


class _Found:
    """Turns the items of a stream into pixels of one size, and counts what was done to them."""

    def __init__(self, stream: ImageStream) -> None:
        self._stream = stream
        self._first: tuple[str, torch.Size, torch.dtype] | None = None
        self._changed = self._seen = 0

    def pixels(self, item: Item) -> _Pixels:
        """The item's values, decoded, prepared and checked."""
        image = item.image
        if isinstance(image, bytes | Path):
            with opened(image, item.where) as picture:
                values = self._prepared(picture, item.where)
        elif hasattr(image, "getbands"):
            # (A picture of Pillow is its owner's: it was opened by them.)
            from PIL import ImageOps

            values = self._prepared(ImageOps.exif_transpose(image), item.where)
        else:
            values = self._array(image, item.where)
        self._check(values, item.where)
        self._seen += 1
        return _Pixels(values, item.label, item.where)

    def _prepared(self, picture: Any, where: str) -> Tensor:
        pixels = self._stream.preparation.apply(picture, where)
        self._changed += pixels.shape[1:] != (picture.height, picture.width)
        return torch.from_numpy(np.array(pixels))

    def _array(self, values: Any, where: str) -> Tensor:
        stream = self._stream
        tensor = as_tensor(values, where)
        latent = stream.value_range is None
        if not latent:
            require(tensor.ndim in (2, 3), where, "of shape (C, H, W) or (H, W)", tuple(tensor.shape))
        if tensor.ndim == 2 and not latent:
            tensor = tensor[None]
        tensor = channels_first(tensor[None], stream.channels, latent, strict=False)[0]
        if not stream.preparation.changes:
            return tensor
        eight_bit = tensor.dtype == torch.uint8 and len(tensor) in (1, 3)
        require(eight_bit, where, "8-bit grey or RGB, to be resized, cropped or converted", tensor.dtype)
        return self._prepared(as_picture(tensor.numpy()), where)

    def _check(self, values: Tensor, where: str) -> None:
        stream = self._stream
        if self._first is None:
            self._first = where, values.shape, values.dtype
            _check_form(values.shape, stream)
        name, shape, dtype = self._first
        if (values.shape, values.dtype) != (shape, dtype):
            hint = "Choose a size and colours by resize=, crop= and convert="
            got = f"{name} is {_describe(shape, dtype)}, {where} is {_describe(values.shape, values.dtype)}"
            raise invalid(stream.name, "of one size and kind", got, hint)

    def report(self) -> None:
        """Says how many pictures were resized or cropped because a network's size asks for it."""
        target = self._stream.preparation.target
        if self._changed and target is not None and not self._stream.preparation.changes:
            logger.warning(
                "%d of %d pictures were resized by their shorter side and cut in the centre to %d x %d, as the model "
                "has it",
                self._changed,
                self._seen,
                *target[1:],
            )


def open_images(
    data: Any,
    *,
    size: Size | None = None,
    channels: int | None = None,
    value_range: ValueRange = "auto",
    resize: Size | None = None,
    crop: Size | None = None,
    convert: str | None = None,
    adapt: bool = False,
    license: str | None = None,
) -> ImageStream:
    """A stream of images, of whatever holds them.

    Args:
        data: A path, or an object: what `load_images` says.
        size: Height and width that images must have; an integer means square.
        channels: Number of channels they must have.
        value_range: Of floating-point pixels; see `otprior.data.images.to_pixels`.
        resize, crop, convert: What is done to pictures, nothing by default: the length of the shorter side, or (height,
            width); the side of the square cut from the centre, or (height, width); "RGB" or "L". See `Preparation`.
        license: Recorded with the images; nothing is inferred from files.
        adapt: Whether larger pictures may be brought to `size`, and grey ones to 3 `channels`: resized by the shorter
            side and cut in the centre, with a warning that says so. `resize`, `crop` and `convert` go before it.

    Examples:
        >>> stream = open_images("photos.zip", resize=64, crop=64, convert="RGB")
        >>> prior = GaussianPrior.fit(stream, schedule)  # one pass, in constant memory
    """
    sides = (size, size) if isinstance(size, int) else size
    target = (channels, *sides) if adapt and sides is not None and channels is not None else None
    preparation = Preparation(resize, crop, convert, target)
    return ImageStream(find_source(data), preparation, sides, channels, value_range, license)


def load_images(data: Any, *, labels: Any = None, num_classes: int | None = None, **options: Any) -> ImageSet:
    """Images with their labels, read whole and checked. Pictures are 8-bit grey or RGB; EXIF orientation is applied.

    - a folder or `.zip` of pictures, in the order of their paths (`otprior.data.sources.tree` says where labels come
      from: `dataset.json`, `metadata.jsonl`, or subfolders);
    - `.npz` with arrays `images` and, if there are any, `labels` (or `arr_0` and `arr_1`); or `.npy`. Arrays
      are (N, H, W), (N, H, W, C) or (N, C, H, W): the last axis is C if it is `channels`, or 1, 3 or 4;
    - `.safetensors` with tensors `images` (N, C, H, W) or (N, H, W) and perhaps `labels`;
    - `.parquet` with a column of pictures, `.tar` as webdataset has it, or a folder of either;
    - a folder that `otprior sample` wrote, with the labels that it sampled. Its float32 images are clipped to
      [-1, 1], unless `value_range` is None;
    - a Hugging Face data set (streaming or not), a torch `Dataset` or `DataLoader`, an array, or anything that yields
      pictures of Pillow, arrays or tensors, or pairs of these with labels.

    Args:
        data: A path, or an object.
        labels: Integers (N,) that replace those of the data.
        num_classes: Labels must be below it.
        **options: Those of `open_images`.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If a file is damaged, of an unknown kind, holds Python objects, or breaks a rule.

    Examples:
        >>> load_images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)).images.unique()
        tensor([-1.])
    """
    stream = open_images(data, **options)
    if num_classes is not None:
        check_integer("num_classes", num_classes, 1, MOST_CLASSES)
    images = stream.read()
    name = f"labels of {stream.source.path or 'the data'}"
    if labels is not None:
        return replace(images, labels=check_labels(labels, len(images), num_classes, name), class_names=None)
    if images.labels is not None:
        check_labels(images.labels, len(images), num_classes, name)
    return images


def _check_form(shape: torch.Size, stream: ImageStream) -> None:
    """Requires the size and channels that a stream is to have."""
    name, hint = stream.name, "Choose by resize=, crop= and convert= how they become so"
    if len(shape) != 3:
        rule = "(N, C, H, W)" + ", or films (N, C, F, H, W)" * stream.films
        require(stream.value_range is None or (stream.films and len(shape) == 4), name, rule, tuple(shape))
        if len(shape) != 4:
            return
    channels, height, width = shape[0], shape[-2], shape[-1]
    if stream.size is not None:
        wanted = stream.size
        require((height, width) == wanted, name, f"{wanted[0]}x{wanted[1]}", f"{height}x{width}", hint)
    if stream.channels is not None:
        require(channels == stream.channels, name, f"of {stream.channels} channel(s)", f"{channels}")


def _describe(shape: torch.Size, dtype: torch.dtype) -> str:
    if len(shape) != 3:
        return f"of shape {tuple(shape)}"
    kind = "" if dtype == torch.uint8 else f" of {dtype}"
    return f"{shape[1]}x{shape[2]} with {shape[0]} channel(s){kind}"
