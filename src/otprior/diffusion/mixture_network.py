r"""A network that is perfect: the exact denoiser of a mixture of low-rank Gaussians, with a network's call.

For x_0 from N(μ_k, Σ_k) with probability w_k, Σ_k = U_k diag(V_k) U_kᵀ + r_k (I − U_k U_kᵀ), and x = α x_0 + σ ε,

    D(x) = Σ_k p_k(x) (μ_k + g_k (x − α μ_k) + U_k diag(h_k − g_k) U_kᵀ (x − α μ_k)),
    g_k = α r_k/(α² r_k + σ²),   h_k = α V_k/(α² V_k + σ²),   p_k(x) ∝ w_k N(x; α μ_k, α² Σ_k + σ² I),

for all k at once, without a d × d matrix. With it only the start and the steps of a sampler can be wrong. A network in
between is D(x) + e σ E(x), E a fixed smooth field of root mean square 1 a pixel: as networks err, far from the data.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.random import stream_generator
from otprior.utils.validation import require

# Waves of the field of errors, and radians a unit of a coordinate.
WAVES, STEEPNESS = 16, 2.0


class MixtureNetwork(ModelMixin, ConfigMixin):
    """Predicts the noise of a VP process for clean data from a mixture of Gaussians.

    A component of a diffusers pipeline, as `unet`; computes in float64. Build it with `of`.

    Arguments:
        in_channels, sample_size: (C, (H, W)) of an image.
        schedule: `NoiseSchedule.to_dict()`, in whose timesteps the time is told.
        components, rank: K and R.
        error: e ≥ 0.
    """

    weights: Tensor  # (K,)
    means: Tensor  # (K, d)
    bases: Tensor  # (K, d, R); a component of lower rank has columns of zeros
    variances: Tensor  # (K, R)
    residuals: Tensor  # (K,)

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        sample_size: tuple[int, int],
        schedule: dict[str, Any],
        components: int,
        rank: int,
        error: float = 0.0,
    ) -> None:
        super().__init__()
        self.process = NoiseSchedule.from_dict(schedule)
        require(self.process.kind == "vp", "schedule", "variance preserving", self.process.kind)
        require(error >= 0, "error", "nonnegative", error)
        self.shape = (in_channels, *sample_size)
        self.error = error
        self._kept: tuple[list[Any], tuple[Tensor, Tensor, Tensor]] | None = None
        dim = math.prod(self.shape)
        for name, shape in {
            "weights": (components,),
            "means": (components, dim),
            "bases": (components, dim, rank),
            "variances": (components, rank),
            "residuals": (components,),
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int],
        schedule: NoiseSchedule,
        means: Tensor,
        bases: Tensor,
        variances: Tensor,
        residuals: Tensor,
        weights: Tensor | None = None,
        error: float = 0.0,
    ) -> MixtureNetwork:
        """A network for images of shape (C, H, W) from this mixture, by default of equal weights."""
        count, rank = variances.shape
        network = cls(shape[0], (shape[1], shape[2]), schedule.to_dict(), count, rank, error)
        given = torch.full((count,), 1 / count) if weights is None else weights
        values = {
            "weights": given,
            "means": means,
            "bases": bases,
            "variances": variances,
            "residuals": residuals,
        }
        for name, value in values.items():
            getattr(network, name).copy_(value)
        return network.eval()

    def forward(
        self, sample: Tensor, timestep: Any, class_labels: Any = None, return_dict: bool = True
    ) -> Any:
        """The noise in `sample` (B, C, H, W) at a timestep, in its dtype."""
        t = float(timestep.reshape(-1)[0]) if isinstance(timestep, Tensor) else float(timestep)
        low, high = self.process.timestep_range
        t = min(max(t, low), high)
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        x = sample.flatten(1).double()
        noise = (x - alpha * self.denoise(x, alpha, sigma)) / sigma
        out = noise.reshape(sample.shape).to(sample.dtype)
        return SimpleNamespace(sample=out) if return_dict else (out,)

    def denoise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """D(x), with the network's error if it has one; rows x (B, d) to (B, d), float64."""
        x = x.double()
        axes, own, filled = self._axes()
        base = alpha**2 * self.residuals + sigma**2
        along = alpha**2 * self.variances + sigma**2
        place = (x @ axes).unflatten(1, self.variances.shape).sub_(alpha * own)
        off = (
            (x**2).sum(dim=1, keepdim=True) - 2 * alpha * x @ self.means.T
            + alpha**2 * (self.means**2).sum(dim=1)
        ) / base  # fmt: skip
        off += torch.einsum("bkr,kr->bk", place.square(), 1 / along - 1 / base[:, None])
        log_det = (x.shape[1] - filled.sum(dim=1)) * base.log() + (along.log() * filled).sum(dim=1)
        share = torch.softmax(self.weights.log() - 0.5 * (off + log_det), dim=1)
        gain = alpha * self.residuals / base
        beyond = (alpha * self.variances / along - gain[:, None]) * filled
        clean = (share * (1 - alpha * gain)) @ self.means + (share @ gain)[:, None] * x
        clean += place.mul_(beyond).mul_(share[..., None]).flatten(1) @ axes.T
        return clean if not self.error else clean + self.error * sigma * self._field(x)

    def _axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Bases side by side (d, K R), U_kᵀ μ_k and which columns are axes (K, R); kept until they change."""
        key = [(b.data_ptr(), b._version, b.device) for b in (self.bases, self.means)]
        if self._kept is None or self._kept[0] != key:
            found = (
                self.bases.transpose(0, 1).flatten(1),
                torch.einsum("kdr,kd->kr", self.bases, self.means),
                self.bases.square().sum(dim=1) > 0.5,
            )
            self._kept = (key, found)
        return self._kept[1]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Clean images from the mixture, (count, C, H, W), float32."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        found = []
        for rows, noise in zip(which.split(256), z.split(256)):
            root = self.residuals[rows].sqrt()[:, None]
            along = torch.einsum("bdr,bd->br", self.bases[rows], noise) * (self.variances[rows].sqrt() - root)
            found.append(
                self.means[rows] + root * noise + torch.einsum("bdr,br->bd", self.bases[rows], along)
            )
        return torch.cat(found).reshape(count, *self.shape).float()

    def _field(self, x: Tensor) -> Tensor:
        """E(x): waves of a few smooth coordinates, (B, d)."""
        channels, height, width = self.shape
        side = 4
        waves = [
            torch.cos(torch.pi * torch.arange(side)[:, None] * (torch.arange(size) + 0.5) / size).double()
            for size in (height, width)
        ]
        smooth = torch.einsum("ay,bx->abyx", *waves).flatten(0, 1).flatten(1)
        smooth = smooth.repeat(1, channels)
        axes = torch.linalg.qr(smooth.T)[0]  # (d, up to 16)
        generator = stream_generator(0, "field of errors")
        turn = torch.linalg.qr(torch.randn(WAVES, WAVES, generator=generator, dtype=torch.float64))[0]
        phase = 2 * torch.pi * torch.rand(WAVES, generator=generator, dtype=torch.float64)
        count = axes.shape[1]
        place = x.cpu() @ axes @ turn[:count, :count]
        field = torch.sin(STEEPNESS * place + phase[:count]) @ axes.T
        return (field * (2 * len(smooth.T) / count) ** 0.5).to(x)


# Where diffusers looks for it when it loads a pipeline.
MixtureNetwork.__module__ = "otprior"
