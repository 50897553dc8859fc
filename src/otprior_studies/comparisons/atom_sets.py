"""The coupled start on other sets of atoms, its settings chosen for each of them.

- `numbers_of_atoms`: 100 to 10,000; 30,000 and 60,000 need a file of training images.
- `unseen`: as many held-out images as atoms, which no network saw, compared with training images. Nothing that is an
  atom is evaluated on: the reference images give quality, the validation images the floor.
- `model_atoms`: the full sampler's own images. Copying is measured against them, and once more against the
  training images.

Copying is measured against a start's own atoms, for samples and for real images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import paired_fid_difference
from otprior.experiments.inputs import Inputs
from otprior.experiments.processes import run_pieces
from otprior.experiments.sampling import Samples, sample_block, seed_blocks
from otprior.report import Curves, ReportRow, SamplingReport
from otprior.sampling.start_spec import StartSpec
from otprior.utils.arrays import write_arrays
from otprior.utils.validation import require
from otprior_studies.comparisons.candidates import FULL_SAMPLER, best_coupled
from otprior_studies.comparisons.stages import OVER_LIMIT, Stages

ATOMS = (100, 300, 1000, 3000, 10_000)
MORE_ATOMS = (30_000, 60_000)
STEPS = 5
# As many held-out images as there are are the atoms that no network saw.
UNSEEN = 4000
# The model's images: evaluations of its full sampler; the first seed, far from any comparison's; images a piece.
MODEL_STEPS, MODEL_SEED, MODEL_BLOCK = 50, 2_000_000_000, 250


def check_training(stages: Stages, training: str) -> None:
    """Looks at the file of training images.

    Raises:
        ValueError: If it does not hold enough, or others than the network's.
    """
    stage = replace(stages.comparison("training", [FULL_SAMPLER]), atoms_from=training, atoms=max(MORE_ATOMS))
    shape, own = (tuple(images.images.shape[1:]) for images in (Inputs.of(stage).atoms, stages.inputs.atoms))
    require(shape == own, f"images {Path(training).name}", f"of shape {own}", shape)


def numbers_of_atoms(stages: Stages, training: str = "") -> ComparisonResult:
    """From very few atoms to all of the training images."""
    counts = [(count, "atoms") for count in ATOMS if not stages.rehearsal or count <= 1000]
    if training:
        counts += [(count, training) for count in MORE_ATOMS]
    sets: list[dict[str, Any]] = [{"atoms": count, "atoms_from": name} for count, name in counts]
    result = _joined([_on(stages, best_coupled(stages, STEPS, **given), **given) for given in sets])
    return result.with_report(curves=_curves(result.report))


def unseen(stages: Stages) -> ComparisonResult:
    """Atoms that no network saw, and as many that it was trained on."""
    validation = stages.subject.validation
    given: dict[str, Any] = {"atoms": 1000 if stages.rehearsal else UNSEEN, "real_split": validation}
    # The floor is computed on equally many real images.
    size = min(stages.samples, len(stages.inputs.images(validation)))
    start = best_coupled(stages, STEPS, atoms_from="held_out", **given)
    own = _on(stages, start, size, atoms_from="held_out", **given)
    same = _on(stages, _plainly(start), size, atoms_from="atoms", **given)
    chosen = best_coupled(stages, STEPS, atoms_from="atoms", **given)
    other = _on(stages, chosen, size, atoms_from="atoms", **given)
    what = f"FID with atoms that no network saw, less that with training images: {_plainly(start).label}"
    return _joined([own, other, same], [(what, own, same)])


def model_atoms(stages: Stages, training: str = "") -> ComparisonResult:
    """Atoms that the full sampler drew."""
    count = 1000 if stages.rehearsal else 10_000
    drawn: dict[str, Any] = {"atoms": count, "atoms_from": str(_model_images(stages, count))}
    data: dict[str, Any] = {"atoms": count, "atoms_from": "atoms"}
    start = best_coupled(stages, STEPS, **drawn)
    own = _on(stages, start, **drawn)
    # Its copying is measured against the training images, too; which atom a sample has does not matter there.
    again = replace(start, label=f"{_only_start(own).label}, copies of training images")
    against = stages.run("model against training images", [again], **drawn, copies_of=training or "atoms")
    same = _on(stages, _plainly(start), **data)
    other = _on(stages, best_coupled(stages, STEPS, **data), **data)
    what = (
        f"FID with the model's own images as atoms, less that with training images: {_plainly(start).label}"
    )
    return _joined([own, against, other, same], [(what, own, same)])


def _model_images(stages: Stages, count: int) -> Path:
    """A file of images that the network's full sampler draws, unless it is there; every block of them is a piece."""
    folder = stages.work / "model-images"
    path = folder / f"model-{count}.npz"
    if not path.exists():
        sampler = replace(FULL_SAMPLER, start_timestep=0, steps=4 if stages.rehearsal else MODEL_STEPS)
        blocks = seed_blocks(sampler, folder, MODEL_SEED, MODEL_SEED + count, MODEL_BLOCK)
        make = partial(sample_block, stages.inputs.models(folder))
        run_pieces([block.piece(make) for block in blocks], "model images", stages.listen, stages.workers)
        write_arrays(path, {"images": Samples.read(blocks).pixels}, compressed=True)
    return path


def _on(stages: Stages, start: StartSpec, samples: int | None = None, **changes: Any) -> ComparisonResult:
    """A start on the set of atoms that `changes` (fields of a `Comparison`) name."""
    source = Path(changes["atoms_from"]).stem
    label = f"{changes['atoms']:,} {source.replace('_', '-')}: {start.label}"
    name = " ".join(["atoms", str(changes["atoms"]), source, changes.get("real_split", "")]).strip()
    return stages.run(name, [replace(start, label=label)], samples, **changes)


def _plainly(start: StartSpec) -> StartSpec:
    """A start that was chosen for other atoms: whether it copies these is another question."""
    return replace(start, label=start.label.removesuffix(OVER_LIMIT))


def _only_start(result: ComparisonResult) -> StartSpec:
    (start,) = result.asked.starts
    return start


def _joined(
    results: Sequence[ComparisonResult], pairs: Sequence[tuple[str, ComparisonResult, ComparisonResult]] = ()
) -> ComparisonResult:
    """One report of several results: the first one's reference and solve, and of every result its row with its atoms.

    Arguments:
        results: Results of one start each; equal ones are reported once.
        pairs: What is compared, and two results of the same start, whose FIDs are compared seed by seed.
    """
    different: dict[Any, ComparisonResult] = {}
    for result in results:
        different.setdefault((result.work, _only_start(result).key), result)
    rows = [_row_on_its_atoms(result) for result in different.values()]
    report = results[0].report.replace(rows=rows)
    images = [image for result in different.values() for image in result.images]
    if pairs:
        lines = []
        for what, one, other in pairs:
            start = _only_start(one)
            found = paired_fid_difference(one, start, start, rival_in=other)
            lines.append([what, found.estimate, *found.limits()])
        table = {
            "title": "The same start on two sets of atoms",
            "note": "Settings chosen for the first set; differences are paired by seed, with 95 % limits.",
            "columns": ["", "difference", "from", "to"],
            "lines": lines,
        }
        report = report.replace(tables=[table])
    # (Figures by start are not joined: several results may be of the same start.)
    return ComparisonResult(report, images, {})


def _row_on_its_atoms(result: ComparisonResult) -> ReportRow:
    stage, report = result.asked, result.report
    (row,) = report.rows
    assert report.ot is not None
    rate, chi2 = report.reference.measured("copy_rate"), report.ot.chi2
    values = {
        "atoms": stage.atoms,
        "atoms_from": Path(stage.atoms_from).stem,
        "held_out_copy_rate": rate,
        "note": f"real images: {rate:.2%} count as copies of these; χ² {chi2:.3f}",
    }
    return row.replace(**values)


def _curves(report: SamplingReport) -> list[Curves]:
    """Quality, copying and time against the number of atoms."""
    rows = sorted(report.rows, key=lambda row: row.atoms or 0)

    def curves(name: str, title: str, y: str, **series: str) -> Curves:
        points = {
            legend.replace("_", " "): [
                (row.atoms, getattr(row, key)) for row in rows if getattr(row, key) is not None
            ]
            for legend, key in series.items()
        }
        log = "xy" if name == "fitting" else "x"
        return Curves.build(name=name, title=title, x="atoms", y=y, series=points, log=log, points=False)

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
