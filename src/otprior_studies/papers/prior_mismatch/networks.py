"""The run: images, features, a network a schedule, samples of every start, errors of every start, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from otprior.data import bundled
from otprior.data.images import ImageSet
from otprior.data.streams import load_images
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.audit.errors import audited_priors, data_groups, error_rows
from otprior.error.audit.request import AuditRequest
from otprior.error.terminal import terminal_audit, terminal_data
from otprior.experiments.comparison import Comparison, ComparisonResult
from otprior.experiments.inputs import check_floor
from otprior.experiments.processes import Piece, run_in_processes, run_pieces
from otprior.experiments.run import run_comparison
from otprior.experiments.study import Part, Request, StageProgress
from otprior.priors import Prior, SemiDiscretePrior
from otprior.report.audit.record import ErrorRow
from otprior.transport.moments import streaming_spectrum
from otprior.utils.files import folder_sha256, mark_work, read_json, write_json
from otprior.utils.validation import require
from otprior_studies.papers.features import train_features, write_images
from otprior_studies.papers.prior_mismatch import Settings
from otprior_studies.papers.prior_mismatch.places import Place, file_name, places, scheduler_of
from otprior_studies.papers.prior_mismatch.tables import (
    Finding,
    ends_table,
    error_curves,
    gates,
    lead,
    starts_table,
)
from otprior_studies.training.loop import checkpoint_path, train_network
from otprior_studies.training.network import NetworkPlan

FEATURES = 128
CLASSES = 10
# Parts into which trainings are cut, so that all networks go forward together and progress is seen.
ROUNDS = 25
# Images of 28 x 28 get a dark border, and are averaged over squares of pixels.
BORDER, FACTOR = 2, 2


def run(request: Request) -> dict[str, Part]:
    """Reports: "" on all schedules, and one of each schedule's name."""
    settings: Settings = request.settings
    check_floor(request.samples, len(bundled.split("held_out")))
    require(settings.atoms <= len(bundled.atoms()), "atoms", "at most the bundled 10,000", settings.atoms)
    planned = {
        name: tuple(places(NoiseSchedule.from_scheduler(scheduler_of(name)), settings, name))
        for name in settings.names
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
    _errors(request, planned, images)
    findings = [_finding(request, name, planned[name], results[name], images) for name in results]
    return _parts(findings, settings)


def shrunk(images: Tensor) -> Tensor:
    """Images (N, C, 28, 28) in [-1, 1] with a dark border of two pixels, averaged over 2 x 2: (N, C, 16, 16)."""
    return avg_pool2d(pad(images, (BORDER,) * 4, value=-1.0), FACTOR)


def image_files(folder: Path, atoms: int) -> dict[str, Path]:
    """The files of the bundled parts, written unless they are there; of the atoms the first so many."""
    paths = {}
    for name in ("atoms", *bundled.SPLITS):
        path = folder / (f"atoms-{atoms}.npz" if name == "atoms" else f"{name}.npz")
        if not path.is_file():
            images = bundled.atoms().select(slice(atoms)) if name == "atoms" else bundled.split(name)
            write_images(path, replace(images, images=shrunk(images.images)))
        paths[name] = path
    return paths


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

    comparison = Comparison(
        name,
        tuple(spec for place in planned for start in place.starts for spec in start.specs),
        request.samples,
        split=str(images["reference"]),
        real_split=str(images["held_out"]),
        atoms_from=str(images["atoms"]),
        tol=settings.tol,
        precision=settings.sampling,
        block=250,
        model=str(checkpoint_path(folder / "network", 100)),
        extractor=str(request.work / "classifier"),
        device=request.device,
    )
    return run_comparison(comparison, folder, workers=request.workers, listen=listen)


def _errors(request: Request, planned: dict[str, tuple[Place, ...]], images: dict[str, Path]) -> None:
    """The errors of all schedules, each a piece of work."""
    settings: Settings = request.settings
    pieces = []
    for name, found in planned.items():
        folder = _folder(request, name)
        schedule = NoiseSchedule.from_scheduler(scheduler_of(name))
        timesteps = sorted({place.timestep for place in found if schedule.alpha(float(place.timestep)) > 0})
        out = folder / "errors.json"
        given = (name, images, folder / "priors", timesteps, settings.draws, out)
        pieces.append(Piece(out, write_errors, given, note=name))
    run_pieces(pieces, "prior errors", request.listen, request.workers)


def write_errors(
    name: str, images: dict[str, Path], priors: Path, timesteps: Sequence[int], draws: int, out: Path
) -> None:
    """Writes the rows of an audit to `out`, as JSON.

    Arguments:
        name: The schedule.
        images: Files of "atoms" and "held_out".
        priors: Folder of the fitted "semidiscrete" and "semidiscrete-by-class".
        timesteps: Where errors are computed; there is signal at all of them.
        draws: Of p_t, for the coupling by the data's flow.
        out: The file.
    """
    given: dict[str, Prior] = {}
    for kind in ("semidiscrete", "semidiscrete-by-class"):
        fitted = SemiDiscretePrior.from_pretrained(priors / kind)
        for noise in ("fresh", "coupled"):
            given[f"{kind}, {noise}"] = fitted.with_options(noise=noise)
    data, held_out = (load_images(images[part]) for part in ("atoms", "held_out"))
    request = AuditRequest(
        scheduler_of(name),
        name,
        data=data,
        held_out=held_out,
        priors=given,
        timesteps=tuple(float(t) for t in timesteps),
        draws=draws,
        conditional=True,
    )
    rows: list[ErrorRow] = []
    for by_class in (False, True):
        generator = torch.Generator().manual_seed(request.seed)
        parts = data_groups(request, data, held_out, by_class, generator)
        for audited in audited_priors(request, data, parts, by_class, generator):
            for found in error_rows(request, audited, parts, generator):
                # (Single classes are in the sum over them.)
                rows += [row for row in found if row.label == ("all classes" if by_class else None)]
    write_json(out, [row.to_json() for row in rows])


def _finding(
    request: Request, name: str, planned: tuple[Place, ...], result: ComparisonResult, images: dict[str, Path]
) -> Finding:
    scheduler, data = scheduler_of(name), _images(str(images["atoms"]))
    rows = data.images.flatten(1)
    terminal = terminal_audit(scheduler, tuple(data.images.shape[1:]))  # type: ignore[arg-type]
    return Finding(
        name,
        scheduler.config.prediction_type,
        terminal,
        terminal_data(terminal, data, streaming_spectrum(rows, rows.shape[1])),
        planned,
        result,
        tuple(ErrorRow.from_json(row) for row in read_json(_folder(request, name) / "errors.json")),
    )


def _parts(findings: list[Finding], settings: Settings) -> dict[str, Part]:
    parts = {}
    for each in findings:
        asked = {**(each.result.report.settings or {}), "reproduction": asdict(settings)}
        report = each.result.report.replace(tables=[starts_table(each)], gates=gates(each), settings=asked)
        parts[file_name(each.name)] = Part(report, each.result.images)
    reports = [part.report for part in parts.values()]
    # All schedules have the same images, atoms and features, but networks of their own. So the main report compares
    # only their uncorrected starts with most evaluations; its tables compare a correction with what it corrects.
    ends = [row for report in reports for row in report.rows if row.prior == "none"]
    by_schedule = [report.gates or () for report in reports]
    whole = reports[0].replace(
        settings={**(reports[0].settings or {}), "name": "prior-mismatch"},
        rows=[row for row in ends if row.nfe == settings.many],
        lead=lead(findings, by_schedule, settings.many),
        tables=[ends_table(findings), *(table for report in reports for table in report.tables or ())],
        gates=[gate for gates in by_schedule for gate in gates],
        curves=error_curves(findings, settings.many),
    )
    return {"": Part(whole), **parts}
