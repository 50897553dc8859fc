"""A start for many atoms from the solution for few of them.

What the independent-score model gets wrong about an atom (its neighbours, which compete for the same draws) it gets
wrong about those neighbours too. So an eighth of the atoms (8,192 at most) is solved for, roughly and recursively,
and the difference between that solution and the model's offsets is carried over to each atom from the nearest atom
solved for. It costs a few percent of the solve and saves a tenth of its draws or more: the fewer the dimensions, the
more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from otprior.transport.cells import Cells
from otprior.transport.cells.search import LaguerreCells
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import natural_scale
from otprior.utils.random import stream_generator

if TYPE_CHECKING:
    from otprior.transport.methods.sgd import AveragedSgd

COARSENED_FROM = 4096
COARSENING = 8
# Never more than this many: looking for the nearest of an eighth of a million atoms takes longer than it saves.
MOST_COARSE = 1 << 13
# Draws an atom: enough for χ² of 0.15. Beyond that the solution does not tell neighbours apart well enough to matter.
DRAWS_PER_ATOM = 10
SCORES_PER_BLOCK = 1 << 22


def warm_start(cells: Cells, iteration: Callable[[Cells], AveragedSgd]) -> Tensor:
    """Offsets for a method to start from, shape (N,), float64; `iteration` solves for few of the atoms."""
    if isinstance(cells, LaguerreCells):
        return coarse_start(cells, iteration)
    measure, entropy = cells.measure, cells.entropy
    weights = measure.weights.to(cells.atoms.device)
    if entropy < float(natural_scale(measure.atoms, weights).median()):
        return independent_score_start(measure.atoms, weights)
    # Above τ a share is hardly ever near 1, and its mean is that of exp((⟨z, y_i⟩ + h_i)/ε) over a constant.
    return entropy * weights.log() - (cells.atoms.double() ** 2).sum(dim=1) / (2 * entropy)


def coarse_start(cells: LaguerreCells, iteration: Callable[[Cells], AveragedSgd]) -> Tensor:
    """Offsets from the solution for few of the atoms, shape (N,), float64, mean zero; the cells' seed chooses them."""
    measure, atoms = cells.measure, cells.atoms
    start = independent_score_start(atoms, measure.weights)
    if len(measure) < COARSENED_FROM:
        return start
    order = torch.randperm(len(measure), generator=stream_generator(cells.seed, f"coarse {len(measure)}"))
    chosen = order[: min(len(measure) // COARSENING, MOST_COARSE)].sort().values
    weights = measure.weights[chosen]
    few = DiscreteMeasure.build(measure.atoms[chosen], weights / weights.sum())
    screened = cells.screen is not None
    few_cells = LaguerreCells.build(few, cells.seed, screened, source=cells.source, centre=False)
    coarse = iteration(few_cells)
    state = coarse.init(coarse_start(few_cells, iteration))
    while state.step * coarse.draws_per_step < DRAWS_PER_ATOM * len(few):
        state = coarse.step(state)
    correction = state.average - independent_score_start(few.atoms, few.weights)
    # (Of the same origin as `atoms`; a selection is a copy.)
    same = few.atoms if atoms is measure.atoms else atoms[chosen.to(atoms.device)]
    start = start + correction[_nearest(atoms, same)]
    return start - start.mean()


def _nearest(atoms: Tensor, few: Tensor) -> Tensor:
    """For each of the atoms (N, d) the index of the nearest of the few (n, d); int64 (N,)."""
    # (Without a copy of the few, which squares would be.)
    half_squares = 0.5 * torch.linalg.vector_norm(few, dim=1).square()
    parts = atoms.split(max(1, SCORES_PER_BLOCK // len(few)))
    return torch.cat([torch.addmm(-half_squares, part, few.T).argmax(dim=1) for part in parts])
