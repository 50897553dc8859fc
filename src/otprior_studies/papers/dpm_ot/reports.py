"""The run: maps, then starts as the paper describes them, then starts as the authors' code has them; tables of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.comparison import Comparison, ComparisonResult
from otprior.experiments.gates import gate
from otprior.experiments.inputs import Inputs, check_floor, check_unseen
from otprior.experiments.run import run_comparison
from otprior.experiments.sampling import load_pipeline
from otprior.experiments.study import Listener, Part, Request, StageProgress
from otprior.metrics import mixture_mask, paired_share_difference
from otprior.metrics.features import class_logits
from otprior.report import Gate, ReportTable
from otprior.sampling.inputs import latent_shape, takes_labels
from otprior.sampling.start_spec import StartSpec
from otprior.utils.files import mark_work
from otprior.utils.validation import require
from otprior_studies.papers.dpm_ot import OWN, Settings
from otprior_studies.papers.dpm_ot.filters import (
    FilterLaw,
    batch_table,
    check_keeps,
    filter_curves,
    filter_table,
    law_of,
)
from otprior_studies.papers.dpm_ot.maps import LatentMap, noised, published_map, solved_map
from otprior_studies.papers.dpm_ot.published import BATCH
from otprior_studies.papers.dpm_ot.sampling import sample_start
from otprior_studies.papers.dpm_ot.singular import AngleFilter, smallest_angle
from otprior_studies.papers.dpm_ot.starts import Starts

MIXTURE_LIMITS = (0.1, 0.2, 0.3, 0.4)
# Names of real images in tables of starts.
REAL, ATOMS = "held-out real images", "the training images behind the latents"


def run(request: Request) -> dict[str, Part]:
    """Reports: "" on what the paper describes, "code" on what its code does."""
    settings: Settings = request.settings
    maps = request.work / "maps"
    everything = _comparison("dpm-ot", [StartSpec("none", 0, 1)], request, settings.atoms)
    inputs = Inputs.of(everything)
    starts = Starts(settings, inputs.schedule)
    pools = starts.pools()
    _check(settings, starts, everything)
    # The names of the pieces hold the other settings, so a run whose filter was refused keeps its maps.
    carried = {"sampling": settings.sampling, "null_label": settings.null_label}
    mark_work(request.work / "settings.json", carried | inputs.fingerprint(), "of these settings")

    _fit(starts, everything, maps, request.listen)
    laws = [_law(start, settings, maps, request.listen) for start in pools]
    filters = _filters(settings, laws)
    main = replace(everything, starts=tuple(starts.main([each.threshold for each in filters])))
    code = _comparison("dpm-ot code", starts.code(), request, settings.code_atoms)
    _fit(starts, everything, maps, request.listen)
    results = [
        run_comparison(
            each,
            request.work / each.name.replace(" ", "-"),
            workers=request.workers,
            listen=request.listen,
            sample=partial(sample_start, maps),
        )
        for each in (main, code)
    ]
    first, second = results
    mixed, other = (_logits(result) for result in results)
    theirs = LatentMap.load(maps / dict(starts.code()[1].options)["map"])
    batches = batch_table(theirs, settings.topk, settings.batch_threshold, settings.filter_draws)
    # (Reports name files, not the folders they are in: the comparison's settings do.)
    own = {key: value for key, value in asdict(settings).items() if key not in OWN}
    settings_of = [{**(result.report.settings or {}), "reproduction": own} for result in results]
    main_report = first.report.replace(
        gates=_gates(first, mixed),
        curves=filter_curves({start.label: law for start, law in zip(pools, laws)}),
        tables=[
            *(
                _filter(first, mixed, start, law, each, maps)
                for start, law, each in zip(pools, laws, filters)
            ),
            _limits(first, mixed),
            _different_latents(first),
            _solves(starts, maps),
        ],
        ot=LatentMap.load(maps / dict(starts.published().options)["map"]).facts,
        settings=settings_of[0],
    )
    tables = [batches, _limits(second, other), _different_latents(second)]
    code_report = second.report.replace(tables=tables, ot=theirs.facts, settings=settings_of[1])
    return {"": Part(main_report, first.images), "code": Part(code_report, second.images)}


def _comparison(name: str, starts: Sequence[StartSpec], request: Request, atoms: int) -> Comparison:
    settings: Settings = request.settings
    comparison = Comparison(
        name,
        tuple(starts),
        request.samples,
        atoms=atoms,
        tol=settings.tol,
        precision=settings.sampling,
        block=BATCH,  # the authors' filter takes a block at a time
        mixture=settings.mixture,
        device=request.device,
    )
    if not settings.model:
        return comparison
    return replace(
        comparison,
        model=settings.model,
        atoms_from=settings.images,
        split=settings.reference,
        real_split=settings.held_out,
        extractor=settings.extractor,
        null_class_label=settings.null_label if settings.null_label >= 0 else None,
    )


def _check(settings: Settings, starts: Starts, main: Comparison) -> None:
    """Refuses before anything long whatever can be found wrong then."""
    inputs = Inputs.of(main)
    if settings.model:
        _check_own(main)
    check_floor(main.samples, len(inputs.real))
    there = len(inputs.images(main.atoms_from))
    require(settings.atoms <= there, "atoms", f"at most {there:,}, the number of images", settings.atoms)
    (spec, *_) = starts.maps.values()
    least = smallest_angle(noised(inputs.images(main.atoms_from).images[: spec.atoms], spec.sigma).flatten(1))
    rule = f"above {least:.3g} radians, the least angle between two of the published latents"
    require(settings.threshold >= least, "threshold", rule, settings.threshold, "It rejects every draw")


def _check_own(main: Comparison) -> None:
    """Refuses a network that fits neither images nor samplers, an extractor that does not fit the images, and
    evaluation on what the starts are made of.
    """
    inputs = Inputs.of(main)
    pipe = load_pipeline(inputs.models(Path()))
    schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
    require(schedule.kind == "vp", "model", "of a variance-preserving process", schedule.kind)
    known = not takes_labels(pipe.unet) or pipe.config.get("null_class_label") is not None
    require(known, "null_label", "given: the network takes labels, and samples here are of no class", "none")
    NetworkDenoiser(pipe.unet, pipe.scheduler)  # refuses predictions that it does not know
    shape = latent_shape(pipe.unet)
    for name in (main.atoms_from, main.split, main.real_split):
        found = tuple(inputs.images(name).images.shape[1:])
        require(shape in (None, found), f"images {name}", f"of the network's shape {shape}", found)
    # (Refuses an extractor that takes other images, or has no classes.)
    class_logits(inputs.extractor, inputs.real.images[:2])
    everything = inputs.images(main.atoms_from)
    for name in (main.split, main.real_split):
        check_unseen(f"images {name}", inputs.images(name), everything)


def _fit(starts: Starts, comparison: Comparison, maps: Path, listen: Listener) -> None:
    """Solves for the maps of the starts so far, unless they are there."""
    for spec in starts.maps.values():
        folder = maps / spec.name
        if folder.is_dir():
            continue
        how = "as published" if spec.published else "by our solver"
        stage = f"map onto {spec.atoms:,} latents, σ = {spec.sigma:.3g}, {how}"

        def progress(done: float, total: float, note: str, stage: str = stage) -> None:
            listen(StageProgress(stage, done, total, note))

        latents = noised(Inputs.of(replace(comparison, atoms=spec.atoms)).atoms.images, spec.sigma)
        if spec.published:
            published_map(latents, int(spec.effort), progress).save(folder)
        else:
            solved_map(latents, spec.effort, progress).save(folder)


def _law(start: StartSpec, settings: Settings, maps: Path, listen: Listener) -> FilterLaw:
    """How the draws of a start's map lie to its jumps."""
    listen(StageProgress("angles of draws", 0, 1))
    name = dict(start.options)["map"]
    file = maps / f"{name}-law-{settings.filter_draws}-{settings.topk}.npz"
    return law_of(LatentMap.load(maps / name), settings.filter_draws, settings.topk, file)


def _filters(settings: Settings, laws: Sequence[FilterLaw]) -> list[AngleFilter]:
    """The filter of each law: the threshold asked for, and at larger levels what keeps the same share of the draws."""
    first = AngleFilter(settings.topk, settings.threshold)
    check_keeps(laws[0], first)
    share = laws[0].acceptance(first)
    others = [AngleFilter(settings.topk, law.threshold(settings.topk, share)) for law in laws[1:]]
    return [first, *others]


def _logits(result: ComparisonResult) -> dict[str, Tensor]:
    """The classifier's logits of each start's samples, by the start's key; of real images as `REAL` and `ATOMS`."""
    inputs = Inputs.of(result.asked)
    found = {start.key: result.samples(start).images for start in result.asked.starts}
    found[REAL], found[ATOMS] = inputs.real.images, inputs.atoms.images
    return {key: class_logits(inputs.extractor, images) for key, images in found.items()}


def _filter(
    result: ComparisonResult,
    logits: dict[str, Tensor],
    start: StartSpec,
    law: FilterLaw,
    chosen: AngleFilter,
    maps: Path,
) -> ReportTable:
    found = LatentMap.load(maps / dict(start.options)["map"])
    mixed = mixture_mask(logits[start.key], result.asked.mixture)
    return filter_table(start.label, found, law, chosen, mixed, result.asked.first_seed)


def _limits(result: ComparisonResult, logits: dict[str, Tensor]) -> ReportTable:
    """Mode mixture of every start by the probability that two classes have to reach."""
    shares = {
        key: [float(mixture_mask(each, limit).double().mean()) for limit in MIXTURE_LIMITS]
        for key, each in logits.items()
    }
    lines: list[list[Any]] = [[REAL, *shares[REAL]]]
    for name, key in [(ATOMS, ATOMS), *((start.label, start.key) for start in result.asked.starts)]:
        above = (f"{share - real:+.4f}" for share, real in zip(shares[key], shares[REAL]))
        lines.append([name, *above])
    return ReportTable.build(
        title="Mode mixture by the classifier's limit",
        note="An image is mixed if two classes have at least this probability. Held-out real images: the share; "
        "others: their share less that. A classifier is surer of images that it was trained on: what training images "
        "have below the held-out ones, copies of them have too.",
        columns=["start", *(f"{limit:g}" for limit in MIXTURE_LIMITS)],
        lines=lines,
    )


def _different_latents(result: ComparisonResult) -> ReportTable:
    """How many latents a start's samples come from: `duplicate_rate` misses repeats to which a chain adds noise."""
    lines: list[list[Any]] = []
    for start in result.asked.starts:
        sources = result.samples(start).sources
        if sources is not None:
            lines.append([start.label, len(sources), len(set(sources.tolist()))])
    return ReportTable.build(
        title="Different latents behind the samples",
        note="Of equal chances for N latents, n draws meet about N (1 − exp(−n/N)) of them.",
        columns=["start", "samples", "different latents"],
        lines=lines,
    )


def _solves(starts: Starts, maps: Path) -> ReportTable:
    """How well each map was solved for."""
    lines = []
    for spec in starts.maps.values():
        facts = LatentMap.load(maps / spec.name).facts
        how = "as published" if spec.published else "our solver"
        lines.append(
            [how, spec.sigma, *(facts[key] for key in ("atoms", "chi2", "chi2_upper", "draws", "seconds"))]
        )
    return ReportTable.build(
        title="Maps",
        note="χ² of the cell masses on fresh draws, and its upper 95 % limit, before any filter.",
        columns=["solver", "σ of the latents", "atoms", "χ²", "upper", "draws", "seconds"],
        lines=lines,
    )


def _gates(result: ComparisonResult, logits: dict[str, Tensor]) -> list[Gate]:
    """Frozen starts are less mixed than white noise at the same number of evaluations, seed by seed.

    White noise by the same sampler, and by the stock ones. Copies of images that the classifier was trained on are
    little mixed for that alone, so every statement says how many there are.
    """
    starts, limit = result.asked.starts, result.asked.mixture
    mixed = {start.key: mixture_mask(logits[start.key], limit) for start in starts}
    real = result.report.reference.measured("copy_rate")
    gates = []
    for rival in (start for start in starts if start.prior == "none"):
        for start in starts:
            frozen = start.prior == "latents" and dict(start.options)["rule"] == "map"
            if not frozen or start.steps != rival.steps:
                continue
            mine, theirs = mixed[start.key], mixed[rival.key]
            upper = paired_share_difference(mine, theirs, side="upper").hi
            both = paired_share_difference(mine, theirs)
            copies, others = (result.row(each).measured("copy_rate") for each in (start, rival))
            statement = (
                f"Mode mixture of “{start.label}” ({copies:.3f} are copies) less that of “{rival.label}” "
                f"({others:.3f}; of held-out images {real:.3f})"
            )
            gates.append(gate(statement, both.estimate, upper, 0.0, both))
    return gates
