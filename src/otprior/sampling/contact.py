"""The network of a pipeline: where white noise reaches it, how often it is evaluated, and its guided answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from otprior.sampling.inputs import Labels
from otprior.utils.validation import (
    check_generator,
    check_integer,
    check_tensor,
    invalid,
    plain_number,
    require,
)

_NETWORKS = ("transformer", "unet", "prior", "decoder", "dit")


def find_network(pipe: Any) -> nn.Module:
    """The component that predicts the noise.

    Raises:
        ValueError: If none has a known name.
    """
    for name in _NETWORKS:
        if isinstance(getattr(pipe, name, None), nn.Module):
            return getattr(pipe, name)
    raise invalid("pipe", f"one with a network called {' or '.join(_NETWORKS)}", type(pipe).__name__)


def find_held(prepare: Callable[..., Any], call: dict[str, Any], place: int) -> Tensor | None:
    """Which entries of latents that are prepared from an image, too, hold that image and no noise; None if none do.

    Latents are prepared twice from the same random numbers, the second time with 1 added to the noise. What that adds
    to an entry is its share of noise: all of it or none.

    Raises:
        ValueError: If noise and image are mixed, or `latents` are given where an image is held.
    """
    images = [name for name, value in call.items() if name != "latents" and _is_image(value)]
    if not images:
        return None
    made = f"made of {' and '.join(images)}, too"
    given = {key: value for key, value in call.items() if key not in ("latents", "generator")}
    module: Any = sys.modules[prepare.func.__module__]  # type: ignore[attr-defined]
    stock, draws = getattr(module, "randn_tensor", None), []
    try:
        for added in (0, 1):
            if stock is not None:
                module.randn_tensor = lambda *a, _added=added, **k: stock(*a, **k) + _added
            with torch.random.fork_rng():
                torch.manual_seed(1)
                out = prepare(**given, generator=None)
            draws.append((out if isinstance(out, Tensor) else out[place]).detach().float())
    finally:
        if stock is not None:
            module.randn_tensor = stock
    share = (draws[1] - draws[0]) / max(float((draws[1] - draws[0]).abs().max()), 1.0)
    # (Half precision has two digits.)
    noise, held = (share - 1).abs() < 0.05, share.abs() < 0.05
    whole = bool((noise | held).all()) and bool(noise.any())
    require(whole, "latents", "white noise, for a prior to take its place", made)
    if not bool(held.any()):
        return None
    rule = "None in this pipeline, whose latents hold the image"
    require(call.get("latents") is None, "latents", rule, "given", "Pass generator= for the seed.")
    return held


def check_call(call: dict[str, Any]) -> None:
    """Requires steps, generators and seed noise of the right kind, of the arguments of a pipeline's call by name."""
    steps, generator = call.get("num_inference_steps"), call.get("generator")
    if steps is not None:
        check_integer("num_inference_steps", plain_number(steps), 1)
    generators = list(generator) if isinstance(generator, list | tuple) else None
    for each in [generator] if generators is None else generators:
        if each is not None:
            check_generator(each)
    # (Pipelines that take prompts look themselves.)
    asked = call.get("batch_size", call.get("class_labels"))
    count = len(asked) if isinstance(asked, list) else asked
    if generators is not None and isinstance(count, int):
        rule = f"one, or a list of {count}, one for each image"
        require(len(generators) == count, "generator", rule, f"{len(generators)} of them")
    if call.get("latents") is not None:
        check_tensor("latents", call["latents"])


def check_rows(call: dict[str, Any]) -> None:
    """Requires a row of given seed noise for each image, of the arguments of `prepare_latents` by name."""
    latents, batch = call.get("latents"), call.get("batch_size")
    if isinstance(latents, Tensor) and isinstance(batch, int):
        count = batch * call.get("num_images_per_prompt", 1)
        rule = f"of {count} rows, one for each image: prompts times images of each"
        require(len(latents) == count, "latents", rule, tuple(latents.shape))


def unit_noise(z: Tensor, scheduler: Any, held: Tensor | None = None) -> Tensor:
    """White noise as N(0, I), also where a pipeline multiplied it by its largest σ (Cosmos).

    Raises:
        ValueError: If it is neither.
    """
    drawn = (z if held is None else z[~held]).detach().float()
    rms, largest = float(drawn.square().mean().sqrt()), scheduler.config.get("sigma_max") or 0.0
    if largest > 3 and abs(rms / largest - 1) < 0.2 and scheduler.begins_exploding:
        return z / largest
    require(rms < 3, "latents", "seed noise from N(0, I)", f"of root mean square {rms:.3g}")
    return z


def _is_image(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_image(each) for each in value)
    return (isinstance(value, Tensor) and value.ndim >= 3) or hasattr(value, "convert")


@contextmanager
def first_contact(pipe: Any, start: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """For one call of a pipeline that prepares no latents: scheduler and network are given start(z) for z."""
    begun = pipe.scheduler._begun
    own, network = tuple(begun.prior.shape), find_network(pipe)
    enlarges = getattr(getattr(network, "config", None), "out_channels", None) in (own[0], 2 * own[0])
    known: list[tuple[Tensor, Tensor]] = []

    def swap(sample: Tensor) -> Tensor:
        if enlarges and sample.shape[2:] == own[1:] and sample.shape[1] > own[0]:
            # (An image to enlarge comes as further channels.)
            return torch.cat([swap(sample[:, : own[0]]), sample[:, own[0] :]], dim=1)
        for z, x in known:
            rows = slice(len(sample))
            if len(sample) <= len(z) and z.shape[1:] == sample.shape[1:]:
                if torch.equal(z[rows].to(sample), sample):
                    return x[rows].to(sample)
                if torch.equal(x[rows].to(sample), sample):
                    return sample
        if known:
            # (The first step checks them.)
            return sample
        known.append((sample, start(sample)))
        return known[0][1]

    def see(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = next((each for each in ("sample", "hidden_states") if each in kwargs), "")
        given = args[0] if args else kwargs[name]
        x = pipe.scheduler.network_input(given)
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, name: x})

    hook = network.register_forward_pre_hook(see, with_kwargs=True)
    begun.swap = swap
    try:
        yield
    finally:
        begun.swap = None
        hook.remove()


@contextmanager
def counted_rows(network: nn.Module) -> Iterator[list[int]]:
    """Yields a list that gets the batch size of each call of the network within the block."""
    rows: list[int] = []

    def count(_: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = inputs[0] if inputs else kwargs.get("hidden_states", kwargs.get("sample"))
        rows.append(len(given) if given is not None else 0)

    hook = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        hook.remove()


def denoise(unet: nn.Module, x: Tensor, t: Tensor, labels: Labels, guidance_scale: float) -> Tensor:
    """The network's output at timestep `t`, guided if there are null labels."""
    if labels.network is None:
        return unet(x, t, return_dict=False)[0]
    if labels.null is None:
        return unet(x, t, class_labels=labels.network.to(x.device), return_dict=False)[0]
    both = torch.cat([labels.null, labels.network]).to(x.device)
    out = unet(torch.cat([x, x]), t, class_labels=both, return_dict=False)[0]
    null, label = out.chunk(2)
    guided: Tensor = null + guidance_scale * (label - null)
    return guided
