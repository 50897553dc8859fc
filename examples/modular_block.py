"""A block for Modular Diffusers: sampling begins at t* from a prior.

Insert it after the block that prepares latents from noise, and give the pipeline a scheduler that begins there:

    blocks = ModularPipeline.from_pretrained("owner/name").blocks.get_workflow("text2image")
    place = next(k for k, name in enumerate(blocks.sub_blocks) if name.endswith("prepare_latents"))
    blocks.sub_blocks.insert("start", PriorStartStep(), place + 1)
    pipe = blocks.init_pipeline("owner/name")
    pipe.load_components()
    pipe.update_components(scheduler=start_at(pipe.scheduler, prior))

(Blocks without workflows, such as those of Wan, have the place deeper: `blocks.sub_blocks["denoise"]`.)

`generator=` and `latents=` then are the seed, and `num_inference_steps=K` are K steps from t*. (Latents must have the
prior's shape; a block for packed ones, such as Flux's, unpacks them first.)
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.modular_pipelines import ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam


class PriorStartStep(ModularPipelineBlocks):
    """Replaces white noise z by the prior's start T(z)."""

    description = "Starts at t* from the prior of a scheduler of otprior.start_at"
    expected_components = [ComponentSpec("scheduler", SchedulerMixin)]  # noqa: RUF012
    inputs = [InputParam("latents", required=True, type_hint=torch.Tensor)]  # noqa: RUF012
    intermediate_outputs = [OutputParam("latents", type_hint=torch.Tensor)]  # noqa: RUF012

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        block = self.get_block_state(state)
        block.latents = components.scheduler.start(block.latents)
        self.set_block_state(state, block)
        return components, state
