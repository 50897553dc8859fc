"""Figures of rows and of real images: one set of seeds at a time, each set a file."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.data import bundled
from otprior.experiments.comparison import (
    AGREEMENT_SEEDS,
    Comparison,
    Listener,
    StageProgress,
)
from otprior.experiments.inputs import (
    extractor_of,
    features_of,
    images_of,
    moments_by_class,
    reference_of,
)
from otprior.experiments.processes import run_in_processes
from otprior.experiments.sampling import Block, Samples
from otprior.metrics import (
    Interval,
    bootstrap_mean,
    evaluate,
    mixture_mask,
    seed_set_interval,
)
from otprior.metrics.classes import class_figures
from otprior.metrics.features import class_logits, classify, extract_features
from otprior.metrics.intervals import FEW_EVENTS, binomial_interval
from otprior.report.sampling_report import RealImages
from otprior.sampling.start_spec import StartSpec
from otprior.utils.files import read_json, write_json

FLOOR_SETS = 8
# Figures that are shares of independent samples.
RARE = ("copy_rate", "source_rate")
# Figures that are no share of images, and may exceed 1.
NO_SHARES = ("fid", "class_fid", "kid", "density", "nearest_pixel_distance", "nearest_feature_distance")


def measure(
    study: Comparison,
    folder: Path,
    blocks: dict[str, list[list[Block]]],
    workers: int,
    threads: int,
    listen: Listener,
) -> dict[str, list[dict[str, Any]]]:
    """Figures by row key and set of seeds."""
    paths = {
        (key, seed_set): folder / f"{key}-{study.first_of(seed_set):09d}-{study.samples}.json"
        for key in blocks
        for seed_set in range(study.seed_sets)
    }
    missing = [place for place, path in paths.items() if not path.exists()]
    done = len(paths) - len(missing)
    listen(StageProgress("measuring", done, len(paths)))

    def finished(_: Any) -> None:
        nonlocal done
        done += 1
        listen(StageProgress("measuring", done, len(paths)))

    tasks = [(_measure_set, (study, blocks[key][k], paths[key, k])) for key, k in missing]
    if tasks:
        run_in_processes(tasks, min(workers, len(tasks)), threads, finished)
    return {key: [read_json(paths[key, k]) for k in range(study.seed_sets)] for key in blocks}


def _measure_set(study: Comparison, blocks: list[Block], path: Path) -> None:
    samples = Samples.read(blocks)
    features = extract_features(extractor_of(study), samples.images)
    generator = torch.Generator().manual_seed(blocks[0].first_seed)
    known = samples.sources is not None and not study.copies_of
    sources = torch.from_numpy(samples.sources) if known else None
    figures = evaluate(
        features, samples.images, reference=reference_of(study), generator=generator, sources=sources
    )
    if study.mixture:
        figures |= _mixture(study, samples.images, generator)
    if samples.labels is not None:
        labels = torch.from_numpy(samples.labels)
        figures |= _by_class(study, features, samples.images, labels, generator)
    figures["nfe"] = samples.nfe
    figures["seconds_per_image"] = samples.seconds_per_image
    write_json(path, figures)


def _by_class(
    study: Comparison, features: Tensor, images: Tensor, labels: Tensor, generator: torch.Generator
) -> dict[str, Any]:
    predicted = classify(extractor_of(study), images)
    return class_figures(features, predicted, labels, moments_by_class(study), generator)


def _mixture(study: Comparison, images: Tensor, generator: torch.Generator) -> dict[str, Any]:
    mixed = mixture_mask(class_logits(extractor_of(study), images), study.mixture)
    share = bootstrap_mean(mixed, generator)
    return {"mode_mixture": share.estimate, "mode_mixture_interval": share.limits()}


def real_figures(study: Comparison, folder: Path) -> dict[str, Any]:
    """The floor: the same figures of real images, over disjoint sets of `samples`, up to `FLOOR_SETS`."""
    by_class = any(row.conditional for row in study.rows)
    name = Path(study.real_split).name + ("-by-class" if by_class else "")
    name += f"-mixture-{study.mixture:g}" if study.mixture else ""
    path = folder / f"{name}-{study.samples}.json"
    if not path.exists():
        # Nothing of the samples: searches on the same images ask for the same figures.
        rows = (StartSpec("none", 0, 1),)
        images = replace(study, name="", rows=rows, first_seed=0, seed_sets=1, flow=None)
        images = replace(images, model="", null_class_label=None)
        write_json(path, _real_figures(images, by_class))
    return read_json(path)


@cache
def _real_figures(study: Comparison, by_class: bool) -> dict[str, Any]:
    real = images_of(study, study.real_split)
    size = min(study.samples, len(real))
    features = features_of(study, study.real_split)
    generator = torch.Generator().manual_seed(0)

    def figures_of(rows: slice) -> dict[str, Any]:
        chosen = evaluate(
            features[rows], real.images[rows], reference=reference_of(study), generator=generator
        )
        if study.mixture:
            chosen |= _mixture(study, real.images[rows], generator)
        if by_class:
            assert real.labels is not None
            chosen |= _by_class(study, features[rows], real.images[rows], real.labels[rows], generator)
        return chosen

    sets = [figures_of(slice(i, i + size)) for i in range(0, len(real) - size + 1, size)[:FLOOR_SETS]]
    # Rates of copying need no equal n, and are known best from all of the images.
    whole = figures_of(slice(None))
    figures = over_sets(sets, size)
    for key in whole:
        if key.startswith(("copy_rate", "nearest_", "class_accuracy", "mode_mixture")):
            figures[key] = whole[key]
    return RealImages.from_figures(size, figures).to_json()


def over_sets(sets: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Figures over sets of so many samples: their mean, and Student's interval; of one set, its own."""
    if len(sets) == 1:
        return dict(sets[0])
    figures: dict[str, Any] = {}
    for key in sets[0]:
        if key.endswith("_interval"):
            continue
        if any(one[key] is None for one in sets):
            figures[key] = None
            continue
        interval = seed_set_interval([one[key] for one in sets])
        figures[key] = interval.estimate
        if f"{key}_interval" in sets[0]:
            low, high = interval.limits()
            events = round(samples * sum(one[key] for one in sets)) if key in RARE else FEW_EVENTS
            if events < FEW_EVENTS:
                # (Sets without any event agree with each other, and say little all the same.)
                exact = binomial_interval(events, samples * len(sets))
                low, high = min(low or 0.0, exact.lo), max(high or 0.0, exact.hi)
            # Shares are in [0, 1], distances at least 0; but an unbiased kernel distance may be negative.
            low = low if key == "kid" or low is None else max(low, 0.0)
            high = high if key in NO_SHARES or high is None else min(high, 1.0)
            figures[f"{key}_interval"] = [low, high]
    return figures


def flow_classes(study: Comparison, flow: list[Block] | None) -> Tensor | None:
    """The class of the image that the full flow makes of each of the first seeds, shape (n,), int64.

    Arguments:
        study: The study.
        flow: Its full sampler's first set of seeds; without it the stored classes of the bundled network's are taken,
            which are few. None if these are of other seeds or of another network.
    """
    if flow is not None:
        return classify(extractor_of(study), Samples.read(flow).images)
    stored = bundled.full_sampler()
    if stored is None or study.first_seed != 0 or study.model:
        return None
    return stored.classes[: min(AGREEMENT_SEEDS, study.samples)]


def seed_agreement(
    study: Comparison, blocks: list[Block], classes: Tensor | None
) -> tuple[float | None, Interval | None]:
    """Share of seeds whose image has the class that the full flow's image of the same seed has.

    Arguments:
        study: The study.
        blocks: A row's first set of seeds.
        classes: Of the flow's images; see `flow_classes`. Stored ones, being few, give no interval, and say nothing of
            rows by class.
    """
    if classes is None or (study.flow is None and blocks[0].row.conditional):
        return None, None
    mine = classify(extractor_of(study), Samples.read(blocks).images[: len(classes)])
    share = bootstrap_mean(mine == classes, torch.Generator().manual_seed(blocks[0].first_seed))
    return share.estimate, None if study.flow is None else share
