"""`GaussianDiffusion` of denoising-diffusion-pytorch (lucidrains)."""

from __future__ import annotations

from typing import Any

from otprior.sampling.adapters.module import from_module
from otprior.sampling.pipeline import OTPriorPipeline
from otprior.utils.validation import check_choice

_OBJECTIVES = {"pred_noise": "epsilon", "pred_x0": "x_0", "pred_v": "v"}


def from_lucidrains(diffusion: Any) -> OTPriorPipeline:
    """A pipeline around its network; images are in [-1, 1], as the network is trained on.

    Arguments:
        diffusion: Has `model` (called as model(x, t); self-conditioning starts from none), `objective`,
            `alphas_cumprod`, `channels` and `image_size`.

    Raises:
        ValueError: If the objective is none that is known.

    Examples:
        >>> pipe = from_lucidrains(diffusion)
        >>> pipe.prior = GaussianPrior.fit("photographs", pipe.scheduler)
        >>> pipe(batch_size=4, num_inference_steps=4).images
    """
    check_choice("objective", diffusion.objective, tuple(_OBJECTIVES))
    size = diffusion.image_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (diffusion.channels, height, width)
    kind = _OBJECTIVES[diffusion.objective]
    return from_module(diffusion.model, kind, shape, diffusion.alphas_cumprod)
