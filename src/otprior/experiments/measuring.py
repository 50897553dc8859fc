"""Figures of starts and of real images: one set of seeds at a time, each set a file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otprior.data import bundled
from otprior.experiments.comparison import AGREEMENT_SEEDS, BUNDLED, Comparison
from otprior.experiments.inputs import Inputs
from otprior.experiments.processes import Piece, run_pieces
from otprior.experiments.sampling import Block, Samples, class_turns
from otprior.experiments.study import Listener
from otprior.metrics import bootstrap_mean, evaluate, mixture_mask, seed_set_interval
from otprior.metrics.classes import class_figures
from otprior.metrics.features import class_logits, classify, extract_features
from otprior.metrics.intervals import FEW_EVENTS, binomial_interval
from otprior.report.sampling_report import RealImages
from otprior.utils.files import read_json, write_json

FLOOR_SETS = 8
# Figures that are shares of independent samples.
RARE = ("copy_rate", "source_rate")
# Figures that are no share of images, and may exceed 1.
NO_SHARES = ("fid", "class_fid", "kid", "density", "nearest_pixel_distance", "nearest_feature_distance")


def measure(
    comparison: Comparison,
    folder: Path,
    blocks: dict[str, list[list[Block]]],
    workers: int,
    threads: int,
    listen: Listener,
) -> dict[str, list[dict[str, Any]]]:
    """Figures by the start's key and set of seeds."""
    pieces = {}
    for key, sets in blocks.items():
        for k, one in enumerate(sets):
            path = folder / f"{key}-{comparison.first_of(k):09d}-{comparison.samples}.json"
            pieces[key, k] = Piece(path, _measure_set, (comparison, one, path), note=one[0].start.label)
    run_pieces(list(pieces.values()), "measuring", listen, workers, threads)
    needed = ("fid", "copy_rate", "nfe", "seconds_per_image")
    return {
        key: [read_json(pieces[key, k].path, *needed) for k in range(len(sets))]
        for key, sets in blocks.items()
    }


def _measure_set(comparison: Comparison, blocks: list[Block], path: Path) -> None:
    samples, inputs = Samples.read(blocks), Inputs.of(comparison)
    features = extract_features(inputs.extractor, samples.images)
    generator = torch.Generator().manual_seed(blocks[0].first_seed)
    known = samples.sources is not None and comparison.copies_of is None
    sources = torch.from_numpy(samples.sources) if known else None
    figures = evaluate(
        features, samples.images, reference=inputs.reference, generator=generator, sources=sources
    )
    if comparison.mixture:
        figures |= _mixture(inputs, samples.images, comparison.mixture, generator)
    if samples.labels is not None:
        labels = torch.from_numpy(samples.labels)
        figures |= _by_class(inputs, features, samples.images, labels, generator)
    figures["nfe"] = samples.nfe
    figures["diverged"] = samples.diverged
    figures["seconds_per_image"] = samples.seconds_per_image
    write_json(path, figures)


def _by_class(
    inputs: Inputs, features: Tensor, images: Tensor, labels: Tensor, generator: torch.Generator
) -> dict[str, Any]:
    if not hasattr(inputs.extractor, "logits"):
        return {}  # only a classifier knows classes
    predicted = classify(inputs.extractor, images)
    return class_figures(features, predicted, labels, inputs.class_moments, generator)


def _mixture(inputs: Inputs, images: Tensor, limit: float, generator: torch.Generator) -> dict[str, Any]:
    mixed = mixture_mask(class_logits(inputs.extractor, images), limit)
    share = bootstrap_mean(mixed, generator)
    return {"mode_mixture": share.estimate, "mode_mixture_interval": share.limits()}


def real_figures(comparison: Comparison, folder: Path) -> RealImages:
    """The floor: the same figures of real images, over disjoint sets of `samples`, up to `FLOOR_SETS`.

    Where all starts are by class, so are these sets: drawn at random they would have classes as chance has it, and a
    higher FID for that alone (of 250 bundled images 15.0, not 11.6; of 2,000 2.9, not 2.2).
    """
    by_class = any(start.conditional for start in comparison.starts)
    in_turn = all(start.conditional for start in comparison.starts)
    name = (
        Path(comparison.real_split).name + ("-by-class" if by_class else "") + ("-in-turn" if in_turn else "")
    )
    name += f"-mixture-{comparison.mixture:g}" if comparison.mixture else ""
    path = folder / f"{name}-{comparison.samples}.json"
    if not path.exists():
        shuffled = comparison.real_split not in bundled.SPLITS  # (images at a path may be sorted by class)
        asked = (comparison.samples, comparison.mixture, by_class, in_turn, shuffled)
        write_json(path, _real_figures(Inputs.of(comparison), *asked).to_json())
    return RealImages.from_json(read_json(path))


@cache
def _real_figures(
    inputs: Inputs, samples: int, mixture: float, by_class: bool, in_turn: bool, shuffled: bool
) -> RealImages:
    """The figures of `real_figures`; searches ask for those of the same images again and again."""
    real, features = inputs.real, inputs.real_features
    size = min(samples, len(real))
    generator = torch.Generator().manual_seed(0)
    order = torch.arange(len(real))
    if shuffled:
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    most = FLOOR_SETS
    if in_turn and real.labels is not None and inputs.classes is not None:
        order, kept = _in_turn(order, real.labels, class_turns(inputs.classes, inputs.atoms.labels))
        most = min(most, max(1, kept // size))

    def figures_of(rows: Tensor) -> dict[str, Any]:
        chosen = evaluate(features[rows], real.images[rows], reference=inputs.reference, generator=generator)
        if mixture:
            chosen |= _mixture(inputs, real.images[rows], mixture, generator)
        if by_class and hasattr(inputs.extractor, "logits"):
            assert real.labels is not None
            chosen |= _by_class(inputs, features[rows], real.images[rows], real.labels[rows], generator)
        return chosen

    sets = [figures_of(order[i : i + size]) for i in range(0, len(real) - size + 1, size)[:most]]
    # Rates of copying need no equal n, and are known best from all of the images.
    whole = figures_of(order)
    figures = over_sets(sets, size)
    for key in whole:
        if key.startswith(("copy_rate", "nearest_", "class_accuracy", "mode_mixture")):
            figures[key] = whole[key]
    return RealImages.from_figures(size, figures | {"copy_power": inputs.reference.copy_power})


def _in_turn(order: Tensor, labels: Tensor, turns: Sequence[int]) -> tuple[Tensor, int]:
    """The rows of `order` with their classes in turn; and for how many of them there are images of each class."""
    waiting = {label: order[labels[order] == label].tolist()[::-1] for label in labels.unique().tolist()}
    found: list[int] = []
    kept = len(order)
    for asked in itertools.islice(itertools.cycle(turns), len(order)):
        if not waiting.get(asked):
            kept = min(kept, len(found))
            asked = max(waiting, key=lambda label: len(waiting[label]))
        found.append(waiting[asked].pop())
    return torch.tensor(found), kept


def over_sets(sets: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """Figures over sets of so many samples: their mean, and Student's interval; of one set, its own."""
    if len(sets) == 1:
        return dict(sets[0])
    figures: dict[str, Any] = {}
    for key in sets[0]:
        if key.endswith("_interval"):
            continue
        if any(one.get(key) is None for one in sets):
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


class FlowImages(NamedTuple):
    """What the full sampler makes of the first seeds.

    Attributes:
        classes: Their classes (n,), int64; None where the extractor is no classifier.
        images, features: Pixels (n, C, H, W) and features (n, F); None where the classes alone are stored.
    """

    classes: Tensor | None
    images: Tensor | None = None
    features: Tensor | None = None


def flow_images(comparison: Comparison, flow: list[Block] | None) -> FlowImages | None:
    """The full sampler's images.

    Arguments:
        comparison: The comparison.
        flow: Its full sampler's first set of seeds. Without it the few classes that are stored for the bundled network
            are taken, or None if the seeds or the network are others, or the extractor is no classifier.
    """
    extractor = Inputs.of(comparison).extractor
    classifies = hasattr(extractor, "logits")
    if flow is not None:
        images = Samples.read(flow).images
        classes = classify(extractor, images) if classifies else None
        return FlowImages(classes, images, extract_features(extractor, images))
    stored = bundled.full_sampler() if classifies else None
    if stored is None or comparison.first_seed != 0 or comparison.model != BUNDLED:
        return None
    return FlowImages(stored.classes[: min(AGREEMENT_SEEDS, comparison.samples)])


def seed_figures(comparison: Comparison, blocks: list[Block], flow: FlowImages | None) -> dict[str, Any]:
    """How near a start's images are to those that the full sampler makes of the same seeds.

    `seed_agreement` is the share of one class, `seed_likeness` the mean cosine of features, `seed_pixel_distance` the
    mean Euclidean distance of pixels.

    Arguments:
        comparison: The comparison.
        blocks: A start's first set of seeds.
        flow: The full sampler's images. Stored ones are too few for an interval, and not for conditional starts.
    """
    if flow is None or (comparison.flow is None and blocks[0].start.conditional):
        return {}
    extractor, images = Inputs.of(comparison).extractor, Samples.read(blocks).images
    compared: dict[str, Tensor] = {}
    if flow.classes is not None:
        compared["seed_agreement"] = classify(extractor, images[: len(flow.classes)]) == flow.classes
    if flow.images is not None and flow.features is not None:
        features = extract_features(extractor, images)
        compared["seed_likeness"] = torch.cosine_similarity(features.double(), flow.features.double())
        apart = (images - flow.images).flatten(1)
        compared["seed_pixel_distance"] = torch.linalg.vector_norm(apart, dim=1, dtype=torch.float64)
    figures: dict[str, Any] = {}
    for name, values in compared.items():
        mean = bootstrap_mean(values, torch.Generator().manual_seed(blocks[0].first_seed))
        figures[name] = mean.estimate
        if flow.images is not None:
            figures[f"{name}_interval"] = mean.limits()
    return figures
