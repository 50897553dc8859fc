"""A community pipeline of diffusers: Stable Diffusion that takes a prior in its call.

    file = "examples/stable_diffusion_prior.py"
    pipe = DiffusionPipeline.from_pretrained("owner/sd", custom_pipeline=file, trust_remote_code=True)
    pipe("a cat", num_inference_steps=4, prior=Prior.from_pretrained("owner/sd", subfolder="prior"))

`otprior.attach` does this for any pipeline; this file is for those who load pipelines by `custom_pipeline=`.
"""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionPipeline

from otprior import Prior, start_at


class StableDiffusionPriorPipeline(StableDiffusionPipeline):
    """As `StableDiffusionPipeline`; with `prior=` its K steps begin at t*, and generators and latents are the seed."""

    def __call__(self, *args: Any, prior: Prior | None = None, **kwargs: Any) -> Any:
        """Arguments of `StableDiffusionPipeline`, and `prior`: one without classes, for latents of this size."""
        stock = self.scheduler
        if prior is not None:
            self.scheduler = start_at(stock, prior)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.scheduler = stock

    def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
        """The prior's start in the place of white noise."""
        z = super().prepare_latents(*args, **kwargs)
        return self.scheduler.start(z) if hasattr(self.scheduler, "start") else z
