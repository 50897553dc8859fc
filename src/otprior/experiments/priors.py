"""The prior of a start, derived from what was fitted.

A folder of fitted priors holds one for each kind, named by it: "semidiscrete", "mixture-components-100" (with the
options that decide the fit), "gaussian-by-class" (if it was fitted with labels).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from otprior.priors import Prior, find_prior, prior_kinds
from otprior.sampling.start_spec import StartSpec


def fit_options(start: StartSpec) -> dict[str, Any]:
    """The options that decide what is fitted for a start."""
    return find_prior(find_prior(start.prior).made_from).fit_options(dict(start.options))


def fitted_name(start: StartSpec) -> str | None:
    """Name of the fitted prior that a start's is derived from; None if it needs none."""
    if start.prior not in prior_kinds():
        return None
    options = "".join(f"-{name}-{value}" for name, value in fit_options(start).items())
    return find_prior(start.prior).made_from + options + "-by-class" * start.conditional


def prior_of(folder: Path, start: StartSpec) -> Prior | None:
    """The prior of a start from the folder of fitted ones; None for white noise at T.

    Raises:
        ValueError: If there is no such kind of prior.
    """
    if start.prior == "none":
        return None
    kind, name = find_prior(start.prior), fitted_name(start)
    assert name is not None
    return kind.derive(load_fitted(folder / name), start.start_timestep, dict(start.options))


@cache
def load_fitted(folder: Path) -> Prior:
    """A fitted prior, read once a process."""
    return Prior.from_pretrained(folder)
