"""Atoms inserted alone: offsets from a potential of others.

An atom y with offset h wins a draw z from the potential u of others where ⟨z, y⟩ + h ≥ u(z). So it gets the mass ν if h
is the ν-quantile of u(z) − ⟨z, y⟩ over z, whatever the dimension and however near other atoms lie. Atoms that are
inserted at once also compete with one another, which the quantile leaves out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.transport.cells.contenders import (
    SETS_PER_PRODUCT,
    Contenders,
    atoms_by_blocks,
    draw_sets,
    scores_of,
)
from otprior.transport.cells.search import DRAWS_PER_SET, LaguerreCells

# How many draws are kept of each atom, those that it wins most easily.
WINS = 16


@dataclass(frozen=True)
class Insertion:
    """Where n atoms were inserted.

    Attributes:
        offsets: h, shape (n,), float64.
        atoms, draws: The pairs of an atom, 0 to n − 1, and a draw of this process that are among the WINS draws that
            the atom wins most easily, shape (P,), int64.
        scores: ⟨z, y⟩ of these, shape (P,), of the atoms' dtype.
    """

    offsets: Tensor
    atoms: Tensor
    draws: Tensor
    scores: Tensor


def insert(
    cells: LaguerreCells, contenders: Contenders, offsets: Tensor, rows: Tensor, weights: Tensor
) -> Insertion:
    """Finds the offsets at which each atom alone would win its weight.

    Arguments:
        cells: Of the problem.
        contenders: The others' contenders for some draws.
        offsets: Those of the others.
        rows: Which of `cells.atoms` to insert, shape (n,).
        weights: ν, shape (n,).
    """
    atoms = cells.atoms
    top = contenders.reference + contenders.totals(offsets).amax(dim=1).to(contenders.reference.dtype)
    shape = (WINS, len(rows))
    gaps = torch.full(shape, math.inf, dtype=atoms.dtype, device=atoms.device)
    draws = torch.zeros(shape, dtype=torch.int64, device=atoms.device)
    scores = torch.zeros(shape, dtype=atoms.dtype, device=atoms.device)
    together = SETS_PER_PRODUCT * DRAWS_PER_SET
    for number, sets in enumerate(draw_sets(cells, contenders.stream, contenders.numbers)):
        here = top[number * together : (number + 1) * together, None]
        for block, some in atoms_by_blocks(atoms, rows):
            score = scores_of(sets, some)
            gap, place = (here - score).topk(min(WINS, len(score)), dim=0, largest=False)
            both = torch.cat([gaps[:, block], gap])
            gaps[:, block], order = both.topk(WINS, dim=0, largest=False, sorted=True)
            draws[:, block] = torch.cat([draws[:, block], place + number * together]).gather(0, order)
            scores[:, block] = torch.cat([scores[:, block], score.gather(0, place)]).gather(0, order)
    total = sum(cells.processes.gather(len(contenders)))
    # (What all processes found goes through the host.)
    every = torch.cat(cells.processes.gather(gaps.cpu())).to(atoms.device).double()
    lowest = every.topk(WINS, dim=0, largest=False, sorted=True).values
    h = _quantiles(lowest, weights.to(atoms.device) * total)
    rank, which = torch.nonzero((gaps <= lowest[-1]) & gaps.isfinite(), as_tuple=True)
    return Insertion(h + offsets.mean(), which, draws[rank, which], scores[rank, which])


def _quantiles(lowest: Tensor, wanted: Tensor) -> Tensor:
    """For each column the value below which `wanted` (n,) draws lie, where the lowest (W, n) are known, ascending.

    Between them by interpolation; beyond them along the logarithm of the number, as maxima are spread.
    """
    known = len(lowest)
    place = (wanted - 1).clamp(0, known - 1)
    below = place.floor().long().clamp(max=known - 2)
    ends = lowest.gather(0, torch.stack([below, below + 1]))
    inside = ends[0] + (place - below) * (ends[1] - ends[0])
    scale = (lowest[-1] - lowest[known // 2 - 1]) / math.log(2)
    return inside + scale * ((wanted / known).log().clamp(min=0) + wanted.log().clamp(max=0))
