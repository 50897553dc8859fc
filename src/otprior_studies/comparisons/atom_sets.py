"""The coupled start on other sets of atoms, its settings chosen for each of them.

- `numbers_of_atoms`: 100 to 10,000; 30,000 and 60,000 need a file of training images (`Scale.training`).
- `unseen`: as many held-out images as atoms, which no network saw, beside training images. Nothing that is an atom is
  evaluated on: the reference images give quality, the validation images the floor.
- `model_atoms`: the full sampler's own images. Copying is measured against them, and in a second row against the
  training images.

A row's copying is measured against its own atoms, and so is that of the real images beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from otprior.data import bundled
from otprior.data.images import to_uint8
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import paired_fid_difference
from otprior.experiments.inputs import atoms_of, images_of, models_of
from otprior.experiments.model_images import draw_model_images
from otprior.sampling.start_spec import StartSpec
from otprior.utils.files import output_file
from otprior.utils.validation import require
from otprior_studies.comparisons.candidates import FULL_SAMPLER, best_coupled
from otprior_studies.comparisons.stages import OVER_LIMIT, Stages

ATOMS = (100, 300, 1000, 3000, 10_000)
MORE_ATOMS = (30_000, 60_000)
STEPS = 5
# As many held-out images as there are are the atoms that no network saw.
UNSEEN = 4000
MODEL_STEPS = 50


def check_training(stages: Stages) -> None:
    """Looks at the file of training images.

    Raises:
        ValueError: If it does not hold enough, or others than the network's.
    """
    name = stages.scale.training
    study = replace(stages.study("training", [FULL_SAMPLER]), atoms_from=name, atoms=max(MORE_ATOMS))
    shape, own = tuple(atoms_of(study).images.shape[1:]), tuple(bundled.atoms().images.shape[1:])
    require(shape == own, f"images {Path(name).name}", f"of shape {own}", shape)


def numbers_of_atoms(stages: Stages) -> ComparisonResult:
    """From very few atoms to all of the training images."""
    scale = stages.scale
    counts = [(count, "atoms") for count in ATOMS if not scale.rehearsal or count <= 1000]
    if scale.training:
        counts += [(count, scale.training) for count in MORE_ATOMS]
    sets: list[dict[str, Any]] = [{"atoms": count, "atoms_from": name} for count, name in counts]
    result = _joined([_on(stages, best_coupled(stages, STEPS, **given), **given) for given in sets])
    result.report["curves"] = _curves(result.report)
    return result


def unseen(stages: Stages) -> ComparisonResult:
    """Atoms that no network saw, beside as many that it was trained on."""
    validation = stages.subject.validation
    given: dict[str, Any] = {"atoms": 1000 if stages.scale.rehearsal else UNSEEN, "real_split": validation}
    # (The floor has to be that of as many real images.)
    real = len(images_of(stages.study("floor", [FULL_SAMPLER]), validation))
    size = min(stages.scale.samples, real)
    start = best_coupled(stages, STEPS, atoms_from="held_out", **given)
    own = _on(stages, start, size, atoms_from="held_out", **given)
    same = _on(stages, _plainly(start), size, atoms_from="atoms", **given)
    chosen = best_coupled(stages, STEPS, atoms_from="atoms", **given)
    other = _on(stages, chosen, size, atoms_from="atoms", **given)
    what = f"FID with atoms that no network saw, less that with training images: {_plainly(start).label}"
    return _joined([own, other, same], [(what, own, same)])


def model_atoms(stages: Stages) -> ComparisonResult:
    """Atoms that the full sampler drew."""
    scale = stages.scale
    count = 1000 if scale.rehearsal else 10_000
    drawn: dict[str, Any] = {"atoms": count, "atoms_from": str(_model_images(stages, count))}
    data: dict[str, Any] = {"atoms": count, "atoms_from": "atoms"}
    start = best_coupled(stages, STEPS, **drawn)
    own = _on(stages, start, **drawn)
    # Its copying measured against the training images; which atom a sample has is then no matter.
    row = replace(start, label=f"{_only_row(own).label}, copies of training images")
    study = stages.study("model against training images", [row])
    against = stages.run_comparison(replace(study, **drawn, copies_of=scale.training or "atoms"))
    same = _on(stages, _plainly(start), **data)
    other = _on(stages, best_coupled(stages, STEPS, **data), **data)
    what = (
        f"FID with the model's own images as atoms, less that with training images: {_plainly(start).label}"
    )
    return _joined([own, against, other, same], [(what, own, same)])


def _model_images(stages: Stages, count: int) -> Path:
    """A file of the full sampler's images, drawn unless it is there."""
    path = stages.work / "model-images" / f"model-{count}.npz"
    if not path.exists():
        study = stages.study("model images", [FULL_SAMPLER])
        steps = 4 if stages.scale.rehearsal else MODEL_STEPS
        images = draw_model_images(
            models_of(study, Path()), count, path.parent, steps=steps, **stages.options("model")
        )
        with output_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, images=to_uint8(images.images))
    return path


def _on(stages: Stages, start: StartSpec, samples: int | None = None, **changes: Any) -> ComparisonResult:
    """A start on the set of atoms that `changes` (fields of a `Study`) say."""
    source = Path(changes["atoms_from"]).stem
    label = f"{changes['atoms']:,} {source.replace('_', '-')}: {start.label}"
    name = " ".join(["atoms", str(changes["atoms"]), source, changes.get("real_split", "")]).strip()
    return stages.run(name, [replace(start, label=label)], samples, **changes)


def _plainly(start: StartSpec) -> StartSpec:
    """A start that was chosen for other atoms: whether it copies these is another question."""
    return replace(start, label=start.label.removesuffix(OVER_LIMIT))


def _only_row(result: ComparisonResult) -> StartSpec:
    assert result.study is not None
    (row,) = result.study.rows
    return row


def _joined(
    results: Sequence[ComparisonResult], pairs: Sequence[tuple[str, ComparisonResult, ComparisonResult]] = ()
) -> ComparisonResult:
    """One report of several studies, each once, the first one's reference and solve; rows say what their own atoms are.

    Arguments:
        results: Of studies of one row.
        pairs: Studies of the same row, whose FIDs are compared seed by seed; and what for.
    """
    # (A start that is chosen for two sets is the same study in both places.)
    different: dict[Any, ComparisonResult] = {}
    for result in results:
        different.setdefault((result.work, _only_row(result).key), result)
    rows = [_row_on_its_atoms(result) for result in different.values()]
    report = {**results[0].report, "rows": rows}
    images = [image for result in different.values() for image in result.images]
    if pairs:
        lines = []
        for what, one, other in pairs:
            row = _only_row(one)
            found = paired_fid_difference(one, row, row, rival_in=other)
            lines.append([what, found.estimate, *found.limits()])
        report["tables"] = [
            {
                "title": "The same start on two sets of atoms",
                "note": "Settings chosen for the first set; differences are paired by seed, with 95 % limits.",
                "columns": ["", "difference", "from", "to"],
                "lines": lines,
            }
        ]
    # (Figures by row are those of a start, whatever its atoms: not to be joined.)
    return ComparisonResult(report, images, {})


def _row_on_its_atoms(result: ComparisonResult) -> dict[str, Any]:
    study, report = result.study, result.report
    assert study is not None
    (row,) = report["rows"]
    rate, chi2 = report["reference"]["copy_rate"], report["ot"]["chi2"]
    return row | {
        "atoms": study.atoms,
        "atoms_from": Path(study.atoms_from).stem,
        "held_out_copy_rate": rate,
        "note": f"real images: {rate:.2%} count as copies of these; χ² {chi2:.3f}",
    }


def _curves(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Quality, copying and time against the number of atoms."""
    rows = sorted(report["rows"], key=lambda row: row["atoms"])

    def curves(name: str, title: str, y: str, **series: str) -> dict[str, Any]:
        points = {
            legend.replace("_", " "): [(row["atoms"], row[key]) for row in rows if row[key] is not None]
            for legend, key in series.items()
        }
        log = "xy" if name == "fitting" else "x"
        return {
            "name": name,
            "title": title,
            "x": "atoms",
            "y": y,
            "series": points,
            "log": log,
            "points": False,
        }

    return [
        curves("quality-by-atoms", "Quality", "FID above the floor", coupled="excess_fid"),
        curves(
            "copying-by-atoms",
            "Copying",
            "share of copies",
            coupled="copy_rate",
            real_images="held_out_copy_rate",
        ),
        curves("fitting", "Fitting", "seconds", solve="fit_seconds"),
    ]
