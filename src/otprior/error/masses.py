r"""What wrong cell masses cost: W2 between Σ p_i δ_{y_i}, which a semi-discrete map has, and Σ ν_i δ_{y_i}.

The masses p are not known, but n independent draws of cells are, with frequencies p̂ and E p̂ = p. As W2² is convex in
each measure,

    W2²(p, ν) ≤ E W2²(p̂, ν),

so any plan from p̂ to ν bounds it from above in expectation. One draw more or less moves mass 1/n by at most the
diameter D, so W2²(p̂, ν) lies below its mean by more than D² √(ln(1/δ)/2n) with probability δ at most (McDiarmid),
and

    W2²(p, ν) ≤ cost of a plan from p̂ to ν + D² √(ln(1/δ)/2n)

holds with probability 1 − δ, for any n. The plan leaves in place what p̂ and ν share. The rest is matched exactly
within blocks of neighbouring atoms, and what a block has too much or too little, which is little, across blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from otprior.validation import require

__all__ = ["MassPlan", "mass_plan"]

# Atoms in a block: exact transport of a block's surplus takes milliseconds.
BLOCK_ATOMS = 512
# Atoms whose distances to all others are computed.
OUTERMOST = 1024


@dataclass(frozen=True)
class MassPlan:
    """Where mass has to go: from cells that got too much of it to those that got too little.

    Attributes:
        sources: Atom that mass leaves, int64 (K,).
        targets: Atom that it goes to, int64 (K,).
        mass: How much, float64 (K,); the sum is ½ Σ |p̂ − ν|. All other mass stays.
        cost: Σ mass |y_source − y_target|².
        slack: D² √(1/2n), to be multiplied by √ln(1/δ).
    """

    sources: Tensor
    targets: Tensor
    mass: Tensor
    cost: float
    slack: float

    def upper(self, level: float) -> float:
        """W2²(p, ν) is below this with probability `level`."""
        return self.cost + self.slack * math.sqrt(math.log(1 / (1 - level)))


def mass_plan(atoms: Tensor, counts: Tensor, weights: Tensor | None = None) -> MassPlan:
    """A plan from the frequencies of cells to the masses that they should have.

    Arguments:
        atoms: y, shape (N, d).
        counts: Hits of each cell in independent draws, integers, shape (N,).
        weights: ν, shape (N,), sum 1; uniform by default.
    """
    n = int(counts.sum())
    require(n > 0 and len(counts) == len(atoms), "counts", f"of {len(atoms)} cells, not all zero", n)
    y = atoms.double()
    nu = torch.full((len(y),), 1 / len(y), dtype=torch.float64) if weights is None else weights.double()
    excess = counts.double() / n - nu
    parts = [_within(y, rows, excess) for rows in _blocks(y)]
    left = excess.clone()
    for source, target, mass in parts:
        left.index_add_(0, source, -mass)
        left.index_add_(0, target, mass)
    parts.append(_across(left))
    sources, targets, mass = (torch.cat(column) for column in zip(*parts))
    squares = ((y[sources] - y[targets]) ** 2).sum(dim=1)
    return MassPlan(sources, targets, mass, float(mass @ squares), _diameter(y) ** 2 / math.sqrt(2 * n))


def _diameter(y: Tensor) -> float:
    """At least the largest distance between two rows: exact for pairs with one of the outermost, else by the radii."""
    radii, order = torch.linalg.vector_norm(y - y.mean(dim=0), dim=1).sort(descending=True)
    outer = order[:OUTERMOST]
    exact = float(torch.cdist(y[outer].float(), y.float()).max()) * (1 + 1e-5)
    return max(exact, 2 * float(radii[OUTERMOST])) if len(y) > OUTERMOST else exact


def _blocks(y: Tensor) -> list[Tensor]:
    """Rows in blocks of neighbours, halved along the coordinate that varies most within a block."""
    done, waiting = [], [torch.arange(len(y))]
    while waiting:
        rows = waiting.pop()
        if len(rows) <= BLOCK_ATOMS:
            done.append(rows)
            continue
        axis = int(y[rows].var(dim=0).argmax())
        order = rows[y[rows, axis].argsort(stable=True)]
        waiting += [order[: len(order) // 2], order[len(order) // 2 :]]
    return done


def _within(y: Tensor, rows: Tensor, excess: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exact transport of a block's surplus to its own deficits, as much as the smaller of the two sums."""
    import ot

    here = excess[rows]
    over, under = rows[here > 0], rows[here < 0]
    amount = min(float(excess[over].sum()), -float(excess[under].sum())) if len(over) and len(under) else 0.0
    if amount <= 0:
        nothing = rows[:0]
        return nothing, nothing, excess[:0]
    a = excess[over] / excess[over].sum()
    b = excess[under] / excess[under].sum()
    cost = torch.cdist(y[over], y[under]) ** 2
    plan = ot.emd(
        a.numpy(), b.numpy() * (a.numpy().sum() / b.numpy().sum()), cost.numpy(), numItermax=1_000_000
    )
    i, j = np.nonzero(plan)
    return over[torch.from_numpy(i)], under[torch.from_numpy(j)], amount * torch.from_numpy(plan[i, j])


def _across(left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What blocks have too much, to those that have too little, in the order of their atoms."""
    over, under = torch.nonzero(left > 0).reshape(-1), torch.nonzero(left < 0).reshape(-1)
    amount = min(float(left[over].sum()), -float(left[under].sum())) if len(over) and len(under) else 0.0
    if amount <= 0:
        return over[:0], under[:0], left[:0]
    ends = [(left[part].abs() * (amount / left[part].abs().sum())).cumsum(0) for part in (over, under)]
    edges = torch.cat(ends).sort().values
    mass = torch.diff(edges, prepend=edges.new_zeros(1))
    middle = edges - mass / 2
    which = [torch.searchsorted(end, middle).clamp(max=len(end) - 1) for end in ends]
    return over[which[0]], under[which[1]], mass
