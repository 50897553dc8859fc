"""Masses of smoothed cells, for transport regularised by entropy.

With softmax in place of the maximum a draw belongs to all atoms, to each by its share

    π_i(z) = exp((⟨z, y_i⟩ + h_i)/ε) / Σ_j exp((⟨z, y_j⟩ + h_j)/ε),

and h is optimal for the cost |z − y|²/2 − ε · entropy if the masses p_i = E π_i(z) equal ν_i: it minimises
E ε log Σ_i exp((⟨z, y_i⟩ + h_i)/ε) − Σ ν_i h_i. The plan sends z to y_i with probability π_i(z). (The dual variable
of those who regularise by the divergence from N(0, I) × ν instead is h_i + |y_i|²/2 − ε log ν_i; the plan is the same.)

A set's mean shares are an unbiased estimate of p, and different sets are independent: which is all that the U-statistic
of `semidual.chi_squared_of_frequencies` asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from otprior.transport.cells.search import DRAWS_PER_SET, CellFinder, DrawSets
from otprior.transport.potential import ChiSquared, chi_squared_of_frequencies

# Scores at a time.
SCORES_PER_BLOCK = 1 << 24


@dataclass(frozen=True)
class SmoothedFinder:
    """As a `CellFinder`, for shares instead of cells.

    Attributes:
        finder: Whose atoms and draws are used.
        entropy: ε, in units of a score. (Far below τ float32 scores are too coarse for it: shares follow their
            rounding where ε is below 1e-6 of |z| |y|.)
    """

    finder: CellFinder
    entropy: float

    # Shares are summed as integers of this unit, so that no order of adding changes a sum.
    per_draw = 1 << 32

    @property
    def atoms(self) -> Tensor:
        """Those of `finder`."""
        return self.finder.atoms

    def hits(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> Tensor:
        """Sums of shares over the sets of these numbers, in units of 1/`per_draw`; int64 (N,)."""
        total = torch.zeros(len(self.atoms), dtype=torch.int64, device=self.atoms.device)
        for number in numbers:
            total += self._set(offsets, stream, number)
        return total

    def chi_squared(
        self, offsets: Tensor, stream: str, numbers: Sequence[int], weights: Tensor
    ) -> ChiSquared:
        """χ² of the smoothed masses, estimated on the sets of these numbers."""
        rows = []
        for number in numbers:
            mass = self._set(offsets, stream, number).cpu().numpy()
            # (Most atoms' shares are below the unit where ε is small.)
            rows.append(csr_array(mass[None] / (self.per_draw * DRAWS_PER_SET)))
        return chi_squared_of_frequencies(
            csr_array(vstack(rows)), weights.cpu().numpy().astype(np.float64), DRAWS_PER_SET
        )

    def _set(self, offsets: Tensor, stream: str, number: int) -> Tensor:
        finder = self.finder
        draws = DrawSets.draw(
            finder.seed, stream, [number], self.atoms.shape[1], finder.mixed, finder.source
        ).to(self.atoms.device)
        dtype = self.atoms.dtype
        products = draws.base[0].to(dtype) @ self.atoms.T
        mixer = None if draws.mixers is None else draws.mixers[0].to(dtype)
        shares = torch.zeros(len(self.atoms), dtype=torch.float64, device=self.atoms.device)
        rows = max(1, SCORES_PER_BLOCK // len(self.atoms))
        rounded = offsets.to(dtype)
        for some in torch.arange(DRAWS_PER_SET).split(rows):
            scores = (
                products[some] + rounded if mixer is None else torch.addmm(rounded, mixer[some], products)
            )
            shares += torch.softmax(scores / self.entropy, dim=1).sum(dim=0, dtype=torch.float64)
        return (shares * self.per_draw).round().long()
