"""Cells shared by softmax, for transport regularised by entropy.

With softmax in place of the maximum a draw belongs to all atoms, to each by its share

    π_i(z) = exp((⟨z, y_i⟩ + h_i)/ε) / Σ_j exp((⟨z, y_j⟩ + h_j)/ε),

and h is optimal for the cost |z − y|²/2 − ε · entropy if the masses p_i = E π_i(z) equal ν_i: it minimises
E ε log Σ_i exp((⟨z, y_i⟩ + h_i)/ε) − Σ ν_i h_i. The plan sends z to y_i with probability π_i(z). (The dual variable
of a regularisation by the divergence from N(0, I) × ν is h_i + |y_i|²/2 − ε log ν_i; the plan is the same.)

A set's mean shares are an unbiased estimate of p, and different sets are independent: `chi_squared_of_frequencies` asks
for no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from otprior.transport.cells.search import DRAWS_PER_SET, LaguerreCells
from otprior.transport.chi_squared import ChiSquared, chi_squared_of_frequencies
from otprior.transport.distributed import SINGLE, Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.source import Source

# Scores at a time.
SCORES_PER_BLOCK = 1 << 24


@dataclass(frozen=True)
class EntropicCells:
    """Cells by shares: a draw belongs to every atom in part. See `otprior.transport.cells.Cells`.

    Attributes:
        hard: The cells without entropy, whose atoms and draws are used. A single process computes the shares.
        entropy: ε, in units of a score. (Where ε is below 1e-6 of |z| |y|, shares follow the rounding of float32
            scores.)
    """

    hard: LaguerreCells
    entropy: float

    # Shares are summed as integers of this unit, so that the order of adding does not change a sum.
    units_per_draw = 1 << 32

    @property
    def measure(self) -> DiscreteMeasure:
        """See `Cells`."""
        return self.hard.measure

    @property
    def atoms(self) -> Tensor:
        """See `Cells`."""
        return self.hard.atoms

    @property
    def source(self) -> Source:
        """See `Cells`."""
        return self.hard.source

    @property
    def seed(self) -> int:
        """See `Cells`."""
        return self.hard.seed

    @property
    def processes(self) -> Processes:
        """See `Cells`."""
        return SINGLE

    def hits(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> Tensor:
        """Sums of shares over the sets of these numbers, in units of 1/`units_per_draw`; int64 (N,)."""
        total = torch.zeros(len(self.atoms), dtype=torch.int64, device=self.atoms.device)
        for number in numbers:
            total += self._hits_of_set(offsets, stream, number)
        return total

    def chi_squared(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> ChiSquared:
        """χ² of the mean shares, estimated on the sets of these numbers."""
        rows = []
        for number in numbers:
            mass = self._hits_of_set(offsets, stream, number).cpu().numpy()
            # (Where ε is small, most atoms' shares are below the unit, so that rows are sparse.)
            rows.append(csr_array(mass[None] / (self.units_per_draw * DRAWS_PER_SET)))
        weights = self.measure.weights.cpu().numpy().astype(np.float64)
        return chi_squared_of_frequencies(csr_array(vstack(rows)), weights, DRAWS_PER_SET)

    def _hits_of_set(self, offsets: Tensor, stream: str, number: int) -> Tensor:
        hard = self.hard
        dtype = self.atoms.dtype
        draws = hard.draws(stream, [number]).written_out().to(self.atoms.device, dtype)
        products = draws.products(self.atoms.T)[0]
        mixer = None if draws.mixers is None else draws.mixers[0]
        shares = torch.zeros(len(self.atoms), dtype=torch.float64, device=self.atoms.device)
        rows = max(1, SCORES_PER_BLOCK // len(self.atoms))
        rounded = offsets.to(dtype)
        for some in torch.arange(DRAWS_PER_SET).split(rows):
            scores = (
                products[some] + rounded if mixer is None else torch.addmm(rounded, mixer[some], products)
            )
            shares += torch.softmax(scores / self.entropy, dim=1).sum(dim=0, dtype=torch.float64)
        return (shares * self.units_per_draw).round().long()
