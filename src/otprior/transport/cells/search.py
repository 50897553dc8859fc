"""Many standard normal draws from few products with the atoms.

If z_1, …, z_m are independent N(0, I_d) and q is a unit vector of R^m independent of them, then Σ q_j z_j is N(0, I_d)
too, exactly, and its scores Σ q_j ⟨z_j, y_i⟩ come from those of the z_j by m multiplications an atom instead of d. So
a set of m = 32 base draws is mixed by the rows of eight random orthogonal matrices into 256 draws of the same law.

Draws of one orthogonal matrix are independent. Two of different matrices have correlation q · q', about ±1/√m, and
yet they are nearly as informative as independent ones: each cell is a rare event, and two standard normal scores of
correlation ρ are both the highest of N with a probability near N^(−2/(1 + ρ)), which at N = 10,000 and ρ = 1/√32 is
some N^(−1.7), not N^(−1). (Measured with the solver: docs/solver.md.) Different sets are independent.

In fewer than 128 dimensions the products cost little, and a set is 256 independent draws. The same holds
for a source other than N(0, I), since its mixtures would have another law.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.transport.cells.cuda import KernelSearch, kernel_runs_on
from otprior.transport.chi_squared import ChiSquared, chi_squared_of_sets
from otprior.transport.distributed import SINGLE, Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.near_maximum import Candidates
from otprior.transport.potential import BrenierPotential, largest_norm, product_roundoff
from otprior.transport.source import NORMAL, Source
from otprior.utils.random import normal_block

DRAWS_PER_SET = 256
BASE_DRAWS = 32
MIXED_FROM_DIM = 128

# Atoms whose scores are computed, mixed and searched at a time, so that they are still in cache when used again.
ATOMS_PER_BLOCK = 4096
SETS_AT_A_TIME = 16
# Screening in bfloat16: candidates lie within this many times radius of the maximum. A factor or a base score rounded
# to bfloat16 is off by 0.85 · 2^-9 of itself, root mean square, a score of an atom of norm r by about 1.5 · 2^-9 r, and
# the difference of two by √2 as much: 2.7 times that. (A draw in some ten thousand gets another cell, next to its own,
# than in float32.)
BFLOAT16_WIDTH = 4 * 2**0.5 * 2.0**-9


@dataclass(frozen=True)
class DrawSets:
    """K sets of 256 draws each from N(0, I_d), or from another source.

    Attributes:
        base: Independent draws, shape (K, m, d), float32; m = 256 where nothing is mixed.
        mixers: Unit rows, shape (K, 256, m), float32; None where nothing is mixed.
    """

    base: Tensor
    mixers: Tensor | None

    @classmethod
    def draw(
        cls, seed: int, stream: str, numbers: Sequence[int], dim: int, mixed: bool, source: Source = NORMAL
    ) -> DrawSets:
        """The sets of these numbers; a set depends on (seed, stream, number, dim, mixed, source) alone."""
        if not mixed:
            block = normal_block if source.mixes else source.block
            return cls(torch.stack([block(seed, stream, k, DRAWS_PER_SET, dim) for k in numbers]), None)
        base = torch.stack([normal_block(seed, stream, k, BASE_DRAWS, dim) for k in numbers])
        square = [normal_block(seed, f"{stream}, mixers", k, DRAWS_PER_SET, BASE_DRAWS) for k in numbers]
        q, r = torch.linalg.qr(torch.stack(square).unflatten(1, (-1, BASE_DRAWS)))
        # With the signs of the diagonal of R, and only then, Q is uniform on the orthogonal group (Mezzadri, 2007).
        q = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
        return cls(base, q.flatten(1, 2))

    def __len__(self) -> int:
        return len(self.base)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> DrawSets:
        """The same draws on another device, or of another type."""
        mixers = None if self.mixers is None else self.mixers.to(device, dtype)
        return DrawSets(self.base.to(device, dtype), mixers)

    def rows(self, number: int, index: Tensor) -> Tensor:
        """Draws `index` (n,) of set `number` (in order), shape (n, d), float64 up to its rounding."""
        if self.mixers is None:
            return self.base[number, index].double()
        return self.mixers[number, index].double() @ self.base[number].double()


@dataclass(frozen=True)
class LaguerreCells:
    """Laguerre cells: a draw belongs to the atom of its highest score. See `otprior.transport.cells.Cells`.

    The matrix of scores never exists: a block of atoms is scored, mixed and searched for candidates before the next.
    Candidates within the rounding error of the maximum are scored again in float64.

    Attributes:
        measure, atoms, source, seed, processes: See `Cells`.
        screen: The atoms in bfloat16, for faster products; the width within which candidates are looked for is then
            no strict bound, but 2.7 standard deviations of the error. Or None.
        radius: max_i |y_i|, of `atoms`.
        mixed: Whether a set is mixed from few draws.
        on_cuda: Whether candidates are found by one kernel (see `cuda`).
    """

    measure: DiscreteMeasure
    atoms: Tensor
    screen: Tensor | None
    radius: float
    seed: int
    mixed: bool
    source: Source = NORMAL
    on_cuda: bool = False
    processes: Processes = SINGLE

    units_per_draw = 1
    entropy = 0.0

    @classmethod
    def build(
        cls,
        measure: DiscreteMeasure,
        seed: int,
        bfloat16: bool = False,
        mixed: bool | None = None,
        source: Source = NORMAL,
        processes: Processes = SINGLE,
        centre: bool = True,
    ) -> LaguerreCells:
        """Cells of the atoms of `measure`.

        Arguments:
            measure: N distinct atoms of positive weight.
            seed: Of the draws.
            bfloat16: Whether to screen in it. It has an effect only where draws are mixed and atoms float32.
            mixed: Whether to mix draws; by default normal draws in 128 dimensions or more.
            source: The law of the draws.
            processes: Those that share the work.
            centre: Whether to copy the atoms, less their mean, in any case. Otherwise only where rounding asks for it:
                in 128 dimensions and more the measure's own serve if they are nearly centred.
        """
        mixed = source.mixes and (measure.dim >= MIXED_FROM_DIM if mixed is None else mixed)
        single = measure.atoms.dtype == torch.float32
        bfloat16 = bfloat16 and mixed and single
        own = not (centre or bfloat16) and measure.dim >= MIXED_FROM_DIM and measure.nearly_centred()
        atoms = measure.atoms if own else measure.centred()
        screen = atoms.to(torch.bfloat16) if bfloat16 else None
        on_cuda = single and kernel_runs_on(atoms.device)
        radius = largest_norm(atoms)
        return cls(measure, atoms, screen, radius, seed, mixed, source, on_cuda, processes)

    def hits(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> Tensor:
        """How many draws fall in each cell, in the sets of these numbers; int64 (N,)."""
        found = self.find(offsets, stream, self.processes.share(numbers))
        return self.processes.sum(torch.bincount(found.reshape(-1), minlength=len(self.atoms)))

    def chi_squared(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> ChiSquared:
        """χ² of the cells' masses, estimated on the sets of these numbers."""
        found = torch.zeros(len(numbers), DRAWS_PER_SET, dtype=torch.int64, device=self.atoms.device)
        mine = list(self.processes.share(range(len(numbers))))
        found[mine] = self.find(offsets, stream, [numbers[k] for k in mine])
        return chi_squared_of_sets(self.processes.sum(found), self.measure.weights)

    def find(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> Tensor:
        """The cell of each draw in the sets of these numbers, all found by this process.

        Arguments:
            offsets: h, shape (N,), float64.
            stream: What the draws are for; draws of streams of different names are independent.
            numbers: Which sets, K of them.

        Returns:
            Shape (K, 256), int64.
        """
        parts = [
            self._cells_of_few(offsets, stream, numbers[k : k + SETS_AT_A_TIME])
            for k in range(0, len(numbers), SETS_AT_A_TIME)
        ]
        none = torch.zeros(0, DRAWS_PER_SET, dtype=torch.int64, device=self.atoms.device)
        return torch.cat([none, *parts])

    def _cells_of_few(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> Tensor:
        draws = DrawSets.draw(self.seed, stream, numbers, self.atoms.shape[1], self.mixed, self.source).to(
            self.atoms.device
        )
        potential = BrenierPotential(self.atoms, offsets, self.radius)
        width = _screen_width(potential, draws, self.screen is not None).to(self.atoms.dtype)
        search = self._search_on_cuda if self.on_cuda else self._search_by_blocks
        pairs = search(draws, offsets.to(self.atoms.dtype), width)
        return torch.stack([_settle(potential, draws, k, *found) for k, found in enumerate(pairs)])

    def _search_by_blocks(
        self, draws: DrawSets, offsets: Tensor, width: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Draw and atom of each candidate, for each set."""
        candidates = [Candidates(width[k].expand(DRAWS_PER_SET)) for k in range(len(draws))]
        for first in range(0, len(self.atoms), ATOMS_PER_BLOCK):
            scores = self._scores(draws, offsets, slice(first, first + ATOMS_PER_BLOCK))
            for candidate, block in zip(candidates, scores):
                candidate.add(block, first)
        return [candidate.pairs() for candidate in candidates]

    def _scores(self, draws: DrawSets, offsets: Tensor, block: slice) -> Iterator[Tensor]:
        """Yields the scores of a block of atoms, (256, n) for each set, screened: one set's fit into the cache."""
        factors = (self.atoms if self.screen is None else self.screen)[block].T
        if draws.mixers is None:
            yield from (torch.addmm(offsets[block], base, factors) for base in draws.base.to(factors.dtype))
            return
        base = draws.base.flatten(0, 1).to(factors.dtype)
        products = (base @ factors).to(self.atoms.dtype).unflatten(0, (len(draws), -1))
        for mixer, product in zip(draws.mixers.to(self.atoms.dtype), products):
            yield torch.addmm(offsets[block], mixer, product)

    def _search_on_cuda(self, draws: DrawSets, offsets: Tensor, width: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The same as `_search_by_blocks`, by one kernel."""
        factors = self.atoms if self.screen is None else self.screen
        search = KernelSearch(factors, offsets)
        widths = width.repeat_interleave(DRAWS_PER_SET)
        row, atom = search.pairs(draws.base.to(factors.dtype), draws.mixers, widths)
        number, row = row // DRAWS_PER_SET, row % DRAWS_PER_SET
        return [(row[number == k], atom[number == k]) for k in range(len(draws))]


def fast_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices are much faster than those of float32 matrices, and sum in float32.

    (On CUDA `cuda` sums them so; a product by torch may sum them in bfloat16, for which no useful bound holds.)
    """
    if device.type == "cuda":
        return kernel_runs_on(device) and torch.cuda.get_device_capability(device) >= (8, 0)
    # Private in torch, hence the guard: without an answer the slower product is right everywhere.
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and has_tiles is not None and bool(has_tiles())


def _screen_width(potential: BrenierPotential, draws: DrawSets, bfloat16: bool) -> Tensor:
    """Twice the largest error of a screened score, for each set; shape (K,), float64."""
    longest = torch.linalg.vector_norm(draws.base, dim=2, dtype=torch.float64).amax(dim=1)
    if bfloat16:
        return torch.full_like(longest, BFLOAT16_WIDTH * potential.radius)
    # A mixed score sums m products with weights |q| = 1, so their independent errors add up to that of one.
    terms = draws.base.shape[2] + 2 + (0 if draws.mixers is None else draws.base.shape[1])
    size = longest * potential.radius + float(potential.offsets.abs().max())
    return 2 * product_roundoff(terms, potential.atoms.dtype) * size


def _settle(potential: BrenierPotential, draws: DrawSets, number: int, row: Tensor, atom: Tensor) -> Tensor:
    """The cells (256,) of one set from its candidates."""
    cell = torch.zeros(DRAWS_PER_SET, dtype=torch.int64, device=row.device)
    cell[row] = atom
    contested = torch.bincount(row, minlength=DRAWS_PER_SET) > 1
    index = torch.nonzero(contested).reshape(-1)
    if len(index):
        place = contested.cumsum(0) - 1
        chosen = contested[row]
        cell[index] = potential.settle(draws.rows(number, index), place[row[chosen]], atom[chosen])
    return cell
