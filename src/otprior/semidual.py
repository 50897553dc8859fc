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

import torch
from torch import Tensor

from otprior.validation import require

__all__ = [
    "BrenierPotential",
    "ChiSquared",
    "chi_squared",
    "dual_value",
    "natural_quantile",
    "natural_scale",
]

# Entries of one block of the score matrix: 64 MiB of float32, whatever the batch and the number of atoms.
SCORES_PER_BLOCK = 1 << 24

# A softmax over thousands of scores is mostly shares that are no normal float32, with which a CPU computes very slowly.
SMALLEST_SHARE = 1e-30

# Unit roundoff of a float32 matrix product under torch.set_float32_matmul_precision(...).
MATMUL_ROUNDOFF = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}


@dataclass(frozen=True)
class BrenierPotential:
    """u(z) = max_i ⟨z, y_i⟩ + h_i, and the transport map ∇u.

    Attributes:
        atoms: y, shape (N, d), float32.
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
            radius = float(torch.linalg.vector_norm(atoms, dim=1, dtype=torch.float64).max())
        return cls(atoms, offsets.to(atoms.device, torch.float64), radius)

    def scores(self, z: Tensor) -> Tensor:
        """⟨z_b, y_i⟩ + h_i in the atoms' dtype; z (B, d) to (B, N)."""
        return torch.addmm(self._rounded_offsets, z, self.atoms.T)

    def assign(self, z: Tensor) -> Tensor:
        """i(z): the cell of each point; z (B, d) to int64 (B,).

        Scores are screened in float32. Where rounding could decide, the candidates within the error bound of
        the maximum are scored again in float64, and what is still tied goes to the lowest index. So a row's cell
        depends on nothing but the row: not on the batch around it, the number of threads or the device.
        """
        return torch.cat([self._assign_block(block, self.scores(block)) for block in self._blocks(z)])

    def value(self, z: Tensor) -> Tensor:
        """u(z), float64; z (B, d) to (B,)."""
        cell = self.assign(z)
        return (z.double() * self.atoms[cell].double()).sum(dim=1) + self.offsets[cell]

    def soft_assign(self, z: Tensor, smoothing: float) -> Tensor:
        """softmax_i of the scores over `smoothing`: the gradient of the smoothed potential in h.

        Arguments:
            z: Points, shape (B, d).
            smoothing: ε > 0, in units of a score.

        Returns:
            Probabilities, shape (B, N), in the atoms' dtype.
        """
        return _shares(self.scores(z), smoothing)

    def soft_masses(self, z: Tensor, smoothing: float) -> Tensor:
        """The mean of `soft_assign` over the points z (B, d): the smoothed cells' masses, (N,), float64."""
        masses = torch.zeros_like(self.offsets)
        for block in self._blocks(z):
            masses += self.soft_assign(block, smoothing).sum(dim=0, dtype=torch.float64)
        return masses / len(z)

    def barycentre(self, z: Tensor, smoothing: float) -> Tensor:
        """The mean of the atoms weighted by `soft_assign`: the smoothed map; z (B, d) to (B, d)."""
        return torch.cat([self.soft_assign(block, smoothing) @ self.atoms for block in self._blocks(z)])

    def assign_and_barycentre(self, z: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        """What `assign` and `barycentre` return, from one product of scores."""
        cells, means = [], []
        for block in self._blocks(z):
            scores = self.scores(block)
            cells.append(self._assign_block(block, scores))
            means.append(_shares(scores, smoothing) @ self.atoms)
        return torch.cat(cells), torch.cat(means)

    def _blocks(self, z: Tensor) -> Iterator[Tensor]:
        return iter(z.split(max(1, SCORES_PER_BLOCK // len(self.atoms))))

    def _assign_block(self, z: Tensor, scores: Tensor) -> Tensor:
        best, cell = scores.max(dim=1)
        near = scores >= (best - 2 * self._rounding_bound(z)).to(scores.dtype)[:, None]
        contested = torch.nonzero(near.sum(dim=1) > 1).reshape(-1)
        if len(contested):
            cell[contested] = self._settle(z[contested], near[contested])
        return cell

    def _rounding_bound(self, z: Tensor) -> Tensor:
        """How far a screened score may lie from the true one; shape (B,). Higham (2002), eq. 3.5."""
        return self._score_size(z) * ((z.shape[1] + 2) * _matmul_roundoff(self.atoms.dtype))

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

    def _settle(self, z: Tensor, near: Tensor) -> Tensor:
        """The cell among the candidates `near` (B, N) by float64 scores; ties to the lowest index."""
        row, candidate = torch.nonzero(near, as_tuple=True)
        # An outlier among the atoms widens the bound, and then candidates are many: they too come in blocks.
        size = max(1, SCORES_PER_BLOCK // z.shape[1])
        pairs = zip(row.split(size), candidate.split(size))
        exact = torch.cat([(z[r].double() * self.atoms[c].double()).sum(dim=1) for r, c in pairs])
        exact += self.offsets[candidate]
        best = exact.new_full((len(z),), -math.inf).scatter_reduce_(0, row, exact, "amax")
        tied = exact >= (best - 2 * (z.shape[1] + 2) * 2.0**-53 * self._score_size(z))[row]
        lowest = torch.full((len(z),), len(self.atoms), dtype=torch.int64, device=z.device)
        return lowest.scatter_reduce_(0, row[tied], candidate[tied], "amin")


def _shares(scores: Tensor, smoothing: float) -> Tensor:
    """softmax of `scores` (B, N), which it overwrites, over `smoothing`."""
    share = torch.softmax(scores.div_(smoothing), dim=1)
    return torch.nn.functional.threshold(share, SMALLEST_SHARE, 0.0)


def _matmul_roundoff(dtype: torch.dtype) -> float:
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
    norms = torch.linalg.vector_norm(atoms.double() - w @ atoms.double(), dim=1)
    # An atom at the mean has a cell too; without a floor its τ would vanish. (The median, since one outlier
    # must not lift all others.)
    return norms.clamp(min=1e-3 * float(norms.median())) / natural_quantile(w)


@dataclass(frozen=True)
class ChiSquared:
    """An unbiased estimate of χ²(p, ν) with its standard error.

    Attributes:
        value: The estimate; it can be slightly negative when p is close to ν.
        standard_error: Its standard deviation, estimated.
        draws: The number of draws that it rests on, independent of the potential.
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
