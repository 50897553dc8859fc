"""The prior of a row, made from what was fitted.

A folder of fitted priors holds "semidiscrete", "gaussian" and "mixture" (its options in its name), the same
"-by-class". Rivals are made from the semidiscrete one: its atoms, or just its shape.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from otprior.priors import (
    IdentityPrior,
    MixturePrior,
    Prior,
    RandomAtomPrior,
    SemiDiscretePrior,
)
from otprior.sampling.start_spec import StartSpec
from otprior.utils.validation import invalid


def fitted_name(row: StartSpec) -> str | None:
    """Name of the fitted prior that a row's is made from; None if it needs none."""
    if row.prior in ("none", "latents"):
        return None
    name = row.prior if row.prior in ("gaussian", "mixture") else "semidiscrete"
    if row.prior == "mixture":
        name += "".join(f"-{option}-{value}" for option, value in row.options)
    return name + "-by-class" * row.conditional


def prior_of(folder: Path, row: StartSpec) -> Prior | None:
    """The prior of a row from the folder of fitted ones; None for white noise at T."""
    name = fitted_name(row)
    if name is None:
        return None
    fitted = _load(folder / name)
    if row.prior == "mixture":
        assert isinstance(fitted, MixturePrior)
        return fitted.with_options(noise=row.noise or "coupled").at(row.start_timestep)
    if row.prior == "gaussian":
        return fitted.at(row.start_timestep)
    if row.prior == "identity":
        return IdentityPrior.build(fitted.shape, fitted.schedule, row.start_timestep)
    assert isinstance(fitted, SemiDiscretePrior)
    given = dict(row.options)
    match row.prior:
        case "random_atom":
            return RandomAtomPrior.of(fitted, row.start_timestep)
        case "boosted_atom":
            means = row.correlation * _cell_means(folder / name, given["direction"])
            return _rivals("boosted_atom").BoostedAtomPrior.of(fitted, row.start_timestep, means)
        case "mini_batch":
            return _rivals("mini_batch").MiniBatchPrior.of(fitted, row.start_timestep)
        case "unsolved":
            fitted = _unsolved(folder / name, given["potential"])
        case "semidiscrete":
            pass
        case _:
            raise invalid("prior of a row", "one that StartSpec names", repr(row.prior))
    options = {"noise": row.noise, "smoothing": row.smoothing, "correlation": row.correlation}
    return fitted.with_options(**options).at(row.start_timestep)


@cache
def _load(folder: Path) -> Prior:
    return Prior.from_pretrained(folder)


@cache
def _cell_means(folder: Path, direction: str) -> Tensor:
    fitted = _load(folder)
    assert isinstance(fitted, SemiDiscretePrior)
    return _rivals("boosted_atom").cell_means(fitted, direction)


@cache
def _unsolved(folder: Path, potential: str) -> SemiDiscretePrior:
    fitted = _load(folder)
    assert isinstance(fitted, SemiDiscretePrior)
    return _rivals("unsolved").unsolved(fitted, potential)


def _rivals(name: str) -> Any:
    return import_module(f"otprior_studies.rivals.{name}")
