"""Running a study of codes, piece by piece, so that an interrupted one goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from otprior import __version__
from otprior.diffusion.codes import Codes
from otprior.diffusion.grids import timestep_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.processes import kept_processes
from otprior.experiments.study import Listener, StageProgress, ignore
from otprior.priors import GaussianPrior, SemiDiscretePrior
from otprior.report import ReportImages
from otprior.sampling.folders import network_sha256, own_scheduler
from otprior.utils.files import mark_work
from otprior.utils.random import stream_generator
from otprior_studies.codes.maps import Groups
from otprior_studies.codes.network_stages import NetworkStages
from otprior_studies.codes.study import CodeStudy, CodeSubject, Network, check_subject
from otprior_studies.codes.swaps import Swaps, swap_pieces


@dataclass(frozen=True)
class CodeResult:
    """What a study found.

    Attributes:
        part: The part "codes" of a report.
        codes: Codes of the images, with their provenance.
        swaps: Rows of images: each class decoded as every class; [] between networks, or without swaps.
        beside: Rows of images, what their codes become as another kind, and their rivals; [] without swaps.
    """

    part: dict[str, Any]
    codes: Codes
    swaps: list[ReportImages]
    beside: list[ReportImages]


def run_code_study(
    study: CodeStudy,
    subject: CodeSubject,
    work: str | Path,
    *,
    workers: int = 1,
    threads: int = 1,
    listen: Listener = ignore,
) -> CodeResult:
    """Encodes, decodes, swaps, and measures.

    Arguments:
        study: How much.
        subject: Of what.
        work: Folder of the pieces of work; a run takes up what the same study left there.
        workers: Processes that ask the network; 0 to do so in this one.
        threads: Threads of each.
        listen: Called as work proceeds.

    Raises:
        ValueError: If `work` holds pieces of another study, or the subject has too few images for this one.
    """
    check_subject(study, subject)
    work, network = Path(work), subject.network
    subject = replace(subject, images=subject.images.select(slice(0, study.images)))
    schedule = NoiseSchedule.from_scheduler(own_scheduler(network.folder))
    # (Refuses a t* from which there are too few timesteps, before the work.)
    timestep_grid(schedule, study.timestep, study.fast_steps, "log_snr")
    _claim(study, subject, work)
    stages = NetworkStages(study, network, schedule, work, workers, threads, listen)
    with kept_processes(workers, threads) if workers else contextlib.nullcontext():
        _fit_priors(stages, subject)
        return _result(stages, subject)


def _result(stages: NetworkStages, subject: CodeSubject) -> CodeResult:
    study, images = stages.study, subject.images.images
    no_class = subject.network.no_class(study.images)
    labels = subject.images.labels if study.conditional else no_class
    codes = stages.encode(images, labels)
    refined = stages.refined(images, codes, labels)
    skew = stages.skew(images, codes, labels)
    seeds = stages.seeds(tuple(images.shape[1:]))
    made = {"network": stages.decode(seeds)}
    made |= {name: stages.sample(name, seeds) for name in ("gaussian", "semidiscrete")}
    pieces = swap_pieces(study, subject, stages.work / "swaps")
    stages.run(pieces, "swapping codes")
    swaps = Swaps(study, subject, pieces) if pieces else None
    part = {
        "model": subject.name,
        "data": subject.images.name,
        "images": study.images,
        "dim": images[0].numel(),
        "told": "each image's class"
        if study.conditional
        else ("no class" if no_class is not None else "nothing"),
        "evaluations": study.evaluations,
        "mean_square": float((codes.double() ** 2).mean()),
        "groups": _groups(stages, images, codes, seeds, made),
        "jacobian": skew,
        "refined": refined,
        "swaps": None if swaps is None else swaps.figures(),
    }
    return CodeResult(
        part,
        _saved(stages, subject, codes, labels),
        [] if swaps is None else swaps.pictures(),
        [] if swaps is None else swaps.beside(),
    )


def _claim(study: CodeStudy, subject: CodeSubject, work: Path) -> None:
    """Marks the work folder with all that its pieces depend on, or refuses one that is marked otherwise."""
    mark = {
        "otprior": __version__,
        "study": study.settings(),
        "images": subject.images.sha256,
        "atoms": subject.atoms.sha256,
        "network": _digest(subject.network),
        "other": None if subject.other is None else _digest(subject.other),
        "other images": None if subject.other_images is None else subject.other_images.sha256,
    }
    mark_work(work / "study.json", mark, "one of this very study")


def _digest(network: Network) -> dict[str, Any]:
    """What tells one network from another, wherever it lies."""
    where = {} if network.device == "cpu" else {"device": network.device}
    where |= {} if network.variant is None else {"variant": network.variant}
    return {"sha256": network_sha256(network.folder), "null label": network.null_label} | where


def _fit_priors(stages: NetworkStages, subject: CodeSubject) -> None:
    """Fits the priors of the fast starts, unless they are there."""
    study, folder = stages.study, stages.work / "priors"
    given = (subject.atoms, stages.schedule, study.timestep)
    generator = stream_generator(study.seed, "code study prior")
    fits: dict[str, Callable[[], Any]] = {
        "gaussian": lambda: GaussianPrior.fit(*given, value_range=None),
        "semidiscrete": lambda: SemiDiscretePrior.fit(
            *given, tol=study.tol, generator=generator, value_range=None
        ),
    }
    for name, fit in fits.items():
        if not (folder / name).is_dir():
            stages.listen(StageProgress(f"fitting the {name} prior", 0, 0))
            fit().save_pretrained(folder / name)


def _groups(
    stages: NetworkStages, images: Tensor, codes: Tensor, seeds: Tensor, made: dict[str, Tensor]
) -> list[dict[str, Any]]:
    gaussian = GaussianPrior.from_pretrained(stages.work / "priors" / "gaussian")
    semidiscrete = SemiDiscretePrior.from_pretrained(stages.work / "priors" / "semidiscrete")
    clean, _ = stages.moments
    groups = Groups(stages.study, gaussian, clean, stages.work / "figures", stages.listen)
    return [groups.images_to_codes(images, codes), groups.seeds_to_images(seeds, made, semidiscrete)]


def _saved(stages: NetworkStages, subject: CodeSubject, codes: Tensor, labels: Tensor | None) -> Codes:
    """The codes at the scale of the noisy end, with where they come from."""
    clean, noisy = stages.moments
    provenance = {
        "model": subject.name,
        "images": subject.images.name,
        "images_sha256": subject.images.sha256,
        "moments": {"clean": list(clean), "noisy": list(noisy)},
        "schedule": stages.schedule.to_dict(),
    }
    return Codes(codes * noisy.size, labels, stages.study.encoder, provenance)
