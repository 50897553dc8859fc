"""The stopping rule: χ² of the cell masses on draws that nothing else has used.

At masses equal to ν the estimate's standard deviation is about √(2N)/n for n draws. A verdict takes as many draws as
make that a fifteenth of the tolerance, mixed from few as in `mixing`, and each verdict takes new ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprior.transport.cells.entropic import SmoothedFinder
from otprior.transport.cells.search import DRAWS_PER_SET, CellFinder
from otprior.transport.distributed import Ranks
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import ChiSquared, chi_squared_of_sets

FEWEST_SETS = 32


class Judge:
    """Measures χ² of potentials over one measure.

    Arguments:
        measure: N distinct atoms with positive weights.
        finder: Of their cells; with a smoothed one χ² is that of the smoothed masses, all measured by each rank.
        tol: The upper limit of χ² that is good enough.
        ranks: The processes that share the work.
    """

    def __init__(
        self,
        measure: DiscreteMeasure,
        finder: CellFinder | SmoothedFinder,
        tol: float,
        ranks: Ranks | None = None,
    ) -> None:
        self.tol = tol
        self.next_set = 0  # of the stream "test": the first that is unused
        self._weights = measure.weights
        self._finder = finder
        self._ranks = ranks or Ranks()
        self.device = finder.atoms.device
        self._sets = max(FEWEST_SETS, round((2 * len(measure)) ** 0.5 / (tol / 15) / DRAWS_PER_SET))

    def verdict(self, potential: Tensor) -> ChiSquared:
        """χ² of a potential h (N,) on fresh draws."""
        first = self.next_set
        self.next_set += self._sets
        return self._measure(potential, "test", range(first, self.next_set))

    def look(self, potential: Tensor) -> ChiSquared:
        """A rough χ² of a potential h (N,), on draws kept for looks: it changes no verdict."""
        return self._measure(potential, "look", range(FEWEST_SETS))

    def _measure(self, potential: Tensor, stream: str, numbers: range) -> ChiSquared:
        if isinstance(self._finder, SmoothedFinder):
            return self._finder.chi_squared(potential, stream, numbers, self._weights)
        cells = torch.zeros(len(numbers), DRAWS_PER_SET, dtype=torch.int64, device=self.device)
        mine = list(self._ranks.share(range(len(numbers))))
        cells[mine] = self._finder.cells(potential, stream, [numbers[k] for k in mine])
        return chi_squared_of_sets(self._ranks.sum(cells), self._weights)

    def accepts(self, chi2: ChiSquared) -> bool:
        """Whether the upper limit is within the tolerance."""
        return chi2.upper <= self.tol
