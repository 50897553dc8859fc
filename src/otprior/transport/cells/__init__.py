"""Cells of a potential, found for numbered draws: what methods and the stopping rule ask.

Draws come in numbered sets; a set depends on the seed, the name of its stream and its number alone. So counts do not
depend on how sets are shared out among blocks, threads, processes or runs. `LaguerreCells` gives each draw to one atom,
`EntropicCells` to all atoms by shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from otprior.transport.chi_squared import ChiSquared
from otprior.transport.distributed import Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.source import Source


class Cells(Protocol):
    """The cells of one problem, for any offsets h (N,), float64.

    Attributes:
        measure: The target ν, N distinct atoms of positive weight.
        atoms: y, perhaps less their mean and rotated, shape (N, d). (The mean changes all scores of a draw alike, and
            so no cell; a rotation of atoms and draws changes no score, and no law of draws.)
        source: The law of the draws.
        seed: Of the draws.
        entropy: ε, in units of a score; 0 where each draw has one cell.
        units_per_draw: What the counts of `hits` add up to for each draw.
        processes: The processes that share the work.
    """

    @property
    def measure(self) -> DiscreteMeasure: ...
    @property
    def atoms(self) -> Tensor: ...
    @property
    def source(self) -> Source: ...
    @property
    def seed(self) -> int: ...
    @property
    def entropy(self) -> float: ...
    @property
    def units_per_draw(self) -> int: ...
    @property
    def processes(self) -> Processes: ...

    def hits(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> Tensor:
        """Mass of each cell in the sets of these numbers, counted in units of 1/`units_per_draw`; int64 (N,).

        All processes count together, and all get the sum.
        """

    def chi_squared(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> ChiSquared:
        """χ² of the masses, estimated on the sets of these numbers, by all processes together."""
