"""Search for cells on CUDA: products, mixing and maxima in one kernel, without writing scores to memory.

A tile of atoms leaves three numbers a draw: its largest score, where that is, and its second largest. Tiles whose
largest comes within `width` of the draw's maximum hold the candidates; there it is the leader alone if the second is
further away, and else, which is rare, all atoms of the tile. As on a CPU, exact scores decide between candidates, so
both find the same cells.

Products are summed in float32 whatever the factors are, as the width for bfloat16 factors assumes (a product by
torch on CUDA may not do so).
"""

from __future__ import annotations

import contextlib
from importlib.util import find_spec

import torch
from torch import Tensor

from otprior.transport.near_maximum import near_maximum

# Atoms of a tile, and the axes that are multiplied at a time. (Powers of two, as the kernel's language asks for.)
TILE, DEPTH = 64, 32
# Rows of a program where nothing is mixed.
UNMIXED_ROWS = 64
# Tiles whose leaders are kept at a time: 48 MB of them for 4,096 draws.
TILES_AT_A_TIME = 1024


def kernel_runs_on(device: torch.device) -> bool:
    """Whether the kernel runs on this device."""
    return device.type == "cuda" and find_spec("triton") is not None


class KernelSearch:
    """Candidates for the cells of sets of draws.

    Arguments:
        atoms: y, shape (N, d), float32 or bfloat16.
        offsets: h, shape (N,), float32.
    """

    def __init__(self, atoms: Tensor, offsets: Tensor) -> None:
        self._atoms, self._offsets = atoms.contiguous(), offsets.contiguous()

    def pairs(self, base: Tensor, mixers: Tensor | None, width: Tensor) -> tuple[Tensor, Tensor]:
        """Draw and atom of each candidate, int64, in no particular order.

        Arguments:
            base: Base draws of all sets, shape (K, m, d), in the atoms' dtype; m a multiple of 64 if nothing is mixed.
            mixers: Shape (K, n, m), float32, n and m powers of two (16 or more); None where base rows are the draws.
            width: How near to its maximum a draw's candidates lie, shape (K n,), float32.
        """
        best = torch.full_like(width, -torch.inf)
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        span = TILES_AT_A_TIME * TILE
        for first in range(0, len(self._atoms), span):
            tops, places, seconds = self._leaders(base, mixers, slice(first, first + span), len(width))
            row, tile, value = near_maximum(tops, width, best)
            atom = first + tile * TILE + places[row, tile]
            found.append((row, atom, value, seconds[row, tile]))
        row, atom, value, second = (torch.cat(part) for part in zip(*found))
        floor = (best - width)[row]
        crowded = second >= floor
        alone = (value >= floor) & ~crowded
        start = atom[crowded] // TILE * TILE
        whole = start[:, None] + torch.arange(TILE, device=atom.device)
        rows = row[crowded][:, None].expand_as(whole)
        real = whole < len(self._atoms)
        return torch.cat([row[alone], rows[real]]), torch.cat([atom[alone], whole[real]])

    def _leaders(
        self, base: Tensor, mixers: Tensor | None, part: slice, draws: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each draw in each tile of these atoms: the largest score, its place, the second; (draws, tiles)."""
        from otprior.transport.cells.cuda_kernel import tile_leaders

        atoms, offsets = self._atoms[part], self._offsets[part]
        tiles = -(-len(atoms) // TILE)
        tops = offsets.new_empty(draws, tiles)
        places = torch.empty(draws, tiles, dtype=torch.int32, device=atoms.device)
        seconds = torch.empty_like(tops)
        rows, group = (UNMIXED_ROWS, UNMIXED_ROWS) if mixers is None else (mixers.shape[1], base.shape[1])
        # (Triton launches on the current device, whatever the tensors' is.)
        with torch.cuda.device(atoms.device) if atoms.is_cuda else contextlib.nullcontext():
            tile_leaders[tiles, draws // rows](
                base.contiguous(),
                base if mixers is None else mixers.contiguous(),
                atoms,
                offsets,
                tops,
                places,
                seconds,
                len(atoms),
                tiles,
                atoms.shape[1],
                ROWS=rows,
                BASE=group,
                TILE=TILE,
                DEPTH=DEPTH,
                MIXED=mixers is not None,
                # (Float32 products in full, and not by halves of ten bits.)
                PRECISION="ieee",
                WIDEN=not atoms.is_cuda,
            )
        return tops, places, seconds
