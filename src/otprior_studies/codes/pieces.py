"""Pieces of a study: batches of network work, each a file, done by whichever process is free.

A piece is a function of its arguments alone, so it does not matter who does it, or after which restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from otprior.diffusion.coder import ImageCoder
from otprior.diffusion.codes import Encoder
from otprior.diffusion.flow import flow_grid
from otprior.diffusion.grids import timestep_grid
from otprior.experiments.comparison import Listener, StageProgress
from otprior.experiments.processes import run_in_processes
from otprior.priors import Prior
from otprior.sampling import OTPriorPipeline, OTPriorPipelineOutput
from otprior.utils.files import output_file
from otprior.utils.random import stream_generator
from otprior_studies.claims.skew import (
    SKEW_MOMENTS,
    light,
    own_skew,
    probed_skew,
)
from otprior_studies.codes.study import Network


@dataclass(frozen=True)
class Piece:
    """Work whose result goes into a file.

    Attributes:
        path: An .npz file; if it is there, the work was done.
        cost: In network evaluations, for the progress.
        work: Gives the file's arrays by name.
        args: For `work`.
    """

    path: Path
    cost: float
    work: Callable[..., dict[str, Any]]
    args: tuple[Any, ...]

    def portable(self) -> Piece:
        """The same with arrays for tensors, of which another process would be sent the storage they are views of."""
        return replace(self, args=tuple(a.numpy() if isinstance(a, Tensor) else a for a in self.args))

    def read(self) -> dict[str, Tensor]:
        """The file's arrays."""
        with np.load(self.path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}


def run_pieces(pieces: Sequence[Piece], stage: str, workers: int, threads: int, listen: Listener) -> None:
    """Does those pieces that are not done yet, in other processes, or with 0 workers in this one."""
    total = sum(piece.cost for piece in pieces)
    missing = [piece for piece in pieces if not piece.path.is_file()]
    done = total - sum(piece.cost for piece in missing)
    listen(StageProgress(stage, done, total))

    def finished(cost: float) -> None:
        nonlocal done
        done += cost
        listen(StageProgress(stage, done, total, "network evaluations"))

    if not workers:
        for piece in missing:
            finished(_do(piece))
    elif missing:
        tasks = [(_do, (piece.portable(),)) for piece in missing]
        run_in_processes(tasks, min(workers, len(tasks)), threads, finished)


def _do(piece: Piece) -> float:
    args = (torch.from_numpy(arg) if isinstance(arg, np.ndarray) else arg for arg in piece.args)
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in piece.work(*args).items()}
    with output_file(piece.path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return piece.cost


def encoded(network: Network, encoder: Encoder, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Codes of images, at unit scale."""
    coder = _coder(network, encoder)
    with torch.no_grad():
        return {"codes": coder.to_seed(coder.encode(images, labels).x)}


def decoded(network: Network, encoder: Encoder, z: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Images of seed noise, along the network's whole flow."""
    coder = _coder(network, encoder)
    with torch.no_grad():
        return {"images": coder.decode(coder.from_seed(z), labels).x}


def sampled(network: Network, prior: Path, timestep: float, steps: int, z: Tensor) -> dict[str, Tensor]:
    """Images of seed noise, by a prior at t* and few steps of a deterministic sampler from there."""
    base: Any = _pipeline(network)
    start = _prior(prior).at(timestep)
    scheduler = base.scheduler
    if start.schedule.kind == "vp":
        scheduler = DPMSolverMultistepScheduler.from_config(scheduler.config)
    pipe: Any = OTPriorPipeline.from_pipe(base, prior=start, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    grid = timestep_grid(start.schedule, timestep, steps, "log_snr")
    out = pipe(batch_size=len(z), latents=z, timesteps=grid, output_type="latent")
    assert isinstance(out, OTPriorPipelineOutput)
    return {"images": out.images.float()}


def swapped(
    source: Network,
    target: Network,
    encoder: Encoder,
    images: Tensor,
    labels: Tensor | None,
    told: Sequence[int | None],
) -> dict[str, Tensor]:
    """What `target`, told each of some labels, makes of the codes of images: (B, len(told), C, H, W)."""
    giver, taker = _coder(source, encoder), _coder(target, encoder)
    found = []
    with torch.no_grad():
        z = giver.to_seed(giver.encode(images, labels).x)
        for label in told:
            as_label = target.no_class(len(z)) if label is None else torch.full((len(z),), label)
            found.append(taker.decode(taker.from_seed(z), as_label).x)
    return {"images": torch.stack(found, dim=1)}


def probed(
    network: Network,
    encoder: Encoder,
    images: Tensor,
    z: Tensor,
    labels: Tensor | None,
    probes: int,
    seed: int,
    block: int,
) -> dict[str, Tensor]:
    """|J − Jᵀ|/|J + Jᵀ| of the decoder at the codes of images, and the network's own at some moments.

    Block 0 also measures its first two codes with differences twice as long, beside the same probes.
    """
    coder = _coder(network, encoder)
    moments = flow_grid(coder.clean, coder.noisy, SKEW_MOMENTS + 1, "log_snr")[1:-1]

    def decode(codes: Tensor) -> Tensor:
        told = light(coder.denoiser(None if labels is None else labels[: len(codes)]))
        return coder.encoder.decode(told, coder.from_seed(codes), coder.clean, coder.noisy).x

    def measured(codes: Tensor, step: float) -> Tensor:
        return probed_skew(decode, codes, stream_generator(seed, "code probes", block), probes, step)

    none = torch.zeros(0, dtype=torch.float64)
    return {
        "skew": measured(z, 0.02),
        "short": measured(z[:2], 0.02) if block == 0 else none,
        "long": measured(z[:2], 0.04) if block == 0 else none,
        "own": own_skew(
            coder.denoiser(labels), images, moments, stream_generator(seed, "own probes", block), probes
        ),
    }


@cache
def _pipeline(network: Network) -> OTPriorPipeline:
    # (None would overrule what the folder says.)
    given = {} if network.null_label is None else {"null_class_label": network.null_label}
    pipe: Any = OTPriorPipeline.from_pretrained(network.folder, **given)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.eval().requires_grad_(False)
    return pipe


@cache
def _coder(network: Network, encoder: Encoder) -> ImageCoder:
    pipe: Any = _pipeline(network)
    return ImageCoder(pipe.unet, pipe.scheduler, encoder)


@cache
def _prior(folder: Path) -> Prior:
    return Prior.from_pretrained(folder)
