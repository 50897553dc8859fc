"""The identity prior s_t z: white noise at t*, as if nothing of the signal were left.

s_t = √(α² + σ²) is the scale of the usual start (1 for VP). The baseline whose error grows as t* falls:
W2² ≤ α² E|x_0|² + (s_t − σ)² d.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.priors.base import Prior
from otprior.priors.data import as_schedule, stream_data
from otprior.transport.gaussian import isotropic
from otprior.transport.moments import Spectrum
from otprior.utils.validation import invalid, plain_number


class IdentityPrior(Prior):
    """T(z) = s_t z.

    Arguments:
        shape: Shape of a latent, such as (C, H, W).
        schedule: `NoiseSchedule.to_dict()`.
        timestep: t*.

    Examples:
        >>> start = IdentityPrior.build((1, 28, 28), scheduler, timestep=500)(z)
        >>> torch.allclose(start, z)  # s_t is 1 where α² + σ² = 1
        True
    """

    kind = "identity"
    streams = True
    fit_is_free = True

    @register_to_config
    def __init__(self, shape: list[int], schedule: dict[str, Any], timestep: float) -> None:
        super().__init__()
        self.set_up(shape, schedule, timestep)

    @classmethod
    def build(cls, shape: tuple[int, ...], schedule: Any, timestep: float) -> Self:
        """For latents of `shape` under a `NoiseSchedule` or a diffusers scheduler; there is nothing to fit.

        Raises:
            ValueError: If a size is no positive integer, or the schedule does not reach the timestep.
        """
        try:
            sizes = list(map(plain_number, shape))
        except TypeError as error:
            raise invalid("shape", "a sequence of sizes", type(shape).__name__) from error
        return cls(shape=sizes, schedule=as_schedule(schedule).to_dict(), timestep=timestep)

    @classmethod
    def fit(
        cls, data: Any, schedule: Any, timestep: float | None = None, *, value_range: Any = "auto"
    ) -> Self:
        """`build` for the shape of images; arguments as for the other priors, so that they can take turns."""
        images = stream_data(data, value_range)
        first = images.images if isinstance(images, ImageSet) else next(iter(images))
        return cls.build(tuple(first.shape[1:]), *cls.read_start(schedule, timestep))

    def _check_call(self, z: Tensor, labels: Tensor | None) -> Tensor | None:
        # White noise is the same for every class, so labels are no mistake here.
        return super()._check_call(z, None)

    def gaussian_law(self, label: int | None = None) -> Spectrum:
        """N(0, s_t² I)."""
        return isotropic(torch.zeros(self.dim), self.schedule.prior_scale(float(self.timestep)) ** 2)

    def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
        return z * self.schedule.prior_scale(float(self.timestep))
