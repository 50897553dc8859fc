"""A start for many atoms from the solution for few of them.

What the independent-score model gets wrong about an atom (its neighbours, which compete for the same draws) it gets
wrong about those neighbours too. So an eighth of the atoms (8,192 at most) is solved for, roughly and recursively,
and what the solution adds to the model's offsets is carried over to each atom from the nearest one solved for. It costs
a few percent of the solve and saves a tenth of its draws or more: the fewer the dimensions, the more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprior.transport.cells.search import CellFinder
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods.sgd import AveragedSgd, SgdState, independent_score_start
from otprior.transport.potential import natural_scale
from otprior.utils.random import stream_generator

COARSENED_FROM = 4096
COARSENING = 8
# Never more than this many: looking for the nearest of an eighth of a million atoms takes longer than it saves.
MOST_COARSE = 1 << 13
# Draws an atom: enough for χ² of 0.15, beyond which neighbours are not told apart well enough to matter.
DRAWS_PER_ATOM = 10
SCORES_PER_BLOCK = 1 << 22


def coarse_start(measure: DiscreteMeasure, finder: CellFinder) -> Tensor:
    """Offsets to start from, shape (N,), float64, mean zero.

    Arguments:
        measure: N distinct atoms with positive weights.
        finder: Of their cells; its seed chooses the few.
    """
    atoms = finder.atoms
    weights = measure.weights.to(atoms.device)
    start = independent_score_start(natural_scale(atoms, weights), weights)
    if len(measure) < COARSENED_FROM:
        return start
    order = torch.randperm(len(measure), generator=stream_generator(finder.seed, f"coarse {len(measure)}"))
    chosen = order[: min(len(measure) // COARSENING, MOST_COARSE)].sort().values
    few = DiscreteMeasure.build(
        measure.atoms[chosen], measure.weights[chosen] / measure.weights[chosen].sum()
    )
    few_finder = CellFinder.build(few, finder.seed, finder.screen is not None, source=finder.source)
    sgd = AveragedSgd(few, few_finder)
    begin = coarse_start(few, few_finder)
    state = SgdState(0, begin, begin)
    while state.step * sgd.block_size < DRAWS_PER_ATOM * len(few):
        state = sgd.step(state)
    few_weights = few.weights.to(atoms.device)
    correction = state.average - independent_score_start(natural_scale(few.atoms, few_weights), few_weights)
    start = (
        start + correction[_nearest(atoms, few_finder.atoms + (few.mean() - measure.mean()).to(atoms.dtype))]
    )
    return start - start.mean()


def _nearest(atoms: Tensor, few: Tensor) -> Tensor:
    """For each of the atoms (N, d) the index of the nearest of the few (n, d); int64 (N,)."""
    half_squares = 0.5 * (few**2).sum(dim=1)
    parts = atoms.split(max(1, SCORES_PER_BLOCK // len(few)))
    return torch.cat([torch.addmm(-half_squares, part, few.T).argmax(dim=1) for part in parts])
