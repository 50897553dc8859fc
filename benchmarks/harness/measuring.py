"""One measure for all: the unbiased χ² of the cell masses, on draws that no solver sees.

A first look takes few draws. Only where it does not already show that the target is missed does a second one, on other
draws, take as many as it takes to be precise; what it says is what counts. So the result that led to
a second look is not the one that is reported.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from peers import Problem

from otprior.transport.chi_squared import ChiSquared, chi_squared
from otprior.transport.potential import BrenierPotential
from otprior.utils.random import normal_block

BLOCK = 2048
FIRST_BLOCKS = 8
# Standard deviation of the second look, at masses equal to ν, in units of the target.
PRECISION = 1 / 20
SEED = 271828


class ChiSquaredMeter:
    """Measures offsets of one problem; the draws are the same for all that it measures."""

    def __init__(self, problem: Problem) -> None:
        self._atoms = torch.from_numpy(problem.atoms)
        self._weights = torch.from_numpy(problem.filled_weights().astype(np.float64))
        self._weights /= self._weights.sum()
        self._radius = float(torch.linalg.vector_norm(self._atoms, dim=1, dtype=torch.float64).max())

    def __call__(self, offsets: np.ndarray, target: float) -> ChiSquared | None:
        """χ² of offsets (N,), as precisely as the target asks; None if they are not finite."""
        if not np.isfinite(offsets).all():
            return None
        potential = BrenierPotential.build(self._atoms, torch.from_numpy(offsets.copy()), self._radius)
        first = self._measure(potential, "first look", FIRST_BLOCKS)
        if first.value - 4 * first.standard_error > target:
            return first
        # √(2N)/n is the standard deviation at masses equal to ν; a fifth more draws since they are not quite.
        blocks = math.ceil(1.2 * math.sqrt(2 * len(self._atoms)) / (PRECISION * target) / BLOCK)
        return self._measure(potential, "second look", max(blocks, FIRST_BLOCKS))

    def _measure(self, potential: BrenierPotential, stream: str, blocks: int) -> ChiSquared:
        counts = torch.zeros(len(self._atoms), dtype=torch.int64)
        for block in range(blocks):
            z = normal_block(SEED, stream, block, BLOCK, self._atoms.shape[1])
            counts += torch.bincount(potential.assign(z.to(self._atoms.dtype)), minlength=len(self._atoms))
        return chi_squared(counts, self._weights)
