"""Where a stock pipeline's white noise is met: in what it prepares, or at the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from otprior.utils.validation import invalid, require

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


def check_noise(prepare: Callable[..., Any], call: dict[str, Any], place: int) -> None:
    """Requires that latents which are prepared from an image, too, are white noise all the same.

    Two draws from N(0, I) differ everywhere, by N(0, 2). Where the image is part of the latents (its first frame, say),
    they do not.
    """
    images = [name for name, value in call.items() if name != "latents" and _is_image(value)]
    if not images:
        return
    draws = []
    with torch.random.fork_rng():
        for seed in (1, 2):
            torch.manual_seed(seed)
            given = {key: value for key, value in call.items() if key not in ("latents", "generator")}
            out = prepare(**given, generator=None)
            draws.append((out if isinstance(out, Tensor) else out[place]).float())
    apart = draws[0] - draws[1]
    slack = 5 * (2 / apart.numel()) ** 0.5
    noise = abs(float(apart.square().mean()) / 2 - 1) < slack and float((apart == 0).float().mean()) < 0.05
    rule = "white noise, for a prior to take its place"
    require(noise, "latents", rule, f"made of {' and '.join(images)}, too")


def _is_image(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_image(each) for each in value)
    return (isinstance(value, Tensor) and value.ndim >= 3) or hasattr(value, "convert")


@contextmanager
def first_contact(pipe: Any, start: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """For one call of a pipeline that prepares no latents: scheduler and network are given start(z) for z."""
    begun = pipe.scheduler._begun
    known: list[tuple[Tensor, Tensor]] = []

    def swap(sample: Tensor) -> Tensor:
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

    hook = find_network(pipe).register_forward_pre_hook(see, with_kwargs=True)
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
