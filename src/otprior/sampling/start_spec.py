"""A row of a comparison: where sampling starts, and how it goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from otprior.diffusion.grids import SPACINGS

# Our own grids are named "grid:log_snr" and so on, to tell them from a scheduler's spacing of that name.
OWN_GRID = "grid:"


@dataclass(frozen=True)
class StartSpec:
    """One row of a comparison.

    Attributes:
        prior: "none" (white noise at T), "identity", "gaussian", "mixture", "semidiscrete", "random_atom",
            "boosted_atom", "mini_batch", "unsolved" (semidiscrete with a potential that no solver touched); or
            "latents", which only `reproductions.dpm_ot` samples.
        start_timestep: t*; T − 1 for "none".
        steps: Steps of the sampler, which for multistep samplers are its network evaluations.
        scheduler: Name of a diffusers scheduler class.
        spacing: One of `starting.STOCK_SPACINGS`, or "grid:" and one of `grids.SPACINGS`.
        noise: Of a semidiscrete prior: "coupled", "fresh" or "frozen"; of a mixture "coupled" (None) or "fresh".
        smoothing: Of a semidiscrete prior, in units of τ.
        correlation: Of a coupled start's noise with the seed's.
        label: For people.
        conditional: Whether seed s gets class s modulo their number, from a prior fitted by class.
        guidance: Scale of classifier-free guidance; with any but 1 a step costs two evaluations.
        sampler: Config values of the scheduler, as (name, value) pairs.
        options: Of the prior, where it has any beyond those above, as (name, value) pairs.
    """

    prior: str
    start_timestep: int | float
    steps: int
    scheduler: str = "DPMSolverMultistepScheduler"
    spacing: str = OWN_GRID + SPACINGS[0]
    noise: str | None = None
    smoothing: float = 0.0
    correlation: float = 1.0
    label: str = ""
    conditional: bool = False
    guidance: float = 1.0
    sampler: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """A file name for all that decides the images."""
        text = json.dumps(differing(replace(self, label=""), _SINCE_FIRST), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def evaluations(self) -> int:
        """Network evaluations an image, as far as they are known beforehand."""
        calls = 2 * self.steps - 1 if self.scheduler == "HeunDiscreteScheduler" else self.steps
        return calls * (1 if self.guidance == 1.0 else 2)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The row that `to_json` wrote, in this version or an earlier one."""
        pairs = {name: tuple(map(tuple, values.get(name, ()))) for name in ("sampler", "options")}
        return cls(**{**values, **pairs})

    def to_json(self) -> dict[str, Any]:
        """All fields but those added later that are at their default."""
        return differing(self, _SINCE_FIRST)


# Fields that the first work folders did not know: left out where they are at their default, so that those stay valid.
_SINCE_FIRST = ("conditional", "guidance", "sampler", "options")


def differing(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """A dataclass as a dict, without those of the named fields that are at their default."""
    plain = {field.name for field in fields(value) if getattr(value, field.name) == field.default}
    return {name: entry for name, entry in asdict(value).items() if name not in names or name not in plain}
