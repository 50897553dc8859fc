"""Running a study: fits what the rows need, samples, measures, and makes the report."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from otprior import __version__
from otprior.data import bundled
from otprior.experiments.comparison import (
    Comparison,
    ComparisonResult,
    Listener,
    StageProgress,
)
from otprior.experiments.fitting import fit_priors
from otprior.experiments.inputs import (
    copied_of,
    extractor_of,
    fingerprint,
    models_of,
    reference_of,
)
from otprior.experiments.measuring import (
    flow_classes,
    measure,
    over_sets,
    real_figures,
    seed_agreement,
)
from otprior.experiments.processes import compiles_networks, run_in_processes
from otprior.experiments.sampling import (
    Block,
    Models,
    Samples,
    sample_block,
)
from otprior.metrics.copying import copy_mask
from otprior.report import ReportImages, ReportRow
from otprior.sampling.start_spec import StartSpec
from otprior.utils.files import sha256
from otprior.utils.work_folder import mark_work


def run_comparison(
    study: Comparison,
    work: str | Path,
    *,
    workers: int = 1,
    threads: int = 1,
    listen: Listener | None = None,
    priors: Path | None = None,
    growing: bool = False,
    sample: Callable[[Models, Block], Block] = sample_block,
) -> ComparisonResult:
    """Fits what the rows need, samples, measures.

    Arguments:
        study: What to do.
        work: Folder for the pieces; one that holds pieces of the same study is gone on with.
        workers: Processes that sample.
        threads: Threads of each.
        listen: Called as work proceeds.
        priors: Where fitted priors are and go, for studies that share them; by default below `work`.
        growing: Whether `work` may hold pieces of the same study with other numbers of samples, to be taken over;
            all numbers but the last are then multiples of `block`.
        sample: Makes a block into its file, for studies with rows that `generation.sample_block` does not know.

    Raises:
        ValueError: If `work` holds pieces of another study.
    """
    listen = listen or (lambda _: None)
    work = Path(work)
    claim_work(work, study, growing)
    priors = priors or work / "priors"
    fitted = fit_priors(study, priors, listen)
    blocks = {
        row.key: [study.blocks(row, work / "images", k) for k in range(study.seed_sets)] for row in study.rows
    }
    flow = None if study.flow is None else study.blocks(study.flow, work / "images", 0)
    every = {
        block.path: block for row in blocks.values() for one in [*row, flow or []] for block in one
    }.values()
    _sample(partial(sample, models_of(study, priors)), list(every), workers, threads, listen)
    sets = measure(study, work / "figures", blocks, workers, threads, listen)
    reference = real_figures(study, work / "figures")
    classes = flow_classes(study, flow)
    rows, images = [], []
    for row in study.rows:
        figures = _report_row(study, row, blocks[row.key], sets[row.key], reference, classes)
        rows.append(figures | {"fit_seconds": fitted.seconds_of(row)})
        images.append(_report_images(study, row, blocks[row.key][0]))
    report = {
        "format_version": 1,
        "features": {"name": extractor_of(study).name, "dim": extractor_of(study).dim},
        "ot": fitted.ot,
        "reference": reference,
        "rows": rows,
        "settings": study.settings(),
        "environment": {
            "otprior": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "workers": workers,
            "threads": threads,
            "compiled": compiles_networks(),
        },
    }
    return ComparisonResult(report, images, sets, study, work)


def claim_work(work: Path, study: Comparison, growing: bool) -> None:
    """Marks a work folder with all that its pieces depend on, or refuses one that is marked otherwise."""
    settings = study.settings()
    if growing:
        settings = {
            name: value for name, value in settings.items() if name not in ("name", "samples", "seed_sets")
        }
    mark = {
        "otprior": __version__,
        "study": settings,
        "manifest": sha256(bundled.ROOT / "manifest.json"),
        **fingerprint(study),
    }
    mark_work(work / "study.json", mark, "one of this very study")


def _sample(
    make: Callable[[Block], Block], blocks: list[Block], workers: int, threads: int, listen: Listener
) -> None:
    total = sum(block.cost for block in blocks)
    missing = [block for block in blocks if not block.done]
    done = total - sum(block.cost for block in missing)
    listen(StageProgress("sampling", done, total, "network evaluations"))

    def finished(block: Block) -> None:
        nonlocal done
        done += block.cost
        listen(StageProgress("sampling", done, total, block.row.label))

    # Rows take turns, so that a busy hour slows none more than the others; of each turn the long ones come first.
    missing.sort(key=lambda block: (block.first_seed, -block.cost))
    if missing:
        tasks = [(make, (block,)) for block in missing]
        run_in_processes(tasks, min(workers, len(tasks)), threads, finished)


def _report_row(
    study: Comparison,
    row: StartSpec,
    blocks: list[list[Block]],
    sets: list[dict[str, Any]],
    reference: dict[str, Any],
    classes: torch.Tensor | None,
) -> dict[str, Any]:
    figures = over_sets(sets, study.samples)
    floor = reference["fid_floor"]
    low, high = figures["fid_interval"]
    agreement, error = seed_agreement(study, blocks[0], classes)
    last = study.first_of(study.seed_sets) - 1
    given: dict[str, Any] = {} if error is None else {"seed_agreement_interval": error.limits()}
    if "mode_mixture" in figures:
        real, ends = reference["mode_mixture"], figures["mode_mixture_interval"]
        given["excess_mode_mixture"] = figures["mode_mixture"] - real
        given["excess_mode_mixture_interval"] = [end - real for end in ends]
    class_floor = reference.get("class_fid_floor")
    if figures.get("class_fid") is not None and class_floor is not None:
        given["excess_class_fid"] = figures["class_fid"] - class_floor
        ends = figures["class_fid_interval"]
        given["excess_class_fid_interval"] = ends and [end - class_floor for end in ends]
    values = dict(
        label=row.label,
        prior=row.prior,
        noise=row.noise,
        smoothing=row.smoothing if row.prior == "semidiscrete" else None,
        correlation=row.correlation if row.noise == "coupled" else None,
        start_timestep=row.start_timestep,
        scheduler=row.scheduler,
        spacing=row.spacing,
        guidance=row.guidance,
        samples=study.samples * study.seed_sets,
        seeds=f"{study.first_seed}-{last}",
        seed_agreement=agreement,
        excess_fid=figures["fid"] - floor,
        excess_fid_interval=[low - floor, high - floor],
        **{**figures, "nfe": round(figures["nfe"]), **given},
    )
    return ReportRow.from_json(values).to_json()


def _report_images(study: Comparison, row: StartSpec, blocks: list[Block], count: int = 10) -> ReportImages:
    """The first seeds' images of a row, with the nearest atom of each."""
    images = Samples.read(blocks[:1]).images[:count]
    distances, index = reference_of(study).atoms.nearest(images, 2)
    return ReportImages(
        label=row.label,
        images=images,
        nearest=copied_of(study).images[index[:, 0]],
        copied=copy_mask(distances),
        seeds=list(range(study.first_seed, study.first_seed + len(images))),
    )
