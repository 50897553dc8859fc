"""Fits the priors that the starts of a comparison need to its atoms, unless they are there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otprior.experiments.comparison import Comparison
from otprior.experiments.inputs import Inputs
from otprior.experiments.priors import fit_options, fitted_name, load_fitted
from otprior.experiments.study import Listener, StageProgress
from otprior.priors import Prior, find_prior
from otprior.sampling.start_spec import StartSpec
from otprior.transport.solution import Progress
from otprior.utils.files import read_json, write_json


@dataclass(frozen=True)
class Fitted:
    """What is known of the priors of a comparison.

    Attributes:
        ot: "ot" of the report: the largest transport problem that was solved, if there was one.
        seconds: Seconds that each fit took, by the prior's name.
    """

    ot: dict[str, Any] | None
    seconds: dict[str, float]

    def seconds_of(self, start: StartSpec) -> float | None:
        """Seconds spent fitting a start's prior; None if nothing was fitted, or the fit was not timed."""
        name = fitted_name(start)
        if name is None:
            return None
        kind = find_prior(start.prior)
        # What is made from another's atoms costs no fit of its own.
        own = kind.made_from == start.prior and not kind.fit_is_free
        return self.seconds.get(name) if own else None


def fit_priors(study: Comparison, folder: Path, listen: Listener) -> Fitted:
    """Fits the priors that the starts need, unless they are there."""
    needed = {name: start for start in study.sampled_starts if (name := fitted_name(start)) is not None}
    for name in sorted(needed):
        _fit(study, folder, name, needed[name], listen)
    return Fitted(_largest_transport(folder, sorted(needed)), _seconds(folder))


def _times(folder: Path) -> Path:
    return folder / "seconds.json"


def _seconds(folder: Path) -> dict[str, float]:
    return read_json(_times(folder)) if _times(folder).exists() else {}


def _largest_transport(folder: Path, names: Iterable[str]) -> dict[str, Any] | None:
    solved = [load_fitted(folder / name).transport_facts() for name in names]
    return max((facts for facts in solved if facts), key=lambda facts: facts["atoms"], default=None)


def _fit(study: Comparison, folder: Path, name: str, start: StartSpec, listen: Listener) -> None:
    """Fits the prior of this name, unless it is there, and notes the seconds."""
    if (folder / name).exists():
        return
    plain = start.with_options(noise="coupled") if start.option("noise") == "whitened" else None
    own = None if plain is None else fitted_name(plain)
    if plain is not None and own is not None:
        _fit(study, folder, own, plain, listen)
    began = time.perf_counter()
    listen(StageProgress(f"fitting the {name} prior", 0, 1))
    prior: Any = _solve(study, start, listen) if own is None else load_fitted(folder / own)
    if own is not None:
        prior = prior.whiten()  # solves nothing again
    prior.save_pretrained(folder / name)
    seconds = _seconds(folder)
    spent = time.perf_counter() - began + seconds.get(own or "", 0.0)
    write_json(_times(folder), seconds | {name: spent})
    listen(StageProgress(f"fitting the {name} prior", 1, 1))


def _solve(study: Comparison, start: StartSpec, listen: Listener) -> Prior:
    """The prior that is fitted for a start."""
    kind = find_prior(find_prior(start.prior).made_from)
    inputs = Inputs.of(study)
    atoms = inputs.atoms
    if not start.conditional or not kind.fit_takes("labels"):
        # (White noise is the same for every class. A prior that can do without labels says so when it is called.)
        atoms = replace(atoms, labels=None)

    def progress(at: Progress) -> None:
        note = "" if at.chi2 is None else f"χ² {at.chi2.value:.3f}"
        listen(StageProgress("solving semi-discrete transport", at.draws, at.expected_draws, note))

    reach = {"tol": study.tol} if "tol" in kind.Options.declared() else {}
    options = reach | fit_options(start)
    latents = inputs.latents(atoms)
    return kind.fit_with(latents, inputs.schedule, start.start_timestep, options, progress=progress)
