"""A start: where sampling begins, and how it goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any, Self

from otprior.diffusion.grids import SPACINGS
from otprior.priors import PriorOptions, find_prior, prior_kinds
from otprior.utils.validation import check_integer, check_number, plain_number, require

# Our own grids are named "grid:log_snr" and so on, to tell them from a scheduler's spacing of that name.
OWN_GRID = "grid:"
# The spacing of a start whose timesteps were fitted.
FITTED = OWN_GRID + "fitted"
# Options that had fields of their own in earlier settings files, with their defaults there.
_FORMER_FIELDS = {"noise": None, "smoothing": 0.0, "correlation": 1.0}


@dataclass(frozen=True)
class StartSpec:
    """A start of a comparison, a search or a settings file.

    Attributes:
        prior: The kind of prior, such as "semidiscrete"; "none" for white noise at T. Others than those of
            `prior_kinds` can be named, too: studies sample them by samplers of their own.
        start_timestep: t*; T − 1 for "none".
        steps: Steps of the sampler, which for multistep samplers are its network evaluations.
        scheduler: Name of a diffusers scheduler class.
        spacing: One of `STOCK_SPACINGS`, "grid:" and one of `SPACINGS`, or "grid:fitted" with a grid.
        label: What people are shown.
        conditional: Whether seeds get the classes in turn, from a prior fitted by class.
        guidance: Scale of classifier-free guidance; with any but 1 a step costs two evaluations.
        sampler: Config values of the scheduler, as (name, value) pairs.
        options: Those of the prior that are not at their defaults, as (name, value) pairs in alphabetical order.
        grid: Timesteps from t* that `fit_grid` found, one a step; () of another spacing.

    Raises:
        ValueError: If a value is of another kind; if the prior does not have an option, or it must not have this value;
            or if the grid is not one of so many decreasing timesteps.

    Examples:
        >>> StartSpec("gaussian", 500, steps=5, scheduler="UniPCMultistepScheduler").spacing
        'grid:log_snr'
    """

    prior: str
    start_timestep: int | float
    steps: int
    scheduler: str = "DPMSolverMultistepScheduler"
    spacing: str = OWN_GRID + SPACINGS[0]
    label: str = ""
    conditional: bool = False
    guidance: float = 1.0
    sampler: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    grid: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prior", "scheduler", "spacing", "label"):
            value = getattr(self, name)
            require(isinstance(value, str), name, "text", repr(value))
        for name in ("start_timestep", "steps", "guidance"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))  # files hold no other
            check_number(name, getattr(self, name))
        check_integer("steps", self.steps, 1)
        given = {name: plain_number(value) for name, value in self.options}
        for name, value in (("grid", self.grid), ("sampler", self.sampler)):
            object.__setattr__(self, name, tuple(map(_plain, value)))
        declared = self._declared()
        if declared is not None:
            given = declared.make(given).changed()
        object.__setattr__(self, "options", tuple(sorted(given.items())))
        fitted = self.spacing == FITTED
        rule = f"{self.steps} decreasing timesteps" if fitted else f"left out with spacing {self.spacing!r}"
        falls = all(a > b for a, b in pairwise(self.grid))
        require(len(self.grid) == (self.steps if fitted else 0) and falls, "grid", rule, self.grid)

    def _declared(self) -> type[PriorOptions] | None:
        """The options that the prior declares; None where it is none of the known kinds."""
        return find_prior(self.prior).Options if self.prior in prior_kinds() else None

    def option(self, name: str, default: Any = None) -> Any:
        """The value of an option of the prior, which may be its default; `default` if the prior has none such."""
        given = dict(self.options)
        if name in given:
            return given[name]
        declared = self._declared()
        known = {} if declared is None else declared.declared()
        return known[name].default if name in known else default

    def with_options(self, **options: Any) -> Self:
        """The start with some options of the prior changed."""
        return replace(self, options=tuple((dict(self.options) | options).items()))

    def with_prior(self, prior: str, **options: Any) -> Self:
        """The start from another prior, with these options and no others."""
        return replace(self, prior=prior, options=tuple(options.items()))

    def told_as(self, other: StartSpec) -> Self:
        """The start by class and with guidance where another is."""
        return replace(self, conditional=other.conditional, guidance=other.guidance)

    @property
    def noise(self) -> str | None:
        """The option "noise"; None if the prior has none."""
        return self.option("noise")

    @property
    def smoothing(self) -> float:
        """The option "smoothing"; 0 if the prior has none."""
        return self.option("smoothing", 0.0)

    @property
    def correlation(self) -> float:
        """The option "correlation"; 1 if the prior has none."""
        return self.option("correlation", 1.0)

    def reported_options(self) -> dict[str, Any]:
        """The options as a report's row has them, and what it calls such starts."""
        if self._declared() is None:
            return {"noise": self.noise}
        kind = find_prior(self.prior)
        return kind.reported_options(dict(self.options)) | {"family": kind.describe(dict(self.options))}

    @property
    def key(self) -> str:
        """A file name for all that decides the images."""
        text = json.dumps(replace(self, label="").to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def evaluations(self) -> int:
        """Network evaluations an image, as far as they are known beforehand."""
        calls = 2 * self.steps - 1 if self.scheduler == "HeunDiscreteScheduler" else self.steps
        return calls * (1 if self.guidance == 1.0 else 2)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The start that `to_json` wrote, in this version or an earlier one."""
        fields_now = {name: value for name, value in values.items() if name not in _FORMER_FIELDS}
        former = {
            name: values[name]
            for name, default in _FORMER_FIELDS.items()
            if values.get(name, default) != default
        }
        options = former | dict(values.get("options", {}))
        sampler = tuple(map(tuple, values.get("sampler", ())))
        grid = tuple(values.get("grid", ()))
        return cls(**{**fields_now, "sampler": sampler, "options": tuple(options.items()), "grid": grid})

    def to_json(self) -> dict[str, Any]:
        """All fields but those at their defaults that few starts use; `options` as an object."""
        found = differing(self, ("conditional", "guidance", "sampler", "options", "grid"))
        return found | ({"options": dict(self.options)} if self.options else {})


def differing(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """A dataclass as a dict, without those of the named fields that are at their default."""
    plain = {field.name for field in fields(value) if getattr(value, field.name) == field.default}
    return {name: entry for name, entry in asdict(value).items() if name not in names or name not in plain}


def _plain(value: Any) -> Any:
    """A number, or a pair of name and number, as files can hold it."""
    return tuple(map(plain_number, value)) if isinstance(value, tuple) else plain_number(value)
