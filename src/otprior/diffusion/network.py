r"""A diffusers network as a denoiser: one call at any moment (α, σ), at any scale.

A network takes a timestep and a point at the scale of its own process, and returns what it was trained to estimate:

    epsilon        ε̂                     D = (x − σ ε̂)/α
    v_prediction   v = α ε̂ − σ D         D = α x − σ v         (variance preserving)
    sample         D
    flow           v = ε̂ − D             D = x − σ v           (flow matching, α + σ = 1)

The timestep is that of equal log-SNR: a real number in general, which networks with sinusoidal time embeddings accept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.validation import check_choice, require

_PREDICTIONS = ("epsilon", "v_prediction", "sample")


class NetworkDenoiser:
    """D(x, α, σ) of a network with UNet2DModel's call.

    Arguments:
        unet: The network, in evaluation mode. Gradients are recorded.
        scheduler: A diffusers scheduler, which says what process and prediction the network was trained on.
        class_labels: Labels, int64 (B,), given in every call; None for a network without labels.

    Raises:
        ValueError: If the process is neither VP nor flow matching, or the prediction is none of the above.

    Examples:
        >>> denoiser = NetworkDenoiser(pipe.unet, scheduler, torch.tensor([10, 10]))
        >>> denoiser(z, schedule.alpha(500), schedule.sigma(500)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, unet: nn.Module, scheduler: Any, class_labels: Tensor | None = None) -> None:
        self.unet = unet
        self.schedule = NoiseSchedule.from_scheduler(scheduler)
        rule = "variance preserving or flow matching"
        require(self.schedule.kind in ("vp", "flow"), "the network's process", rule, self.schedule.kind)
        self.prediction = "flow"
        if self.schedule.kind == "vp":
            self.prediction = scheduler.config.get("prediction_type", "epsilon")
            check_choice("prediction_type", self.prediction, _PREDICTIONS)
        self.class_labels = class_labels

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """D(x); x (B, C, H, W) at the scale α x_0 + σ ε, computed in the network's dtype."""
        level = 2 * math.log(alpha / sigma) if alpha > 0 else -math.inf
        t = self.schedule.timestep(level)
        own_alpha, own_sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x = x * (math.hypot(own_alpha, own_sigma) / math.hypot(alpha, sigma))
        labels = {} if self.class_labels is None else {"class_labels": self.class_labels}
        dtype = next((p.dtype for p in self.unet.parameters()), x.dtype)
        timesteps = torch.full((len(x),), t, dtype=torch.float32, device=x.device)
        out = self.unet(x.to(dtype), timesteps, **labels, return_dict=False)[0].to(x.dtype)
        out = out[:, : x.shape[1]]  # without the variances that some networks predict, too
        match self.prediction:
            case "epsilon":
                return (x - own_sigma * out) / own_alpha
            case "v_prediction":
                return own_alpha * x - own_sigma * out
            case "flow":
                return x - own_sigma * out
            case _:
                return out
