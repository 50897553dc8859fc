r"""A network's flow as two maps, images to codes and codes to images; and codes of one network decoded by another.

Codes leave a network at the scale √(α² + σ²) of its noisiest moment, and enter another at that of its own. In between
they are *seed noise*: about N(0, I), whatever the schedule. So swapping codes, encoding as one class and decoding as
another, or with a network that was trained on other images, is

    image → code of the source → seed noise → code of the target → image.

References:
    Su, Song, Meng & Ermon, Dual diffusion implicit bridges for image-to-image translation (2023),
    https://arxiv.org/abs/2203.08382
    Khrulkov et al., Understanding DDPM latent codes through optimal transport (2023), https://arxiv.org/abs/2202.07477
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from otprior.diffusion.codes import Encoder, Encoding, code_moments
from otprior.diffusion.network import NetworkDenoiser


class ImageCoder:
    """A network, told labels, with a method of encoding.

    Gradients are the caller's affair: wrap calls in `torch.no_grad()` unless they are wanted.

    Arguments:
        unet: The network, in evaluation mode, where it shall run.
        scheduler: Its diffusers scheduler, which says what it was trained on.
        encoder: The method; 50 steps of DDIM, inverted, by default.

    Attributes:
        schedule: The forward process.
        clean, noisy: Where codes begin and end.
    """

    def __init__(self, unet: nn.Module, scheduler: Any, encoder: Encoder | None = None) -> None:
        self._unet, self._scheduler = unet, scheduler
        self.encoder = encoder or Encoder()
        self.schedule = self.denoiser(None).schedule
        self.clean, self.noisy = code_moments(self.schedule)

    def denoiser(self, labels: Tensor | None) -> NetworkDenoiser:
        """The network, told these labels (B,) in every call; None for one that takes none."""
        where = next((tensor.device for tensor in self._unet.parameters()), None)
        told = labels if labels is None or where is None else labels.to(where)
        return NetworkDenoiser(self._unet, self._scheduler, told)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Encoding:
        """Codes of images (B, C, H, W) in [−1, 1], at the scale of `noisy`."""
        return self.encoder.encode(self.denoiser(labels), images, self.clean, self.noisy)

    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Encoding:
        """Images of codes (B, C, H, W), neither rounded nor clipped."""
        return self.encoder.decode(self.denoiser(labels), codes, self.clean, self.noisy)

    def to_seed(self, codes: Tensor) -> Tensor:
        """Seed noise: codes at unit scale."""
        return codes / self.noisy.size

    def from_seed(self, z: Tensor) -> Tensor:
        """Codes: seed noise at the scale of `noisy`."""
        return z * self.noisy.size


def swap(
    source: ImageCoder,
    target: ImageCoder,
    images: Tensor,
    source_labels: Tensor | None = None,
    target_labels: Tensor | None = None,
) -> Tensor:
    """What `target` makes of the codes that `source` gives images (B, C, H, W); the same shape.

    Arguments:
        source, target: The same network (with other labels) or two, whose images are of one size.
        images: In [−1, 1].
        source_labels, target_labels: What each network is told, (B,), or None.
    """
    z = source.to_seed(source.encode(images, source_labels).x)
    return target.decode(target.from_seed(z), target_labels).x
