"""Starts that are being tried, and are no part of the library until one wins on the validation images.

Each is a module with

- `fit(images, schedule, folder, tol, **options)`: writes below `folder`, beside the fitted "semidiscrete" and
  "gaussian" priors, whatever else it needs, unless it is there;
- `build(folder, timestep, **options)`: the prior at t*.

A row of a comparison names one as "experimental:mixture". To drop one, delete its file, its name below, and its rows
in `presets.better_priors`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from otprior.data import ImageSet
from otprior.priors import Prior
from otprior.schedules import NoiseSchedule
from otprior.validation import check_choice

__all__ = ["EXPERIMENTS", "build", "fit"]

EXPERIMENTS = ("blended", "mixture", "moment_corrected", "residual", "retimed")


def fit(
    name: str, images: ImageSet, schedule: NoiseSchedule, folder: Path, tol: float, options: dict[str, Any]
) -> None:
    """Fits what the experiment `name` needs beyond the usual priors; see the package's docstring."""
    _module(name).fit(images, schedule, folder, tol, **options)


def build(name: str, folder: Path, timestep: float, options: dict[str, Any]) -> Prior:
    """The prior of the experiment `name`, at t*."""
    return _module(name).build(folder, timestep, **options)


def _module(name: str) -> Any:
    check_choice("experiment", name, EXPERIMENTS)
    return import_module(f"otprior.experimental.{name}")
