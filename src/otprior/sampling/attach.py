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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprior.priors import Prior
from otprior.sampling.contact import (
    check_call,
    check_rows,
    find_held,
    find_network,
    first_contact,
    unit_noise,
)
from otprior.sampling.inputs import warn_of_layout
from otprior.sampling.layouts import Layout, find_layout
from otprior.sampling.pipeline import OTPriorPipeline
from otprior.sampling.schedulers.start_at import start_at, starts_at, stock_scheduler
from otprior.sampling.schedulers.switch import check_network
from otprior.utils.random import keyed_normal
from otprior.utils.validation import require

# The arguments of a call by name -> a class label, one for each prompt, or None.
Condition = Callable[[dict[str, Any]], Any]

# Arguments of `prepare_latents` of pipelines that noise an image: their start is that image, not the prior's.
_NOISES_AN_IMAGE = ("timestep", "latent_timestep", "strength")


def attach(
    pipe: Any,
    prior: Prior,
    *,
    condition: Condition | None = None,
    layout: Layout | None = None,
    timesteps: Sequence[float] | None = None,
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
        timesteps: A grid of own timesteps, strictly decreasing from t*; calls then ask for as many steps.

    Returns:
        `pipe` itself.

    Raises:
        ValueError: If the pipeline noises an image, its scheduler cannot start at t*, a prior by class lacks labels, or
            an argument is none of what it has to be. A pipeline that was attached before then stays so.

    Examples:
        >>> attach(pipe, prior)
        >>> pipe("a cat", num_inference_steps=4, generator=torch.Generator().manual_seed(0))
        >>> detach(pipe)
    """
    stock = _stock_class(pipe)
    require(getattr(pipe, "scheduler", None) is not None, "pipe", "one with a scheduler", stock.__name__)
    check_pipeline(stock)
    own = isinstance(pipe, OTPriorPipeline)
    require(not own, "pipe", "a stock pipeline", stock.__name__, "Assign pipe.prior = prior.")
    require(isinstance(prior, Prior), "prior", "a Prior", type(prior).__name__)
    rule = "a function of a call's arguments, or None"
    require(condition is None or callable(condition), "condition", rule, condition)
    pair = isinstance(layout, tuple | list) and len(layout) == 2 and all(map(callable, layout))
    require(layout is None or pair, "layout", "two functions, (unpack, pack), or None", layout)
    asked = inspect.signature(stock.__call__).parameters
    labelled = condition is not None or "class_labels" in asked
    hint = "It chooses a label for the call's prompts."
    require(prior.num_classes is None or labelled, "condition", "given for a prior by class", None, hint)
    own_scheduler = stock_scheduler(pipe.scheduler)
    started = start_at(own_scheduler, prior, timesteps=timesteps)
    if not _prepares(stock):
        find_network(pipe)
    if condition is None and {"prompt", "class_labels"} & set(asked):
        warn_of_layout(prior, "Fit a prior by class, and pass condition=.")
    detach(pipe)
    pipe._otprior = _State(stock, prior, condition, layout, own_scheduler, timesteps)
    pipe.__class__ = _attached_class(stock)
    pipe.scheduler = started
    return pipe


def detach(pipe: Any) -> Any:
    """Undoes `attach`; does nothing to another pipeline. Returns `pipe`.

    Examples:
        >>> pipe = detach(attach(pipe, prior))
    """
    state = pipe.__dict__.pop("_otprior", None)
    if state is not None:
        pipe.__class__ = state.stock
        pipe.scheduler = stock_scheduler(pipe.scheduler)
    return pipe


def _stock_class(pipe: Any) -> type:
    """The class of a pipeline, attached or not."""
    state = getattr(pipe, "__dict__", {}).get("_otprior")
    return type(pipe) if state is None else state.stock


def check_pipeline(cls: type) -> None:
    """Requires a class of pipelines that start from white noise.

    Raises:
        ValueError: If it noises an image, or says why else its starts are none of a prior's.
    """
    hint = "It noises an image up to its own timestep: sample from the prior with the text-to-image pipeline."
    if not _prepares(cls):
        noises = "strength" in inspect.signature(cls.__call__).parameters
        require(not noises, "pipe", "one that starts from white noise", cls.__name__, hint)
        return
    told = inspect.signature(cls.prepare_latents).parameters  # type: ignore[attr-defined]
    # Inpainting takes a `strength`, of which 1 is white noise.
    paints = "is_strength_max" in told or _paints_over(cls)
    noised = [name for name in _NOISES_AN_IMAGE if name in told and not paints]
    require(not noised, "pipe", "one that starts from white noise", cls.__name__, hint)


def _paints_over(cls: type) -> bool:
    """Whether a class inpaints, and has its scheduler noise the image (`scale_noise`), as those of flow matching do."""
    asked = inspect.signature(cls.__call__).parameters
    told = inspect.signature(cls.prepare_latents).parameters  # type: ignore[attr-defined]
    return {"mask_image", "strength"} <= set(asked) and "timestep" in told and "is_strength_max" not in told


def _prepares(cls: type) -> bool:
    return callable(getattr(cls, "prepare_latents", None))


@dataclass
class _State:
    """What an attached pipeline holds.

    Attributes:
        stock: Its class before.
        prior: Where it starts.
        condition, layout, timesteps: As given to `attach`.
        scheduler: The pipeline's own.
        labels: Class labels of the call in progress, (L,), or None.
        strength: Of that call, where it takes one.
    """

    stock: type
    prior: Prior
    condition: Condition | None
    layout: Layout | None
    scheduler: Any
    timesteps: Sequence[float] | None = None
    labels: Tensor | None = None
    strength: float = 1.0

    def __deepcopy__(self, memo: dict[int, Any]) -> _State:
        return copy.copy(self)

    def choose(self, call: dict[str, Any]) -> bool:
        """Finds the labels of a call; False if it is to start without the prior."""
        self.strength = call.get("strength", 1.0)
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
        return start_at(scheduler, self.prior, timesteps=self.timesteps)

    def start(self, pipe: Any, z: Tensor, held: Tensor | None = None, doubled: bool = False) -> Tensor:
        """T(z), in the pipeline's form; entries that are `held`, (B, ...), stay: seed noise there follows from z."""
        noise = unit_noise(z, pipe.scheduler, held)
        if held is not None:
            noise = torch.where(held, keyed_normal(noise).to(noise), noise)
        unpack, pack = self.layout or find_layout(pipe, tuple(self.prior.shape), tuple(z.shape[1:]))
        again = pipe.scheduler.is_start(noise)
        x = pack(pipe.scheduler.start(unpack(noise), self.rows(len(z), doubled)))
        # (White noise at T may be its own start.)
        rule, hint = "seed noise", "An attached pipeline makes its starts itself."
        require(not again or pipe.scheduler.is_start(noise), "latents", rule, "what start made of it", hint)
        if held is None:
            return x
        x = torch.where(held, z, x)
        # (Some pipelines step all of them, others those that are noise.)
        pipe.scheduler.expect(x, x[~held])
        return x


def _attached_class(stock: type) -> type:
    """A subclass of a pipeline's class, of its name and with its signatures."""
    body = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    # (It is made at run time: copies and pickles make it again.)
    body["__reduce_ex__"] = lambda self, protocol: (_bare, (stock,), self.__dict__)
    for name, ours in (("__call__", _call), ("prepare_latents", _prepare_latents)):
        if hasattr(stock, name):
            body[name] = _shown_as(getattr(stock, name), ours)
    return type(stock.__name__, (stock,), body)


def _bare(stock: type) -> Any:
    """An attached pipeline that holds nothing yet."""
    return object.__new__(_attached_class(stock))


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
    check_call(call.arguments)
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
    call = inspect.signature(prepare).bind(*args, **kwargs).arguments
    # (A stage before, such as unCLIP's for image embeddings, has a scheduler of its own.)
    if not starts_at(self.scheduler) or call.get("scheduler", self.scheduler) is not self.scheduler:
        return prepare(*args, **kwargs)
    check_rows(call)
    paints = _paints_over(state.stock)
    hint = "Below 1 an image is noised in its place."
    whole = state.strength == 1 if paints else call.get("is_strength_max", True)
    require(whole, "strength", "1 with a prior", state.strength if paints else "less", hint)
    if paints:
        # (From T on, the noised image is the noise.)
        self.scheduler.scale_noise = lambda sample, timestep, noise: noise
    try:
        out = prepare(*args, **kwargs)
        held = find_held(prepare, call, _place(state.stock))
    finally:
        if paints:
            del self.scheduler.scale_noise
    # (Some take given seed noise in its own type, which their network cannot.)
    dtype = call.get("dtype")
    if isinstance(out, Tensor):
        return state.start(self, out.to(dtype), held)
    parts, place = list(out), _place(state.stock)
    parts[place] = state.start(self, parts[place].to(dtype), held)
    return type(out)(parts)


def _place(stock: type) -> int:
    """Where the noise is among what `prepare_latents` returns: first, but for Marigold's."""
    return int(stock.__name__.startswith("Marigold"))
