r"""A scheduler of a stock class that begins at a prior's t*: what any pipeline can be given in the place of its own.

`start_at` makes a subclass of the scheduler's own class, so what pipelines ask of it holds: `isinstance`, the config,
the signature of `step`. Asked for K steps it makes K steps from t*; what takes them is a fresh scheduler inside
(`start_scheduler`). `timesteps` is what the network is told; the one inside may number its steps otherwise, so a step
is found by its place.

*Scale.* Some pipelines multiply the latents by `init_noise_sigma`, also those that a user passes; others do not. Only 1
is right in both. So the sampler's scale (x/α under Euler, Heun, LMS, KDPM2) is in what `start` returns.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from otprior.priors import Prior
from otprior.sampling.schedulers.begun import Begun
from otprior.sampling.schedulers.flow import before_shift
from otprior.sampling.schedulers.start import Start, find_origin, read_grid
from otprior.sampling.schedulers.support import find_support
from otprior.utils.random import keyed_normal
from otprior.utils.validation import check_finite, invalid, require


def start_at(
    scheduler: Any, prior: Any, *, check: bool = True, timesteps: Sequence[float] | None = None
) -> Any:
    """A scheduler like the given one, and of its class, that begins at the prior's t*.

    It has one method more, `start(z, labels=None, fresh=None)`: latents at t* and at this sampler's scale, of seed
    noise z ~ N(0, I) of shape (B, *prior.shape), in z's type and on its device. `set_timesteps(K)` makes K steps from
    t*, also where a pipeline brings a grid of its own from the top (Flux).

    Arguments:
        scheduler: A diffusers scheduler that can start at t* (`supported_schedulers`); it stays as it is.
        prior: Where to start; None starts from white noise at T.
        check: Whether the first step refuses latents that `start` did not make, such as white noise: they would give
            grey fog. False for latents of your own, at t* and in the sampler's scale.
        timesteps: A grid of own timesteps, strictly decreasing from t*, in place of whatever a pipeline sets: it is
            then asked for as many steps.

    Raises:
        ValueError: If the scheduler cannot start at t*, or never has the prior's noise level; or if `timesteps` are
            none of its own, strictly decreasing from t*.

    Examples:
        >>> pipe.scheduler = start_at(pipe.scheduler, prior)
        >>> pipe("a cat", num_inference_steps=4, latents=pipe.scheduler.start(z))
    """
    require(prior is None or isinstance(prior, Prior), "prior", "a Prior, or None", type(prior).__name__)
    base = stock_scheduler(scheduler)
    support = find_support(base)  # refuses a class that cannot start, before its process is asked for
    grid, origin = None if timesteps is None else read_grid("timesteps", timesteps), find_origin(base, prior)
    if grid is not None:
        origin.start(base, timesteps=grid)  # refuses it now, and not at the first run
    begun = Begun(base, prior, origin, check, grid)
    stock = type(base)
    told = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}
    made = type(stock.__name__, (_StartsAt, stock), told)
    # Pipelines read from signatures what a scheduler takes: eta, generator; timesteps, sigmas.
    made.step = _signed(_StartsAt.step, inspect.signature(stock.step))  # type: ignore[attr-defined]
    asked = inspect.signature(_StartsAt.set_timesteps).parameters
    flow = "flow" in (begun.origin.schedule.kind, support.grid)
    hidden = ("others",) if flow else ("others", "sigmas", "mu")
    shown = [each for name, each in asked.items() if name not in hidden]
    made.set_timesteps = _signed(_StartsAt.set_timesteps, inspect.Signature(shown))  # type: ignore[attr-defined]
    new: Any = object.__new__(made)
    new.__dict__.update(copy.copy(base.__dict__))
    new._begun = begun
    return new


def stock_scheduler(scheduler: Any) -> Any:
    """The scheduler that one of `start_at` was made from; any other itself."""
    return scheduler._begun.base if isinstance(scheduler, _StartsAt) else scheduler


def starts_at(scheduler: Any) -> bool:
    """Whether a scheduler comes from `start_at`."""
    return isinstance(scheduler, _StartsAt)


def last_source(scheduler: Any) -> Tensor | None:
    """The atoms behind the starts that a scheduler of `start_at` last made, (B,); None if there are none."""
    return scheduler._begun.source if isinstance(scheduler, _StartsAt) else None


class _StartsAt:
    """What comes before a stock scheduler's class; see `start_at`."""

    _begun: Begun
    timesteps: Tensor
    sigmas: Tensor
    num_inference_steps: int

    @property
    def init_noise_sigma(self) -> float:
        """1: `start` returns latents in the sampler's scale."""
        return 1.0

    @property
    def prior(self) -> Any:
        """Where sampling starts."""
        return self._begun.prior

    @property
    def start_timestep(self) -> float:
        """t*, in the scheduler's own units."""
        return self._begun.origin.timestep

    @property
    def nfe(self) -> int:
        """Steps of the network in a run."""
        return len(self._begun.told)

    @property
    def begins_exploding(self) -> bool:
        """Whether the process is variance exploding, where some pipelines scale their noise themselves."""
        return self._begun.origin.schedule.kind == "ve"

    @property
    def step_index(self) -> int | None:
        """Place of the next step."""
        return self._begun.place

    @property
    def _step_index(self) -> int | None:
        return self._begun.place

    @_step_index.setter
    def _step_index(self, place: int) -> None:
        # (Cosmos takes a step back, after one that only guides.)
        self._begun.place = place
        if self._begun.run is not None:
            self._begun.run.scheduler._step_index = place

    @property
    def begin_index(self) -> int | None:
        """Place of the first step, if one was set."""
        return self._begun.begin

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Sets the place of the first step."""
        self._begun.begin, self._begun.place = begin_index, None

    def start(self, z: Tensor, labels: Tensor | None = None, fresh: Tensor | None = None) -> Tensor:
        """Latents at t*, at this sampler's scale.

        Arguments:
            z: Seed noise from N(0, I), shape (B, *prior.shape).
            labels: Class labels, int64 (B,), for a prior by class.
            fresh: Further noise, shaped as z, for a prior that takes it; by default it follows from z.

        Returns:
            As z in shape, type and device.
        """
        return self.start_and_source(z, labels, fresh)[0].to(z)

    def start_and_source(
        self, z: Tensor, labels: Tensor | None = None, fresh: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`start` in float32 and on the prior's device, and the atoms behind it."""
        begun, prior, origin = self._begun, self._begun.prior, self._begun.origin
        if prior is None:
            x, source = z.float() * origin.schedule.prior_scale(origin.timestep), None
        else:
            home = prior.device
            if fresh is None and prior.needs_fresh:
                fresh = keyed_normal(z)
            labels, fresh = (None if each is None else each.to(home) for each in (labels, fresh))
            x, source = prior.start_and_source(z.float().to(home), labels=labels, fresh=fresh)
        x = x * begun.scale()
        begun.source = source
        self.expect(x.to(z.dtype))
        return x, source

    def is_start(self, latents: Tensor) -> bool:
        """Whether latents are those that `start` last returned."""
        return self._begun.is_start(latents)

    def expect(self, *latents: Tensor) -> None:
        """Says what latents the first step will be given, if others than `start` returns: some, or with an image."""
        self._begun.expect(*latents)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **others: Any,
    ) -> None:
        """K steps from t*, at the spacing of the config; or the given grid, from t*. See `start_scheduler`."""
        for name, value in others.items():
            require(value is None, name, "None for a scheduler that starts at t*", value)
        begun = self._begun
        # (CogView4 and GLM-Image tell their network the coordinate before the shift, by a grid of each.)
        unshifted = timesteps is not None and sigmas is not None
        timesteps = None if unshifted else timesteps
        asked: dict[str, Any] = {"num_inference_steps": num_inference_steps}
        for name, grid in (("sigmas", sigmas), ("timesteps", timesteps)):
            if grid is not None:
                asked = {name: read_grid(name, grid)}
        if begun.grid is not None:
            (steps,) = (each if isinstance(each, int) else len(each) for each in asked.values())
            rule = f"{len(begun.grid)}, the timesteps of the grid that was given"
            require(steps == len(begun.grid), "num_inference_steps", rule, steps)
            asked = {"timesteps": begun.grid}
        if self.begins_exploding and find_support(begun.base).grid == "flow" and "sigmas" in asked:
            # (Cosmos 2 gives places between the largest and the least, of which its scheduler heeds the number.)
            asked = {"num_inference_steps": len(asked["sigmas"])}
        last = begun.origin.schedule.timestep_range[1]
        if begun.origin.schedule.kind == "flow" and asked.get("timesteps", [0.0])[0] == last:
            # (A pipeline's own grid, from the top: LTX's for conditions.)
            asked = {"sigmas": [t / last for t in asked["timesteps"]]}
        begun.run = begun.origin.start(begun.base, device=device, mu=mu, **asked)
        begun.begin = begun.place = begun.scaled = None
        told = before_shift(begun.base, begun.run.timesteps, mu) if unshifted else begun.run.timesteps
        begun.told = told.tolist()
        # (Würstchen's have their end, too; those of a respaced scheduler are numbered otherwise.)
        longer = len(begun.run.scheduler.timesteps) > begun.run.nfe
        self.timesteps = begun.run.scheduler.timesteps if longer else told
        self.num_inference_steps = len(begun.told) if num_inference_steps is None else num_inference_steps
        if hasattr(begun.run.scheduler, "sigmas"):
            # (Not a respaced `alphas_cumprod`, which `add_noise` would index by the timestep.)
            # A copy: Cosmos 2 overwrites the last, which would make its last step stand still.
            self.sigmas = begun.run.scheduler.sigmas.clone()

    def scale_model_input(self, sample: Tensor, timestep: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """What the network is given at this timestep."""
        run, place = self._enter(timestep)
        self._begun.scaled = place
        return run.model_input(self._first(sample, place), place)

    def network_input(self, sample: Tensor) -> Tensor:
        """What the network is given next, in a pipeline that does not ask `scale_model_input`."""
        begun = self._begun
        place = (begun.begin or 0) if begun.place is None else begun.place
        if begun.run is None or begun.scaled == place or place >= len(begun.told):
            return sample
        return begun.run.model_input(self._first(sample, place), place)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The latents after the network's answer at this timestep; after the last, they must be finite."""
        run, place = self._enter(timestep)
        sample = self._first(sample, place)
        if self._begun.place is None:
            self._begun.check_start(sample, place)
        out = run.stock_step(model_output, place, sample, *args, **kwargs)
        self._begun.place = place + 1
        if self._begun.place == len(self._begun.told):
            _check_end(out[0] if isinstance(out, tuple) else out.prev_sample)
        return out

    def _enter(self, timestep: Any) -> tuple[Start, int]:
        """What steps, set to the step that is asked for, and its place."""
        begun = self._begun
        if begun.run is None:
            raise invalid("scheduler", "one whose timesteps are set", "step before set_timesteps")
        place, inner = begun.find(timestep), begun.run.scheduler
        if begun.place is None:
            if place and hasattr(inner, "set_begin_index"):
                inner.set_begin_index(place)
        elif place != begun.place and hasattr(inner, "_step_index"):
            inner._step_index = place
        return begun.run, place

    def _first(self, sample: Tensor, place: int) -> Tensor:
        swap = self._begun.swap
        return sample if swap is None or place > 0 else swap(sample)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy starts from the same prior, which may hold many images.
        memo[id(self._begun.prior)] = self._begun.prior
        new = object.__new__(type(self))
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time: a pickle holds what it is made from.
        begun = self._begun
        return functools.partial(start_at, check=begun.check, timesteps=begun.grid), (begun.base, begun.prior)

    @classmethod
    def from_config(cls, *args: Any, **kwargs: Any) -> Any:
        """A stock scheduler, as the class would make it."""
        return _stock_class(cls).from_config(*args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """A stock scheduler, as the class would load it."""
        return _stock_class(cls).from_pretrained(*args, **kwargs)


def _stock_class(cls: type) -> Any:
    return next(each for each in cls.__mro__[1:] if not issubclass(each, _StartsAt) and each is not _StartsAt)


def _signed(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """A function that does as the given one and shows another signature."""

    def shown(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    shown.__name__, shown.__doc__ = function.__name__, function.__doc__
    shown.__signature__ = signature  # type: ignore[attr-defined]
    return shown


def _check_end(latents: Tensor) -> None:
    """Requires finite latents where sampling ends; as 8-bit images they would be black."""
    try:
        check_finite("latents where sampling ends", latents)
    except ValueError as error:
        hint = (
            "The sampler diverged, or the network overflows: try more steps, another scheduler, or float32."
        )
        raise ValueError(f"{error}. {hint}") from None
