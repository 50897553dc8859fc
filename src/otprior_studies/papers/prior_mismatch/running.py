"""The run: images, features, a network a schedule, samples of every start, errors of every start, tables."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from otprior.data import bundled
from otprior.data.images import ImageSet, load_images
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.terminal import terminal_audit, terminal_data
from otprior.experiments.comparison import (
    Comparison,
    ComparisonResult,
    Listener,
    StageProgress,
)
from otprior.experiments.inputs import check_floor
from otprior.experiments.processes import run_in_processes
from otprior.experiments.run import run_comparison
from otprior.transport.moments import streaming_spectrum
from otprior.utils.files import folder_sha256, read_json
from otprior.utils.validation import require
from otprior.utils.work_folder import mark_work
from otprior_studies.papers.material import settled, train_features
from otprior_studies.papers.prior_mismatch.errors import write_errors
from otprior_studies.papers.prior_mismatch.images import image_files
from otprior_studies.papers.prior_mismatch.rows import (
    Place,
    file_name,
    places,
    scheduler_of,
)
from otprior_studies.papers.prior_mismatch.settings import Settings
from otprior_studies.papers.prior_mismatch.tables import (
    Finding,
    ends_table,
    error_curves,
    gates,
    starts_table,
)
from otprior_studies.papers.prior_mismatch.words import lead
from otprior_studies.papers.reproduction import Part, Request
from otprior_studies.training.loop import checkpoint_path, train_network
from otprior_studies.training.network import NetworkPlan

FEATURES = 128
CLASSES = 10
# Parts into which trainings are cut, so that all networks go forward together and progress is seen.
ROUNDS = 25


def run(request: Request) -> dict[str, Part]:
    """Reports: "" on all schedules, and one of each schedule's name."""
    request = settled(request)
    settings: Settings = request.settings
    check_floor(request.samples, len(bundled.split("held_out")))
    require(settings.atoms <= len(bundled.atoms()), "atoms", "at most the bundled 10,000", settings.atoms)
    schedulers = {name: scheduler_of(name) for name in settings.names}
    planned = {
        name: tuple(places(NoiseSchedule.from_scheduler(scheduler), settings, name))
        for name, scheduler in schedulers.items()
    }
    files = [Path(name) for name in settings.names if Path(name).is_file()]
    digests = {f"{path} sha256": folder_sha256(path.parent, path.name) for path in files}
    mark_work(request.work / "settings.json", asdict(settings) | digests, "of these settings")
    images = image_files(request.work / "images", settings.atoms)
    train_features(
        load_images(images["atoms"]),
        load_images(images["validation"]),
        request.work / "classifier",
        name=f"fashion-mnist-16-cnn-{FEATURES}",
        dim=FEATURES,
        epochs=settings.epochs,
        listen=request.listen,
    )
    _train(request, images["atoms"])
    results = {name: _sample(request, name, planned[name], images) for name in settings.names}
    _errors(request, schedulers, planned, images)
    findings = [
        _finding(request, name, schedulers[name], planned[name], results[name], images) for name in results
    ]
    return _parts(findings, settings)


def _folder(request: Request, name: str) -> Path:
    return request.work / file_name(name)


def _train(request: Request, atoms: Path) -> None:
    """Trains all networks, a round of steps at a time, each network in a process."""
    settings: Settings = request.settings
    plan = NetworkPlan(
        layers=settings.layers,
        classes=CLASSES,
        steps=settings.steps,
        batch_size=settings.batch_size,
        precision=settings.precision,
        checkpoints=(100,),
    )
    missing = [
        name
        for name in settings.names
        if not checkpoint_path(_folder(request, name) / "network", 100).is_dir()
    ]
    for number in range(1, ROUNDS + 1) if missing else ():
        request.listen(StageProgress("training networks", number - 1, ROUNDS, f"{len(missing)} of them"))
        until = math.ceil(settings.steps * number / ROUNDS)
        tasks = [
            (_train_part, (str(atoms), name, plan, _folder(request, name) / "network", until))
            for name in missing
        ]
        run_in_processes(tasks, request.workers, 1, lambda _: None)


def _train_part(atoms: str, name: str, plan: NetworkPlan, folder: Path, until: int) -> None:
    train_network(_images(atoms), scheduler_of(name), plan, folder, until=until)


@cache
def _images(path: str) -> ImageSet:
    return load_images(path)


def _sample(
    request: Request, name: str, planned: tuple[Place, ...], images: dict[str, Path]
) -> ComparisonResult:
    settings: Settings = request.settings
    folder = _folder(request, name)

    def listen(at: StageProgress) -> None:
        request.listen(replace(at, stage=f"{name}: {at.stage}"))

    study = Comparison(
        name,
        tuple(row for place in planned for start in place.starts for row in start.rows),
        request.samples,
        split=str(images["reference"]),
        real_split=str(images["held_out"]),
        atoms=0,
        atoms_from=str(images["atoms"]),
        tol=settings.tol,
        precision=settings.sampling,
        block=250,
        model=str(checkpoint_path(folder / "network", 100)),
        extractor=str(request.work / "classifier"),
    )
    return run_comparison(study, folder, workers=request.workers, listen=listen)


def _errors(
    request: Request,
    schedulers: dict[str, Any],
    planned: dict[str, tuple[Place, ...]],
    images: dict[str, Path],
) -> None:
    """The errors of all schedules, each in a process, unless they are there."""
    tasks = []
    for name, scheduler in schedulers.items():
        out = _folder(request, name) / "errors.json"
        if out.is_file():
            continue
        schedule = NoiseSchedule.from_scheduler(scheduler)
        timesteps = sorted(
            {place.timestep for place in planned[name] if schedule.alpha(float(place.timestep)) > 0}
        )
        priors = _folder(request, name) / "priors"
        settings: Settings = request.settings
        tasks.append((write_errors, (name, images, priors, timesteps, settings.draws, out)))
    done = len(schedulers) - len(tasks)

    def finished(_: Any) -> None:
        nonlocal done
        done += 1
        _tell(request.listen, done, len(schedulers))

    _tell(request.listen, done, len(schedulers))
    if tasks:
        run_in_processes(tasks, min(request.workers, len(tasks)), 1, finished)


def _tell(listen: Listener, done: int, total: int) -> None:
    listen(StageProgress("prior errors", done, total, "schedules"))


def _finding(
    request: Request,
    name: str,
    scheduler: Any,
    planned: tuple[Place, ...],
    result: ComparisonResult,
    images: dict[str, Path],
) -> Finding:
    data = _images(str(images["atoms"]))
    rows = data.images.flatten(1)
    terminal = terminal_audit(scheduler, tuple(data.images.shape[1:]))  # type: ignore[arg-type]
    return Finding(
        name,
        scheduler.config.prediction_type,
        terminal,
        terminal_data(terminal, data, streaming_spectrum(rows, rows.shape[1])),
        planned,
        result,
        tuple(read_json(_folder(request, name) / "errors.json")),
    )


def _parts(findings: list[Finding], settings: Settings) -> dict[str, Part]:
    parts = {}
    for each in findings:
        report = each.result.report
        report["tables"], report["gates"] = [starts_table(each)], gates(each)
        report["settings"] |= {"reproduction": asdict(settings)}
        parts[file_name(each.name)] = Part(report, each.result.images)
    reports = [part.report for part in parts.values()]
    # All studies have the same images, atoms and features, but networks of their own. So of different schedules only
    # the rows where nothing is corrected stand together, those of most evaluations; a correction stands beside what it
    # corrects, in tables.
    ends = [row for report in reports for row in report["rows"] if row["prior"] == "none"]
    whole = {
        **reports[0],
        "settings": {**reports[0]["settings"], "name": "prior-mismatch"},
        "rows": [row for row in ends if row["nfe"] == settings.many],
        "lead": lead(findings, [report["gates"] for report in reports], settings.many),
        "tables": [ends_table(findings), *(table for report in reports for table in report["tables"])],
        "gates": [gate for report in reports for gate in report["gates"]],
        "curves": error_curves(findings, settings.many),
    }
    return {"": Part(whole), **parts}
