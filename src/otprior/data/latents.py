r"""Latents of images, by the autoencoder that a pipeline decodes with.

A latent diffusion model is trained on z = (e(x) − shift) · scale / std, e(x) being the mode of what the autoencoder's
encoder says of x; its pipeline undoes that before it decodes. The numbers are the autoencoder's own: `shift_factor` and
`scaling_factor`, and `latents_mean` and `latents_std`, one a channel, where it has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from otprior.data.sources.source import Item, Source
from otprior.data.streams import ImageStream, open_images
from otprior.utils.validation import check_integer, invalid, require

# Height and width of the image by which it is found how much smaller latents are.
PROBE = 64


def encode_images(autoencoder: nn.Module, data: Any, *, batch_size: int = 8, **options: Any) -> ImageStream:
    """A stream of the latents of images: each is encoded when it is needed, and only one batch is held.

    Works with autoencoders of diffusers: those with a normal posterior (AutoencoderKL and its kin; its mode is taken),
    with a code book (VQModel; before quantisation, as latent diffusion has it), deterministic ones (AutoencoderDC,
    AutoencoderTiny), and those of video, to which an image is a film of one frame.

    Arguments:
        autoencoder: It is run on its device and in its dtype; in float32 where its config forces that.
        data: What `otprior.data.load_images` takes, or a stream that `open_images` gave; pixels in [-1, 1]. For an
            autoencoder of video also an array of films (N, C, F, H, W).
        batch_size: Images at a time.
        **options: Those of `open_images`: resize, crop, convert, value_range, license.

    Returns:
        A stream of (B, C, h, w), or (B, C, F, h, w) for video, in the scale of the network's latents.

    Raises:
        ValueError: If the autoencoder is of an unknown kind.

    Examples:
        >>> latents = encode_images(pipe.vae, "photos", resize=512, crop=512, convert="RGB")
        >>> prior = GaussianPrior.fit(latents, pipe.scheduler)
    """
    check_integer("batch_size", batch_size, 1)
    stream = data if isinstance(data, ImageStream) else open_images(data, **options)
    require(
        stream is not data or not options,
        "options",
        "left out with a stream, which has its own",
        list(options),
    )
    stream = replace(stream, films=takes_films(autoencoder))
    inner = _EncodedSource(autoencoder, stream, batch_size)
    return ImageStream(inner, value_range=None, license=stream.license)


def image_shape(autoencoder: nn.Module, height: int, width: int) -> tuple[int, int, int]:
    """(C, H, W) of the images whose latents are of a height and width."""
    first = next(
        p for name, p in autoencoder.named_parameters() if name.startswith("encoder") and p.ndim >= 4
    )
    config: Any = autoencoder.config
    channels = int(getattr(config, "in_channels", None) or first.shape[1])
    blank = torch.zeros(1, channels, PROBE, PROBE)
    factor = PROBE // encode(autoencoder, blank).shape[-1]
    return channels, height * factor, width * factor


def takes_films(autoencoder: nn.Module) -> bool:
    """Whether an autoencoder is one of video."""
    return any(each.ndim == 5 for each in autoencoder.parameters())


@torch.no_grad()
def encode(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """Latents of images (B, C, H, W) or films (B, C, F, H, W), in the network's scale, float32 on the CPU."""
    module: Any = autoencoder
    first = next(p for name, p in module.named_parameters() if p.ndim >= 4)
    if takes_films(module) and images.ndim == 4:
        images = images[:, :, None]
    with _upcast(module):
        found = module.encode(images.to(first.device, first.dtype))
    if hasattr(found, "latent_dist"):
        latents = found.latent_dist.mode()
    elif hasattr(found, "latents"):
        latents = found.latents
    elif hasattr(found, "latent"):
        latents = found.latent
    else:
        raise invalid("autoencoder", "one of diffusers that encodes images", type(autoencoder).__name__)
    shift, scale = latent_scale(autoencoder, latents.ndim)
    return ((latents.float().cpu() - shift) * scale).float()


@torch.no_grad()
def decode(autoencoder: nn.Module, latents: Tensor) -> Tensor:
    """Images (B, C, H, W), about in [-1, 1], of latents in the network's scale."""
    module: Any = autoencoder
    shift, scale = (each.to(latents) for each in latent_scale(autoencoder, latents.ndim))
    with _upcast(module):
        images: Tensor = module.decode((latents / scale + shift).to(module.dtype), return_dict=False)[0]
    return images


@contextmanager
def _upcast(autoencoder: nn.Module) -> Iterator[None]:
    """Has an autoencoder in float32 for a while, if its config says that it overflows in half precision."""
    dtype = next(autoencoder.parameters()).dtype
    config: Any = autoencoder.config
    forced = getattr(config, "force_upcast", False) and dtype == torch.float16
    if forced:
        autoencoder.to(torch.float32)
    try:
        yield
    finally:
        if forced:
            autoencoder.to(dtype)


def latent_scale(autoencoder: nn.Module, ndim: int = 4) -> tuple[Tensor, Tensor]:
    """Shift and scale by which z = (e − shift) · scale, float64, shaped for latents of `ndim` axes.

    They decode as well: e = z / scale + shift.
    """
    config: Any = autoencoder.config

    def by_channel(name: str) -> Tensor | None:
        # (Some keep them as buffers.)
        value = dict(autoencoder.named_buffers()).get(name, getattr(config, name, None))
        if value is None:
            return None
        return torch.as_tensor(value).detach().cpu().double().reshape(1, -1, *[1] * (ndim - 2))

    mean, std = by_channel("latents_mean"), by_channel("latents_std")
    if mean is None or std is None:
        mean = torch.tensor(float(getattr(config, "shift_factor", None) or 0.0), dtype=torch.float64)
        std = torch.ones((), dtype=torch.float64)
    factor = getattr(config, "scaling_factor", None)
    scale = float(1.0 if factor is None else factor)
    if getattr(config, "invert_scale_latents", False):
        scale = 1.0 / scale
    return mean, scale / std


class _EncodedSource(Source):
    """Latents of the images of a stream."""

    def __init__(self, autoencoder: nn.Module, stream: ImageStream, batch_size: int) -> None:
        self._autoencoder, self._stream, self._batch_size = autoencoder, stream, batch_size
        self.name, self.path, self.count = stream.source.name, stream.source.path, stream.count
        self.class_names = stream.source.class_names

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        stream, row = self._stream, 0
        if rows is not None:
            wanted = torch.tensor(sorted(rows))
            stream = replace(stream, rows=wanted if stream.rows is None else stream.rows[wanted])
        with _upcast(self._autoencoder):
            for block, labels in stream.labelled():
                for start in range(0, len(block), self._batch_size):
                    latents = encode(self._autoencoder, block[start : start + self._batch_size])
                    for k, latent in enumerate(latents):
                        yield Item(latent, labels[start + k], f"latent {row}")
                        row += 1
