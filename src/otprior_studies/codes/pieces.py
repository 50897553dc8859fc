"""What the network does in a study of codes, batch by batch: encode, decode, sample, swap, probe.

Each batch is a piece of work, done by whichever process is free. It is a function of its arguments alone, so it does
not matter which process does it, or after which restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from otprior.diffusion.codes import Encoder, ImageCoder
from otprior.diffusion.flow import flow_grid
from otprior.diffusion.grids import timestep_grid
from otprior.experiments.processes import Piece
from otprior.priors import Prior
from otprior.sampling import OTPriorPipeline, OTPriorPipelineOutput
from otprior.utils.arrays import read_arrays, write_arrays
from otprior.utils.random import stream_generator
from otprior_studies.claims.skew import SKEW_MOMENTS, light, own_skew, probed_skew
from otprior_studies.codes.study import Network


def array_piece(path: Path, cost: float, work: Callable[..., dict[str, Any]], *args: Any) -> Piece:
    """A piece whose result is arrays in an .npz file.

    Arguments:
        path: The file.
        cost: In network evaluations.
        work: Gives the arrays by name.
        args: Its arguments, of which the first is the network.
    """
    # (A tensor would take the whole storage that it is a view of to another process; an array takes its part.)
    carried = tuple(arg.numpy() if isinstance(arg, Tensor) else arg for arg in args)
    return Piece(path, _write_arrays, (path, work, carried), cost, "network evaluations")


def _write_arrays(path: Path, work: Callable[..., dict[str, Any]], args: Sequence[Any]) -> None:
    network: Network = args[0]
    own = (torch.from_numpy(arg).to(network.device) if isinstance(arg, np.ndarray) else arg for arg in args)
    arrays: dict[str, Any] = {name: np.asarray(value.cpu()) for name, value in work(*own).items()}
    write_arrays(path, arrays)


def join_arrays(pieces: Sequence[Piece]) -> dict[str, Tensor]:
    """The arrays of pieces that are done, by name, joined along the first axis in the pieces' order."""
    parts = [read_arrays(piece.path) for piece in pieces]
    return {name: torch.cat([torch.from_numpy(part[name]) for part in parts]) for name in parts[0]}


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
    as_labels: Sequence[int | None],
) -> dict[str, Tensor]:
    """What `target` makes of the codes of images as each of some labels: (B, len(as_labels), C, H, W)."""
    giver, taker = _coder(source, encoder), _coder(target, encoder)
    found = []
    with torch.no_grad():
        z = giver.to_seed(giver.encode(images, labels).x)
        for label in as_labels:
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

    Block 0 also measures its first two codes with differences twice as long and the same probes.
    """
    coder = _coder(network, encoder)
    moments = flow_grid(coder.clean, coder.noisy, SKEW_MOMENTS + 1, "log_snr")[1:-1]

    def decode(codes: Tensor) -> Tensor:
        denoiser = light(coder.denoiser(None if labels is None else labels[: len(codes)]))
        return coder.encoder.decode(denoiser, coder.from_seed(codes), coder.clean, coder.noisy).x

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
    named = {"null_class_label": network.null_label, "variant": network.variant}
    given = {name: value for name, value in named.items() if value is not None}
    pipe: Any = OTPriorPipeline.from_pretrained(network.folder, **given)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.eval().requires_grad_(False)
    return pipe.to(network.device)


@cache
def _coder(network: Network, encoder: Encoder) -> ImageCoder:
    pipe: Any = _pipeline(network)
    return ImageCoder(pipe.unet, pipe.scheduler, encoder)


@cache
def _prior(folder: Path) -> Prior:
    return Prior.from_pretrained(folder)
