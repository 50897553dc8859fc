"""Running a study of codes, piece by piece, so that an interrupted one goes on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior import __version__
from otprior.diffusion.codes import Codes, code_moments
from otprior.diffusion.flow import flow_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.comparison import Listener, StageProgress
from otprior.experiments.processes import kept_processes
from otprior.metrics.intervals import bootstrap_mean
from otprior.priors import GaussianPrior, SemiDiscretePrior
from otprior.report import ReportImages
from otprior.sampling.folders import network_sha256, own_scheduler
from otprior.transport.assignment import pairing
from otprior.utils.random import normal_block, stream_generator
from otprior.utils.work_folder import mark_work
from otprior_studies.claims.skew import SKEW_MOMENTS
from otprior_studies.codes.groups import Groups
from otprior_studies.codes.pieces import (
    Piece,
    decoded,
    encoded,
    probed,
    run_pieces,
    sampled,
)
from otprior_studies.codes.study import (
    CodeStudy,
    CodeSubject,
    Network,
    check_subject,
)
from otprior_studies.codes.swaps import Swaps, swap_pieces


@dataclass(frozen=True)
class CodeResult:
    """What a study found.

    Attributes:
        part: The part "codes" of a report.
        codes: Of the images, with their provenance.
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
    listen: Listener | None = None,
) -> CodeResult:
    """Encodes, decodes, swaps, and measures.

    Arguments:
        study: How much.
        subject: Of what.
        work: Folder for the pieces; one that holds pieces of the same study is gone on with.
        workers: Processes that ask the network; 0 to do so in this one.
        threads: Threads of each.
        listen: Called as work proceeds.

    Raises:
        ValueError: If `work` holds pieces of another study, or the subject has too few images for this one.
    """
    check_subject(study, subject)
    run = _Run(study, subject, Path(work), workers, threads, listen or (lambda _: None))
    with kept_processes(workers, threads) if workers else contextlib.nullcontext():
        return run.result()


class _Run:
    """One run: material, and the stages in their order."""

    def __init__(
        self,
        study: CodeStudy,
        subject: CodeSubject,
        work: Path,
        workers: int,
        threads: int,
        listen: Listener,
    ) -> None:
        self.study, self.work = study, work
        self.subject = replace(subject, images=subject.images.select(slice(0, study.images)))
        self.workers, self.threads, self.listen = workers, threads, listen
        self.network = subject.network
        self.schedule = NoiseSchedule.from_scheduler(own_scheduler(self.network.folder))
        self.clean, self.noisy = code_moments(self.schedule)
        self._claim()

    def result(self) -> CodeResult:
        study, images = self.study, self.subject.images.images
        self._fit_priors()
        labels = self._labels()
        codes = self._many("codes", encoded, images, labels)["codes"]
        refined = self._refined(codes, labels)
        skew = self._skew(codes, labels)
        seeds = self._seeds(images[0].numel()).reshape(-1, *images.shape[1:])
        told = self.network.no_class(len(seeds))
        made = {
            "network": self._many("flow", decoded, seeds, told)["images"],
            "gaussian": self._sampled("gaussian", seeds),
            "semidiscrete": self._sampled("semidiscrete", seeds),
        }
        pieces = swap_pieces(study, self.subject, self.work / "swaps")
        self._pieces(pieces, "swapping codes")
        swaps = Swaps(study, self.subject, pieces) if pieces else None

        gaussian = GaussianPrior.from_pretrained(self.work / "priors" / "gaussian")
        semidiscrete = SemiDiscretePrior.from_pretrained(self.work / "priors" / "semidiscrete")
        groups = Groups(study, gaussian, self.clean, self.work / "figures", self.listen)
        part = {
            "model": self.subject.name,
            "data": self.subject.images.name,
            "images": study.images,
            "dim": images[0].numel(),
            "told": "each image's class"
            if study.conditional
            else ("no class" if told is not None else "nothing"),
            "evaluations": study.evaluations,
            "mean_square": float((codes.double() ** 2).mean()),
            "groups": [
                groups.images_to_codes(self.subject.images.images, codes),
                groups.seeds_to_images(seeds, made, semidiscrete),
            ],
            "jacobian": skew,
            "refined": refined,
            "swaps": None if swaps is None else swaps.figures(),
        }
        provenance = {
            "model": self.subject.name,
            "images": self.subject.images.name,
            "images_sha256": self.subject.images.sha256,
            "moments": {"clean": list(self.clean), "noisy": list(self.noisy)},
            "schedule": self.schedule.to_dict(),
        }
        saved = Codes(codes * self.noisy.size, labels, study.encoder, provenance)
        return CodeResult(
            part,
            saved,
            [] if swaps is None else swaps.pictures(),
            [] if swaps is None else swaps.beside(),
        )

    # Material --------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        """Marks the work folder with all that its pieces depend on, or refuses one that is marked otherwise."""
        subject = self.subject
        mark = {
            "otprior": __version__,
            "study": self.study.settings(),
            "images": subject.images.sha256,
            "atoms": subject.atoms.sha256,
            "network": _digest(subject.network),
            "other": None if subject.other is None else _digest(subject.other),
            "other images": None if subject.other_images is None else subject.other_images.sha256,
        }
        mark_work(self.work / "study.json", mark, "one of this very study")

    def _labels(self) -> Tensor | None:
        if self.study.conditional:
            return self.subject.images.labels
        return self.network.no_class(self.study.images)

    def _fit_priors(self) -> None:
        study, folder = self.study, self.work / "priors"
        fits: dict[str, Callable[[], Any]] = {
            "gaussian": lambda: GaussianPrior.fit(
                self.subject.atoms, self.schedule, study.timestep, value_range=None
            ),
            "semidiscrete": lambda: SemiDiscretePrior.fit(
                self.subject.atoms,
                self.schedule,
                study.timestep,
                tol=study.tol,
                generator=stream_generator(study.seed, "code study prior"),
                value_range=None,
            ),
        }
        for name, fit in fits.items():
            if not (folder / name).is_dir():
                self.listen(StageProgress(f"fitting the {name} prior", 0, 0))
                fit().save_pretrained(folder / name)

    def _seeds(self, dim: int) -> Tensor:
        size = self.study.block
        blocks = range(math.ceil(self.study.images / size))
        drawn = [normal_block(self.study.seed, "code study seeds", b, size, dim) for b in blocks]
        return torch.cat(drawn)[: self.study.images]

    # Stages ----------------------------------------------------------------------------------------------

    def _pieces(self, pieces: list[Piece], stage: str) -> None:
        run_pieces(pieces, stage, self.workers, self.threads, self.listen)

    def _many(
        self,
        name: str,
        function: Callable[..., dict[str, Any]],
        rows: Tensor,
        labels: Tensor | None,
        finer: bool = False,
    ) -> dict[str, Tensor]:
        """A function of (network, encoder, rows, labels) on all rows, block by block.

        Arguments:
            finer: Whether by twice the steps, or a tenth of the tolerance.
        """
        encoder = self.study.encoder.refined() if finer else self.study.encoder
        size = self.study.block
        pieces = []
        for begin in range(0, len(rows), size):
            part = slice(begin, begin + size)
            told = None if labels is None else labels[part]
            args = (self.network, encoder, rows[part], told)
            cost = len(rows[part]) * self.study.evaluations * (2 if finer else 1)
            pieces.append(Piece(self.work / name / f"{begin:06d}.npz", cost, function, args))
        self._pieces(pieces, {"codes": "encoding", "flow": "decoding seeds"}.get(name, "checking the steps"))
        return _joined(pieces)

    def _sampled(self, name: str, seeds: Tensor) -> Tensor:
        study = self.study
        pieces = []
        for begin in range(0, len(seeds), study.block):
            part = seeds[begin : begin + study.block]
            args = (self.network, self.work / "priors" / name, study.timestep, study.fast_steps, part)
            path = self.work / f"{name}-{study.fast_steps}" / f"{begin:06d}.npz"
            pieces.append(Piece(path, len(part) * study.fast_steps, sampled, args))
        self._pieces(pieces, f"sampling from the {name} prior")
        return _joined(pieces)["images"]

    def _refined(self, codes: Tensor, labels: Tensor | None) -> dict[str, Any]:
        """What the steps cost: the first images again in half as long ones, and back again."""
        count = min(self.study.refined, self.study.images)
        images, part = self.subject.images.images[:count], codes[:count]
        told = None if labels is None else labels[:count]
        finer = self._many("finer", encoded, images, told, finer=True)["codes"]
        again = self._many("back", decoded, part, told)["images"]
        changed = (finer - part).flatten(1).norm(dim=1) / finer.flatten(1).norm(dim=1)
        error = (again - images).abs().flatten(1)
        coarse, fine = (pairing(images, each) for each in (part, finer))
        return {
            "images": count,
            "evaluations": 2 * self.study.evaluations,
            "codes_change_by": float(changed.mean()),
            "excess": coarse.excess,
            "excess_finer": fine.excess,
            "lost": coarse.lost,
            "lost_finer": fine.lost,
            "round_trip_mean": float(error.mean()),
            "round_trip_largest": float(error.max()),
        }

    def _skew(self, codes: Tensor, labels: Tensor | None) -> dict[str, Any] | None:
        study, size = self.study, 8
        if not study.probed:
            return None
        pieces = []
        for begin in range(0, min(study.probed, study.images), size):
            part = slice(begin, min(begin + size, study.probed))
            told = None if labels is None else labels[part]
            images = self.subject.images.images[part]
            draws = (study.probes, study.seed, begin // size)
            args = (self.network, study.encoder, images, codes[part], told, *draws)
            # Two passes forward, and one back, which costs about four.
            cost = len(images) * study.probes * 6 * study.evaluations
            pieces.append(Piece(self.work / "jacobian" / f"{begin:06d}.npz", cost, probed, args))
        self._pieces(pieces, "probing the Jacobian")
        found = _joined(pieces)
        moments = flow_grid(self.clean, self.noisy, SKEW_MOMENTS + 1, "log_snr")[1:-1]
        mean = bootstrap_mean(found["skew"], stream_generator(study.seed, "skew bootstrap"))
        return {
            "images": len(found["skew"]),
            "probes": study.probes,
            "mean": mean.estimate,
            "interval": mean.limits(),
            "degrees": math.degrees(math.atan(mean.estimate)),
            "largest_degrees": math.degrees(math.atan(float(found["skew"].max()))),
            # Of second order in the step: a third of what doubling it changes.
            "error": float((found["long"] - found["short"]).abs().max()) / 3,
            "own": [
                {"log_snr": 2 * math.log(moment.alpha / moment.sigma), "mean": value}
                for moment, value in zip(moments, found["own"].mean(dim=0).tolist())
            ],
        }


def _joined(pieces: list[Piece]) -> dict[str, Tensor]:
    """The pieces' arrays, put together in their order."""
    parts = [piece.read() for piece in pieces]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _digest(network: Network) -> dict[str, Any]:
    """What tells one network from another, wherever it lies."""
    return {
        "sha256": network_sha256(network.folder),
        "null label": network.null_label,
    }
