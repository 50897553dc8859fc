"""The kernel of `cuda`, in Triton's language. Imported only where it is to run: Triton comes with torch for CUDA.

(With TRITON_INTERPRET=1 in the environment at import, it runs on a CPU, slowly: so the tests run it.)
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_leaders(
    base,
    mixers,
    atoms,
    offsets,
    tops,
    places,
    seconds,
    atom_count,
    tiles,
    dim: tl.constexpr,
    ROWS: tl.constexpr,
    BASE: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    MIXED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The largest score of each row among the atoms of one tile, its place there, and the second largest.

    One program an instance: tile `program_id(0)`, group `program_id(1)` of BASE rows of `base`, which become ROWS
    draws if MIXED (the group's rows of `mixers`, times the base scores), and are the draws if not (then ROWS = BASE).
    WIDEN makes float32 of the factors first: Triton's interpreter multiplies bfloat16 wrongly.
    """
    tile = tl.program_id(0)
    group = tl.program_id(1)
    atom = tile * TILE + tl.arange(0, TILE)
    there = atom < atom_count
    row = group.to(tl.int64) * BASE + tl.arange(0, BASE)
    scores = tl.zeros((BASE, TILE), dtype=tl.float32)
    for first in range(0, dim, DEPTH):
        axis = first + tl.arange(0, DEPTH)
        inside = axis < dim
        left = tl.load(base + row[:, None] * dim + axis[None, :], mask=inside[None, :], other=0.0)
        right = tl.load(
            atoms + atom.to(tl.int64)[None, :] * dim + axis[:, None],
            mask=inside[:, None] & there[None, :],
            other=0.0,
        )
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        # Summed in float32, whatever the factors are.
        scores = tl.dot(left, right, scores, input_precision=PRECISION)
    draw = group.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if MIXED:
        mixer = tl.load(mixers + draw[:, None] * BASE + tl.arange(0, BASE)[None, :])
        scores = tl.dot(mixer, scores, input_precision=PRECISION)
    scores += tl.load(offsets + atom, mask=there, other=0.0)[None, :]
    scores = tl.where(there[None, :], scores, float("-inf"))
    top, place = tl.max(scores, axis=1, return_indices=True)
    others = tl.where(tl.arange(0, TILE)[None, :] == place[:, None], float("-inf"), scores)
    here = draw * tiles + tile
    tl.store(tops + here, top)
    tl.store(places + here, place)
    tl.store(seconds + here, tl.max(others, axis=1))
