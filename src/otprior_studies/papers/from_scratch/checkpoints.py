"""The run: images, classifier, network, and then the headline for each of its checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from otprior.data import bundled
from otprior.data.images import ImageSet
from otprior.data.streams import load_images
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.inputs import check_floor, check_unseen
from otprior.experiments.study import Listener, Part, Request, StageProgress
from otprior.report import ReportTable
from otprior.utils.files import folder_sha256, mark_work, read_json
from otprior.utils.validation import require
from otprior_studies.comparisons.stages import Stages, Subject
from otprior_studies.papers.features import train_features
from otprior_studies.papers.from_scratch import BUNDLED, MNIST, Settings
from otprior_studies.papers.from_scratch.headline import measured_headline
from otprior_studies.papers.from_scratch.images import image_files
from otprior_studies.training.loop import TrainingProgress, checkpoint_path, train_network
from otprior_studies.training.network import NetworkPlan
from otprior_studies.training.schedules import training_scheduler

FEATURES = 64
JUDGED_BY = ("validation", "held_out", "reference")


def run(request: Request) -> dict[str, Part]:
    """Reports: "" on the whole training, "25-percent" and so on after a part of it."""
    settings: Settings = request.settings
    _plan(settings, None)  # refuses what cannot be trained, before a classifier is
    own = {"data": settings.data, "training": settings.training}
    given = {name: path for name, path in own.items() if path not in (MNIST, BUNDLED, "")}
    digests = {f"{name} sha256": load_images(path).sha256 for name, path in given.items()}
    if settings.networks:
        digests["networks sha256"] = folder_sha256(Path(settings.networks), "*-percent/**/*.safetensors")
    mark_work(request.work / "settings.json", asdict(settings) | digests, "of these settings")
    subject, training = _subject(settings, request)
    if settings.networks:
        _check_networks(settings, training)
    if settings.data != BUNDLED:
        train_features(
            load_images(subject.atoms),
            load_images(subject.validation),
            Path(subject.extractor),
            name=f"{Path(settings.data).stem}-cnn-{FEATURES}",
            dim=FEATURES,
            epochs=settings.epochs,
            listen=request.listen,
        )
    folder = Path(settings.networks or request.work / "network")
    plan = _plan(settings, training)
    if not settings.networks:
        with _threads(max(1, request.workers)):
            train_network(
                training, training_scheduler("linear"), plan, folder, listen=_follow(request.listen)
            )
    results = {percent: _measured(request, subject, folder, percent) for percent in settings.percents}
    table = _by_training(results, plan)
    parts: dict[str, Part] = {}
    for percent, result in results.items():
        asked = {**(result.report.settings or {}), "reproduction": asdict(settings)}
        changes = {"tables": [table]} if percent == 100 else {}
        parts["" if percent == 100 else f"{percent}-percent"] = result.with_report(settings=asked, **changes)
    return parts


def _measured(request: Request, subject: Subject, networks: Path, percent: int) -> ComparisonResult:
    """The headline of a checkpoint."""
    settings: Settings = request.settings

    def listen(at: StageProgress) -> None:
        request.listen(replace(at, stage=f"{percent} %: {at.stage}"))

    return measured_headline(
        Stages(
            request.work / f"headline-{percent}",
            request.samples,
            settings.seed_sets,
            settings.sampling,
            request.workers,
            listen,
            replace(subject, model=str(checkpoint_path(networks, percent))),
            request.device,
        )
    )


def _subject(settings: Settings, request: Request) -> tuple[Subject, ImageSet]:
    """The images and features of the comparisons, and what the network is trained on.

    Raises:
        ValueError: If a start has more samples than there are held-out images, or images that a start or a network is
            judged by are among those that it is made of.
    """
    request.listen(StageProgress("sharing images out", 0, 1))
    if settings.data == BUNDLED:
        subject, atoms = Subject(), bundled.atoms()
        judged_by = {name: bundled.split(name) for name in JUDGED_BY}
    else:
        files = image_files(settings.data, request.work / "images")
        names = {name: str(path) for name, path in files.items()}
        subject = Subject(extractor=str(request.work / "classifier"), **names)
        atoms = replace(
            load_images(files["atoms"]), name=f"{Path(settings.data).stem}/atoms", source=settings.data
        )
        judged_by = {name: load_images(files[name]) for name in JUDGED_BY}
    check_floor(request.samples, len(judged_by["held_out"]))
    training = atoms
    if settings.training:
        channels, height, width = (int(size) for size in atoms.images.shape[1:])
        training = load_images(settings.training, size=(height, width), channels=channels)
    for name, images in judged_by.items():
        check_unseen(f"{name} images of {settings.data}", images, atoms)
        if settings.training:
            check_unseen(f"{name} images of {settings.data}", images, training)
    return subject, training


def _check_networks(settings: Settings, training: ImageSet) -> None:
    """Requires a network for every checkpoint, each trained on these images.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If one is of other images (it may have seen what it is to be judged by) or another training.
    """
    for percent in settings.percents:
        facts = checkpoint_path(settings.networks, percent) / "training.json"
        if not facts.is_file():
            raise FileNotFoundError(
                f"networks {settings.networks}: there is no {facts.parent.name}/{facts.name} in it"
            )
        plan = read_json(facts)
        same = plan["images_sha256"] == training.sha256 and plan["plan"]["steps"] == settings.steps
        rule = f"trained for {settings.steps:,} steps on {training.name}, {len(training):,} images"
        require(same, "networks", rule, "others")


def _plan(settings: Settings, training: ImageSet | None) -> NetworkPlan:
    labels = None if training is None else training.labels
    return NetworkPlan(
        layers=settings.layers,
        classes=None if labels is None else int(labels.max()) + 1,
        steps=settings.steps,
        batch_size=settings.batch_size,
        precision=settings.precision,
        checkpoints=settings.percents,
    )


def _follow(listen: Listener) -> Any:
    def report(at: TrainingProgress) -> None:
        listen(StageProgress("training the network", at.step, at.steps, f"loss {at.loss:.4f}"))

    return report


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Lets this process compute on as many threads as there are processes, which wait meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _by_training(results: dict[int, ComparisonResult], plan: NetworkPlan) -> ReportTable:
    """The headline's starts at every checkpoint, with the figures of real images."""
    lines: list[list[Any]] = []
    for percent, result in results.items():
        for row in result.report.rows:
            assert row.excess_fid_interval is not None
            low, high = row.excess_fid_interval
            lines.append(
                [
                    row.label,
                    f"{percent} % ({plan.step_of(percent):,} steps)",
                    row.nfe,
                    row.excess_fid,
                    f"[{low:.2f}, {high:.2f}]",
                    row.copy_rate,
                    row.source_rate,
                ]
            )
    (reference, *_) = [result.report.reference for result in results.values()]
    return ReportTable.build(
        title="The headline by how long the network was trained",
        note=f"Excess FID over {reference.n:,} held-out real images, whose own is {reference.fid_floor:.2f}; they "
        f"count as copies in {reference.copy_rate:.4f}. Settings are chosen anew for every network.",
        columns=["start", "training", "evaluations", "excess FID", "95 %", "copies", "own atom nearest"],
        lines=lines,
    )
