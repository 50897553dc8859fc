"""Blocks of seeds made into files: latents from a map, brought to images by annealed Langevin dynamics.

A seed's generator first gives the draw (and further ones, while draws are rejected) and then the chain's noise, so an
image is a function of its seed, except under the authors' filter, where it also depends on the draws of its block.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.data.images import to_uint8
from otprior.diffusion.network import NetworkDenoiser
from otprior.experiments.sampling import Block, Models, compiled_if, load_pipeline, sample_block, write_block
from otprior.sampling import seeds_to_generators
from otprior.sampling.inputs import draw, latent_shape
from otprior.utils.random import stream_generator
from otprior.utils.validation import check_finite, invalid
from otprior_studies.papers.dpm_ot.langevin import annealed_langevin, geometric_levels
from otprior_studies.papers.dpm_ot.maps import SEED, LatentMap
from otprior_studies.papers.dpm_ot.published import BATCH, kept_in_batch
from otprior_studies.papers.dpm_ot.singular import AngleFilter, cell_angles, leading_cells

SAMPLER = "AnnealedLangevin"
# A filter that leaves no seed a start after so many draws is taken to leave none at all.
MOST_DRAWS = 1000


def sample_start(maps: Path, models: Models, block: Block) -> Block:
    """Samples a block of a start and writes its file; starts of other samplers go to `sample_block`.

    Arguments:
        maps: Folder with those of the maps.
        models: The network; its process is variance preserving.
        block: Seeds; its start's options say which map, which filter and which levels (see `starts`).
    """
    start = block.start
    if start.scheduler != SAMPLER:
        return sample_block(models, block, batch_size=BATCH)
    given: dict[str, Any] = dict(start.options)
    pipe = load_pipeline(models)
    generators = seeds_to_generators(range(block.first_seed, block.first_seed + block.count))
    began = time.perf_counter()
    # (Twice the authors' level: pixels are in [−1, 1] here.)
    sigmas = [2 * sigma for sigma in geometric_levels(given["begin"], given["end"], given["count"])]
    sources = None
    if start.prior == "none":
        shape = latent_shape(pipe.unet)
        assert shape is not None
        x = sigmas[0] * draw((len(generators), *shape), generators)
    else:
        found = LatentMap.load(maps / given["map"])
        sources = starting_latents(found, given, generators, block.first_seed)
        x = 2 * found.latents[sources] - 1
    null, device = pipe.config.get("null_class_label"), pipe.device
    x = x.to(device)
    labels = None if null is None else torch.full((len(x),), null, device=device)
    network = NetworkDenoiser(pipe.unet, pipe.scheduler, labels)
    calls = 0

    def counted(x: Tensor, alpha: float, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return network(x, alpha, sigma)

    on = models.precision == "bfloat16"
    with (
        compiled_if(block.count == BATCH),
        torch.inference_mode(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=on),
    ):

        def noise() -> Tensor:
            return draw(x.shape, generators).to(device)

        images = annealed_langevin(counted, x, sigmas, given["steps"], given["step"], noise).cpu()
    check_finite(f"images of seeds from {block.first_seed} on", images)
    own = [] if sources is None else [sources.numpy()]
    return write_block(block, to_uint8(images), calls, time.perf_counter() - began, own)


def starting_latents(
    found: LatentMap, given: dict[str, Any], generators: list[torch.Generator], first_seed: int
) -> Tensor:
    """Which latent each seed begins at, int64 (n,).

    Arguments:
        found: The map.
        given: The start's options: "rule" is "map" (i(z)), "angle" (new draws until one is kept), "batch" (the
            authors'), or "random" (no map: any latent).
        generators: One a seed, unused so far.
        first_seed: First seed of the block, for the authors' batches.

    Raises:
        ValueError: If the filter rejects everything.
    """
    match given["rule"]:
        case "random":
            last = len(found.latents)
            return torch.cat([torch.randint(last, (1,), generator=generator) for generator in generators])
        case "batch":
            return _batch_starts(found, given, len(generators), first_seed)
        case "angle":
            return kept_cells(found, generators, AngleFilter(given["topk"], given["threshold"]))
        case _:
            return leading_cells(found.potential, seed_draws(found, generators), 1)[:, 0]


def seed_draws(found: LatentMap, generators: list[torch.Generator]) -> Tensor:
    """Each seed's next draw, shape (n, d)."""
    return torch.cat([found.draw(1, generator) for generator in generators])


def kept_cells(found: LatentMap, generators: list[torch.Generator], angle: AngleFilter) -> Tensor:
    """The cell of each seed's first draw that the filter keeps, int64 (n,).

    Raises:
        ValueError: If a seed has none among many draws.
    """
    cells = torch.full((len(generators),), -1)
    waiting = torch.arange(len(generators))
    for _ in range(MOST_DRAWS):
        z = seed_draws(found, [generators[i] for i in waiting.tolist()])
        leading = leading_cells(found.potential, z, angle.topk)
        kept = angle.kept(cell_angles(found.potential.atoms, leading))
        cells[waiting[kept]] = leading[kept, 0]
        waiting = waiting[~kept]
        if not len(waiting):
            return cells
    rule = f"so large that every seed has a draw that is kept among its first {MOST_DRAWS:,}"
    raise invalid("threshold", rule, f"{angle.threshold:g} with topk = {angle.topk}")


def _batch_starts(found: LatentMap, given: dict[str, Any], count: int, first_seed: int) -> Tensor:
    """What batches of `count` draws leave under the authors' filter, in a random order as there."""
    generator = stream_generator(SEED, "batches", first_seed)
    cells = torch.zeros(0, dtype=torch.int64)
    while len(cells) < count:
        leading = leading_cells(found.potential, found.draw(count, generator), given["topk"])
        angles = cell_angles(found.potential.atoms, leading)
        left = kept_in_batch(leading, angles, given["threshold"])
        cells = torch.cat([cells, left[torch.randperm(len(left), generator=generator)]])
    return cells[:count]
