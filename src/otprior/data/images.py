"""Images in and out, and what the library believes about them.

Inside the library an image is a float32 tensor (C, H, W) with pixels in [-1, 1]; on disk it is 8-bit,
u = round(127.5 (x + 1)). What comes from outside is read strictly: nothing is resized, rescaled, clipped
or unpickled on a guess, because a prior fitted to images on [0, 1] samples grey fog and says nothing.

- uint8 maps to [-1, 1] by u / 127.5 − 1;
- floats must lie in [-1, 1], and some must be below −0.05: if none is, they are probably on [0, 1], and
  the caller says so with `value_range=(0, 1)` or denies it with `value_range=(-1, 1)`;
- `value_range=None` takes values as they are (latents).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from otprior.data.layout import as_tensor, channels_first
from otprior.utils.validation import check_finite, invalid, require

ValueRange = tuple[float, float] | Literal["auto"] | None

# Half-precision and resampled data overshoot by rounding; more than this is another range.
SLACK = 1e-3
MOST_OF_A_MASK = 16  # (scikit-learn's digits have 17 levels)
LOOKS_NON_NEGATIVE = -0.05
# A prior keeps something for each class up to the highest label.
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels and where they come from.

    Attributes:
        images: float32 (N, C, H, W), in [-1, 1] unless they are latents.
        labels: int64 (N,), or None.
        name: What reports call this set.
        source: File, folder or package the images come from.
        license: Under what terms; None if not given.
        class_names: One name a label, where known.

    Examples:
        >>> ImageSet(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), license="MIT").labels
        tensor([0, 1])
    """

    images: Tensor
    labels: Tensor | None = None
    name: str = "images"
    source: str | None = None
    license: str | None = None
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the shape, as text, and the float32 values in C order: the same from any file format."""
        values = self.images.detach().cpu().contiguous().numpy().astype("<f4", copy=False)
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def sample(self, count: int, seed: int = 0) -> ImageSet:
        """`count` of the images, drawn without replacement, in the order that they stand in: folders go by class."""
        generator = torch.Generator().manual_seed(seed)
        return self.select(torch.randperm(len(self), generator=generator)[:count].sort().values)

    def select(self, index: slice | Tensor) -> ImageSet:
        """The images (and labels) at `index`, a slice or shape (n,), with the same provenance."""
        labels = self.labels[index] if self.labels is not None else None
        return replace(self, images=self.images[index], labels=labels)


def to_pixels(values: Tensor | np.ndarray, value_range: ValueRange = "auto", name: str = "images") -> Tensor:
    """Float32 values in [-1, 1], of any shape, by the rules at the head of this module.

    Args:
        values: uint8 or floating; at least one value.
        value_range: "auto"; (low, high), which maps linearly to [-1, 1]; or None for latents.
        name: What an error calls them.

    Raises:
        ValueError: On NaN or infinity, values outside the range, a range that looks wrong, other types.
    """
    rule = PixelRule(value_range, name)
    pixels = rule.convert(as_tensor(values, name))
    rule.finish()
    return pixels


class PixelRule:
    """The rules of `to_pixels` for values that come in parts: `convert` each, then `finish`.

    Arguments:
        value_range: See `to_pixels`.
        name: What errors call the values.
    """

    def __init__(self, value_range: ValueRange, name: str) -> None:
        self._range = value_range if value_range in ("auto", None) else _checked_range(value_range)
        self._name = name
        self._low, self._high = float("inf"), float("-inf")
        self._bytes = False

    def convert(self, values: Tensor) -> Tensor:
        """Float32 values in [-1, 1], or as they are if they are latents.

        Raises:
            ValueError: As `to_pixels`, but for what only all values together show.
        """
        name, value_range = self._name, self._range
        require(values.numel() > 0, name, "not empty", f"shape {tuple(values.shape)}")
        is_uint8 = values.dtype == torch.uint8
        rule = "floating where value_range is None"
        require(not (is_uint8 and value_range is None), name, rule, values.dtype)
        require(is_uint8 or values.is_floating_point(), name, "uint8 or floating", values.dtype)
        if is_uint8 and value_range == "auto":
            self._bytes, self._high = True, max(self._high, float(values.max()))
            return values.to(torch.float32).div_(127.5).sub_(1.0)
        check_finite(name, values)
        pixels = values.to(torch.float32)
        if value_range is None:
            return pixels
        low, high = float(pixels.min()), float(pixels.max())
        came = f"values in [{low:.4g}, {high:.4g}]"
        if value_range == "auto":
            self._low = min(self._low, low)
            hint = "Pass value_range=(low, high) to say what range they have, or value_range=None for latents"
            require(low >= -1 - SLACK and high <= 1 + SLACK, name, "in [-1, 1]", came, hint)
            return pixels.clamp(-1.0, 1.0)
        bottom, top = value_range
        slack = SLACK * (top - bottom) / 2
        require(low >= bottom - slack and high <= top + slack, name, f"in [{bottom:g}, {top:g}]", came)
        if (bottom, top) != (-1.0, 1.0):  # the identity is kept exact
            pixels = (pixels - bottom) * (2.0 / (top - bottom)) - 1.0
        return pixels.clamp(-1.0, 1.0)

    def finish(self) -> None:
        """Looks at what all values together show.

        Raises:
            ValueError: If floats look as if they were on [0, 1], or 8-bit values are a mask or few levels, from 0.
        """
        if self._bytes and 0 < self._high <= MOST_OF_A_MASK:
            came = f"0 to {self._high:g} only, which are shades of black"
            hint = f"For a mask or few levels pass value_range=(0, {self._high:g})"
            raise invalid(self._name, "8-bit pixels up to 255", came, hint)
        if self._low != float("inf") and self._low >= LOOKS_NON_NEGATIVE:
            rule = f"in [-1, 1] with some value below {LOOKS_NON_NEGATIVE}"
            hint = "If they are on [0, 1] pass value_range=(0, 1); if on [-1, 1] all the same, value_range=(-1, 1)"
            raise invalid(self._name, rule, f"values of {self._low:.4g} and more", hint)


def _checked_range(value_range: Any) -> tuple[float, float]:
    rule = '"auto", None, or a pair (low, high) with low < high'
    require(
        isinstance(value_range, Sequence) and len(value_range) == 2, "value_range", rule, repr(value_range)
    )
    bottom, top = value_range
    numbers = all(isinstance(end, int | float) for end in (bottom, top))
    require(numbers and bottom < top, "value_range", rule, repr(value_range))
    return float(bottom), float(top)


def check_images(
    images: Tensor | np.ndarray,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    value_range: ValueRange = "auto",
    name: str = "images",
) -> Tensor:
    """Images as the library wants them: float32 (N, C, H, W) in [-1, 1].

    Args:
        images: (N, C, H, W), or (N, H, W) for one channel; uint8 or floating. Pictures as (N, H, W, C) are recognised
            by a last axis of 1, 3 or 4 where the second is none of these.
        size: Height and width they must have; an integer means square.
        channels: Number of channels they must have.
        value_range: See `to_pixels`.
        name: What an error calls them.

    Raises:
        ValueError: If shape or values break a rule. Nothing is resized or converted to fit.

    Examples:
        >>> check_images(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)).flatten()
        tensor([-1.,  1.])
    """
    images = channels_first(images, channels, value_range is None, strict=False, name=name)
    shape = tuple(images.shape)
    require(len(shape) in (3, 4), name, "of shape (N, C, H, W) or (N, H, W)", shape)
    if len(shape) == 3:
        images, shape = images[:, None], (shape[0], 1, *shape[1:])
    if size is not None:
        wanted = (size, size) if isinstance(size, int) else tuple(size)
        hint = "Resize them first: how is a choice that changes results"
        require(shape[2:] == wanted, name, f"{wanted[0]}x{wanted[1]}", f"{shape[2]}x{shape[3]}", hint)
    if channels is not None:
        require(shape[1] == channels, name, f"of {channels} channel(s)", f"{shape[1]}")
    return to_pixels(images, value_range, name)


def check_labels(labels: Any, n: int, num_classes: int | None = None, name: str = "labels") -> Tensor:
    """Class labels as int64 (n,), each in [0, num_classes).

    Args:
        labels: A tensor, array or sequence of integers.
        n: How many there must be: one an image.
        num_classes: By default as many as there may be at all.
        name: What an error calls them.

    Raises:
        ValueError: If a label is not an integer or out of range (the first such row is named).
    """
    if not isinstance(labels, Tensor):
        values = np.array(labels)
        require(values.dtype.kind in "iu", name, "integers", values.dtype)
        labels = torch.from_numpy(values.astype(np.int64))
    tensor = labels
    require(not tensor.is_meta, name, "integers", "a tensor on meta, which has no values")
    integral = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    require(integral, name, "integers", tensor.dtype)
    require(tuple(tensor.shape) == (n,), name, f"of shape ({n},), one label an image", tuple(tensor.shape))
    tensor = tensor.to(torch.int64)
    classes = MOST_CLASSES if num_classes is None else num_classes
    wrong = (tensor < 0) | (tensor >= classes)
    if bool(wrong.any()):
        row = int(torch.nonzero(wrong)[0])
        raise invalid(
            name, f"in [0, {classes - 1}]", f"{int(tensor[row])} in row {row} ({int(wrong.sum())} such rows)"
        )
    return tensor


def to_uint8(images: Tensor) -> np.ndarray:
    """8-bit pixels round(127.5 (x + 1)), values outside [-1, 1] clipped; same shape as `images`.

    Examples:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 2.0]))
        array([  0, 128, 255], dtype=uint8)
    """
    scaled = images.detach().to(device="cpu", dtype=torch.float32).add(1.0).mul_(127.5)
    return scaled.round_().clamp_(0, 255).to(torch.uint8).numpy()
