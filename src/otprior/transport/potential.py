"""The semi-dual of optimal transport from N(0, I_d) to a discrete measure ν = Σ ν_i δ_{y_i}.

For the cost |z − y|²/2 the Brenier potential is the largest of N affine functions,

    u(z) = max_i ⟨z, y_i⟩ + h_i,

and the map ∇u sends z to y_{i(z)}, i(z) the argmax; the points with i(z) = i are the Laguerre cell of y_i. The
offsets h minimise the convex semi-dual F(h) = E u(z) − Σ ν_i h_i, whose gradient is P(i(z) = i) − ν_i. For any
h the map is optimal onto the masses p_i = P(i(z) = i) that it has, so p is all that can be wrong, and

    χ²(p, ν) = Σ_i (p_i − ν_i)²/ν_i

says how wrong. Everything here is a function of its arguments; nothing here iterates.

References:
    Semi-discrete transport: Mérigot & Thibert, Optimal transport: discretization and algorithms (2020),
    section 4. https://arxiv.org/abs/2003.00855
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from otprior.transport.near_maximum import Leaders
from otprior.utils.validation import require

# Entries of one block of the score matrix: 16 MiB of float32, whatever the batch and the number of atoms.
SCORES_PER_BLOCK = 1 << 22
SETS_PER_BLOCK = 4096
ATOMS_PER_BLOCK = 1 << 14

# The smoothed map leaves out atoms whose share is below exp(−16) of the largest: float32 rounding of it.
LEAST_LOG_SHARE = -16.0

# Where more of all pairs of points and atoms than this matter, a whole product is faster than picking them.
DENSE_ABOVE = 1 / 64

# Entries of atoms that are scored in float64 at a time.
EXACT_PER_BLOCK = 1 << 18

# Unit roundoff of a float32 matrix product under torch.set_float32_matmul_precision(...).
MATMUL_ROUNDOFF = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}


@dataclass(frozen=True)
class BrenierPotential:
    """u(z) = max_i ⟨z, y_i⟩ + h_i, and the transport map ∇u.

    Attributes:
        atoms: y, shape (N, d), float32 or float64.
        offsets: h, shape (N,), float64; −∞ for an atom that no point may be sent to.
        radius: max_i |y_i|, which bounds the rounding error of a score.
    """

    atoms: Tensor
    offsets: Tensor
    radius: float

    @classmethod
    def build(cls, atoms: Tensor, offsets: Tensor, radius: float | None = None) -> BrenierPotential:
        """From atoms (N, d) and offsets (N,); pass `radius` where it is known, it costs a pass over the atoms."""
        if radius is None:
            radius = largest_norm(atoms)
        return cls(atoms, offsets.to(atoms.device, torch.float64), radius)

    def assign(self, z: Tensor) -> Tensor:
        """i(z): the cell of each point; z (B, d) to int64 (B,).

        Scores are screened in the atoms' dtype. Where rounding could decide, the candidates within the error bound of
        the maximum are scored again in float64, and what is still tied goes to the lowest index. So a row's cell
        depends on nothing but the row: not on the batch around it, the number of threads or the device.
        """
        return torch.cat(
            [self._assign_block(block, *self._candidates(block, 0.0)) for block in self._blocks(z)]
        )

    def value(self, z: Tensor) -> Tensor:
        """u(z), float64; z (B, d) to (B,)."""
        cell = self.assign(z)
        return (z.double() * self.atoms[cell].double()).sum(dim=1) + self.offsets[cell]

    def barycentre(self, z: Tensor, smoothing: float) -> Tensor:
        """The smoothed map: the mean of the atoms weighted by the softmax of their scores over ε.

        Arguments:
            z: Points, shape (B, d).
            smoothing: ε > 0, in units of a score.

        Returns:
            Shape (B, d), in the atoms' dtype.
        """
        return self.assign_and_barycentre(z, smoothing)[1]

    def assign_and_barycentre(
        self, z: Tensor, smoothing: float, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `assign` and `barycentre` return, from one product of scores.

        `values`, shape (N, k), are averaged in place of the atoms (which may be projections of them).
        """
        values = self.atoms if values is None else values
        cells, means = [], []
        for block in self._blocks(z):
            row, atom = self._candidates(block, -smoothing * LEAST_LOG_SHARE)
            if len(row) > DENSE_ABOVE * len(block) * len(self.atoms):
                cells.append(self._assign_block(block, *self._candidates(block, 0.0)))
                scores = torch.addmm(self._rounded_offsets, block, self.atoms.T)
                means.append(torch.softmax(scores / smoothing, dim=1) @ values)
            else:
                exact = self._exact(block, row, atom)
                cells.append(self._choose(block, row, atom, exact))
                means.append(_weighted_mean(len(block), row, values[atom], exact / smoothing))
        return torch.cat(cells), torch.cat(means)

    def _blocks(self, z: Tensor) -> Iterator[Tensor]:
        return iter(z.split(max(1, SCORES_PER_BLOCK // min(len(self.atoms), ATOMS_PER_BLOCK))))

    def _candidates(self, z: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """Pairs (row, atom), int64: all atoms whose true score may lie within `width` of the maximum."""
        error = self._score_size(z) * ((z.shape[1] + 2) * matmul_roundoff(self.atoms.dtype))
        leaders = Leaders((width + 2 * error).to(self.atoms.dtype))
        for first in range(0, len(self.atoms), ATOMS_PER_BLOCK):
            block = slice(first, first + ATOMS_PER_BLOCK)
            leaders.add(torch.addmm(self._rounded_offsets[block], z, self.atoms[block].T), first)
        return leaders.pairs()

    def _exact(self, z: Tensor, row: Tensor, atom: Tensor) -> Tensor:
        """Scores of the pairs in float64, up to its rounding."""
        # In pieces that stay in cache; an outlier among the atoms widens the bound, and then candidates are many.
        size = max(1, EXACT_PER_BLOCK // z.shape[1])
        pairs = zip(row.split(size), atom.split(size))
        products = [self.atoms[a].double().mul_(z[r]).sum(dim=1) for r, a in pairs]
        return torch.cat(products) + self.offsets[atom]

    def _assign_block(self, z: Tensor, row: Tensor, atom: Tensor) -> Tensor:
        """The best of each row's candidates (row, atom)."""
        cell = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        cell[row] = atom
        contested = torch.bincount(row, minlength=len(z)) > 1
        if bool(contested.any()):
            chosen = contested[row]
            cell[contested] = self.settle(z, row[chosen], atom[chosen])[contested]
        return cell

    def settle(self, z: Tensor, row: Tensor, atom: Tensor) -> Tensor:
        """The best among candidates by float64 scores; ties go to the lowest index.

        Arguments:
            z: Points, shape (B, d).
            row: Row of each candidate, shape (P,), int64.
            atom: Index of each candidate, shape (P,), int64.

        Returns:
            Shape (B,), int64; N for a row without candidates.
        """
        return self._choose(z, row, atom, self._exact(z, row, atom))

    def _choose(self, z: Tensor, row: Tensor, atom: Tensor, exact: Tensor) -> Tensor:
        """`settle`, with the exact scores (P,) at hand."""
        best = exact.new_full((len(z),), -math.inf).scatter_reduce_(0, row, exact, "amax")
        tied = exact >= (best - 2 * (z.shape[1] + 2) * 2.0**-53 * self._score_size(z))[row]
        lowest = torch.full((len(z),), len(self.atoms), dtype=torch.int64, device=z.device)
        return lowest.scatter_reduce_(0, row[tied], atom[tied], "amin")

    def _score_size(self, z: Tensor) -> Tensor:
        """|z| max_i |y_i| + max_i |h_i|, to which rounding errors of scores are proportional; (B,), float64."""
        return torch.linalg.vector_norm(z, dim=1, dtype=torch.float64) * self.radius + self._largest_offset

    # (Kept, since a call for one point costs little more than these would.)

    @cached_property
    def _rounded_offsets(self) -> Tensor:
        return self.offsets.to(self.atoms.dtype)

    @cached_property
    def _largest_offset(self) -> float:
        return float(self.offsets[torch.isfinite(self.offsets)].abs().max())


def _weighted_mean(rows: int, row: Tensor, values: Tensor, log_share: Tensor) -> Tensor:
    """For each of `rows` the mean of its values (P, k), weighted by exp(`log_share`); shape (rows, k)."""
    best = log_share.new_full((rows,), -math.inf).scatter_reduce_(0, row, log_share, "amax")
    share = torch.exp(log_share - best[row])
    # (The error bound let some more through.)
    share[share < math.exp(LEAST_LOG_SHARE)] = 0.0
    share /= share.new_zeros(rows).index_add_(0, row, share)[row]
    mean = torch.zeros(rows, values.shape[1], dtype=torch.float64, device=values.device)
    return mean.index_add_(0, row, share[:, None] * values).to(values.dtype)


def largest_norm(rows: Tensor) -> float:
    """max_i |y_i| over rows (N, d), computed in float64."""
    blocks = rows.split(ATOMS_PER_BLOCK)
    return max(float(torch.linalg.vector_norm(block, dim=1, dtype=torch.float64).max()) for block in blocks)


def matmul_roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff of matrix products of `dtype`, under torch's present setting."""
    return 2.0**-53 if dtype == torch.float64 else MATMUL_ROUNDOFF[torch.get_float32_matmul_precision()]


def natural_quantile(weights: Tensor) -> Tensor:
    """q_i = √(2 ln 1/ν_i), about the normal quantile at which a score of mass ν_i wins; at least 1."""
    return (-2 * weights.log()).clamp(min=1).sqrt()


def natural_scale(atoms: Tensor, weights: Tensor) -> Tensor:
    """τ_i = |y_i − mean|/q_i: the change of a score that moves the mass of its cell by a factor of about e.

    Arguments:
        atoms: y, shape (N, d).
        weights: ν, shape (N,), positive, sum 1.

    Returns:
        τ, shape (N,), float64; positive unless all atoms are one point.
    """
    w = weights.to(atoms.device, torch.float64)
    blocks = atoms.split(ATOMS_PER_BLOCK)
    mean = torch.stack([v @ block.double() for v, block in zip(w.split(ATOMS_PER_BLOCK), blocks)]).sum(dim=0)
    norms = torch.cat([torch.linalg.vector_norm(block.double() - mean, dim=1) for block in blocks])
    # An atom at the mean has a cell too; without a floor its τ would vanish. (The median, since one outlier
    # must not lift all others.)
    return norms.clamp(min=1e-3 * float(norms.median())) / natural_quantile(w)


@dataclass(frozen=True)
class ChiSquared:
    """An unbiased estimate of χ²(p, ν) with its standard error.

    Attributes:
        value: The estimate; it can be slightly negative when p is close to ν.
        standard_error: Its standard deviation, estimated.
        draws: The number of draws that it rests on, all independent of the potential.
    """

    value: float
    standard_error: float
    draws: int

    @property
    def upper(self) -> float:
        """The upper limit of a one-sided 95 % interval."""
        return self.value + 1.6449 * self.standard_error


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


def dual_value(potential: BrenierPotential, weights: Tensor, z: Tensor) -> tuple[float, float]:
    """A lower bound of W2(N(0, I), ν)², and its standard error over the draws.

    d + Σ ν_i |y_i|² − 2 F(h) for any h, with equality at the optimum.

    Arguments:
        potential: u, over N atoms in dimension d.
        weights: ν, shape (N,).
        z: Draws from N(0, I), shape (n, d), independent of h.
    """
    w = weights.to(potential.atoms.device, torch.float64)
    u = potential.value(z)
    square_norms = (potential.atoms.double() ** 2).sum(dim=1)
    constant = z.shape[1] + float(w @ (square_norms + 2 * potential.offsets))
    return constant - 2 * float(u.mean()), 2 * float(u.std()) / math.sqrt(len(u))
