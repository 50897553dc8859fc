"""The frontier: each prior at each number of evaluations; how many atoms, which atoms, and none from data.

t* of each prior, and how much of a coupled start's noise is drawn anew, are chosen on validation images under the
copying rule, for each number of evaluations and set of atoms apart; the sampler from t* is UniPC, evenly in log-SNR.
For N(0, I) at T, solver and spacing are chosen.

- "": each prior at 1 to 20 evaluations, with the images after which its fitting has paid for itself.
- "atoms": numbers of atoms; 30,000 and 60,000 need a file of training images (`Scale.training`). A row's copying is
  measured against its own atoms, and so is that of the real images beside it.
- "unseen": as many held-out images as atoms, which no network saw, beside training images. Nothing that is an atom is
  evaluated on: the reference images give quality, the validation images the floor.
- "model": atoms that are the full sampler's own images. Copying is measured against them, and in a second row against
  the training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from otprior import bundled
from otprior.compare import Study, StudyResult
from otprior.compare.material import atoms_of, models_of
from otprior.data import to_uint8
from otprior.files import output_file
from otprior.generation import OWN_GRID, RowSpec
from otprior.model_images import draw_model_images
from otprior.presets.preset import Stages
from otprior.presets.spacings import LAST, Solver, best_spacings
from otprior.validation import require

__all__ = ["break_even", "run"]

UNIPC = "UniPCMultistepScheduler"
EVALUATIONS = (1, 2, 3, 4, 5, 8, 10, 20)
WHITE = (
    Solver(
        "DPM++2M",
        "DPMSolverMultistepScheduler",
        ("trailing", "karras", OWN_GRID + "time", OWN_GRID + "log_snr"),
    ),
    Solver("UniPC", UNIPC, ("trailing", "karras", OWN_GRID + "time", OWN_GRID + "log_snr")),
)
FLOW = RowSpec("none", LAST, 100, spacing="trailing", label="full sampler, DPM++2M, 100")
STARTS = (350, 425, 500, 550, 600, 675)
PLAIN_STARTS = (400, 500, 600, 700)
LATE_STARTS = (600, 700, 800, 900)
MIXTURE_STARTS = (250, 300, 350, 400, 450, 550)
RANDOM = "random image + fresh noise"
FROZEN_STARTS = (250, 350, 425, 500, 600)
RANDOM_STARTS = (150, 200, 250, 300, 400, 500)
CORRELATIONS = (0.7, 1.0)
ATOMS = (100, 300, 1000, 3000, 10_000)
MORE_ATOMS = (30_000, 60_000)
STEPS = 5
# As many held-out images as there are are the atoms that no network saw.
UNSEEN = 4000
MODEL_STEPS = 50


def run(stages: Stages) -> dict[str, StudyResult]:
    """The four studies.

    Raises:
        ValueError: If the file of training images does not hold enough, or others than the network's.
    """
    if stages.scale.training:
        _check_training(stages)
    return {
        "": _evaluations(stages),
        "atoms": _numbers_of_atoms(stages),
        "unseen": _unseen(stages),
        "model": _model_atoms(stages),
    }


def _check_training(stages: Stages) -> None:
    study = replace(stages.study("training", [FLOW]), atoms_from=stages.scale.training, atoms=max(MORE_ATOMS))
    shape, own = tuple(atoms_of(study).images.shape[1:]), tuple(bundled.atoms().images.shape[1:])
    require(shape == own, f"images {Path(stages.scale.training).name}", f"of shape {own}", shape)


def _evaluations(stages: Stages) -> StudyResult:
    white = best_spacings(stages, WHITE, EVALUATIONS, stages.scale.share(0.25))
    rows: list[RowSpec] = []
    for nfe in EVALUATIONS:
        plain = RowSpec("none", LAST, nfe, UNIPC, OWN_GRID + "log_snr")
        coupled = stages.best(f"choosing {nfe} coupled", _coupled(plain))
        rows += [white[solver.name, nfe] for solver in WHITE]
        rows += [
            coupled,
            stages.best(
                f"choosing {nfe} frozen",
                _starts(replace(plain, noise="frozen"), "semidiscrete", FROZEN_STARTS, "frozen (DPM-OT)"),
            ),
            stages.best(f"choosing {nfe} gaussian", _starts(plain, "gaussian", PLAIN_STARTS)),
            stages.best(f"choosing {nfe} mixture", _starts(plain, "mixture", MIXTURE_STARTS)),
            stages.best(f"choosing {nfe} identity", _starts(plain, "identity", LATE_STARTS)),
            stages.best(f"choosing {nfe} random", _starts(plain, "random_atom", RANDOM_STARTS, RANDOM)),
        ]
    result = stages.run("evaluations", rows, flow=FLOW)
    for row in result.report["rows"]:
        row["break_even"] = break_even(row, result.report["rows"])
    return result


def break_even(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> float | None:
    """Images after which the time that the prior took ("fit_seconds") is saved, or None if none is ever saved.

    Against the N(0, I) row that takes least time among those of FID no higher than the row's; if there is none, against
    the N(0, I) row of lowest FID, which then is the worse of the two.
    """
    white = [other for other in rows if other["prior"] == "none"]
    if row["fit_seconds"] is None or not white:
        return None
    as_good = [other for other in white if other["fid"] <= row["fid"]]
    rival = min(as_good, key=lambda other: other["seconds_per_image"], default=None)
    rival = rival or min(white, key=lambda other: other["fid"])
    saved = rival["seconds_per_image"] - row["seconds_per_image"]
    return row["fit_seconds"] / saved if saved > 0 else None


def _numbers_of_atoms(stages: Stages) -> StudyResult:
    scale = stages.scale
    counts = [(count, "atoms") for count in ATOMS if not scale.rehearsal or count <= 1000]
    if scale.training:
        counts += [(count, scale.training) for count in MORE_ATOMS]
    return _joined([_on_atoms(stages, f"atoms {n}", atoms=n, atoms_from=name) for n, name in counts])


def _unseen(stages: Stages) -> StudyResult:
    count = 1000 if stages.scale.rehearsal else UNSEEN
    given = {"atoms": count, "real_split": "validation"}
    parts = [_on_atoms(stages, f"unseen {name}", atoms_from=name, **given) for name in ("held_out", "atoms")]
    return _joined(parts)


def _model_atoms(stages: Stages) -> StudyResult:
    scale = stages.scale
    count = 1000 if scale.rehearsal else 10_000
    path = _model_images(stages, count)
    own = _on_atoms(stages, "model", atoms=count, atoms_from=str(path))
    # The same start, its copying measured against the training images; which atom it has is then no matter.
    (row,) = own.study.rows if own.study else ()
    label = f"{row.label}: copies of training images"
    study = stages.study("model against training images", [replace(row, label=label)])
    study = replace(study, atoms_from=str(path), atoms=count, copies_of="atoms")
    return _joined([own, stages.run_study(study), _on_atoms(stages, "model beside data", atoms=count)])


def _model_images(stages: Stages, count: int) -> Path:
    """A file of the full sampler's images, drawn unless it is there."""
    path = stages.work / "model-images" / f"model-{count}.npz"
    if not path.exists():
        study = stages.study("model images", [FLOW])
        steps = 4 if stages.scale.rehearsal else MODEL_STEPS
        images = draw_model_images(
            models_of(study, Path()), count, path.parent, steps=steps, **stages.options("model")
        )
        with output_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, images=to_uint8(images.images))
    return path


def _on_atoms(stages: Stages, name: str, **changes: Any) -> StudyResult:
    """The best coupled start on a set of atoms, in `STEPS` evaluations."""
    plain = RowSpec("none", LAST, STEPS, UNIPC, OWN_GRID + "log_snr")
    choosing = {**changes, "real_split": "validation"}
    chosen = stages.best(f"choosing {name}", _coupled(plain), **choosing)
    what = f"{changes.get('atoms', 0):,} {Path(changes.get('atoms_from', 'atoms')).stem.replace('_', '-')}"
    return stages.run(name, [replace(chosen, label=f"{what}: {chosen.label}")], **changes)


def _joined(results: Sequence[StudyResult]) -> StudyResult:
    """One report of several studies, the first one's reference and solve; rows say what their own atoms are."""
    rows = []
    for result in results:
        study: Study | None = result.study
        assert study is not None
        for row in result.report["rows"]:
            rows.append(
                row
                | {
                    "atoms": study.atoms,
                    "atoms_from": Path(study.atoms_from).stem,
                    "held_out_copy_rate": result.report["reference"]["copy_rate"],
                }
            )
    require(bool(rows), "results", "at least one", 0)
    report = {**results[0].report, "rows": rows}
    sets = {key: value for result in results for key, value in result.sets.items()}
    return StudyResult(report, [image for result in results for image in result.images], sets)


def _coupled(plain: RowSpec) -> list[RowSpec]:
    return [
        _labelled(
            replace(plain, prior="semidiscrete", noise="coupled", start_timestep=t, correlation=rho),
            "coupled",
        )
        for t in STARTS
        for rho in CORRELATIONS
    ]


def _starts(plain: RowSpec, prior: str, timesteps: Sequence[int], name: str = "") -> list[RowSpec]:
    return [_labelled(replace(plain, prior=prior, start_timestep=t), name or prior) for t in timesteps]


def _labelled(row: RowSpec, name: str) -> RowSpec:
    kept = "" if row.correlation == 1 else f", ρ = {row.correlation:g}"
    return replace(row, label=f"{name}, t* = {row.start_timestep:g}{kept}, {row.steps}")
