"""Latents of one noise level, and the map that carries white noise onto them.

The paper's map goes to *latents*: images that were noised once, y_i + σ n_i. So it has at most N values, and is
solved for again at every level. Latents are kept as the authors have them, for pixels in [0, 1]; the map itself does
not depend on that, but angles between latents do (`otprior_studies.papers.dpm_ot.singular`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.transport.chi_squared import chi_squared
from otprior.transport.potential import BrenierPotential
from otprior.transport.solution import Progress
from otprior.transport.solve import solve_semidiscrete
from otprior.utils.arrays import read_tensors, write_tensors
from otprior.utils.files import output_dir, read_json, write_json
from otprior.utils.random import stream_generator
from otprior_studies.papers.dpm_ot.published import adam, cube_draws
from otprior_studies.papers.dpm_ot.singular import leading_cells

SEED = 0
# Adam's rate and draws a step, in units of N; as published.
RATE, DRAWS_PER_ATOM = 0.1, 10
# A gradient of this norm and no empty cell end the published solve.
SMALL_GRADIENT = 8e-4
# Draws an atom on which the published solve is judged.
JUDGED_PER_ATOM = 100
DRAWS_PER_BLOCK = 4096

SolveListener = Callable[[float, float, str], None]


@dataclass(frozen=True)
class LatentMap:
    """z -> y_i(z) over latents.

    Attributes:
        latents: Noised images for pixels in [0, 1], shape (N, C, H, W), float32.
        offsets: h, shape (N,), float64.
        source: The law that is carried to them: "normal", or "cube", uniform on [0, 1]^d.
        facts: As "ot" of a report: atoms, dim, chi2, chi2_upper, seconds, draws, outcome.
    """

    latents: Tensor
    offsets: Tensor
    source: str
    facts: dict[str, Any]

    @property
    def dim(self) -> int:
        """d."""
        return self.latents[0].numel()

    @cached_property
    def potential(self) -> BrenierPotential:
        """u over the latents as rows."""
        return BrenierPotential.build(self.latents.flatten(1), self.offsets)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws of the source, shape (count, d), float32."""
        if self.source == "cube":
            return cube_draws(self.dim)(count, generator)
        return torch.randn(count, self.dim, generator=generator)

    def blocks(self, count: int, stream: str, k: int) -> Tensor:
        """Leading cells of draws that nothing else has seen, shape (count, k), int64."""
        found = []
        for block, first in enumerate(range(0, count, DRAWS_PER_BLOCK)):
            z = self.draw(min(DRAWS_PER_BLOCK, count - first), stream_generator(SEED, stream, block))
            found.append(leading_cells(self.potential, z, k))
        return torch.cat(found)

    def save(self, folder: Path) -> None:
        """Writes the map's folder."""
        with output_dir(folder, overwrite=True) as into:
            write_tensors(into / "map.safetensors", {"latents": self.latents, "offsets": self.offsets}, {})
            write_json(into / "map.json", {"source": self.source, "facts": self.facts})

    @classmethod
    def load(cls, folder: Path) -> LatentMap:
        """The map that was saved in a folder; read once a process."""
        return _load(folder)


@cache
def _load(folder: Path) -> LatentMap:
    tensors, _ = read_tensors(folder / "map.safetensors")
    about = read_json(folder / "map.json", "source", "facts")
    return LatentMap(tensors["latents"], tensors["offsets"], about["source"], about["facts"])


def noised(images: Tensor, sigma: float) -> Tensor:
    """Images (N, C, H, W) in [−1, 1] as latents for pixels in [0, 1], each noised once."""
    noise = torch.randn(images.shape, generator=stream_generator(SEED, f"latents {sigma!r}"))
    return (images + 1) / 2 + sigma * noise


def solved_map(latents: Tensor, tol: float, listen: SolveListener) -> LatentMap:
    """From N(0, I), by `solve_semidiscrete`, to a χ² below `tol`; what the paper describes."""

    def progress(at: Progress) -> None:
        listen(at.draws, at.expected_draws, "" if at.chi2 is None else f"χ² {at.chi2.value:.3f}")

    generator = stream_generator(SEED, "solve")
    solution = solve_semidiscrete(latents.flatten(1), generator=generator, tol=tol, progress=progress)
    facts = {
        "chi2": solution.chi2.value,
        "chi2_upper": solution.chi2.upper,
        "outcome": solution.outcome.value,
        **{name: solution.stats[name] for name in ("atoms", "dim", "draws", "seconds")},
    }
    return LatentMap(latents, solution.potential, "normal", facts)


def published_map(latents: Tensor, steps: int, listen: SolveListener) -> LatentMap:
    """From the uncentred cube, by Adam as the authors' code has it: the h of the last step, whatever its χ²."""
    rows, count = latents.flatten(1), len(latents)
    weights = torch.full((count,), 1 / count)
    began, done = time.perf_counter(), 0
    iterates = adam(
        rows, weights, cube_draws(rows.shape[1]), RATE, DRAWS_PER_ATOM * count, stream_generator(SEED, "adam")
    )
    for done, state in enumerate(iterates, start=1):
        listen(done, steps, f"{state.empty} empty cells")
        ended = state.gradient_norm < SMALL_GRADIENT and state.empty == 0
        if ended or done == steps:
            break
    seconds = time.perf_counter() - began
    found = LatentMap(latents, state.offsets.double(), "cube", {})
    cells = found.blocks(JUDGED_PER_ATOM * count, "judge", 1)[:, 0]
    chi2 = chi_squared(torch.bincount(cells, minlength=count), weights)
    facts = {
        "atoms": count,
        "dim": rows.shape[1],
        "chi2": chi2.value,
        "chi2_upper": chi2.upper,
        "outcome": "converged" if ended else f"{done} steps",
        "draws": state.draws,
        "seconds": seconds,
    }
    return LatentMap(latents, found.offsets, "cube", facts)
