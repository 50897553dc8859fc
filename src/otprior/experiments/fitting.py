"""The priors that a study's rows need, fitted to its atoms, unless they are there."""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otprior.experiments.comparison import Comparison
from otprior.experiments.inputs import Inputs
from otprior.experiments.priors import fitted_name
from otprior.experiments.study import Listener, StageProgress
from otprior.priors import GaussianPrior, MixturePrior, SemiDiscretePrior
from otprior.sampling.start_spec import StartSpec
from otprior.transport.solution import Progress
from otprior.utils.files import read_json, write_json
from otprior.utils.validation import require

# What others take from a fitted semidiscrete prior, its atoms or its shape, costs them no fit.
_OWN = ("gaussian", "mixture", "semidiscrete")


@dataclass(frozen=True)
class Fitted:
    """What is known of the priors of a study.

    Attributes:
        ot: "ot" of the report: of the semi-discrete solve, if there was one.
        seconds: That fitting took, by the prior's name.
    """

    ot: dict[str, Any] | None
    seconds: dict[str, float]

    def seconds_of(self, row: StartSpec) -> float | None:
        """That fitting a row's prior took; None where there was nothing to fit, or nobody took the time."""
        name = fitted_name(row)
        return self.seconds.get(name) if name is not None and row.prior in _OWN else None


def fit_priors(study: Comparison, folder: Path, listen: Listener) -> Fitted:
    """Fits the priors that the rows need, unless they are there."""
    needed = {name: row for row in study.sampled_starts if (name := fitted_name(row)) is not None}
    for name in sorted(needed):
        if not (folder / name).exists():
            began = time.perf_counter()
            _fit(study, folder, name, needed[name], listen)
            write_json(_times(folder), _seconds(folder) | {name: time.perf_counter() - began})
    return Fitted(_ot(folder, needed), _seconds(folder))


def _times(folder: Path) -> Path:
    return folder / "seconds.json"


def _seconds(folder: Path) -> dict[str, float]:
    return read_json(_times(folder)) if _times(folder).exists() else {}


def _ot(folder: Path, needed: Container[str]) -> dict[str, Any] | None:
    solved = [name for name in ("semidiscrete", "semidiscrete-by-class") if name in needed]
    if not solved:
        return None
    prior = SemiDiscretePrior.from_pretrained(folder / solved[0])
    return {
        "atoms": len(prior.atoms),
        "dim": prior.dim,
        **{key: prior.facts[key] for key in ("chi2", "chi2_upper", "seconds", "draws", "outcome")},
    }


def _fit(study: Comparison, folder: Path, name: str, row: StartSpec, listen: Listener) -> None:
    inputs = Inputs.of(study)
    atoms, schedule = inputs.atoms, inputs.schedule
    labels = None
    if row.conditional:
        rule = "labelled, for priors by class"
        require(atoms.labels is not None, f"images {study.atoms_from}", rule, "without labels")
        labels = atoms.labels
    if row.prior == "gaussian":
        listen(StageProgress(f"fitting the {name} prior", 0, 1))
        GaussianPrior.fit(atoms, schedule, row.start_timestep, labels).save_pretrained(folder / name)
        listen(StageProgress(f"fitting the {name} prior", 1, 1))
        return

    def progress(at: Progress) -> None:
        note = "" if at.chi2 is None else f"χ² {at.chi2.value:.3f}"
        listen(StageProgress("solving semi-discrete transport", at.draws, at.expected_draws, note))

    given = {"timestep": row.start_timestep, "labels": labels, "tol": study.tol, "progress": progress}
    prior: MixturePrior | SemiDiscretePrior
    if row.prior == "mixture":
        prior = MixturePrior.fit(atoms, schedule, **given, **dict(row.options))
    else:
        prior = SemiDiscretePrior.fit(atoms, schedule, **given)
    prior.save_pretrained(folder / name)
