"""χ² of cell masses, estimated without bias from draws.

An estimate of masses p by frequencies in n draws has an error of its own: put into Σ (p_i − ν_i)²/ν_i it adds about
N/n. Products of frequencies of *different* draws, or of independent sets of draws, have the right mean. Both estimators
here are such U-statistics, and state their standard error.

References:
    Hoeffding, A class of statistics with asymptotically normal distribution (1948).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri
from torch import Tensor

from otprior.utils.validation import require

SETS_PER_BLOCK = 4096
# Standard errors from an estimate to its one-sided 95 % limit.
ONE_SIDED_95 = float(ndtri(0.95))


@dataclass(frozen=True)
class ChiSquared:
    """An unbiased estimate of χ²(p, ν) with its standard error.

    Attributes:
        value: The estimate; it can be slightly negative when p is close to ν.
        standard_error: Its standard deviation, estimated.
        draws: The number of draws that it rests on, all independent of the potential.

    Examples:
        >>> round(ChiSquared(0.04, standard_error=0.005, draws=10_000).upper, 4)
        0.0482
    """

    value: float
    standard_error: float
    draws: int

    @property
    def upper(self) -> float:
        """The upper limit of a one-sided 95 % interval."""
        return self.value + ONE_SIDED_95 * self.standard_error


def draws_for(atoms: int, error: float) -> float:
    """Draws after which χ² of the masses of N cells, near ν, is known with this standard deviation: √(2N)/error."""
    return (2 * atoms) ** 0.5 / error


def chi_squared(counts: Tensor, weights: Tensor) -> ChiSquared:
    """Estimates χ² = Σ (p_i − ν_i)²/ν_i without bias from how often each cell was hit.

    The estimator Σ c_i(c_i − 1)/(n(n − 1)ν_i) − 1 is the U-statistic of the kernel 1{I = J}/ν_I; its variance
    4 ζ₁/n + 2 ζ₂/n² follows Hoeffding's decomposition with ζ₁ = Var(p_I/ν_I) and ζ₂ = Var(1{I = J}/ν_I). (Putting
    frequencies into the definition instead would be off by about N/n.)

    Arguments:
        counts: Hits of each cell, shape (N,), integer, from draws independent of the potential; at least three.
        weights: ν, shape (N,), positive.
    """
    c = counts.double()
    w = weights.to(c.device, torch.float64)
    n = float(c.sum())
    require(n >= 3, "counts", "of at least 3 draws", int(n))
    pairs = c * (c - 1) / (n * (n - 1))
    second_moment = float((pairs / w).sum())
    triples = pairs * (c - 2) / (n - 2)
    zeta1 = max(float((triples / w**2).sum()) - second_moment**2, 0.0)
    zeta2 = max(float((pairs / w**2).sum()) - second_moment**2, 0.0)
    return ChiSquared(second_moment - 1, math.sqrt(4 * zeta1 / n + 2 * zeta2 / n**2), int(n))


def chi_squared_of_sets(cells: Tensor, weights: Tensor) -> ChiSquared:
    """Estimates χ² without bias from draws that are independent between sets, but perhaps not within.

    Two sets s ≠ t have frequencies f_s, f_t of independent errors, so k(s, t) = Σ_i f_si f_ti/ν_i − 1 has mean χ²,
    and so has the mean over pairs of sets, a U-statistic; its variance is 4 ζ₁/K + 2 ζ₂/K² with ζ₁ = Var E(k | s)
    and ζ₂ = Var k (Hoeffding, 1948). With one draw a set it is `chi_squared`.

    Arguments:
        cells: Which cell each draw fell in, shape (K, n), int64: K >= 3 sets of n draws of N(0, I), independent of
            the potential.
        weights: ν, shape (N,), positive.
    """
    sets, size = cells.shape
    require(sets >= 3, "cells", "of at least 3 sets", sets)
    w = weights.to("cpu", torch.float64).numpy()
    column = cells.reshape(-1).cpu().numpy()
    row = np.arange(sets).repeat(size)
    hits = csr_array((np.full(len(column), 1 / size), (row, column)), shape=(sets, len(w)))
    return chi_squared_of_frequencies(hits, w, size)


def chi_squared_of_frequencies(
    frequencies: csr_array, weights: NDArray[np.float64], draws_per_set: int
) -> ChiSquared:
    """`chi_squared_of_sets` from the frequencies f_s of the sets.

    Arguments:
        frequencies: f, sparse (K, N), K >= 3 rows of sum 1, independent of each other, each of mean p.
        weights: ν, shape (N,), positive.
        draws_per_set: How many draws stand behind a row.
    """
    sets = frequencies.shape[0]
    scaled, transposed = frequencies.multiply(1 / weights).tocsr(), frequencies.T.tocsc()
    of_set, squares = np.zeros(sets), np.zeros(sets)
    # (A square matrix of all sets would take gigabytes where a small χ² is to be seen.)
    for first in range(0, sets, SETS_PER_BLOCK):
        part = slice(first, min(first + SETS_PER_BLOCK, sets))
        agreement = (scaled[part] @ transposed).toarray()
        agreement[np.arange(len(agreement)), np.arange(part.start, part.stop)] = 0.0
        of_set[part], squares[part] = agreement.sum(axis=1), (agreement**2).sum(axis=1)
    ordered = sets * (sets - 1)
    second_moment = of_set.sum() / ordered
    zeta1 = max(float((of_set**2 - squares).sum()) / (ordered * (sets - 2)) - second_moment**2, 0.0)
    zeta2 = max(float(squares.sum()) / ordered - second_moment**2, 0.0)
    error = math.sqrt(4 * zeta1 / sets + 2 * zeta2 / sets**2)
    return ChiSquared(float(second_moment) - 1, error, sets * draws_per_set)
