"""Between a prior's latents (C, H, W) and the form in which a family of pipelines holds them.

Some transformers are given a sequence of patches. Packing into it is a permutation of entries; a reshape would fit in
size, too, and scramble the image without an error. So the pipeline itself is asked, by having it pack 0, 1, ..., d − 1.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from otprior.utils.validation import invalid, require

# (unpack, pack): from a pipeline's latents (B, ...) to (B, *prior.shape), and back.
Layout = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def find_layout(pipe: Any, own: tuple[int, ...], got: tuple[int, ...]) -> Layout:
    """How a pipeline lays out a prior's latents.

    Arguments:
        pipe: A diffusers pipeline.
        own: `prior.shape`.
        got: Shape of one of the pipeline's latents.

    Raises:
        ValueError: If they differ in size, or the order of their entries is not known.
    """
    if type(pipe).__name__.startswith("Kandinsky5"):
        fits = got[:-1] == own[1:] and got[-1] in (own[0], 2 * own[0] + 1)
        require(fits, "latents of this call", f"(F, H, W, C) of the prior's shape (C, F, H, W) = {own}", got)
        first = functools.partial(_channels_first, count=own[0])
        return first, functools.partial(_channels_last, channels=got[-1])
    if got == own:
        return _same, _same
    hint = "Fit it to latents of this height, width and length."
    require(
        math.prod(got) == math.prod(own), "latents of this call", f"of the prior's shape {own}", got, hint
    )
    if [n for n in got if n != 1] == [n for n in own if n != 1]:
        return (lambda x: x.reshape(len(x), *own)), (lambda x: x.reshape(len(x), *got))
    if len(own) == len(got) == 4 and got == (own[1], own[0], *own[2:]):
        return _frames_first, _frames_first
    packed = _packed_entries(pipe, own)
    if packed is None or tuple(packed.shape[1:]) != got or not _permutation(packed.flatten()):
        rule = f"laid out as the prior's, {own}"
        raise invalid("latents of this call", rule, got, "Pass layout=(unpack, pack) to attach.")
    order = packed.flatten()
    back = torch.argsort(order)
    return (
        lambda x: x.flatten(1)[:, back.to(x.device)].reshape(len(x), *own),
        lambda x: x.flatten(1)[:, order.to(x.device)].reshape(len(x), *got),
    )


def _same(x: Tensor) -> Tensor:
    return x


def _frames_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def _channels_first(x: Tensor, count: int) -> Tensor:
    return x[..., :count].movedim(-1, 1)


def _channels_last(x: Tensor, channels: int) -> Tensor:
    # (Kandinsky 5 has a frame to begin with beside the latents, and a mask: zero where there is none.)
    return torch.nn.functional.pad(x.movedim(1, -1), (0, channels - x.shape[1]))


def _permutation(order: Tensor) -> bool:
    return torch.equal(order.sort().values, torch.arange(len(order)))


def _packed_entries(pipe: Any, own: tuple[int, ...]) -> Tensor | None:
    """The entries 0..d−1 as the pipeline packs them, or None if it cannot be asked."""
    pack = getattr(pipe, "_pack_latents", None)
    if pack is None:
        return None
    wanted = inspect.signature(pack).parameters
    # (Packing in time takes the axis of frames, packing of pictures none of a single frame.)
    single = len(own) == 4 and own[1] == 1 and "patch_size_t" not in wanted
    shape = tuple(n for n in own if n != 1) if single else own
    told: dict[str, Any] = {"latents": torch.arange(math.prod(own)).reshape(1, *shape)}
    if len(shape) == 3:
        told |= dict(zip(("num_channels_latents", "height", "width"), shape), batch_size=1)
    for name, part in (("patch_size", "spatial"), ("patch_size_t", "temporal")):
        told[name] = getattr(pipe, f"transformer_{part}_patch_size", None)
    if any(told.get(name) is None for name in wanted):
        return None
    packed: Tensor = pack(**{name: told[name] for name in wanted})
    return packed
