r"""The cost of wrong cell masses: W2 between Σ p_i δ_{y_i}, the atoms with the cells' masses, and Σ ν_i δ_{y_i}.

The masses p are not known, but n independent draws of cells are, with frequencies p̂ and E p̂ = p. As W2² is convex in
each measure,

    W2²(p, ν) ≤ E W2²(p̂, ν),

so any plan from p̂ to ν bounds it from above in expectation. One draw more or less moves mass 1/n by at most the
diameter D, so W2²(p̂, ν) lies below its mean by more than D² √(ln(1/δ)/2n) with probability δ at most (McDiarmid),
and

    W2²(p, ν) ≤ cost of a plan from p̂ to ν + D² √(ln(1/δ)/2n)

holds with probability 1 − δ, for any n. The plan is exact within blocks of neighbouring atoms, up to the mass by which
p̂ and ν differ on a block. This small surplus goes to the blocks that lack mass, distributed as the blocks' own mass is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from otprior.utils.validation import require

# Atoms in a block: exact transport of a block's surplus takes milliseconds.
BLOCK_ATOMS = 512
# Atoms whose distances to all others are computed.
OUTERMOST = 1024


@dataclass(frozen=True)
class MassPlan:
    """The cost of a plan from p̂ to ν.

    Attributes:
        cost: Σ mass · squared distance, at least W2²(p̂, ν), and equal to it where there is one block.
        slack: D² √(1/2n), to be multiplied by √ln(1/δ).
    """

    cost: float
    slack: float

    def upper(self, level: float) -> float:
        """An upper limit of W2²(p, ν) that holds with probability `level`."""
        return self.cost + self.slack * math.sqrt(math.log(1 / (1 - level)))


def mass_plan(atoms: Tensor, counts: Tensor, weights: Tensor | None = None) -> MassPlan:
    """Makes a plan from the frequencies of cells to the masses that they should have.

    Arguments:
        atoms: y, shape (N, d).
        counts: Hits of each cell in independent draws, integers, shape (N,).
        weights: ν, shape (N,), sum 1; uniform by default.
    """
    n = int(counts.sum())
    require(n > 0 and len(counts) == len(atoms), "counts", f"of {len(atoms)} cells, not all zero", n)
    y, have = atoms.double(), counts.double() / n
    want = torch.full((len(y),), 1 / len(y), dtype=torch.float64) if weights is None else weights.double()
    blocks = _blocks(y)
    cost = sum(_within(y[rows], have[rows], want[rows]) for rows in blocks)
    cost += _across(y, have, want, blocks)
    return MassPlan(cost, _diameter(y) ** 2 / math.sqrt(2 * n))


def _diameter(y: Tensor) -> float:
    """An upper bound of the largest distance of two rows: exact for pairs with an outermost row, else by the radii."""
    radii, order = torch.linalg.vector_norm(y - y.mean(dim=0), dim=1).sort(descending=True)
    outer = order[:OUTERMOST]
    exact = float(torch.cdist(y[outer].float(), y.float()).max()) * (1 + 1e-5)
    return max(exact, 2 * float(radii[OUTERMOST])) if len(y) > OUTERMOST else exact


def _blocks(y: Tensor) -> list[Tensor]:
    """Splits rows into blocks of neighbours, by halving along the coordinate that varies most within a block."""
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


def _within(y: Tensor, have: Tensor, want: Tensor) -> float:
    """Cost of exact transport between a block's two distributions, scaled to the smaller mass."""
    amount = min(float(have.sum()), float(want.sum()))
    if amount == 0:
        return 0.0
    return amount * _exact(have, want, torch.cdist(y, y) ** 2)


def _across(y: Tensor, have: Tensor, want: Tensor, blocks: list[Tensor]) -> float:
    """Cost of moving the surplus of some blocks to the deficits of others, each distributed as its block's mass."""
    surplus = np.array([float(have[rows].sum() - want[rows].sum()) for rows in blocks])
    over, under = np.flatnonzero(surplus > 0), np.flatnonzero(surplus < 0)
    if not len(over) or not len(under):
        return 0.0
    givers = [_spread(y[blocks[i]], have[blocks[i]]) for i in over]
    takers = [_spread(y[blocks[i]], want[blocks[i]]) for i in under]
    cost = torch.tensor(
        [[float(((a - b) ** 2).sum()) + v + w for b, w in takers] for a, v in givers], dtype=torch.float64
    )
    moved = torch.from_numpy(surplus[over]), torch.from_numpy(-surplus[under])
    return float(surplus[over].sum()) * _exact(*moved, cost)


def _spread(y: Tensor, mass: Tensor) -> tuple[Tensor, float]:
    """Mean and total variance of a block's atoms under some masses."""
    share = mass / mass.sum()
    mean = share @ y
    return mean, float(share @ ((y - mean) ** 2).sum(dim=1))


def _exact(first: Tensor, second: Tensor, cost: Tensor) -> float:
    """The least cost between two measures, both scaled to mass 1."""
    import ot

    a, b = (first / first.sum()).numpy(), (second / second.sum()).numpy()
    return float(ot.emd2(a, b / b.sum() * a.sum(), cost.numpy(), numItermax=1_000_000))
