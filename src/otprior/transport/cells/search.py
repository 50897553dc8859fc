"""Many standard normal draws from few products with the atoms.

If z_1, …, z_m are independent N(0, I_d) and q is a unit vector of R^m independent of them, then Σ q_j z_j is N(0, I_d)
too, exactly, and its scores Σ q_j ⟨z_j, y_i⟩ come from those of the z_j by m multiplications an atom instead of d. So
a set of m = 32 base draws is mixed by the rows of eight random orthogonal matrices into 256 draws of the same law.

Draws of one orthogonal matrix are independent. Two of different matrices have correlation q · q', about ±1/√m, and
yet they are nearly as informative as independent ones: each cell is a rare event, and two standard normal scores of
correlation ρ are both the highest of N with a probability near N^(−2/(1 + ρ)), which at N = 10,000 and ρ = 1/√32 is
some N^(−1.7), not N^(−1). (Measured with the solver: docs/solver.md.) Different sets are independent.

Each block of coordinates may have an orthogonal matrix of its own: z is N(0, I) all the same. So four base draws, cut
into eight blocks of coordinates, give the 32 products that are mixed for the price of four. Where the blocks have about
equal shares of the atoms' variance, as those of images have, two scores are no more correlated than before. Where they
have not (principal axes), atoms and draws are rotated first, which spreads each coordinate over all blocks; atoms too
many to be copied for that get fewer blocks, or one.

In fewer than 128 dimensions the products cost little, and nothing is mixed. The same holds for a source other than
N(0, I), since its mixtures would have another law.

The scores of −z are those of z with the other sign, and −z is N(0, I) as z is. So cells are found for 128 draws of a
set, mixed or not, and for their negatives. A draw and its negative hardly ever fall in one cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from scipy.linalg import hadamard
from torch import Tensor

from otprior.transport.cells.cuda import KernelSearch, kernel_runs_on
from otprior.transport.chi_squared import ChiSquared, chi_squared_of_sets
from otprior.transport.distributed import SINGLE, Processes
from otprior.transport.measure import DiscreteMeasure, rows_per_block
from otprior.transport.near_maximum import Candidates
from otprior.transport.potential import BrenierPotential, largest_norm, product_roundoff
from otprior.transport.source import NORMAL, Source
from otprior.utils.random import normal_block

DRAWS_PER_SET = 256
BASE_DRAWS = 32
# Blocks that a base draw may be cut into, and how much that may add to the mean square of a correlation.
BLOCKS, UNEVENNESS = (8, 4, 2), 1.5
MIXED_FROM_DIM = 128
# Entries up to which atoms are copied to be rotated.
MOST_ROTATED = 1 << 26

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
        base: Independent draws, shape (K, m, d), float32; m = n where nothing is mixed. If they are cut into blocks, a
            row is zero but for its block: the first m/blocks rows have the first one, and so on.
        mixers: Shape (K, n, m), float32, of unit length in each block; None where nothing is mixed.
        mirrored: Whether the n = 128 draws are followed by their negatives; n = 256 otherwise.
        blocks: Blocks of coordinates.
    """

    base: Tensor
    mixers: Tensor | None
    mirrored: bool = False
    blocks: int = 1

    @classmethod
    def draw(
        cls,
        seed: int,
        stream: str,
        numbers: Sequence[int],
        dim: int,
        mixed: bool,
        source: Source = NORMAL,
        mirrored: bool = False,
        blocks: int = 1,
    ) -> DrawSets:
        """The sets of these numbers; a set depends on these arguments and its own number alone."""
        count = DRAWS_PER_SET // 2 if mirrored else DRAWS_PER_SET
        if not mixed:
            block = normal_block if source.mixes else source.block
            return cls(torch.stack([block(seed, stream, k, count, dim) for k in numbers]), None, mirrored)
        own = BASE_DRAWS // blocks  # rows of a block
        whole = torch.stack([normal_block(seed, stream, k, own, dim) for k in numbers])
        base = torch.zeros(len(numbers), blocks, own, dim)
        for k, columns in enumerate(_columns(dim, blocks)):
            base[:, k, :, columns] = whole[..., columns]
        groups = count // BASE_DRAWS
        square = [normal_block(seed, f"{stream}, mixers", k, groups * blocks * own, own) for k in numbers]
        q, r = torch.linalg.qr(torch.stack(square).unflatten(1, (groups, 1, blocks, own)))
        # With the signs of the diagonal of R, and only then, Q is uniform on the orthogonal group (Mezzadri, 2007).
        q = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
        # (All rows of this matrix are orthogonal, and its rows' parts in each block have length 1.)
        unit = torch.from_numpy(hadamard(BASE_DRAWS)).float().view(BASE_DRAWS, blocks, 1, own) / own**0.5
        return cls(base.flatten(1, 2), (unit @ q).flatten(3).flatten(1, 2), mirrored, blocks)

    def __len__(self) -> int:
        return len(self.base)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> DrawSets:
        """The same draws on another device, or of another type."""
        mixers = None if self.mixers is None else self.mixers.to(device, dtype)
        return replace(self, base=self.base.to(device, dtype), mixers=mixers)

    def products(self, factors: Tensor) -> Tensor:
        """Of the base draws, each in its block, and the columns of `factors` (d, n); shape (K, m, n)."""
        rows = self.base.unflatten(1, (self.blocks, -1))
        parts = [
            rows[:, block, :, columns].flatten(0, 1) @ factors[columns]
            for block, columns in enumerate(_columns(len(factors), self.blocks))
        ]
        return torch.cat([part.unflatten(0, (len(self), -1)) for part in parts], dim=1)

    def sides(self, factors: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """Of each set the two matrices whose product is the scores of `factors` (d, n), without negatives.

        Shapes (K, k, m) and (K, m + r, n): the rows `below` (r, n) follow. Products with the factors are in the
        factors' type, all others in that of `below`.
        """
        base = self.base.to(factors.dtype)
        if self.mixers is None:
            return base, torch.cat([factors.T, below.T], dim=1).T.expand(len(self), -1, -1)
        products = replace(self, base=base).products(factors)
        return self.mixers.to(below.dtype), torch.cat([products, below.expand(len(self), -1, -1)], dim=1)

    def written_out(self) -> DrawSets:
        """The same draws, with the negatives among them."""
        if not self.mirrored:
            return self
        if self.mixers is None:
            return replace(self, base=torch.cat([self.base, -self.base], dim=1), mirrored=False)
        return replace(self, mixers=torch.cat([self.mixers, -self.mixers], dim=1), mirrored=False)

    def rows(self, number: int, index: Tensor) -> Tensor:
        """Draws `index` (n,) of set `number` (in order), shape (n, d), float64 up to its rounding."""
        if self.mirrored:
            half = DRAWS_PER_SET // 2
            sign = 1 - 2 * (index >= half).double()[:, None]
            return sign * replace(self, mirrored=False).rows(number, index % half)
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
        screen: The atoms, shape (N, d), in bfloat16, for faster products; the width within which candidates are looked
            for is then no strict bound, but 2.7 standard deviations of the error. Or None.
        radius: max_i |y_i|, of `atoms`.
        mixed: Whether a set is mixed from few draws.
        blocks: Blocks of coordinates that those draws are cut into.
        on_cuda: Whether candidates are found by one kernel (see `cuda`).

    Examples:
        >>> LaguerreCells.build(DiscreteMeasure.of(torch.eye(3)), seed=0).measure.atoms.shape
        torch.Size([3, 3])
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
    blocks: int = 1

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
        blocks = _even_blocks(atoms) if mixed else 1
        if mixed and blocks < BLOCKS[0] and atoms.numel() <= MOST_ROTATED:
            rotated = _rotated(atoms)
            even = _even_blocks(rotated)
            if even > blocks:
                atoms, blocks = rotated, even
        screen = atoms.to(torch.bfloat16) if bfloat16 else None
        on_cuda = single and kernel_runs_on(atoms.device)
        radius = largest_norm(atoms)
        return cls(measure, atoms, screen, radius, seed, mixed, source, on_cuda, processes, blocks)

    @property
    def factors(self) -> Tensor:
        """The atoms as base draws are multiplied with them, shape (N, d)."""
        return self.atoms if self.screen is None else self.screen

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

    def draws(self, stream: str, numbers: Sequence[int], mirrored: bool | None = None) -> DrawSets:
        """The sets of these numbers, on the atoms' device; mirrored where their law allows it, unless told."""
        mirrored = self.source.mixes if mirrored is None else mirrored
        kind = (self.atoms.shape[1], self.mixed, self.source, mirrored, self.blocks)
        return DrawSets.draw(self.seed, stream, numbers, *kind).to(self.atoms.device)

    def _cells_of_few(self, offsets: Tensor, stream: str, numbers: Sequence[int]) -> Tensor:
        draws = self.draws(stream, numbers)
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
        """Yields the screened scores of a block of atoms, (256, n) for each set, all in the same memory."""
        h = offsets[block]
        # (So that the product adds h.)
        lefts, rights = draws.sides(self.factors[block].T, h[None])
        lefts = torch.cat([lefts, torch.ones_like(lefts[..., :1])], dim=2)
        scores, twice = h.new_empty(DRAWS_PER_SET, len(h)), 2 * h
        given = scores[: lefts.shape[1]]
        for left, right in zip(lefts, rights):
            torch.mm(left, right, out=given)
            if draws.mirrored:
                torch.sub(twice, given, out=scores[len(given) :])
            yield scores

    def _search_on_cuda(self, draws: DrawSets, offsets: Tensor, width: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The same as `_search_by_blocks`, by one kernel."""
        draws = draws.written_out()
        search = KernelSearch(self.factors, offsets)
        widths = width.repeat_interleave(DRAWS_PER_SET)
        row, atom = search.pairs(draws.base.to(self.factors.dtype), draws.mixers, widths)
        number, row = row // DRAWS_PER_SET, row % DRAWS_PER_SET
        return [(row[number == k], atom[number == k]) for k in range(len(draws))]


def _columns(dim: int, blocks: int) -> list[slice]:
    """Blocks of coordinates of nearly equal size."""
    ends = [dim * block // blocks for block in range(blocks + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def _rotated(atoms: Tensor) -> Tensor:
    """The atoms (N, d), rotated: of eight coordinates, one of each block, each is spread over all eight, by a Hadamard
    matrix with random signs. (A few coordinates are left as they are where eight does not divide d.)"""
    blocks, dim = BLOCKS[0], atoms.shape[1]
    signs = normal_block(0, "signs", 0, 1, dim)[0].sign().to(atoms.device, atoms.dtype)
    rotation = torch.from_numpy(hadamard(blocks)).to(atoms.device, atoms.dtype) / blocks**0.5
    first = torch.tensor([columns.start for columns in _columns(dim, blocks)], device=atoms.device)
    eights = first[:, None] + torch.arange(dim // blocks, device=atoms.device)
    rotated, size = atoms.clone(), rows_per_block(atoms)
    for given, into in zip(atoms.split(size), rotated.split(size)):
        into[:, eights] = rotation @ (given * signs)[:, eights]
    return rotated


def _even_blocks(atoms: Tensor) -> int:
    """Into how many blocks of coordinates base draws may be cut, for atoms (N, d) without their mean.

    Two draws' scores of an atom have a correlation of mean square Σ s_b² blocks/32, s_b the blocks' shares of |y_i|².
    """
    parts = [
        torch.linalg.vector_norm(atoms[:, columns], dim=1) for columns in _columns(atoms.shape[1], BLOCKS[0])
    ]
    shares = torch.stack(parts, dim=1).double().square()
    shares /= shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    for blocks in BLOCKS:
        if (
            float(blocks * shares.unflatten(1, (blocks, -1)).sum(dim=2).square().sum(dim=1).mean())
            <= UNEVENNESS
        ):
            return blocks
    return 1


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
    # (Of whole draws: that of each block, times the root of their number, is more.)
    longest = torch.linalg.vector_norm(draws.base, dim=2, dtype=torch.float64).amax(dim=1) * draws.blocks**0.5
    if bfloat16:
        return torch.full_like(longest, BFLOAT16_WIDTH * potential.radius)
    # A mixed score sums m products with weights |q| = 1, so their independent errors add up to that of one. (A mirrored
    # one is h less what h was added to, which rounds once more.)
    terms = draws.base.shape[2] + 3 + (0 if draws.mixers is None else draws.base.shape[1])
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
