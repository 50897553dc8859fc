"""Cells shared by softmax, for transport regularised by entropy.

With softmax in place of the maximum a draw belongs to all atoms, to each by its share

    π_i(z) = exp((⟨z, y_i⟩ + h_i)/ε) / Σ_j exp((⟨z, y_j⟩ + h_j)/ε),

and h is optimal for the cost |z − y|²/2 − ε · entropy if the masses p_i = E π_i(z) equal ν_i: it minimises
E ε log Σ_i exp((⟨z, y_i⟩ + h_i)/ε) − Σ ν_i h_i. The plan sends z to y_i with probability π_i(z). (The dual variable
of a regularisation by the divergence from N(0, I) × ν is h_i + |y_i|²/2 − ε log ν_i; the plan is the same.)

(`methods.sgd` shares draws too, where there is no entropy: its steps are less noisy then.)

A set's mean shares are an unbiased estimate of p, and different sets are independent: `chi_squared_of_frequencies` asks
for no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from otprior.transport.cells.search import BASE_DRAWS, DRAWS_PER_SET, LaguerreCells
from otprior.transport.chi_squared import ChiSquared, chi_squared_of_frequencies
from otprior.transport.distributed import SINGLE, Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.source import Source

# Numbers that are kept at a time: scores of a set's draws, or products of several sets' base draws.
KEPT = 1 << 24
# Sets whose base draws are multiplied with the atoms at once.
SETS_TOGETHER = 8
# Atoms whose scores are computed, and raised to powers, while they are in cache.
ATOMS_PER_BLOCK = 1024
# Scores are taken relative to the highest among every so many atoms, which is near enough to that among all: powers are
# in range, or their sum shows that they are not, and the highest of all is found.
SAMPLED, LEAST_WEIGHT = 32, 1e-30
# Logarithm below which a share is none. (Powers that float32 has no normal number for take ten times as long.)
LEAST_LOG = -60.0


@dataclass(frozen=True)
class EntropicCells:
    """Cells by shares: a draw belongs to every atom in part. See `otprior.transport.cells.Cells`.

    Attributes:
        hard: The cells without entropy, whose atoms and draws are used.
        entropy: ε, in units of a score. (Where ε is below 1e-6 of |z| |y|, shares follow the rounding of float32
            scores.)
        kept: Products of the set that was asked for last and of its neighbours; copies may share it.
    """

    hard: LaguerreCells
    entropy: float
    kept: dict[tuple[str, int], tuple[Tensor, Tensor, bool]] = field(
        default_factory=dict, repr=False, compare=False
    )

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
        return self.hard.processes

    def hits(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> Tensor:
        """Sums of shares over the sets of these numbers, in units of 1/`units_per_draw`; int64 (N,)."""
        total = torch.zeros(len(self.atoms), dtype=torch.int64, device=self.atoms.device)
        for mass in self._masses(offsets, stream, numbers, self.processes):
            total += mass
        return self.processes.sum(total)

    def chi_squared(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> ChiSquared:
        """χ² of the mean shares, estimated on the sets of these numbers; every process finds all of them."""
        # (Where ε is small, most atoms' shares are below the unit, so that rows are sparse.)
        rows = [
            csr_array(mass.cpu().numpy()[None] / (self.units_per_draw * DRAWS_PER_SET))
            for mass in self._masses(offsets, stream, numbers, SINGLE)
        ]
        weights = self.measure.weights.cpu().numpy().astype(np.float64)
        return chi_squared_of_frequencies(csr_array(vstack(rows)), weights, DRAWS_PER_SET)

    def _masses(
        self, offsets: Tensor, stream: str, numbers: Sequence[int], processes: Processes
    ) -> Iterator[Tensor]:
        """Yields the sum of shares in each set that is this process's, in units; int64 (N,)."""
        h, count = (offsets / self.entropy).to(self.atoms.dtype), len(self.atoms)
        size = count if h.is_cuda else ATOMS_PER_BLOCK
        rows = min(DRAWS_PER_SET, max(2, KEPT // count // 2 * 2))
        room = [part.new_empty(rows, len(part)) for part in h.split(size)]
        for number in processes.share(numbers):
            left, right, mirrored = self._sides(stream, number)
            right[-2] = h
            yield _sum_of_shares(left / self.entropy, right.split(size, dim=1), mirrored, room)

    def _sides(self, stream: str, number: int) -> tuple[Tensor, Tensor, bool]:
        """`DrawSets.sides` of a set and all atoms, over room for h and a row of ones; and whether it is mirrored.

        Base draws of several sets are multiplied together, in every process, so that all round alike; what the next
        calls will ask for is kept.
        """
        together = min(SETS_TOGETHER, max(1, KEPT // (BASE_DRAWS * len(self.atoms))))
        group, place = divmod(number, together)
        if (stream, group) not in self.kept:
            self.kept.clear()
            draws = self.hard.draws(stream, range(group * together, (group + 1) * together))
            below = self.atoms.new_ones(2, len(self.atoms))
            self.kept[stream, group] = *draws.sides(self.hard.factors.T, below), draws.mirrored
        left, right, mirrored = self.kept[stream, group]
        return left[place], right[place], mirrored


def _sum_of_shares(left: Tensor, rights: Sequence[Tensor], mirrored: bool, room: Sequence[Tensor]) -> Tensor:
    """Σ π_i over the draws of a set, in units; int64 (N,).

    Scores over ε are left (k, m) times right (m, n) of each block of atoms, plus h, which is the row after the m; the
    last is one. `room`, (r, n) for each block, is written to.
    """
    total = torch.zeros(sum(part.shape[1] for part in room), dtype=torch.float64, device=left.device)
    few = torch.cat([right[:, ::SAMPLED] for right in rights], dim=1)
    for rows in left.split(len(room[0]) // (2 if mirrored else 1)):
        powers = [part[: len(rows) * (2 if mirrored else 1)] for part in room]
        weight = 1 / _raise(rows, _highest(rows, few, mirrored), rights, powers)
        if not bool((weight > LEAST_WEIGHT).all()):
            highest = torch.stack([_highest(rows, right, mirrored) for right in rights]).amax(dim=0)
            weight = 1 / _raise(rows, highest, rights, powers)
        total += torch.cat([weight @ part for part in powers])
    return (total * EntropicCells.units_per_draw).round().long()


def _highest(left: Tensor, right: Tensor, mirrored: bool) -> Tensor:
    """The highest score of each row, negatives after the others."""
    scores, h = left @ right[:-2], right[-2]
    return torch.cat([(h + side).amax(dim=1) for side in ((scores, -scores) if mirrored else (scores,))])


def _raise(left: Tensor, off: Tensor, rights: Sequence[Tensor], powers: Sequence[Tensor]) -> Tensor:
    """Writes exp(score − off), `off` for each row, to `powers`; returns their sums by row."""
    given, mirrored = len(left), len(off) > len(left)
    left = torch.cat([left, torch.ones_like(left[:, :1]), -off[:given, None]], dim=1)
    total = torch.zeros_like(off)
    for right, part in zip(rights, powers):
        torch.mm(left, right, out=part[:given])
        if mirrored:
            both = off[:given] + off[given:]
            torch.sub(2 * right[-2], part[:given], out=part[given:]).sub_(both[:, None])
        total += part.clamp_(min=LEAST_LOG).exp_().sum(dim=1)
    return total
