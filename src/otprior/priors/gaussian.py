"""The gaussian prior: the optimal transport map onto the Gaussian with the latents' mean and covariance.

For data of mean μ and covariance Σ the latents x_t = α x_0 + σ ε have mean α μ and covariance C = α² Σ + σ² I, and

    T(z) = α μ + C^{1/2} z

is the optimal map from N(0, I) to N(α μ, C). With Σ = U Λ Uᵀ + s² (I − U Uᵀ) (all of Σ when U is square),

    C^{1/2} = c I + U((α² Λ + σ²)^{1/2} − c) Uᵀ,   c = (α² s² + σ²)^{1/2},

so T costs two thin products. It keeps the seed's image (for Gaussian data it *is* the probability flow, once that is
started from α_T μ + C_T^{1/2} z instead of z) and stores no image.

References:
    Khrulkov et al., Understanding DDPM latent codes through optimal transport (2023), arXiv:2202.07477.
    Wang & Vastola, The unreasonable effectiveness of Gaussian score approximation (2024), arXiv:2412.09726.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.data.streams import ImageStream
from otprior.priors.base import Prior
from otprior.priors.data import images_by_class, read_data, rows_by_class, stream_data
from otprior.priors.options import PriorOptions, option
from otprior.transport.gaussian import gaussian_map, noised
from otprior.transport.moments import FULL_COVARIANCE_LIMIT, Spectrum, streaming_spectrum
from otprior.utils.validation import check_integer, require

# Rank kept beyond FULL_COVARIANCE_LIMIT dimensions: two thin d x 512 products.
DEFAULT_RANK = 512


@dataclass(frozen=True)
class GaussianOptions(PriorOptions):
    """What can be chosen about a gaussian prior."""

    rank: int | None = option(
        None,
        "Principal axes to keep; by default all up to 4,096 dimensions, 512 beyond.",
        type=int,
        metavar="R",
    )


class GaussianPrior(Prior):
    """T(z) = α μ + (α² Σ + σ² I)^{1/2} z, for each class label its own if fitted with labels.

    Build it with `fit`.

    Arguments:
        shape: Shape of a latent, such as (C, H, W).
        schedule: `NoiseSchedule.to_dict()`.
        timestep: t*.
        rank: Columns of U.
        num_classes: Number of class labels, or None.

    Source: Khrulkov et al., 2023, https://arxiv.org/abs/2202.07477; Wang & Vastola, 2024, https://arxiv.org/abs/2412.09726

    Examples:
        >>> gaussian = GaussianPrior.fit(images, scheduler, timestep=500)
        >>> gaussian(z).shape, gaussian.alpha ** 2 + gaussian.sigma ** 2
        (torch.Size([2, 1, 28, 28]), 1.0)
    """

    kind = "gaussian"
    streams = True
    Options = GaussianOptions
    means: Tensor  # (K, d), K = num_classes or 1
    bases: Tensor  # (K, d, rank)
    variances: Tensor  # (K, rank)
    residuals: Tensor  # (K,)

    @register_to_config
    def __init__(
        self,
        shape: list[int],
        schedule: dict[str, Any],
        timestep: float,
        rank: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.set_up(shape, schedule, timestep, num_classes)
        maps = num_classes or 1
        self.register_buffer("means", torch.zeros(maps, self.dim))
        self.register_buffer("bases", torch.zeros(maps, self.dim, rank))
        self.register_buffer("variances", torch.zeros(maps, rank))
        self.register_buffer("residuals", torch.ones(maps))

    @classmethod
    def fit(
        cls,
        data: Any,
        schedule: Any,
        timestep: float | None = None,
        labels: Tensor | None = None,
        *,
        rank: int | None = None,
        num_classes: int | None = None,
        value_range: Any = "auto",
    ) -> Self:
        """Fits mean and covariance in one streaming pass, in float64.

        Arguments:
            data: Clean images, of whatever `otprior.data.load_images` reads. Without labels, those that are not in
                memory are read block by block, once.
            schedule: A `NoiseSchedule` or a diffusers scheduler.
            timestep: t*, in the scheduler's units; by default that of `usual_log_snr`.
            labels: Class labels, (N,), for a conditional prior.
            rank: Principal axes kept; by default all of them up to 4,096 dimensions, 512 beyond.
            num_classes: Number of classes; by default the largest label + 1.
            value_range: See `otprior.data.images.check_images`; None for latents.

        Raises:
            ValueError: On bad images, labels, timestep or rank, or a class with fewer than two images.
        """
        noise_schedule, timestep = cls.read_start(schedule, timestep)
        images, classes = stream_data(data, value_range), None
        if not (labels is None and num_classes is None) or isinstance(images, ImageSet):
            images, classes = read_data(images, labels, "auto", num_classes)
        shape, spectra = _spectra(images, classes, rank)
        prior = cls(
            shape=shape,
            schedule=noise_schedule.to_dict(),
            timestep=timestep,
            rank=spectra[0].basis.shape[1],
            num_classes=classes,
        )
        for label, spectrum in enumerate(spectra):
            prior.means[label] = spectrum.mean
            prior.bases[label] = spectrum.basis
            prior.variances[label] = spectrum.variances
            prior.residuals[label] = spectrum.residual
        return prior.eval()

    def spectrum(self, label: int = 0) -> Spectrum:
        """Mean and covariance of the clean data (of one class)."""
        return Spectrum(
            self.means[label], self.bases[label], self.variances[label], float(self.residuals[label])
        )

    def gaussian_law(self, label: int | None = None) -> Spectrum:
        """N(α μ, α² Σ + σ² I)."""
        clean = self.spectrum(label or 0)
        mean, basis, variances = (t.double().cpu() for t in (clean.mean, clean.basis, clean.variances))
        return noised(Spectrum(mean, basis, variances, clean.residual), self.alpha, self.sigma)

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        start = torch.empty_like(z)
        for label, rows in rows_by_class(labels):
            start[rows] = gaussian_map(z[rows], self.spectrum(label), self.alpha, self.sigma)
        return start


def _spectra(
    images: ImageSet | ImageStream, classes: int | None, rank: int | None
) -> tuple[list[int], list[Spectrum]]:
    """(C, H, W), and mean and covariance of each class's images; those of a stream are one class, read once."""
    if isinstance(images, ImageSet):
        shape = list(images.images.shape[1:])
        kept = _axes(math.prod(shape), rank)
        return shape, [streaming_spectrum(rows, kept) for _, rows in images_by_class(images, classes)]
    blocks = iter(images)
    first = next(blocks)
    rows = (block.flatten(1) for block in chain([first], blocks))
    spectrum = streaming_spectrum(rows, _axes(first[0].numel(), rank))
    require(len(images) >= 2, "data", "at least two images", len(images))
    return list(first.shape[1:]), [spectrum]


def _axes(dim: int, rank: int | None) -> int:
    """How many principal axes to keep."""
    if rank is None:
        rank = dim if dim <= FULL_COVARIANCE_LIMIT else DEFAULT_RANK
    check_integer("rank", rank, 1, dim)
    return rank
