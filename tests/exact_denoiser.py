"""Networks that are exact for Gaussian data, with the call of diffusers' UNet2DModel.

For x_0 ~ N(μ, s² I) and x = α x_0 + σ ε, E[x_0 | x] = μ + α s²/(α² s² + σ²) (x − α μ), and the probability flow
takes x at (α, σ) to μ + s (x − α μ)/√(α² s² + σ²).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from otprior.diffusion.schedule import NoiseSchedule


class ExactDenoiser(nn.Module):
    """Predicts noise (VP), velocity (flow) or Karras' F (EDM) for N(μ, s² I), with s = 0 for a single image.

    Arguments:
        schedule: The process, in whose timesteps the network is told the time.
        mean: μ, a number or (C, H, W); with `classes`, one for each label along the first axis.
        std: s.
        classes: Number of class labels, or None.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        mean: Any,
        std: float,
        shape: tuple[int, int, int] = (1, 2, 2),
        classes: Any = None,
    ) -> None:
        super().__init__()
        self.schedule, self.std = schedule, std
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.config = SimpleNamespace(in_channels=shape[0], sample_size=shape[1:], num_class_embeds=classes)
        self.calls: list[tuple[float, int]] = []

    def forward(
        self, sample: Tensor, timestep: Any, class_labels: Any = None, return_dict: bool = True
    ) -> Any:
        t = float(timestep if not isinstance(timestep, Tensor) else timestep.reshape(-1)[0])
        self.calls.append((t, len(sample)))
        # float32 timesteps may leave the range by a rounding.
        low, high = self.schedule.timestep_range
        t = min(max(t, low), high)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        mean = self.mean if class_labels is None else self.mean[class_labels].reshape(-1, 1, 1, 1)
        x = sample.double()
        if self.schedule.kind == "ve":
            c_in = 1 / (sigma**2 + 0.25) ** 0.5
            x = x / c_in
            clean = mean + self.std**2 / (self.std**2 + sigma**2) * (x - mean)
            c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 * c_in
            out = (clean - c_skip * x) / c_out
        else:
            clean = mean + alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * (x - alpha * mean)
            noise = (x - alpha * clean) / sigma
            out = noise - clean if self.schedule.kind == "flow" else noise
        out = out.to(sample.dtype)
        return SimpleNamespace(sample=out) if return_dict else (out,)

    def flow_to_clean(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Where the probability flow takes latents of scales (α, σ)."""
        return self.mean + self.std * (x - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2) ** 0.5
