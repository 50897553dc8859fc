r"""The radial power spectrum of images; that of white noise is flat.

With the orthonormal discrete Fourier transform, white noise of unit variance has power 1 in every coefficient. So
latents α x_0 + σ ε have power α² P(k) + σ², P the power of clean images at frequency k. A start from white noise lacks
α² P(k), which matters where it is not much smaller than σ². Images have their power at low k: the last of their signal
is their brightness (k = 0) and their coarse shape.

For pairs of images (x_i, y_i), the *coherence* at frequency k is the correlation of their coefficients of
that frequency, Re Σ x̂ ŷ*/√(Σ|x̂|² Σ|ŷ|²): 1 for equal images, 0 for unrelated ones without a common mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.utils.validation import check_finite, require

BLOCK = 512


@dataclass(frozen=True)
class RadialSpectrum:
    """Power by spatial frequency.

    Attributes:
        frequency: In cycles an image: 0, 1, 2, …, float64 (K,).
        power: Mean of |x̂|² over images, channels and the coefficients of about that frequency, (K,).
        mean_power: Power of the mean image, which all images share, (K,).
        coefficients: Number of a channel's coefficients of that frequency, int64 (K,).
    """

    frequency: Tensor
    power: Tensor
    mean_power: Tensor
    coefficients: Tensor


def radial_spectrum(images: Tensor) -> RadialSpectrum:
    """The spectrum of images (N, C, H, W), N >= 1; frequencies are rounded to whole cycles an image."""
    require(
        images.ndim == 4 and len(images) > 0, "images", "of shape (N, C, H, W), N >= 1", tuple(images.shape)
    )
    check_finite("images", images)
    height, width = images.shape[2:]
    power = torch.zeros(height, width, dtype=torch.float64)
    mean = torch.zeros(images.shape[1:], dtype=torch.float64)
    for block in images.split(BLOCK):
        x = block.double()
        power += (torch.fft.fft2(x, norm="ortho").abs() ** 2).sum(dim=(0, 1))
        mean += x.sum(dim=0)
    power /= len(images) * images.shape[1]
    mean_power = (torch.fft.fft2(mean / len(images), norm="ortho").abs() ** 2).mean(dim=0)
    ring, count = _rings(height, width)

    def averaged(values: Tensor) -> Tensor:
        return _summed(values, ring, len(count)) / count

    frequency = torch.arange(len(count), dtype=torch.float64)
    return RadialSpectrum(frequency, averaged(power), averaged(mean_power), count)


def radial_coherence(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of pairs of images (N, C, H, W) by spatial frequency 0, 1, 2, … cycles an image, float64 (K,).

    Remove the means first if they should not count. Where either set has no power the coherence is 0.
    """
    _check_pairs(x, y)
    ring, count = _rings(*x.shape[2:])
    first, second = (torch.fft.fft2(images.double(), norm="ortho") for images in (x, y))

    def power(a: Tensor, b: Tensor) -> Tensor:
        return _summed((a * b.conj()).real.sum(dim=(0, 1)), ring, len(count))

    scale = (power(first, first) * power(second, second)).sqrt()
    return torch.where(scale > 0, power(first, second) / scale.clamp(min=1e-300), 0.0)


def low_passed(images: Tensor, cycles: int) -> Tensor:
    """Images (N, C, H, W) without the frequencies above `cycles` an image, float64."""
    ring, _ = _rings(*images.shape[2:])
    kept = (ring <= cycles).reshape(images.shape[2:])
    return torch.fft.ifft2(torch.fft.fft2(images.double()) * kept).real


def _check_pairs(x: Tensor, y: Tensor) -> None:
    right = x.ndim == 4 and len(x) > 0 and x.shape == y.shape
    require(right, "images", "two sets of one shape (N, C, H, W), N >= 1", (tuple(x.shape), tuple(y.shape)))
    check_finite("images", x)
    check_finite("images", y)


def _rings(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Frequency of each coefficient in whole cycles an image, int64 (H W,), and the number of each, (K,)."""
    rows = torch.fft.fftfreq(height, d=1 / height, dtype=torch.float64)
    columns = torch.fft.fftfreq(width, d=1 / width, dtype=torch.float64)
    ring = torch.hypot(rows[:, None], columns).round().long().reshape(-1)
    return ring, torch.bincount(ring)


def _summed(values: Tensor, ring: Tensor, count: int) -> Tensor:
    """Sums of values (H, W) over the rings, (K,)."""
    return torch.zeros(count, dtype=torch.float64).index_add_(0, ring, values.reshape(-1))
