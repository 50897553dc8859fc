"""The stages of a study of codes that ask the network, each in batches: encode, decode, sample, probe, swap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.diffusion.codes import code_moments
from otprior.diffusion.flow import Scales, flow_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.processes import Piece, run_pieces
from otprior.experiments.study import Listener
from otprior.metrics.intervals import bootstrap_mean
from otprior.transport.assignment import pairing
from otprior.utils.random import normal_block, stream_generator
from otprior_studies.claims.skew import SKEW_MOMENTS
from otprior_studies.codes.pieces import array_piece, decoded, encoded, join_arrays, probed, sampled
from otprior_studies.codes.study import CodeStudy, Network

# Images in a piece of work that probes the Jacobian.
PROBED_TOGETHER = 8


@dataclass(frozen=True)
class NetworkStages:
    """Runs the network's stages, and measures what they say by themselves.

    Attributes:
        study: How much is measured.
        network: The network.
        schedule: Its forward process.
        work: Folder of the pieces; below it, "priors" has those of the fast starts.
        workers: Processes; 0 to do the work in this one.
        threads: Threads of each.
        listen: Called as work proceeds.
    """

    study: CodeStudy
    network: Network
    schedule: NoiseSchedule
    work: Path
    workers: int
    threads: int
    listen: Listener

    @property
    def moments(self) -> tuple[Scales, Scales]:
        """Where codes begin and end: (α, σ) of the clean and of the noisy end."""
        return code_moments(self.schedule)

    def run(self, pieces: list[Piece], stage: str) -> None:
        """Does the pieces that are not done yet."""
        run_pieces(pieces, stage, self.listen, self.workers, self.threads)

    def encode(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Codes of images, at unit scale."""
        return self._by_block("codes", "encoding", encoded, images, labels)["codes"]

    def decode(self, seeds: Tensor) -> Tensor:
        """Images of seeds as no class, along the network's whole flow."""
        labels = self.network.no_class(len(seeds))
        return self._by_block("flow", "decoding seeds", decoded, seeds, labels)["images"]

    def sample(self, prior: str, seeds: Tensor) -> Tensor:
        """Images of seeds, by a prior at t* and few steps from there."""
        study, pieces = self.study, []
        for begin in range(0, len(seeds), study.block):
            part = seeds[begin : begin + study.block]
            args = (self.network, self.work / "priors" / prior, study.timestep, study.fast_steps, part)
            path = self.work / f"{prior}-{study.fast_steps}" / f"{begin:06d}.npz"
            pieces.append(array_piece(path, len(part) * study.fast_steps, sampled, *args))
        self.run(pieces, f"sampling from the {prior} prior")
        return join_arrays(pieces)["images"]

    def seeds(self, shape: tuple[int, ...]) -> Tensor:
        """Seed noise, as much as images are encoded, (n, *shape)."""
        size, dim = self.study.block, math.prod(shape)
        blocks = range(math.ceil(self.study.images / size))
        drawn = [normal_block(self.study.seed, "code study seeds", b, size, dim) for b in blocks]
        return torch.cat(drawn)[: self.study.images].reshape(-1, *shape)

    def refined(self, images: Tensor, codes: Tensor, labels: Tensor | None) -> dict[str, Any]:
        """The part "refined" of a report: the first images encoded in half as long steps, and decoded again."""
        count = min(self.study.refined, self.study.images)
        images, part = images[:count], codes[:count]
        first = None if labels is None else labels[:count]
        stage = "checking the steps"
        finer = self._by_block("finer", stage, encoded, images, first, finer=True)["codes"]
        again = self._by_block("back", stage, decoded, part, first)["images"]
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

    def skew(self, images: Tensor, codes: Tensor, labels: Tensor | None) -> dict[str, Any] | None:
        """The part "jacobian" of a report: how far the decoder's Jacobian is from symmetric; None if not probed."""
        study = self.study
        if not study.probed:
            return None
        pieces = []
        for begin in range(0, min(study.probed, study.images), PROBED_TOGETHER):
            part = slice(begin, min(begin + PROBED_TOGETHER, study.probed))
            given = (images[part], codes[part], None if labels is None else labels[part])
            draws = (study.probes, study.seed, begin // PROBED_TOGETHER)
            # Two passes forward, and one back, which costs about four.
            cost = len(images[part]) * study.probes * 6 * study.evaluations
            path = self.work / "jacobian" / f"{begin:06d}.npz"
            pieces.append(array_piece(path, cost, probed, self.network, study.encoder, *given, *draws))
        self.run(pieces, "probing the Jacobian")
        found = join_arrays(pieces)
        moments = flow_grid(*self.moments, SKEW_MOMENTS + 1, "log_snr")[1:-1]
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

    def _by_block(
        self,
        folder: str,
        stage: str,
        function: Callable[..., dict[str, Any]],
        points: Tensor,
        labels: Tensor | None,
        finer: bool = False,
    ) -> dict[str, Tensor]:
        """A function of (network, encoder, points, labels), block by block; `finer` halves the encoder's steps."""
        encoder = self.study.encoder.refined() if finer else self.study.encoder
        size, pieces = self.study.block, []
        for begin in range(0, len(points), size):
            part = slice(begin, begin + size)
            args = (self.network, encoder, points[part], None if labels is None else labels[part])
            cost = len(points[part]) * self.study.evaluations * (2 if finer else 1)
            pieces.append(array_piece(self.work / folder / f"{begin:06d}.npz", cost, function, *args))
        self.run(pieces, stage)
        return join_arrays(pieces)
