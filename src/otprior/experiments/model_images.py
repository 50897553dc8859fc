"""Atoms without data: images that the model's own full sampler draws, once.

A prior fitted to them holds no training image, and gives back none but what the network itself would; what it costs
is the drawing. They are drawn in blocks, each a file, by several processes, so that an interrupted run goes on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from otprior.data.images import ImageSet
from otprior.experiments.processes import run_pieces
from otprior.experiments.sampling import Models, Samples, sample_block, seed_blocks
from otprior.experiments.study import Listener, ignore
from otprior.sampling.start_spec import StartSpec
from otprior.utils.validation import check_integer, require

# Far from the seeds of any study.
FIRST_SEED = 2_000_000_000
BLOCK = 250


def full_sampler(steps: int, conditional: bool = False) -> StartSpec:
    """White noise at T and `steps` evaluations of DPM-Solver++ 2M; with a class each, if conditional."""
    # (A row from T takes its start from the network; the timestep here only names it.)
    return StartSpec("none", 0, steps, spacing="trailing", conditional=conditional, label="full sampler")


def draw_model_images(
    models: Models,
    count: int,
    work: Path,
    *,
    steps: int = 50,
    conditional: bool = False,
    first_seed: int = FIRST_SEED,
    workers: int = 1,
    threads: int = 1,
    listen: Listener = ignore,
) -> ImageSet:
    """Draws `count` images of a pixel-space model, or reads those that are there.

    Arguments:
        models: The network; its `priors` are not used.
        count: How many.
        work: Folder of the blocks. It must hold no blocks of another network.
        steps: Of the sampler.
        conditional: Whether the image of seed s gets class s modulo their number, and the set labels.
        first_seed: Image k has the seed `first_seed` + k.
        workers: Processes.
        threads: Threads of each.
        listen: Called after each block.
    """
    check_integer("count", count, 2)
    classes = models.classes
    require(
        not conditional or classes is not None, "conditional", "False for a network without classes", True
    )
    row = full_sampler(steps, conditional)

    blocks = seed_blocks(row, work, first_seed, first_seed + count, BLOCK)
    pieces = [block.piece(partial(sample_block, models)) for block in blocks]
    run_pieces(pieces, "drawing the model's images", listen, workers, threads)
    samples = Samples.read(blocks)
    return ImageSet(
        images=samples.images,
        labels=None if samples.labels is None else torch.from_numpy(samples.labels),
        name=f"{count} images of the model",
        source=f"the model's own samples: N(0, I) at T, DPM++2M, {steps} evaluations, seeds from {first_seed}",
    )
