"""Blocks of seeds made into files: the pipeline of a start, called on each block."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from otprior.data.images import to_pixels, to_uint8
from otprior.data.samples import divergence, no_images
from otprior.diffusion.grids import timestep_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.priors import prior_of
from otprior.experiments.processes import Piece, compiles_networks
from otprior.priors import IdentityPrior
from otprior.sampling import OTPriorPipeline
from otprior.sampling.attach import detach
from otprior.sampling.plan import SampledBatch, SamplingPlan, sample_batches
from otprior.sampling.schedulers.support import remade, spacing_changes, stock_spacing
from otprior.sampling.schedulers.switch import switched
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior.sampling.stock import StockPlan, load_stock, sample_stock
from otprior.transport.cells.search import fast_bfloat16
from otprior.utils.arrays import read_arrays, write_arrays
from otprior.utils.validation import check_finite

logger = logging.getLogger(__name__)

# Seeds that go through the network at once.
BATCH = 125
# The same of stock pipelines, whose images are large.
STOCK_BATCH = 8
# Classes are of different sizes if χ² of equal ones is so many standard deviations above its mean.
UNEVEN = 4.0


def network_precision(name: str) -> str:
    """What a network computes in: "float32" or "bfloat16" as named, for "auto" whichever is faster here.

    Autocast to bfloat16 is several times faster than float32 where the processor multiplies such matrices in tiles
    (AMX), and slower where it does not.
    """
    if name != "auto":
        return name
    return "bfloat16" if fast_bfloat16(torch.device("cpu")) else "float32"


@dataclass(frozen=True)
class Models:
    """Where a process finds network and priors, and how it computes.

    Attributes:
        pipeline: A diffusers folder with `unet` and `scheduler`.
        priors: The folder of the fitted priors; see `experiments.priors`.
        null_class_label: The network's label for "no class", or None.
        precision: "float32", or "bfloat16" for autocast of the network alone.
        classes: What starts by class, and stock pipelines that are told classes, ask for: seed s gets number s modulo
            their number; see `class_turns`.
        prompts: What a pipeline with prompts is told: seed s gets number s modulo their number. () of others.
        negative_prompt: What its images shall not show, or None.
        shape: Of the latents of a stock pipeline, called as its own class; None of another.
        device: Where the network runs.
        variant: Which of several files of weights.
    """

    pipeline: Path
    priors: Path
    null_class_label: int | None
    precision: str = "float32"
    classes: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ()
    negative_prompt: str | None = None
    shape: tuple[int, ...] | None = None
    device: str = "cpu"
    variant: str | None = None


def class_turns(classes: int, labels: Tensor | None) -> tuple[int, ...]:
    """The classes that seeds ask for in turn, so that samples have classes as the data has.

    Arguments:
        classes: How many there are.
        labels: Those of the data, int64 (n,); None stands for equally many of each.

    Returns:
        0, 1, … if the sizes of the classes differ by no more than chance explains. Or else each class as often as
        the data has it, evenly spread.

    Examples:
        >>> class_turns(2, torch.tensor([0] * 9 + [1] * 11)), len(class_turns(2, torch.tensor([0] * 30 + [1] * 10)))
        ((0, 1), 40)
        >>> class_turns(2, torch.tensor([0] * 30 + [1] * 10))[:8]
        (0, 0, 1, 0, 0, 0, 1, 0)
    """
    if labels is None:
        return tuple(range(classes))
    sizes = torch.bincount(labels, minlength=classes)
    equal = len(labels) / classes
    chi2 = float((sizes - equal).square().sum() / equal)
    if chi2 <= classes - 1 + UNEVEN * math.sqrt(2 * (classes - 1)):
        return tuple(range(classes))
    ordered = labels.sort().values
    rank = torch.arange(len(ordered)) - (sizes.cumsum(0) - sizes)[ordered]
    place = (rank + 0.5).double() / sizes[ordered]
    return tuple(ordered[place.argsort(stable=True)].tolist())


@dataclass(frozen=True)
class Block:
    """Consecutive seeds of one start, and the file that their images go to."""

    start: StartSpec
    first_seed: int
    count: int
    path: Path

    def piece(self, make: Callable[[Block], Any]) -> Piece:
        """The work of making this block into its file; its cost is in network evaluations."""
        return Piece(self.path, make, (self,), self.count * self.start.evaluations, self.start.label)


def seed_blocks(
    start: StartSpec, folder: Path, first_seed: int, end: int, size: int, digits: int = 0
) -> list[Block]:
    """The blocks of a start on the seeds from `first_seed` to `end` − 1.

    A whole block has the same file whatever `end` is. A shorter one at the end has a name of its own, since a longer
    run has a whole block in its place.
    """
    blocks = []
    for seed in range(first_seed, end, size):
        count = min(size, end - seed)
        name = f"{seed:0{digits}d}" + ("" if count == size else f"-{count}")
        blocks.append(Block(start, seed, count, folder / start.key / f"{name}.npz"))
    return blocks


@dataclass(frozen=True)
class Samples:
    """Images of consecutive seeds.

    Attributes:
        pixels: Shape (n, C, H, W), uint8: what a PNG file would hold.
        sources: Index of the atom behind each start, (n,), or None.
        labels: Class that each was asked for, (n,), or None.
        nfe: Network evaluations an image, as counted at the network.
        seconds_per_image: In one process; the median over blocks, of which the first may have waited for a compiler.
        diverged: Share of them that were far outside [-1, 1] or of one colour; None if that is not known.
    """

    pixels: np.ndarray
    sources: np.ndarray | None
    labels: np.ndarray | None
    nfe: int
    seconds_per_image: float
    diverged: float | None = None

    @property
    def images(self) -> Tensor:
        """The pixels as float32 in [-1, 1]."""
        return to_pixels(self.pixels)

    @classmethod
    def read(cls, blocks: Sequence[Block]) -> Samples:
        """Joins the files of blocks, in their order."""
        parts = []
        for block in blocks:
            parts.append(read_arrays(block.path, "pixels", "nfe", "seconds"))

        def joined(name: str) -> np.ndarray | None:
            found = [part[name] for part in parts if name in part]
            return np.concatenate(found) if found else None

        known = all("diverged" in part for part in parts)
        sizes = [len(part["pixels"]) for part in parts]
        return cls(
            diverged=float(np.average([part["diverged"] for part in parts], weights=sizes))
            if known
            else None,
            pixels=np.concatenate([part["pixels"] for part in parts]),
            sources=joined("sources"),
            labels=joined("labels"),
            nfe=int(parts[0]["nfe"]),
            seconds_per_image=float(np.median([part["seconds"] / len(part["pixels"]) for part in parts])),
        )


def sampler_of(scheduler: Any, start: StartSpec) -> tuple[Any, list[float] | None]:
    """The scheduler of a start, made from the network's own, and its grid of timesteps unless its spacing is stock."""
    changed = switched(scheduler, getattr(diffusers, start.scheduler), **dict(start.sampler))
    if not start.spacing.startswith(OWN_GRID):
        return remade(changed, **spacing_changes(stock_spacing(changed, start.spacing, start.steps))), None
    if start.grid:
        return changed, list(start.grid)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    spacing = start.spacing.removeprefix(OWN_GRID)
    return changed, list(timestep_grid(schedule, start.start_timestep, start.steps, spacing))


def build_pipeline(models: Models, start: StartSpec) -> tuple[OTPriorPipeline, list[float] | None]:
    """The pipeline of a start, and its grid of timesteps unless its spacing is stock."""
    base = load_pipeline(models)
    scheduler, grid = sampler_of(base.scheduler, start)
    pipe = OTPriorPipeline.from_pipe(
        base,
        prior=prior_of(models.priors, start),
        scheduler=scheduler,
        null_class_label=models.null_class_label,
    )
    pipe.set_progress_bar_config(disable=True)  # type: ignore[attr-defined]
    return pipe, grid


def sample_block(models: Models, block: Block, batch_size: int = BATCH) -> Block:
    """Samples a block and writes its file."""
    start, seeds = block.start, range(block.first_seed, block.first_seed + block.count)
    labels: list[int] = []
    if start.conditional:
        assert models.classes
        labels = [models.classes[seed % len(models.classes)] for seed in seeds]
    batches = (
        _batches(models, start, seeds, labels, batch_size)
        if models.shape is None
        else _stock_batches(models, start, seeds)
    )
    started, done = time.perf_counter(), 0
    pixels, sources, wrong, nfe = [], [], [], 0
    for batch in batches:
        check_finite(f"images of seeds from {seeds[done]} on", batch.images)
        done += len(batch.images)
        wrong.append(no_images(batch.images))
        pixels.append(to_uint8(batch.images))
        nfe = batch.nfe
        if batch.sources is not None:
            sources.append(batch.sources.cpu().numpy())
    seconds = time.perf_counter() - started
    share = float(torch.cat(wrong).double().mean())
    what = divergence(share)
    if what is not None:
        logger.warning(
            "samples of %s: %s; the sampler seems to have diverged", start.label or start.key, what
        )
    return write_block(block, np.concatenate(pixels), nfe, seconds, sources, labels, share)


def _batches(
    models: Models, start: StartSpec, seeds: range, labels: list[int], size: int
) -> Iterator[SampledBatch]:
    """Images of a network that takes at most labels."""
    pipe, grid = build_pipeline(models, start)
    plan = SamplingPlan(list(seeds), labels or None, start.steps, grid, start.guidance, size)
    for first in range(0, len(seeds), size):
        part = plan.part(slice(first, first + size))
        # (Priors leave autocast by themselves.)
        with compiled_if(len(part.seeds) == size), _autocast(pipe, models):
            yield from sample_batches(pipe, part)


def _stock_batches(models: Models, start: StartSpec, seeds: range) -> Iterator[SampledBatch]:
    """Images of a stock pipeline, through `attach`: seed s has prompt and class number s, in turn."""
    pipe, scheduler = _load_stock(models)
    assert models.shape is not None
    pipe.scheduler, grid = sampler_of(scheduler, start)
    prior = prior_of(models.priors, start)
    if prior is None:
        # White noise at T, on the same grids as others.
        prior = IdentityPrior.build(models.shape, scheduler, start.start_timestep)
    plan = StockPlan(
        list(seeds),
        start.steps,
        STOCK_BATCH,
        prompts=[models.prompts[seed % len(models.prompts)] for seed in seeds] if models.prompts else None,
        negative_prompt=models.negative_prompt,
        labels=[models.classes[seed % len(models.classes)] for seed in seeds] if models.classes else None,
        guidance_scale=start.guidance,
        timesteps=grid,
    )
    plan.check(pipe, prior)
    with _autocast(pipe, models):
        for batch in sample_stock(pipe, prior, plan):
            # (Pipelines of films make images as films of one frame.)
            single = batch.images.ndim == 5 and batch.images.shape[1] == 1
            yield batch._replace(images=batch.images[:, 0]) if single else batch


def _autocast(pipe: Any, models: Models) -> AbstractContextManager[Any]:
    return torch.autocast(pipe.device.type, dtype=torch.bfloat16, enabled=models.precision == "bfloat16")


def write_block(
    block: Block,
    pixels: np.ndarray,
    nfe: int,
    seconds: float,
    sources: Sequence[np.ndarray] = (),
    labels: Sequence[int] = (),
    diverged: float | None = None,
) -> Block:
    """Writes a block's file, which `Samples.read` reads.

    Arguments:
        block: The block.
        pixels: Shape (n, C, H, W), uint8.
        nfe: Network evaluations an image.
        seconds: The time that the block took.
        sources: Index of the atom behind each start, in parts that are joined; none if there are no atoms.
        labels: Class that each image was asked for; none without classes.
        diverged: Share of them that are far outside [-1, 1] or of one colour, if that is known.
    """
    arrays: dict[str, Any] = {"pixels": pixels, "nfe": np.int64(nfe), "seconds": np.float64(seconds)}
    if len(sources):
        arrays["sources"] = np.concatenate(sources)
    if len(labels):
        arrays["labels"] = np.array(labels)
    if diverged is not None:
        arrays["diverged"] = np.float64(diverged)
    write_arrays(block.path, arrays)
    return block


def compiled_if(whole: bool) -> AbstractContextManager[Any]:
    """Lets a compiled network be used as such for whole batches only.

    Compiling again for a shorter batch, of another shape, takes longer than it saves.
    """
    return torch.compiler.set_stance("default" if whole else "force_eager")


def load_pipeline(models: Models) -> OTPriorPipeline:
    """The network's pipeline, without a prior; read (and compiled) once a process, whatever else `models` says."""
    return _load_pipeline(models.pipeline, models.null_class_label, models.device, models.variant)


@cache
def _load_pipeline(folder: Path, label: int | None, device: str, variant: str | None) -> OTPriorPipeline:
    # (None would overrule what the folder says.)
    given = {"null_class_label": label, "variant": variant}
    known = {name: value for name, value in given.items() if value is not None}
    pipe: Any = OTPriorPipeline.from_pretrained(folder, **known)
    pipe.to(device)
    if compiles_networks():
        # (For exact shapes: code for any shape is slower. It warns of what diffusers' own code does.)
        warnings.filterwarnings("ignore", module="torch._dynamo")
        pipe.unet.compile(dynamic=False)
    return pipe


def _load_stock(models: Models) -> tuple[Any, Any]:
    """A stock pipeline, read once a process, and its own scheduler."""
    pipe, scheduler = _read_stock(models.pipeline, models.device, models.variant)
    return detach(pipe), scheduler


@cache
def _read_stock(folder: Path, device: str, variant: str | None) -> tuple[Any, Any]:
    pipe = load_stock(folder, variant=variant).to(device)
    return pipe, pipe.scheduler
