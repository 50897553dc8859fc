"""The atoms that contend for a draw: those of the K highest scores.

Small changes of the offsets h move a draw among these only. So from them p(h) is known for all h near by, not only
where they were found, and so is what the next atom would need to win the draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.transport.cells.search import ATOMS_PER_BLOCK, DRAWS_PER_SET, DrawSets, LaguerreCells
from otprior.transport.near_maximum import TILE

# Entries of a block of atoms, which may be a copy.
ENTRIES_PER_BLOCK = 1 << 23
# Sets that are scored in one product. (A product's rounding depends on its shape, so the shape must not depend on how
# sets are shared among processes.)
SETS_PER_PRODUCT = 4


@dataclass(frozen=True)
class Contenders:
    """The contending atoms of n draws.

    Attributes:
        stream, numbers: The sets of draws.
        atoms: Shape (n, K), int64, of highest score first when they were found.
        scores: ⟨z, y_i⟩ less `reference`, shape (n, K), float32.
        reference: A score of each draw, shape (n,), of the atoms' dtype.
    """

    stream: str
    numbers: Sequence[int]
    atoms: Tensor
    scores: Tensor
    reference: Tensor

    def __len__(self) -> int:
        return len(self.atoms)

    def totals(self, offsets: Tensor) -> Tensor:
        """Scores with offsets h (N,), less `reference`; shape (n, K), float32."""
        return self.scores + (offsets - offsets.mean()).float()[self.atoms]

    def winners(self, offsets: Tensor) -> Tensor:
        """The atom that wins each draw at offsets h (N,) near those of the search, shape (n,), int64."""
        return self.atoms.gather(1, self.totals(offsets).argmax(dim=1, keepdim=True))[:, 0]

    def enter(self, draws: Tensor, atoms: Tensor, scores: Tensor) -> None:
        """Puts atoms in the place of a draw's last contenders, half of them at most; all arguments (P,).

        Arguments:
            draws: Which draws.
            atoms: Which atom for each; a pair of both that is there already is left out.
            scores: ⟨z, y_i⟩.
        """
        new = (self.atoms[draws] != atoms[:, None]).all(dim=1)
        draws, atoms, scores = draws[new], atoms[new], scores[new]
        # (By draw, then by atom: in the same order whatever that of the pairs is.)
        order = atoms.argsort()
        order = order[draws[order].argsort(stable=True)]
        draws, atoms = draws[order], atoms[order]
        scores = (scores[order] - self.reference[draws]).float()
        first = torch.searchsorted(draws, draws)
        rank = torch.arange(len(draws), device=draws.device) - first
        kept = rank < self.atoms.shape[1] // 2
        place = (draws[kept], self.atoms.shape[1] - 1 - rank[kept])
        self.atoms[place], self.scores[place] = atoms[kept], scores[kept]


def find_contenders(
    cells: LaguerreCells,
    offsets: Tensor,
    stream: str,
    numbers: Sequence[int],
    count: int,
    rows: Tensor | None = None,
) -> Contenders:
    """The `count` atoms of highest score of each draw.

    Arguments:
        cells: Of the problem.
        offsets: h, shape (N,), float64.
        stream: What the draws are for.
        numbers: The sets, in runs of SETS_PER_PRODUCT.
        count: K, at most N.
        rows: Of `cells.atoms`, those N that there are, by which contenders are numbered; all by default.
    """
    offset = (offsets - offsets.mean()).to(cells.atoms.dtype)
    # (A process may have no share of a small block.)
    none = offset.new_zeros(0, count), torch.zeros(0, count, dtype=torch.int64, device=offset.device)
    found = [_highest(cells.atoms, rows, offset, draws, count) for draws in draw_sets(cells, stream, numbers)]
    values, atoms = (torch.cat(part) for part in zip(none, *found))
    scores = values - offset[atoms]
    reference = scores[:, 0].clone()
    return Contenders(stream, numbers, atoms, (scores - reference[:, None]).float(), reference)


def draw_sets(cells: LaguerreCells, stream: str, numbers: Sequence[int]) -> Iterator[DrawSets]:
    """Yields these sets, a product's at a time, on the atoms' device and of their dtype."""
    for first in range(0, len(numbers), SETS_PER_PRODUCT):
        few = numbers[first : first + SETS_PER_PRODUCT]
        yield cells.draws(stream, few, mirrored=False).to(cells.atoms.device, cells.atoms.dtype)


def scores_of(draws: DrawSets, atoms: Tensor) -> Tensor:
    """⟨z, y⟩ of all draws and these atoms (n, d); shape (256 K, n)."""
    if draws.mixers is None:
        return draws.base.flatten(0, 1) @ atoms.T
    return (draws.mixers @ draws.products(atoms.T)).flatten(0, 1)


def atoms_by_blocks(atoms: Tensor, rows: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Yields some rows of atoms (N, d), or all, a block at a time, and their places among these rows."""
    size = max(1, min(ATOMS_PER_BLOCK, ENTRIES_PER_BLOCK // atoms.shape[1]))
    for first in range(0, len(atoms) if rows is None else len(rows), size):
        block = slice(first, first + size)
        yield block, atoms[block if rows is None else rows[block]]


def _highest(
    atoms: Tensor, rows: Tensor | None, offset: Tensor, draws: DrawSets, count: int
) -> tuple[Tensor, Tensor]:
    """The highest scores of each draw, descending, and whose they are; shape (256 K, count) each."""
    best: tuple[Tensor, Tensor] | None = None
    for block, some in atoms_by_blocks(atoms, rows):
        scores = scores_of(draws, some).add_(offset[block])
        parts = [_highest_of_tiles(part, min(count, part.shape[1])) for part in scores.split(DRAWS_PER_SET)]
        value, place = (torch.cat(part) for part in zip(*parts))
        place += block.start
        if best is not None:
            value, place = torch.cat([best[0], value], dim=1), torch.cat([best[1], place], dim=1)
            value, order = value.topk(min(count, value.shape[1]), dim=1)
            place = place.gather(1, order)
        best = value, place
    assert best is not None
    return best


def _highest_of_tiles(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of each row (B, n) and their columns: they lie in the tiles of the highest maxima."""
    tiles = scores.shape[1] // TILE
    if tiles <= 2 * count:
        return scores.topk(count, dim=1)
    whole = scores[:, : TILE * tiles].unflatten(1, (TILE, tiles))
    tile = whole.amax(dim=1).topk(count, dim=1, sorted=False).indices
    inside = whole.gather(2, tile[:, None, :].expand(-1, TILE, -1)).flatten(1)
    columns = (tile[:, None, :] + tiles * torch.arange(TILE, device=scores.device)[:, None]).flatten(1)
    rest = torch.arange(TILE * tiles, scores.shape[1], device=scores.device).expand(len(scores), -1)
    value, order = torch.cat([inside, scores[:, TILE * tiles :]], dim=1).topk(count, dim=1)
    return value, torch.cat([columns, rest], dim=1).gather(1, order)
