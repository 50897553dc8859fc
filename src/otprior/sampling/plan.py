"""Sampling many seeds batch by batch, where each image depends on its own seed alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otprior.data.images import check_labels
from otprior.diffusion.codes import Codes
from otprior.sampling.inputs import latent_shape, num_classes, seeds_to_generators
from otprior.sampling.pipeline import OTPriorPipeline
from otprior.utils.random import stream_generator
from otprior.utils.validation import require


@dataclass(frozen=True)
class SamplingPlan:
    """What is sampled.

    Attributes:
        seeds: One for each image.
        labels: Class labels, one for each image; or None.
        steps: Steps of the sampler.
        timesteps: A grid of own timesteps, instead of the scheduler's at so many steps; or None.
        guidance_scale: Scale of classifier-free guidance.
        batch_size: Images at a time.
        latents: Seed noise (N, C, H, W) to start from, instead of the noise of the seeds; or None.
    """

    seeds: list[int]
    labels: list[int] | None
    steps: int
    timesteps: list[float] | None
    guidance_scale: float
    batch_size: int
    latents: Tensor | None = None

    def part(self, rows: slice) -> SamplingPlan:
        """The plan of some of the images."""
        labels = None if self.labels is None else self.labels[rows]
        latents = None if self.latents is None else self.latents[rows]
        return replace(self, seeds=self.seeds[rows], labels=labels, latents=latents)

    def check_labels(self, pipe: OTPriorPipeline) -> None:
        """Requires labels that network and prior know, in all batches: a call of the pipeline checks one."""
        if self.labels is not None:
            for count in (num_classes(pipe.unet), getattr(pipe.prior, "num_classes", None)):
                check_labels(self.labels, len(self.labels), count, "class_labels")


class SampledBatch(NamedTuple):
    """Images of consecutive seeds.

    Attributes:
        images: (B, C, H, W), float32 on the CPU, about in [-1, 1].
        sources: Index of the atom behind each start, int64 (B,); None if there is none.
        nfe: Network evaluations an image.
        seconds: Time that sampling took.
    """

    images: Tensor
    sources: Tensor | None
    nfe: int
    seconds: float


def sample_batches(
    pipe: Any, plan: SamplingPlan, *, decode: bool = True, listen: Callable[[float], None] | None = None
) -> Iterator[SampledBatch]:
    """Samples the images of a plan in the order of its seeds.

    Arguments:
        pipe: An `OTPriorPipeline`.
        plan: What to sample.
        decode: Whether latents are decoded to images, where the pipeline has an autoencoder.
        listen: Is called with the number of images that are done, after each step.
    """

    def after_step(_: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if listen is not None:
            # Heun calls 2K − 1 times in K steps.
            listen(begin + len(seeds) * min((step + 1) / plan.steps, 1.0))
        return {}

    for begin in range(0, len(plan.seeds), plan.batch_size):
        part = slice(begin, begin + plan.batch_size)
        seeds = plan.seeds[part]
        if plan.latents is None:
            generators = seeds_to_generators(seeds)
        else:
            # Code k may be the very noise of seed k, of which a prior's fresh noise has to be independent.
            generators = [stream_generator(seed, "beside codes") for seed in seeds]
        started = time.perf_counter()
        result = pipe(
            batch_size=len(seeds),
            class_labels=None if plan.labels is None else plan.labels[part],
            num_inference_steps=plan.steps,
            timesteps=plan.timesteps,
            guidance_scale=plan.guidance_scale,
            generator=generators,
            latents=None if plan.latents is None else plan.latents[part],
            output_type="latent",
            callback_on_step_end=after_step,
        )
        # (On a GPU, the images are there when they have come over.)
        images = (pipe.decode(result.images) if decode else result.images).float().cpu()
        yield SampledBatch(images, result.sources, result.nfe, time.perf_counter() - started)


def image_channels(pipe: Any) -> int | None:
    """Number of channels C of the images that a pipeline samples; None if neither network nor prior says it."""
    if pipe.vae is not None:
        return int(pipe.vae.config.out_channels)
    shape = latent_shape(pipe.unet) if pipe.prior is None else pipe.prior.shape
    return None if shape is None else shape[0]


def seed_noise_of_codes(
    codes: Codes, pipe: Any, numbers: list[int] | None = None, name: str = "codes"
) -> tuple[list[int], Tensor, list[int] | None]:
    """Codes as seed noise for a pipeline.

    Arguments:
        codes: The codes, by any network.
        pipe: The pipeline that will sample from them.
        numbers: Which of them, ascending from 0; None for all.
        name: What an error calls the codes.

    Returns:
        Numbers of the codes, the codes at unit scale (N, C, H, W), and the class labels that the network was given when
        they were encoded; None where that was none, or the label for no class.

    Raises:
        ValueError: If the codes are not of the network's shape, or there are fewer than `numbers` ask for.
    """
    z = codes.seed_noise()
    shape, got = latent_shape(pipe.unet), tuple(z.shape[1:])
    require(shape in (None, got), name, f"of shape {shape}", got)
    numbers = list(range(len(z))) if numbers is None else numbers
    require(numbers[-1] < len(z), "seeds", f"numbers of the {len(z):,} codes, from 0 on", numbers[-1])
    # (The pipeline gives the label for no class by itself; a prior by class would not know that label.)
    null = pipe.config.null_class_label
    if codes.labels is None or codes.of_no_class or set(codes.labels.tolist()) == {null}:
        return numbers, z[numbers], None
    return numbers, z[torch.tensor(numbers)], codes.labels[numbers].tolist()
