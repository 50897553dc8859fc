"""Running a comparison: fit the priors that its starts need, sample, measure, and make the report."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from otprior import __version__
from otprior.data import bundled
from otprior.experiments.comparison import Comparison, ComparisonResult
from otprior.experiments.fitting import fit_priors
from otprior.experiments.inputs import Inputs
from otprior.experiments.measuring import flow_images, measure, over_sets, real_figures, seed_figures
from otprior.experiments.processes import compiles_networks, run_pieces
from otprior.experiments.sampling import Block, Models, Samples, sample_block
from otprior.experiments.study import Listener, ignore
from otprior.metrics.copying import copy_mask
from otprior.report import ReportImages, ReportRow, SamplingReport
from otprior.report.sampling_report import Features, RealImages, Solve
from otprior.sampling.start_spec import StartSpec
from otprior.utils.files import mark_work, sha256


def run_comparison(
    comparison: Comparison,
    work: str | Path,
    *,
    workers: int = 1,
    threads: int = 1,
    listen: Listener = ignore,
    priors: Path | None = None,
    growing: bool = False,
    sample: Callable[[Models, Block], Block] = sample_block,
) -> ComparisonResult:
    """Fits the priors that the starts need, samples, measures.

    Arguments:
        comparison: What to compare.
        work: Folder of the pieces of work; a run takes up what the same comparison left there.
        workers: Processes that sample; 0 to do all work in this one.
        threads: Threads of each.
        listen: Called as work proceeds.
        priors: The folder of fitted priors, for comparisons that share them; by default below `work`.
        growing: Whether `work` may hold pieces of the same comparison with other numbers of samples, to be taken over;
            all numbers but the last are then multiples of `block`.
        sample: Makes a block into its file, for starts that `sample_block` does not know.

    Raises:
        ValueError: If `work` holds pieces of another comparison.

    Examples:
        >>> run_comparison(comparison, "mine.work").row(comparison.starts[1]).fid
    """
    work, inputs = Path(work), Inputs.of(comparison)
    claim_work(work, comparison, growing)
    priors = priors or work / "priors"
    fitted = fit_priors(comparison, priors, listen)
    starts, sets = comparison.starts, range(comparison.seed_sets)
    blocks = {start.key: [comparison.blocks(start, work / "images", k) for k in sets] for start in starts}
    flow = None if comparison.flow is None else comparison.blocks(comparison.flow, work / "images", 0)
    models = _models(comparison, priors)
    every = [block for sets in blocks.values() for one in sets for block in one] + (flow or [])
    _sample(partial(sample, models), every, workers, threads, listen)
    figures = measure(comparison, work / "figures", blocks, workers, threads, listen)
    reference = real_figures(comparison, work / "figures")
    full = flow_images(comparison, flow)
    rows, images = [], []
    for start in starts:
        first = blocks[start.key][0]
        seeds, seconds = seed_figures(comparison, first, full), fitted.seconds_of(start)
        rows.append(_report_row(comparison, start, figures[start.key], reference, seeds, seconds))
        images.append(_report_images(comparison, start, first))
    report = SamplingReport(
        features=Features(name=inputs.extractor.name, dim=inputs.extractor.dim),
        ot=None if fitted.ot is None else Solve.from_json(fitted.ot),
        reference=reference,
        rows=tuple(rows),
        settings=_settings(comparison),
        environment=_environment(workers, threads),
    )
    return ComparisonResult(report, images, figures, comparison, work)


def _models(comparison: Comparison, priors: Path) -> Models:
    conditional = any(start.conditional for start in comparison.sampled_starts)
    models = Inputs.of(comparison).models(priors, comparison.precision, conditional, comparison.device)
    return replace(models, prompts=comparison.prompts, negative_prompt=comparison.negative_prompt)


def claim_work(work: Path, comparison: Comparison, growing: bool) -> None:
    """Marks a work folder with all that its pieces depend on, or refuses one that is marked otherwise.

    Raises:
        ValueError: If it is marked otherwise, or starts by class cannot be had of these inputs.
    """
    inputs = Inputs.of(comparison)
    if any(start.conditional for start in comparison.sampled_starts):
        inputs.check_by_class()
    settings = _settings(comparison)
    if growing:
        settings = {
            name: value for name, value in settings.items() if name not in ("name", "samples", "seed_sets")
        }
    mark = {
        "otprior": __version__,
        "study": settings,
        "manifest": sha256(bundled.ROOT / "manifest.json"),
        **inputs.fingerprint(),
    }
    mark_work(work / "study.json", mark, "one of this very study")


def _settings(comparison: Comparison) -> dict[str, Any]:
    return comparison.settings() | {"atoms": len(Inputs.of(comparison).atoms)}


def _environment(workers: int, threads: int) -> dict[str, Any]:
    return {
        "otprior": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "workers": workers,
        "threads": threads,
        "compiled": compiles_networks(),
    }


def _sample(
    make: Callable[[Block], Block], blocks: list[Block], workers: int, threads: int, listen: Listener
) -> None:
    different = {block.path: block for block in blocks}  # the full sampler may be a start, too
    # Starts take turns, so that a busy hour slows none more than the others; the long blocks of a turn come first.
    order = sorted(
        different.values(), key=lambda block: (block.first_seed, -block.start.evaluations * block.count)
    )
    run_pieces([block.piece(make) for block in order], "sampling", listen, workers, threads)


def _report_row(
    comparison: Comparison,
    start: StartSpec,
    sets: list[dict[str, Any]],
    reference: RealImages,
    seed_figures: dict[str, Any],
    fit_seconds: float | None,
) -> ReportRow:
    figures = over_sets(sets, comparison.samples)
    floor = reference.measured("fid_floor")
    low, high = figures["fid_interval"]
    last = comparison.first_of(comparison.seed_sets) - 1
    given = dict(seed_figures)
    if "mode_mixture" in figures:
        real, ends = reference.measured("mode_mixture"), figures["mode_mixture_interval"]
        given["excess_mode_mixture"] = figures["mode_mixture"] - real
        given["excess_mode_mixture_interval"] = [end - real for end in ends]
    class_floor = reference.class_fid_floor
    if figures.get("class_fid") is not None and class_floor is not None:
        given["excess_class_fid"] = figures["class_fid"] - class_floor
        ends = figures["class_fid_interval"]
        given["excess_class_fid_interval"] = ends and [end - class_floor for end in ends]
    values = dict(
        label=start.label,
        prior=start.prior,
        **start.reported_options(),
        start_timestep=start.start_timestep,
        scheduler=start.scheduler,
        spacing=start.spacing,
        guidance=start.guidance,
        conditional=start.conditional or None,
        samples=comparison.samples * comparison.seed_sets,
        seeds=f"{comparison.first_seed}-{last}",
        fit_seconds=fit_seconds,
        excess_fid=figures["fid"] - floor,
        excess_fid_interval=[low - floor, high - floor],
        **{**figures, "nfe": round(figures["nfe"]), **given},
    )
    return ReportRow.from_json(values)


def _report_images(
    comparison: Comparison, start: StartSpec, blocks: list[Block], count: int = 10
) -> ReportImages:
    """The images of a start's first seeds, with the nearest atom of each."""
    images = Samples.read(blocks[:1]).images[:count]
    inputs = Inputs.of(comparison)
    distances, index = inputs.reference.atoms.nearest(images, 2)
    return ReportImages(
        label=start.label,
        images=images,
        nearest=inputs.copied.images[index[:, 0]],
        copied=copy_mask(distances),
        seeds=list(range(comparison.first_seed, comparison.first_seed + len(images))),
    )
