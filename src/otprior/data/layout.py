"""Arrays of images: native byte order, and channels before height and width."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.utils.validation import invalid, require

# Channels of pictures: grey, RGB, and RGB with transparency.
PICTURE_CHANNELS = (1, 3, 4)


def as_tensor(values: Any, name: str = "images", copy: bool = True) -> Tensor:
    """A tensor without a graph, of an array in any byte order.

    Arguments:
        values: A tensor or an array of numbers.
        name: What an error calls it.
        copy: Whether to copy an array, which its owner may change. One mapped from a file is not copied.

    Raises:
        ValueError: If it is neither tensor nor array, or not of numbers.
    """
    if isinstance(values, np.ndarray):
        # (torch has no long double.)
        known = values.dtype.kind in "uif" and values.dtype.itemsize <= 8
        require(known, name, "uint8 or floating", values.dtype)
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        copied = copy and not isinstance(values, np.memmap)
        values = torch.from_numpy(np.array(values) if copied else values)
    require(isinstance(values, Tensor), name, "a tensor or an array", type(values).__name__)
    tensor: Tensor = values.detach()
    return tensor


def channels_first(
    values: Any, channels: int | None = None, latents: bool = False, strict: bool = True, name: str = "images"
) -> Any:
    """(N, C, H, W) of (N, C, H, W) or (N, H, W, C); what has not four axes is returned as it is.

    The last axis is C if it alone can be: if it is `channels`, or, where that is unknown, 1, 3 or 4. Latents of unknown
    channels are (N, C, H, W).

    Arguments:
        values: An array or tensor.
        channels: C, if known.
        latents: Whether these are no pictures.
        strict: Whether to refuse what can be read either way, rather than take it as (N, C, H, W).
        name: What an error calls it.

    Raises:
        ValueError: If either axis can be that of channels.
    """
    require(isinstance(values, np.ndarray | Tensor), name, "a tensor or an array", type(values).__name__)
    if values.ndim != 4 or (latents and channels is None):
        return values
    first, last = values.shape[1], values.shape[3]
    possible = (channels,) if channels in (first, last) else PICTURE_CHANNELS
    if last not in possible or (latents and first in possible):
        return values
    if first in possible:
        hint = "A .safetensors file holds (N, C, H, W)"
        rule = "(N, C, H, W) or (N, H, W, C) without doubt"
        if strict:
            raise invalid(name, rule, tuple(values.shape), hint)
        return values
    move = (0, 3, 1, 2)
    return values.permute(move) if isinstance(values, Tensor) else values.transpose(move)
