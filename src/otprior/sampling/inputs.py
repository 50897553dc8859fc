"""What a call is given: generators, seed noise, labels; and what a network says of itself."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from otprior.data.images import check_labels
from otprior.utils.validation import (
    check_finite,
    check_generator,
    check_integer,
    invalid,
    plain_number,
    require,
)

logger = logging.getLogger(__name__)

Generators = torch.Generator | list[torch.Generator] | None


def seeds_to_generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator for each seed: `generator=` for images that depend on their own seed alone.

    Raises:
        ValueError: If a seed is no integer that torch takes, from −2⁶³ to 2⁶⁴ − 1.

    Examples:
        >>> [generator.initial_seed() for generator in seeds_to_generators([0, 7])]
        [0, 7]
    """
    try:
        seeds = list(map(plain_number, seeds))
    except TypeError as error:
        raise invalid("seeds", "a sequence of integers", type(seeds).__name__) from error
    for seed in seeds:
        check_integer("a seed", seed, -(2**63), 2**64 - 1)
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def check_generators(generator: Generators, batch_size: int) -> Generators:
    """A generator, or a list of one for each image, on the CPU."""
    if isinstance(generator, list | tuple):
        generator = list(generator)
        rule = f"one generator, or one for each of the {batch_size} images"
        require(len(generator) == batch_size, "generator", rule, f"{len(generator)} of them")
    for each in generator if isinstance(generator, list) else [generator]:
        if each is None:
            continue
        check_generator(each)
        # A CUDA generator's numbers are other numbers: a seed would mean another image.
        require(each.device.type == "cpu", "generator", "on the CPU", each.device)
    return generator


def draw(shape: Sequence[int], generators: Generators) -> Tensor:
    """Noise drawn image by image on the CPU in float32, so that a seed means the same image in any batch."""
    count, *image = shape
    each = generators if isinstance(generators, list) else [generators] * count
    return torch.stack([torch.randn(image, generator=own, dtype=torch.float32, device="cpu") for own in each])


def seed_noise(
    latents: Tensor | None, generators: Generators, batch_size: int, shape: tuple[int, int, int] | None
) -> Tensor:
    """z of shape (B, C, H, W), float32 on the CPU: as given, or drawn."""
    if latents is None:
        if shape is None:
            raise invalid("latents", "given: neither network nor prior tells their shape", None)
        return draw((batch_size, *shape), generators)
    rule = f"of shape ({batch_size}, {', '.join(map(str, shape or ('C', 'H', 'W')))})"
    fits = latents.ndim == 4 and len(latents) == batch_size and (shape is None or latents.shape[1:] == shape)
    require(fits, "latents", rule, tuple(latents.shape))
    check_finite("latents", latents)
    return latents.detach().to("cpu", torch.float32)


class Labels(NamedTuple):
    """Class labels, int64 (B,) or None: for the prior, for the network, and, if guided, the null labels."""

    prior: Tensor | None
    network: Tensor | None
    null: Tensor | None


def read_labels(
    class_labels: int | Sequence[int] | Tensor | None,
    batch_size: int,
    guidance_scale: float,
    unet: nn.Module,
    prior: Any,
    null_class_label: int | None,
) -> Labels:
    """Decides which labels network and prior get.

    Raises:
        ValueError: If labels are missing, superfluous or out of range for network or prior, or if guidance
            lacks labels or a null label.
    """
    takes, prior_classes = takes_labels(unet), getattr(prior, "num_classes", None)
    null = None if null_class_label is None else torch.full((batch_size,), null_class_label)
    guided = guidance_scale != 1.0
    require(math.isfinite(guidance_scale), "guidance_scale", "a finite number", guidance_scale)
    if guided:
        rule = "1 unless the network takes class labels and class_labels are given"
        require(takes and class_labels is not None, "guidance_scale", rule, guidance_scale)
        rule = "1 for a pipeline without null_class_label"
        hint = "Pass null_class_label= to from_pipe or from_pretrained."
        require(null is not None, "guidance_scale", rule, guidance_scale, hint)
    if class_labels is None:
        require(prior_classes is None, "class_labels", "given: the prior was fitted by class", None)
        rule = "given: the network takes class labels and the pipeline has no null_class_label"
        require(not takes or null is not None, "class_labels", rule, None)
        return Labels(None, null if takes else None, None)
    if not takes and prior_classes is None:
        raise invalid("class_labels", "None: neither network nor prior knows classes", class_labels)
    class_labels = plain_number(class_labels)
    if isinstance(class_labels, int):
        class_labels = [class_labels] * batch_size
    known = num_classes(unet) if takes else None
    labels = check_labels(class_labels, batch_size, known, "class_labels").cpu()
    if prior_classes is not None:
        check_labels(labels, batch_size, prior_classes, "class_labels (of the prior)")
    return Labels(
        labels if prior_classes is not None else None, labels if takes else None, null if guided else None
    )


def warn_of_layout(prior: Any, remedy: str) -> None:
    """Says of a prior without classes, for a network that is told what to make, what that costs."""
    # (At T there is next to no signal, hence no layout.)
    if prior is None or prior.num_classes is not None or prior.alpha**2 <= 0.01 * prior.sigma**2:
        return
    logger.warning(
        "the prior knows no classes, and imposes the layout of an image that has nothing to do with the prompt or "
        "label: on the bundled network images were of the class asked for in 25 %% of cases in place of 85 %%. %s",
        remedy,
    )


def latent_shape(unet: nn.Module) -> tuple[int, int, int] | None:
    """(C, H, W) of a network's input by its config, or None."""
    config = getattr(unet, "config", None)
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    if channels is None or size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(channels), int(height), int(width)


def num_classes(unet: nn.Module) -> int | None:
    """Number of class labels that a network was built for, null label included, or None."""
    return getattr(getattr(unet, "config", None), "num_class_embeds", None)


def real_classes(count: int | None, null: int | None) -> int | None:
    """How many of a network's `count` class labels images can have: all, or all before the null label.

    Raises:
        ValueError: If the null label is not the last one.
    """
    if count is None or null is None:
        return count
    require(null == count - 1, "null_class_label", f"the last of the network's labels, {count - 1}", null)
    return null


def check_arguments(unet: nn.Module) -> None:
    """Requires a network that is called with latents, timestep and at most class labels.

    Raises:
        ValueError: If it has to be told more, such as a prompt.
    """
    told = [
        name
        for name, parameter in inspect.signature(unet.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    further = [name for name in told[2:] if name != "class_labels"]
    rule = "a network that is called as unet(sample, timestep), perhaps with class_labels"
    hint = "Use its own pipeline, and otprior.attach(pipe, prior)."
    require(not further, "unet", rule, f"{type(unet).__name__}, which also takes {', '.join(further)}", hint)


def takes_labels(unet: nn.Module) -> bool:
    """Whether a network must be told class labels."""
    return num_classes(unet) is not None or getattr(unet, "class_embedding", None) is not None


def tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, then buffers."""
    yield from module.parameters()
    yield from module.buffers()
