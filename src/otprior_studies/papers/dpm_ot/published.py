"""What the authors' code does where it differs from what the paper describes, written from reading it.

| the paper describes | the code does | here |
|---|---|---|
| draws from the normal law | draws from the uniform law on the cube [0, 1]^d, uncentred | `cube_draws` |
| a potential by Adam | so it does: no correction of bias, h from 0, ever more draws | `adam` |
| angle of lifted atoms in radians | rescaled to [0, 1] by the batch's least and largest | `kept_in_batch` |
| the draw's own atom is kept | the lower index of the pair, each index once in a batch | `kept_in_batch` |

With rescaled angles whether a draw is kept depends on the others of its batch; the pair of the batch's largest angle is
always rejected, that of its least always kept. As published the code runs with one neighbour, that is without a
filter: its path for more of them stops at an unpacking error, and what is here is what it would do without that
error.

References:
    Li, Li, Wang, Lei, Luo & Gu, DPM-OT: a new diffusion probabilistic model based on optimal transport (2023).
    https://arxiv.org/abs/2307.11308
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Draws that are filtered together.
BATCH = 100
# Of Adam, and of what is done when steps bring no smaller gradient.
MOMENTUM, SECOND_MOMENTUM, TINY = 0.9, 0.999, 1e-8
PATIENCE = 50
DOUBLINGS = 3
RATE_FACTOR = 0.8
SCORES_PER_BLOCK = 1 << 22

# From a number of draws and a generator to draws (count, d).
Draw = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class AdamState:
    """After a step: h (N,), mean zero; draws so far; the norm of the step's gradient, and its empty cells."""

    offsets: Tensor
    draws: int
    gradient_norm: float
    empty: int


def adam(
    atoms: Tensor, weights: Tensor, draw: Draw, rate: float, size: int, generator: torch.Generator
) -> Iterator[AdamState]:
    """Adam on cell frequencies of fresh draws, h from zero; an endless iterator.

    Whenever 50 steps bring no smaller gradient, three times at most, draws are doubled and the rate is multiplied by
    0.8.

    Arguments:
        atoms: y, shape (N, d).
        weights: ν, shape (N,), in the atoms' dtype.
        draw: Draws of the source.
        rate: Published 0.1.
        size: Draws in the first step; published 10 N.
        generator: Generator of the draws.
    """
    h, first, second = (torch.zeros_like(weights) for _ in range(3))
    best, bad_steps, doublings, draws = math.inf, 0, 0, 0
    while True:
        counts = _counts(atoms, h, draw, size, generator)
        gradient = counts.to(atoms.dtype) / size - weights
        draws += size
        first.lerp_(gradient, 1 - MOMENTUM)
        second.lerp_(gradient**2, 1 - SECOND_MOMENTUM)
        h = h - rate * first / (second.sqrt() + TINY)
        h -= h.mean()
        norm = float(torch.linalg.vector_norm(gradient))
        yield AdamState(h, draws, norm, int((counts == 0).sum()))

        best, bad_steps = (norm, 0) if norm < best else (best, bad_steps + 1)
        if bad_steps > PATIENCE and doublings < DOUBLINGS:
            size, rate = 2 * size, RATE_FACTOR * rate
            best, bad_steps, doublings = math.inf, 0, doublings + 1


def cube_draws(dim: int) -> Draw:
    """Draws of the uniform law on [0, 1]^d."""
    return lambda count, generator: torch.rand(count, dim, generator=generator)


def kept_in_batch(cells: Tensor, angles: Tensor, threshold: float) -> Tensor:
    """The atoms that a batch of draws leaves.

    Arguments:
        cells: Of `singular.leading_cells`, shape (B, k), k >= 2.
        angles: Of `singular.cell_angles`, shape (B, k − 1).
        threshold: In [0, 1]; 0 still keeps the pair of the least angle.

    Returns:
        Indices of atoms, ascending, each once, shape (M,), M <= B (k − 1).
    """
    lower = torch.minimum(cells[:, :1], cells[:, 1:])
    return torch.unique(lower[rescaled(angles) <= threshold])


def rescaled(angles: Tensor) -> Tensor:
    """A batch's angles brought to [0, 1] by the least and the largest of them; 0 where all are equal."""
    least, largest = angles.min(), angles.max()
    return (angles - least) / (largest - least) if largest > least else torch.zeros_like(angles)


def _counts(atoms: Tensor, h: Tensor, draw: Draw, size: int, generator: torch.Generator) -> Tensor:
    """How many of `size` draws fall in each cell; int64 (N,)."""
    counts = torch.zeros(len(atoms), dtype=torch.int64)
    rows = max(1, SCORES_PER_BLOCK // len(atoms))
    for start in range(0, size, rows):
        z = draw(min(rows, size - start), generator)
        counts += torch.bincount(torch.addmm(h, z, atoms.T).argmax(dim=1), minlength=len(atoms))
    return counts
