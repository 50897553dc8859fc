"""The stopping rule: χ² of the cell masses on draws that nothing else has used.

A measurement takes as many draws as make its standard deviation a fifteenth of the tolerance, and each takes new ones.
"""

from __future__ import annotations

from torch import Tensor

from otprior.transport.cells import Cells
from otprior.transport.cells.search import DRAWS_PER_SET
from otprior.transport.chi_squared import ChiSquared, draws_for
from otprior.utils.validation import require

FEWEST_SETS = 32
# A measurement takes at most 33 million draws, which are minutes for 10,000 atoms.
MOST_SETS = 1 << 17


class StoppingRule:
    """Accepts a potential once the upper 95 % limit of its χ² is within the tolerance.

    Arguments:
        cells: Of the problem; χ² is that of their masses.
        tol: The upper limit of χ² that is good enough.

    Raises:
        ValueError: If so small a χ² takes more draws to be seen than anyone waits for.

    Attributes:
        next_set: The first set of the stream "test" that is unused.

    Examples:
        >>> StoppingRule(LaguerreCells.build(DiscreteMeasure.of(torch.eye(3)), seed=0), tol=0.05).tol
        0.05
    """

    def __init__(self, cells: Cells, tol: float) -> None:
        self.tol = tol
        self.next_set = 0
        self._cells = cells
        at_one = 15 * draws_for(len(cells.measure), 1.0) / DRAWS_PER_SET
        least = at_one / MOST_SETS
        rule = f"at least {least:.2g} for {len(cells.measure):,} atoms, as less takes billions of draws to be seen"
        require(tol >= least, "tol", rule, tol)
        self._sets = max(FEWEST_SETS, round(at_one / tol))

    def chi_squared(self, potential: Tensor) -> ChiSquared:
        """χ² of a potential h (N,) on fresh draws."""
        first = self.next_set
        self.next_set += self._sets
        return self._cells.chi_squared(potential, "test", range(first, self.next_set))

    def rough_chi_squared(self, potential: Tensor) -> ChiSquared:
        """χ² of a potential h (N,) on few draws, always the same ones: for progress, it leaves `next_set` alone."""
        return self._cells.chi_squared(potential, "look", range(FEWEST_SETS))

    def accepts(self, chi2: ChiSquared) -> bool:
        """Whether the upper limit is within the tolerance."""
        return chi2.upper <= self.tol
