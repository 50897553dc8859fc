"""Comparing starts: the same seeds through every row, quality and copying of each, as a report.

A study names its rows, how many seeds, and which real images they are measured against. It is done in a work folder,
piece by piece, so that an interrupted study goes on where it stopped: priors, blocks of images, figures of a set of
seeds. Two processes with the same study, seeds and work folder get the same figures.
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from otprior import __version__, bundled
from otprior.data import ImageSet
from otprior.files import read_json, sha256, write_json
from otprior.generation import Block, Models, RowSpec, Samples, run_in_processes, sample_block
from otprior.metrics import Reference, evaluate, ratio_interval, seed_set_interval
from otprior.metrics.copying import copy_mask
from otprior.metrics.features import FeatureExtractor, classify, extract_features
from otprior.priors import GaussianPrior, SemiDiscretePrior
from otprior.report import FORMAT_VERSION, ReportImages, report_reference, report_row
from otprior.schedules import NoiseSchedule
from otprior.solver import Progress
from otprior.validation import check_choice, check_integer, require

__all__ = [
    "AGREEMENT_SEEDS",
    "Study",
    "StudyProgress",
    "StudyResult",
    "fit_priors",
    "headline_gates",
    "row_samples",
    "run_study",
]

logger = logging.getLogger(__name__)

# Seeds on which a start's image is compared with the full flow's from the same seed.
AGREEMENT_SEEDS = 200
FLOOR_SETS = 8


@dataclass(frozen=True)
class Study:
    """What to compare, on how much.

    Attributes:
        name: For people.
        rows: The starts.
        samples: Images of a row in one set of seeds.
        seed_sets: Sets of consecutive seeds; with two or more, intervals are over the sets.
        first_seed: The first seed of the first set.
        split: Bundled images that quality is measured against: "reference" or "validation".
        real_split: Bundled real images that give the floor and the copying to be expected of new images.
        atoms: How many of the bundled atoms.
        tol: χ² that the semi-discrete solve has to reach.
        precision: "float32", or "bfloat16" for autocast of the network.
        block: Images in one piece of work.
    """

    name: str
    rows: tuple[RowSpec, ...]
    samples: int
    seed_sets: int = 1
    first_seed: int = 0
    split: str = "reference"
    real_split: str = "held_out"
    atoms: int = 10_000
    tol: float = 0.05
    precision: str = "float32"
    block: int = 125

    def __post_init__(self) -> None:
        check_integer("samples", self.samples, 12)
        check_integer("seed_sets", self.seed_sets, 1)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        require(len(self.rows) > 0, "rows", "at least one", 0)

    def first_of(self, seed_set: int) -> int:
        """The first seed of a set."""
        return self.first_seed + seed_set * self.samples


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is: the stage, what is done of what, in the unit named."""

    stage: str
    done: float
    total: float
    note: str = ""


Listener = Callable[[StudyProgress], None]


@dataclass(frozen=True)
class StudyResult:
    """A report, the images that go with it, and the figures of each row and set of seeds."""

    report: dict[str, Any]
    images: list[ReportImages]
    sets: dict[str, list[dict[str, Any]]] = field(repr=False)


def run_study(
    study: Study, work: str | Path, *, workers: int = 1, threads: int = 1, listen: Listener | None = None
) -> StudyResult:
    """Fits what the rows need, samples, measures.

    Arguments:
        study: What to do.
        work: Folder for the pieces; one that holds pieces of the same study is gone on with.
        workers: Processes that sample.
        threads: Threads of each.
        listen: Called as work proceeds.

    Raises:
        ValueError: If `work` holds pieces of another study.
    """
    listen = listen or (lambda _: None)
    work = Path(work)
    _claim(work, study)
    facts = fit_priors(study, work / "priors", listen)
    models = Models(
        pipeline=bundled.pipeline_path(),
        priors=work / "priors",
        null_class_label=bundled.null_class_label(),
        precision=study.precision,
    )
    blocks = _blocks(study, work / "images")
    _sample(
        models, [block for row in blocks.values() for one in row for block in one], workers, threads, listen
    )
    sets = _measure(study, work / "figures", blocks, workers, threads, listen)
    reference = _real_figures(study, work / "figures")
    rows, images = [], []
    for row in study.rows:
        rows.append(_report_row(study, row, blocks[row.key], sets[row.key], reference))
        images.append(_report_images(study, row, blocks[row.key][0]))
    report = {
        "format_version": FORMAT_VERSION,
        "features": {"name": _extractor().name, "dim": _extractor().dim},
        "ot": facts,
        "reference": reference,
        "rows": rows,
        "settings": {key: value for key, value in asdict(study).items() if key != "rows"},
        "environment": {
            "otprior": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "workers": workers,
            "threads": threads,
        },
    }
    return StudyResult(report, images, sets)


def row_samples(study: Study, row: RowSpec, work: str | Path) -> Samples:
    """The images of a row's first set of seeds, from the work folder of a study that was run."""
    return Samples.read(_set_blocks(study, row, Path(work) / "images", 0))


def fit_priors(study: Study, folder: Path, listen: Listener) -> dict[str, Any] | None:
    """Fits the priors that the rows need on the bundled atoms, unless they are there; returns "ot" of the report."""
    needed = {row.prior for row in study.rows} - {"none"}
    if not needed:
        return None
    atoms = _atoms(study)
    schedule = NoiseSchedule.from_scheduler(bundled.load_scheduler())
    if "gaussian" in needed and not (folder / "gaussian").exists():
        listen(StudyProgress("fitting the gaussian prior", 0, 1))
        GaussianPrior.fit(atoms, schedule).save_pretrained(folder / "gaussian")
        listen(StudyProgress("fitting the gaussian prior", 1, 1))
    if needed == {"gaussian"}:
        return None
    if not (folder / "semidiscrete").exists():

        def progress(at: Progress) -> None:
            note = "" if at.chi2 is None else f"χ² {at.chi2.value:.3f}"
            listen(StudyProgress("solving semi-discrete transport", at.draws, at.expected_draws, note))

        prior = SemiDiscretePrior.fit(atoms, schedule, tol=study.tol, progress=progress)
        prior.save_pretrained(folder / "semidiscrete")
    facts = SemiDiscretePrior.from_pretrained(folder / "semidiscrete").facts
    return {
        "atoms": len(atoms),
        "dim": atoms.images[0].numel(),
        **{key: facts[key] for key in ("chi2", "chi2_upper", "seconds", "draws", "outcome")},
    }


@cache
def _extractor() -> FeatureExtractor:
    return bundled.extractor()


@cache
def _atoms(study: Study) -> ImageSet:
    """The first of the bundled atoms that the study uses; they are in no order."""
    return bundled.atoms().select(slice(study.atoms))


def _claim(work: Path, study: Study) -> None:
    """Marks a work folder with all that its pieces depend on, or refuses one that is marked otherwise."""
    mark = {
        "otprior": __version__,
        "study": {key: value for key, value in asdict(study).items() if key != "rows"},
        "manifest": sha256(bundled.ROOT / "manifest.json"),
    }
    path = work / "study.json"
    if not path.exists():
        write_json(path, mark)
        return
    found = read_json(path)
    hint = "Name another folder, or delete this one"
    require(found == mark, f"work folder {work}", "empty, or one of this very study", "another's", hint)


def _blocks(study: Study, folder: Path) -> dict[str, list[list[Block]]]:
    """Blocks by row key and set of seeds."""
    return {
        row.key: [_set_blocks(study, row, folder, k) for k in range(study.seed_sets)] for row in study.rows
    }


def _set_blocks(study: Study, row: RowSpec, folder: Path, seed_set: int) -> list[Block]:
    first, end = study.first_of(seed_set), study.first_of(seed_set + 1)
    return [
        Block(row, seed, min(study.block, end - seed), folder / row.key / f"{seed:09d}.npz")
        for seed in range(first, end, study.block)
    ]


def _sample(models: Models, blocks: list[Block], workers: int, threads: int, listen: Listener) -> None:
    total = sum(block.cost for block in blocks)
    missing = [block for block in blocks if not block.done]
    done = total - sum(block.cost for block in missing)
    listen(StudyProgress("sampling", done, total, "network evaluations"))

    def finished(block: Block) -> None:
        nonlocal done
        done += block.cost
        listen(StudyProgress("sampling", done, total, block.row.label))

    # The long ones first, so that the processes end together.
    missing.sort(key=lambda block: -block.cost)
    if missing:
        tasks = [(sample_block, (models, block)) for block in missing]
        run_in_processes(tasks, min(workers, len(tasks)), threads, finished)


def _measure(
    study: Study,
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
    listen(StudyProgress("measuring", done, len(paths)))

    def finished(_: Any) -> None:
        nonlocal done
        done += 1
        listen(StudyProgress("measuring", done, len(paths)))

    tasks = [(_measure_set, (study, blocks[key][k], paths[key, k])) for key, k in missing]
    if tasks:
        run_in_processes(tasks, min(workers, len(tasks)), threads, finished)
    return {key: [read_json(paths[key, k]) for k in range(study.seed_sets)] for key in blocks}


def _measure_set(study: Study, blocks: list[Block], path: Path) -> None:
    samples = Samples.read(blocks)
    features = extract_features(_extractor(), samples.images)
    generator = torch.Generator().manual_seed(blocks[0].first_seed)
    sources = None if samples.sources is None else torch.from_numpy(samples.sources)
    figures = evaluate(
        features, samples.images, reference=_reference(study), generator=generator, sources=sources
    )
    figures["nfe"] = samples.nfe
    figures["seconds_per_image"] = samples.seconds / len(samples.pixels)
    write_json(path, figures)


@cache
def _reference(study: Study) -> Reference:
    extractor = _extractor()
    atoms, real = _atoms(study), bundled.split(study.real_split)
    return Reference.build(
        reference_features=extract_features(extractor, bundled.split(study.split).images),
        atom_pixels=atoms.images,
        atom_features=extract_features(extractor, atoms.images),
        held_out_pixels=real.images,
        held_out_features=extract_features(extractor, real.images),
    )


def _real_figures(study: Study, folder: Path) -> dict[str, Any]:
    """The floor: the same figures of real images, over disjoint sets of `samples`, up to `FLOOR_SETS`."""
    path = folder / f"{study.real_split}-{study.samples}.json"
    if not path.exists():
        images = bundled.split(study.real_split).images
        size = min(study.samples, len(images))
        features = extract_features(_extractor(), images)
        generator = torch.Generator().manual_seed(0)
        sets = [
            evaluate(
                features[i : i + size], images[i : i + size], reference=_reference(study), generator=generator
            )
            for i in range(0, len(images) - size + 1, size)[:FLOOR_SETS]
        ]
        # Rates of copying need no equal n, and are known best from all of the images.
        whole = evaluate(features, images, reference=_reference(study), generator=generator)
        figures = _over_sets(sets)
        for key in whole:
            if key.startswith(("copy_rate", "nearest_")):
                figures[key] = whole[key]
        write_json(path, report_reference(size, figures))
    return read_json(path)


def _over_sets(sets: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over sets of seeds: their mean, and Student's interval; of one set, its own."""
    if len(sets) == 1:
        return dict(sets[0])
    figures: dict[str, Any] = {}
    for key, value in sets[0].items():
        if key.endswith("_interval"):
            continue
        if value is None:
            figures[key] = None
            continue
        interval = seed_set_interval([one[key] for one in sets])
        figures[key] = interval.estimate
        if f"{key}_interval" in sets[0]:
            low, high = interval.limits()
            # Rates and distances are not negative; an unbiased kernel distance may be.
            figures[f"{key}_interval"] = [low if key == "kid" or low is None else max(low, 0.0), high]
    return figures


def _report_row(
    study: Study,
    row: RowSpec,
    blocks: list[list[Block]],
    sets: list[dict[str, Any]],
    reference: dict[str, Any],
) -> dict[str, Any]:
    figures = _over_sets(sets)
    floor = reference["fid_floor"]
    low, high = figures["fid_interval"]
    agreement = _seed_agreement(study, blocks[0])
    last = study.first_of(study.seed_sets) - 1
    return report_row(
        label=row.label,
        prior=row.prior,
        noise=row.noise,
        smoothing=row.smoothing if row.prior == "semidiscrete" else None,
        correlation=row.correlation if row.noise == "coupled" else None,
        start_timestep=row.start_timestep,
        scheduler=row.scheduler,
        spacing=row.spacing,
        guidance=1.0,
        samples=study.samples * study.seed_sets,
        seeds=f"{study.first_seed}-{last}",
        seed_agreement=agreement,
        excess_fid=figures["fid"] - floor,
        excess_fid_interval=[low - floor, high - floor],
        **{**figures, "nfe": round(figures["nfe"])},
    )


def _seed_agreement(study: Study, blocks: list[Block]) -> float | None:
    """Share of seeds whose image has the class that the full flow's image of the same seed has."""
    flow = bundled.full_sampler()
    if flow is None or study.first_seed != 0:
        return None
    count = min(AGREEMENT_SEEDS, study.samples, len(flow.classes))
    images = Samples.read(blocks).images[:count]
    return float((classify(_extractor(), images) == flow.classes[:count]).double().mean())


def _report_images(study: Study, row: RowSpec, blocks: list[Block], count: int = 10) -> ReportImages:
    """The first seeds' images of a row, with the nearest atom of each."""
    images = Samples.read(blocks[:1]).images[:count]
    distances, index = _reference(study).atoms.nearest(images, 2)
    return ReportImages(
        label=row.label,
        images=images,
        nearest=_atoms(study).images[index[:, 0]],
        copied=copy_mask(distances),
        seeds=list(range(study.first_seed, study.first_seed + len(images))),
    )


def headline_gates(result: StudyResult, rows: dict[str, RowSpec]) -> list[dict[str, Any]]:
    """The statements about quality and about copying that the headline is judged by.

    Arguments:
        result: Of a study with several sets of seeds.
        rows: "coupled_5", "coupled_3", "none_10" and "none_20".
    """
    floor = result.report["reference"]["fid_floor"]

    def excess(name: str) -> list[float]:
        return [one["fid"] - floor for one in result.sets[rows[name].key]]

    gates = []
    for start, rival, threshold in (("coupled_5", "none_20", 0.5), ("coupled_3", "none_10", 1.0)):
        ratio = ratio_interval(excess(start), excess(rival), side="upper")
        few, many = (int(name.split("_")[1]) for name in (start, rival))
        statement = f"Excess FID of the coupled start at {few} evaluations over that of N(0, I) at {many}"
        gates.append(_gate(statement, ratio.estimate, ratio.hi, threshold))
    real = result.report["reference"]["copy_rate"]
    for start in ("coupled_5", "coupled_3"):
        seeds = seed_set_interval([one["copy_rate"] for one in result.sets[rows[start].key]], side="upper")
        # Two sources of error: other seeds, and other held-out images.
        held_out = 1.645 * (real * (1 - real) / bundled.manifest()["splits"]["held_out"]["n"]) ** 0.5
        more = seeds.estimate - real
        upper = more + ((seeds.hi - seeds.estimate) ** 2 + held_out**2) ** 0.5
        few = int(start.split("_")[1])
        statement = f"Copy rate of the coupled start at {few} evaluations less that of held-out real images"
        gates.append(_gate(statement, more, upper, 0.01))
    return gates


def _gate(statement: str, statistic: float, upper: float, threshold: float) -> dict[str, Any]:
    return {
        "statement": statement,
        "statistic": float(statistic),
        "upper": float(upper) if math.isfinite(upper) else None,
        "threshold": threshold,
        "reached": bool(upper <= threshold),
    }
