r"""A prior's start in any stock pipeline of diffusers, unmodified.

A pipeline draws white noise z, or is given it as `latents=`; from z its scheduler would step down from T. `attach`
changes two things: the scheduler begins at t* (`start_at`), and z becomes T(z) at the one place where all noise passes.
That is `prepare_latents`, where a pipeline has it. In the others (DDPM, DDIM, DiT, LDM, AudioDiffusion) scheduler and
network are what first sees z: both are then given T(z), row by row, since some double the rows before.

An object of an attached pipeline's class is one of a subclass, of the same name; nothing else of the pipeline changes,
and `detach` gives it its class and scheduler back.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprior.priors import Prior
from otprior.sampling.contact import check_noise, find_network, first_contact
from otprior.sampling.inputs import warn_of_layout
from otprior.sampling.layouts import Layout, find_layout
from otprior.sampling.pipeline import OTPriorPipeline
from otprior.sampling.schedulers.start_at import start_at, starts_at, stock_scheduler
from otprior.sampling.schedulers.switch import check_network
from otprior.utils.validation import require

# The arguments of a call by name -> a class label, one for each prompt, or None.
Condition = Callable[[dict[str, Any]], Any]

# Arguments of `prepare_latents` of pipelines that noise an image: their start is that image, not the prior's.
_NOISES_AN_IMAGE = ("timestep", "latent_timestep", "strength")


def attach(
    pipe: Any, prior: Prior, *, condition: Condition | None = None, layout: Layout | None = None
) -> Any:
    """From now on `pipe` starts at t* from T(z), where z is the noise that it would have started from.

    All arguments of its calls keep their meaning: `generator=` and `latents=` are the seed z ~ N(0, I), and
    `num_inference_steps=K` are K steps, from t*. A scheduler that is assigned later starts at t*, too.

    Arguments:
        pipe: A pipeline with a `scheduler`; of its components none is changed, copied or added.
        prior: Fitted to this pipeline's latents, as its network is trained on. A prior by class is given the
            `class_labels` of the call.
        condition: For a pipeline with prompts: is called with the arguments of each call by name, and returns the
            class label, or one for each prompt. If it returns None, that call starts as it did before `attach`.
        layout: (unpack, pack) between the pipeline's latents (B, ...) and (B, *prior.shape), for a pipeline whose
            packing is not known.

    Returns:
        `pipe` itself.

    Raises:
        ValueError: If the pipeline noises an image instead of starting from white noise, its scheduler cannot start
            at t*, or a prior by class would get no labels.

    Example:
        >>> attach(pipe, prior)
        >>> pipe("a cat", num_inference_steps=4, generator=torch.Generator().manual_seed(0))
        >>> detach(pipe)
    """
    detach(pipe)
    check_pipeline(type(pipe))
    own = isinstance(pipe, OTPriorPipeline)
    require(not own, "pipe", "a stock pipeline", type(pipe).__name__, "Assign pipe.prior = prior.")
    require(getattr(pipe, "scheduler", None) is not None, "pipe", "one with a scheduler", type(pipe).__name__)
    require(isinstance(prior, Prior), "prior", "a Prior", type(prior).__name__)
    asked = inspect.signature(type(pipe).__call__).parameters
    labelled = condition is not None or "class_labels" in asked
    hint = "It chooses a label for the call's prompts."
    require(prior.num_classes is None or labelled, "condition", "given for a prior by class", None, hint)
    if condition is None and {"prompt", "class_labels"} & set(asked):
        warn_of_layout(prior, "Fit a prior by class, or pass condition=.")
    started = start_at(pipe.scheduler, prior)
    if not _prepares(type(pipe)):
        find_network(pipe)
    pipe._otprior = _State(type(pipe), prior, condition, layout, stock_scheduler(pipe.scheduler))
    pipe.__class__ = _attached_class(type(pipe))
    pipe.scheduler = started
    return pipe


def detach(pipe: Any) -> Any:
    """Undoes `attach`; does nothing to another pipeline. Returns `pipe`."""
    state = pipe.__dict__.pop("_otprior", None)
    if state is not None:
        pipe.__class__ = state.stock
        pipe.scheduler = stock_scheduler(pipe.scheduler)
    return pipe


def check_pipeline(cls: type) -> None:
    """Requires a class of pipelines that start from white noise.

    Raises:
        ValueError: If it noises an image, or says why else its starts are none of a prior's.
    """
    if not _prepares(cls):
        return
    told = inspect.signature(cls.prepare_latents).parameters  # type: ignore[attr-defined]
    # Inpainting takes a `strength`, of which the usual one, 1, is white noise.
    noised = [name for name in _NOISES_AN_IMAGE if name in told and "is_strength_max" not in told]
    hint = "It noises an image up to its own timestep: sample from the prior with the text-to-image pipeline."
    require(not noised, "pipe", "one that starts from white noise", cls.__name__, hint)


def _prepares(cls: type) -> bool:
    return callable(getattr(cls, "prepare_latents", None))


@dataclass
class _State:
    """What an attached pipeline holds.

    Attributes:
        stock: Its class before.
        prior: Where it starts.
        condition, layout: As given to `attach`.
        scheduler: The pipeline's own.
        labels: Class labels of the call in progress, (L,), or None.
    """

    stock: type
    prior: Prior
    condition: Condition | None
    layout: Layout | None
    scheduler: Any
    labels: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _State:
        return copy.copy(self)

    def choose(self, call: dict[str, Any]) -> bool:
        """Finds the labels of a call; False if it is to start without the prior."""
        chosen = self.condition(call) if self.condition is not None else call.get("class_labels")
        if self.condition is not None and chosen is None:
            return False
        if self.prior.num_classes is not None:
            rule = "given: the prior was fitted by class"
            require(chosen is not None, "class_labels", rule, None)
            self.labels = torch.as_tensor(chosen).reshape(-1).cpu()
        return True

    def rows(self, count: int, doubled: bool) -> Tensor | None:
        """A label for each row: each prompt's images follow one another; guidance doubles the whole batch."""
        if self.labels is None:
            return None
        rule = f"one, or one for each prompt: a divisor of the {count} rows"
        require(count % len(self.labels) == 0, "class labels", rule, len(self.labels))
        times = count // len(self.labels)
        return self.labels.repeat(times) if doubled else self.labels.repeat_interleave(times)

    def begin(self, scheduler: Any) -> Any:
        """A scheduler that was assigned to the pipeline, from t*; one of another process is refused."""
        check_network(scheduler, self.scheduler)
        return start_at(scheduler, self.prior)

    def start(self, pipe: Any, z: Tensor, doubled: bool = False) -> Tensor:
        """T(z), in the pipeline's form."""
        rms = float(z.detach().float().square().mean().sqrt())
        require(rms < 3, "latents", "seed noise from N(0, I)", f"of root mean square {rms:.3g}")
        unpack, pack = self.layout or find_layout(pipe, tuple(self.prior.shape), tuple(z.shape[1:]))
        return pack(pipe.scheduler.start(unpack(z), self.rows(len(z), doubled)))


def _attached_class(stock: type) -> type:
    """A subclass of a pipeline's class, of its name and with its signatures."""
    body = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    for name, ours in (("__call__", _call), ("prepare_latents", _prepare_latents)):
        if hasattr(stock, name):
            body[name] = _shown_as(getattr(stock, name), ours)
    return type(stock.__name__, (stock,), body)


def _shown_as(stock: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(self, *args, **kwargs)

    return method


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A call of an attached pipeline."""
    state = self._otprior
    stock = functools.partial(state.stock.__call__, self)
    call = inspect.signature(stock).bind(*args, **kwargs)
    call.apply_defaults()
    try:
        if not state.choose(call.arguments):
            self.scheduler = stock_scheduler(self.scheduler)
            return stock(*args, **kwargs)
        if not starts_at(self.scheduler):
            self.scheduler = state.begin(self.scheduler)
        if _prepares(state.stock):
            return stock(*args, **kwargs)
        with first_contact(self, functools.partial(state.start, self, doubled=True)):
            return stock(*args, **kwargs)
    finally:
        state.labels = None
        if not starts_at(self.scheduler):
            self.scheduler = state.begin(self.scheduler)


def _prepare_latents(self: Any, *args: Any, **kwargs: Any) -> Any:
    state = self._otprior
    prepare = functools.partial(state.stock.prepare_latents, self)
    out = prepare(*args, **kwargs)
    if not starts_at(self.scheduler):
        return out
    call = inspect.signature(prepare).bind(*args, **kwargs).arguments
    hint = "Below 1 an image is noised in its place."
    require(call.get("is_strength_max", True), "strength", "1 with a prior", "less", hint)
    check_noise(prepare, call, _place(state.stock))
    if isinstance(out, Tensor):
        return state.start(self, out)
    parts, place = list(out), _place(state.stock)
    parts[place] = state.start(self, parts[place])
    return type(out)(parts)


def _place(stock: type) -> int:
    """Where the noise is among what `prepare_latents` returns: first, but for Marigold's."""
    return int(stock.__name__.startswith("Marigold"))
