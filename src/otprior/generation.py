"""Sampling many rows of a comparison, in processes, resumably.

A row is a start, a scheduler and a grid; its images are a function of their seeds. So work is cut into blocks of
consecutive seeds, each block is done by whichever process is free and becomes one file, and a run that was
interrupted goes on with the blocks that are missing. On a CPU several processes of one thread sample faster than one
process of several: the network's layers are too small to share out.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from otprior.data import to_pixels, to_uint8
from otprior.files import output_file
from otprior.grids import SPACINGS, timestep_grid
from otprior.pipelines import OTPriorPipeline, OTPriorPipelineOutput, seeds_to_generators
from otprior.priors import IdentityPrior, Prior, RandomAtomPrior, SemiDiscretePrior
from otprior.schedules import NoiseSchedule
from otprior.starting.support import remade, spacing_changes, stock_spacing

__all__ = [
    "OWN_GRID",
    "Block",
    "Models",
    "RowSpec",
    "Samples",
    "build_pipeline",
    "run_in_processes",
    "sample_block",
]

# Our own grids are named "grid:log_snr" and so on, to tell them from a scheduler's spacing of that name.
OWN_GRID = "grid:"


@dataclass(frozen=True)
class RowSpec:
    """One row of a comparison: where sampling starts, and how it goes on.

    Attributes:
        prior: "none" (white noise at T), "identity", "gaussian", "semidiscrete" or "random_atom".
        noise: Of a semidiscrete prior: "coupled", "fresh" or "frozen".
        start_timestep: t*; T − 1 for "none".
        steps: Steps of the sampler, which for multistep samplers are its network evaluations.
        scheduler: Name of a diffusers scheduler class.
        spacing: One of `starting.STOCK_SPACINGS`, or "grid:" and one of `grids.SPACINGS`.
        smoothing: Of a semidiscrete prior, in units of τ.
        correlation: Of a coupled semidiscrete prior's noise with the seed's.
        label: For people.
    """

    prior: str
    start_timestep: int
    steps: int
    scheduler: str = "DPMSolverMultistepScheduler"
    spacing: str = OWN_GRID + SPACINGS[0]
    noise: str | None = None
    smoothing: float = 0.0
    correlation: float = 1.0
    label: str = ""

    @property
    def key(self) -> str:
        """A file name for all that decides the images."""
        text = json.dumps(asdict(replace(self, label="")), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Models:
    """Where a process finds network and priors, and how it computes.

    Attributes:
        pipeline: A diffusers folder with `unet` and `scheduler`.
        priors: A folder with those of the fitted priors, "gaussian" and "semidiscrete".
        null_class_label: The network's label for "no class", or None.
        precision: "float32", or "bfloat16" for autocast of the network alone.
    """

    pipeline: Path
    priors: Path
    null_class_label: int | None
    precision: str = "float32"


@dataclass(frozen=True)
class Block:
    """Consecutive seeds of one row, and the file that their images go to."""

    row: RowSpec
    first_seed: int
    count: int
    path: Path

    @property
    def done(self) -> bool:
        """Whether the file is there; it is written whole or not at all."""
        return self.path.is_file()

    @property
    def cost(self) -> int:
        """Network evaluations, the unit of progress."""
        return self.count * self.row.steps


@dataclass(frozen=True)
class Samples:
    """Images of consecutive seeds.

    Attributes:
        pixels: Shape (n, C, H, W), uint8: what a PNG file would hold.
        sources: Index of the atom behind each start, (n,), or None.
        nfe: Network evaluations an image, as counted at the network.
        seconds: Spent on them, in one process.
    """

    pixels: np.ndarray
    sources: np.ndarray | None
    nfe: int
    seconds: float

    @property
    def images(self) -> Tensor:
        """The pixels as float32 in [-1, 1]."""
        return to_pixels(self.pixels)

    @classmethod
    def read(cls, blocks: Sequence[Block]) -> Samples:
        """Joins the files of blocks, in their order."""
        parts = []
        for block in blocks:
            with np.load(block.path, allow_pickle=False) as file:
                parts.append({name: file[name] for name in file.files})
        sources = [part["sources"] for part in parts if "sources" in part]
        return cls(
            pixels=np.concatenate([part["pixels"] for part in parts]),
            sources=np.concatenate(sources) if sources else None,
            nfe=int(parts[0]["nfe"]),
            seconds=float(sum(part["seconds"] for part in parts)),
        )


def build_pipeline(models: Models, row: RowSpec) -> tuple[OTPriorPipeline, list[float] | None]:
    """The pipeline of a row, and its own grid of timesteps if it is not a stock spacing."""
    base = _load_pipeline(models)
    scheduler = getattr(diffusers, row.scheduler).from_config(base.scheduler.config)
    grid = None
    if row.spacing.startswith(OWN_GRID):
        schedule = NoiseSchedule.from_scheduler(base.scheduler)
        grid = list(
            timestep_grid(schedule, row.start_timestep, row.steps, row.spacing.removeprefix(OWN_GRID))
        )
    else:
        scheduler = remade(scheduler, **spacing_changes(stock_spacing(scheduler, row.spacing, row.steps)))
    pipe = OTPriorPipeline.from_pipe(
        base, prior=_prior_of(models, row), scheduler=scheduler, null_class_label=models.null_class_label
    )
    pipe.set_progress_bar_config(disable=True)  # type: ignore[attr-defined]
    return pipe, grid


def sample_block(models: Models, block: Block, batch_size: int = 125) -> Block:
    """Samples a block and writes its file."""
    pipe, grid = build_pipeline(models, block.row)
    started = time.perf_counter()
    pixels, sources, nfe = [], [], 0
    for first in range(block.first_seed, block.first_seed + block.count, batch_size):
        seeds = range(first, min(first + batch_size, block.first_seed + block.count))
        # (Priors leave autocast by themselves.)
        with torch.autocast(pipe.device.type, dtype=torch.bfloat16, enabled=models.precision == "bfloat16"):
            out = pipe(
                batch_size=len(seeds),
                num_inference_steps=block.row.steps,
                timesteps=grid,
                generator=seeds_to_generators(seeds),
                output_type="latent",
            )
        assert isinstance(out, OTPriorPipelineOutput)
        pixels.append(to_uint8(out.images.float()))
        nfe = out.nfe
        if out.sources is not None:
            sources.append(out.sources.cpu().numpy())
    arrays: dict[str, Any] = {
        "pixels": np.concatenate(pixels),
        "nfe": np.int64(nfe),
        "seconds": np.float64(time.perf_counter() - started),
    }
    if sources:
        arrays["sources"] = np.concatenate(sources)
    with output_file(block.path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return block


def run_in_processes(
    tasks: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]],
    workers: int,
    threads: int,
    finished: Callable[[Any], None],
) -> None:
    """Calls functions in `workers` fresh processes of `threads` threads; `finished` gets each result.

    The first error ends the run: what is waiting is dropped, what runs is waited for, and the error is raised.
    Ctrl-C does the same.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_process, initargs=(threads,)) as pool:
        waiting: set[Future[Any]] = {pool.submit(function, *args) for function, args in tasks}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    finished(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_process(threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()


def _end_with_parent() -> None:
    """A process whose parent was killed would go on sampling for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@cache
def _load_pipeline(models: Models) -> OTPriorPipeline:
    return OTPriorPipeline.from_pretrained(models.pipeline, null_class_label=models.null_class_label)


@cache
def _load_prior(folder: Path) -> Prior:
    return Prior.from_pretrained(folder)


def _prior_of(models: Models, row: RowSpec) -> Prior | None:
    if row.prior == "none":
        return None
    # The others are made from the semidiscrete one: its atoms, or just its shape.
    fitted = _load_prior(models.priors / ("gaussian" if row.prior == "gaussian" else "semidiscrete"))
    if row.prior == "identity":
        return IdentityPrior.build(fitted.shape, fitted.schedule, row.start_timestep)
    if row.prior == "random_atom":
        return RandomAtomPrior.of(fitted, row.start_timestep)
    if isinstance(fitted, SemiDiscretePrior):
        fitted = fitted.with_options(noise=row.noise, smoothing=row.smoothing, correlation=row.correlation)
    return fitted.at(row.start_timestep)
