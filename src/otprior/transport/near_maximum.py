"""The largest of many scores, and those within rounding of it.

A maximum without its position runs at the speed of memory; one with it is several times slower. So a row of scores is
reduced over tiles first, and only the few tiles whose maximum comes within `width` of the row's are searched. Their
entries are the candidates, and exact scores need to be computed for these only.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Rows of a tile. A row of scores is seen as TILE rows of equal length, so that the maximum over a tile is taken
# across contiguous memory.
TILE = 16


def near_maximum(scores: Tensor, width: Tensor, best: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the entries of each row that lie within `width` of its maximum.

    Arguments:
        scores: Shape (B, N), contiguous.
        width: How near, shape (B,), nonnegative.
        best: Maximum over earlier columns, shape (B,), raised in place to the row's. Entries are then compared
            with the larger of both, and a row may have none.

    Returns:
        Row and column of each entry found, int64, in no particular order, and its value.
    """
    count, width_of_tile = scores.shape[1], scores.shape[1] // TILE
    whole = TILE * width_of_tile
    tiles = scores[:, :whole].unflatten(1, (TILE, width_of_tile))
    rest = scores[:, whole:]
    tops = tiles.amax(dim=1) if width_of_tile else scores[:, :0]
    row_best = torch.cat(
        [part.amax(dim=1, keepdim=True) for part in (tops, rest) if part.shape[1]], dim=1
    ).amax(dim=1)
    best = row_best if best is None else torch.maximum(best, row_best, out=best)
    floor = (best - width)[:, None]

    row, tile = torch.nonzero(tops >= floor, as_tuple=True)
    inside = tiles[row, :, tile]
    which, place = torch.nonzero(inside >= floor[row], as_tuple=True)
    rows, columns, values = row[which], place * width_of_tile + tile[which], inside[which, place]
    if whole < count:
        row, column = torch.nonzero(rest >= floor, as_tuple=True)
        rows, columns = torch.cat([rows, row]), torch.cat([columns, column + whole])
        values = torch.cat([values, rest[row, column]])
    return rows, columns, values


class Candidates:
    """Collects each row's candidates while its scores come in blocks of columns.

    Arguments:
        width: How near to its maximum a row's candidates lie, shape (B,).
    """

    def __init__(self, width: Tensor) -> None:
        self._width = width
        self._best = torch.full(width.shape, -torch.inf, dtype=width.dtype, device=width.device)
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, scores: Tensor, first: int) -> None:
        """Scores (B, n) of the columns from `first` on."""
        row, column, value = near_maximum(scores, self._width, self._best)
        self._found.append((row, column + first, value))

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Row and column of each candidate, int64, in no particular order."""
        row, column, value = (torch.cat(part) for part in zip(*self._found))
        if len(self._found) == 1:
            return row, column
        near = value >= (self._best - self._width)[row]
        return row[near], column[near]
