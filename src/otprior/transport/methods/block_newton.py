"""Newton's method on blocks of draws, averaged: for atoms that have near duplicates, as photographs have.

Where many atoms lie close together, they trade mass on the scale of their differences, and groups of them on larger
ones. Errors of a group die slowly under `sgd`, whose steps have to be small enough for its closest pair. Here the
semi-dual over each block of n draws is minimised by Newton steps (see `sample_average`), near the offsets at which the
draws' contenders were found.

The minimum has χ² of N/n, the least that n draws leave. The average of the minima of several blocks has N/Σn: the draws
of a block are not needed again. They also judge the average of the blocks before, before they are used.

*Start.* Half of the atoms is solved for, recursively; each other one is inserted alone (see `insertion`), as is later
any whose cell has become too small to be seen.

References:
    Polyak, Juditsky, Acceleration of stochastic approximation by averaging (1992).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from otprior.transport.cells.contenders import SETS_PER_PRODUCT, Contenders, find_contenders
from otprior.transport.cells.search import DRAWS_PER_SET, LaguerreCells
from otprior.transport.chi_squared import ChiSquared, chi_squared_of_sets
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.methods import Iterate, Problem
from otprior.transport.methods.insertion import insert
from otprior.transport.methods.sample_average import SampleAverage, minimise
from otprior.transport.potential import natural_scale
from otprior.utils.random import stream_generator

name = "block newton"

# Draws an atom of the first blocks, and of all others. The first two are too far from the minimum to be averaged.
FIRST_BLOCKS, BLOCK = (3, 6), 8
COARSE_BLOCKS = 2
# Contenders of a draw; all atoms, where they are few.
MOST, FEWEST = 16, 256
CONTENDERS_IN_MEMORY = 1 << 28
# A cell that wins less than this part of its draws is inserted anew; one with fewer lists than it should win stays.
LOST = 0.25


def suits(problem: Problem) -> bool:
    """Hard cells, and a block's contenders fit into memory."""
    count = len(problem.measure)
    fits = (BLOCK + 1) * MOST * count <= CONTENDERS_IN_MEMORY
    return isinstance(problem.cells, LaguerreCells) and fits


def iterates(problem: Problem, step: int = 0, state: Mapping[str, Tensor] | None = None) -> Iterator[Iterate]:
    """Yields the averages, without end."""
    cells = problem.cells
    assert isinstance(cells, LaguerreCells)
    blocks = BlockNewton(cells)
    if state is None:
        h = average = blocks.start()
        expected = int(len(problem.measure) / problem.tol)
    else:
        h, average = (state[key].to(cells.atoms.device) for key in ("iterate", "average"))
        expected = int(state["expected"])
    while True:
        tensors = {"iterate": h, "average": average, "expected": torch.tensor(expected)}
        yield Iterate(average, blocks.end(step), expected_draws=expected, step=step, state=tensors)
        contenders = blocks.contenders(step, h)
        before, after = blocks.averaged(step), blocks.averaged(step + 1)
        if before:
            # What the average is expected to be, with this block's draws, in a measurement of the usual size.
            chi2 = blocks.judge(contenders, average)
            expected = blocks.end(step + 1)
            missing = chi2.upper * before / problem.tol - after
            expected += max(0, int(missing))
        h = blocks.improve(h, contenders)
        share = (after - before) / after if after else 1.0
        average = average + share * (h - average)
        step += 1


class BlockNewton:
    """The iteration for one problem.

    Arguments:
        cells: Of the problem.
        rows: Which of its atoms there are, ascending; all by default. (They are never copied whole.)
        natural: The median of `natural_scale`, of all atoms.
    """

    def __init__(
        self, cells: LaguerreCells, rows: Tensor | None = None, natural: float | None = None
    ) -> None:
        weights = cells.measure.weights.to(cells.atoms.device)
        self._cells = cells
        self._rows = torch.arange(len(weights), device=weights.device) if rows is None else rows
        self._weights = weights if rows is None else weights[rows] / weights[rows].sum()
        self._count = len(self._rows)
        self._natural = float(natural_scale(cells.atoms, weights).median()) if natural is None else natural

    def start(self) -> Tensor:
        """Offsets from the solution for half of the atoms, shape (N,), float64, mean zero."""
        cells = self._cells
        if self._count <= FEWEST:
            return independent_score_start(cells.atoms[self._rows], self._weights)
        order = torch.randperm(self._count, generator=stream_generator(cells.seed, f"half {self._count}"))
        chosen = order[: max(FEWEST, self._count // 2)].sort().values.to(cells.atoms.device)
        coarse = BlockNewton(cells, self._rows[chosen], self._natural)
        h = coarse.start()
        for step in range(COARSE_BLOCKS):
            contenders = coarse.contenders(step, h)
            h = coarse.improve(h, contenders)
        other = torch.ones(self._count, dtype=torch.bool, device=h.device)
        other[chosen] = False
        found = insert(cells, contenders, h, self._rows[other], self._weights[other])
        offsets = torch.empty(self._count, dtype=torch.float64, device=h.device)
        offsets[chosen], offsets[other] = h, found.offsets
        return offsets - offsets.mean()

    def end(self, step: int) -> int:
        """Draws of all blocks before `step`."""
        return DRAWS_PER_SET * self._first(step)

    def averaged(self, step: int) -> int:
        """Draws behind the average of the blocks before `step`."""
        return max(0, self.end(step) - self.end(len(FIRST_BLOCKS)))

    def _first(self, step: int) -> int:
        few = len(FIRST_BLOCKS)
        sizes = [*FIRST_BLOCKS[:step]] + [BLOCK] * max(0, step - few)
        product = SETS_PER_PRODUCT * DRAWS_PER_SET
        return SETS_PER_PRODUCT * sum(max(1, round(size * self._count / product)) for size in sizes)

    def contenders(self, step: int, h: Tensor) -> Contenders:
        """Those of this process's part of a block, at these offsets."""
        products = range(self._first(step) // SETS_PER_PRODUCT, self._first(step + 1) // SETS_PER_PRODUCT)
        mine = self._cells.processes.share(products)
        numbers = [SETS_PER_PRODUCT * product + k for product in mine for k in range(SETS_PER_PRODUCT)]
        count = self._count if self._count <= FEWEST else MOST
        rows = None if self._count == len(self._cells.atoms) else self._rows
        return find_contenders(self._cells, h, f"fit {self._count}", numbers, count, rows)

    def judge(self, contenders: Contenders, h: Tensor) -> ChiSquared:
        """χ² at offsets near those at which the contenders were found, whose draws h does not depend on."""
        parts = self._cells.processes.gather(contenders.winners(h).reshape(-1, DRAWS_PER_SET).cpu())
        return chi_squared_of_sets(torch.cat(parts), self._weights)

    def improve(self, h: Tensor, contenders: Contenders) -> Tensor:
        """The minimum over the block's draws, near h."""
        wins = torch.bincount(contenders.winners(h), minlength=self._count)
        wins = self._cells.processes.sum(wins)
        draws = int(wins.sum())
        lost = (wins < LOST * draws * self._weights) & (draws * self._weights >= 1)
        if bool(lost.any()):
            h = self._insert(h, contenders, lost.nonzero()[:, 0])
        average = SampleAverage.build(contenders, h, self._weights, self._natural, self._cells.processes)
        return minimise(average, h)

    def _insert(self, h: Tensor, contenders: Contenders, which: Tensor) -> Tensor:
        """The offsets with some atoms inserted anew, also into the lists of contenders."""
        found = insert(self._cells, contenders, h, self._rows[which], self._weights[which])
        contenders.enter(found.draws, which[found.atoms], found.scores)
        h = h.clone()
        h[which] = found.offsets
        return h - h.mean()
