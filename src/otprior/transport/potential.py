"""The semi-dual of optimal transport from N(0, I_d) to a discrete measure ν = Σ ν_i δ_{y_i}.

For the cost |z − y|²/2 the Brenier potential is the largest of N affine functions,

    u(z) = max_i ⟨z, y_i⟩ + h_i,

and the map ∇u sends z to y_{i(z)}, i(z) the argmax; the points with i(z) = i are the Laguerre cell of y_i. The
offsets h minimise the convex semi-dual F(h) = E u(z) − Σ ν_i h_i, whose gradient is P(i(z) = i) − ν_i. For any
h the map is optimal onto its own masses p_i = P(i(z) = i). Only these can be wrong, and

    χ²(p, ν) = Σ_i (p_i − ν_i)²/ν_i

measures by how much (`chi_squared`). Everything here is a function of its arguments; nothing here iterates.

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

from otprior.transport.measure import rows_per_block, weighted_mean
from otprior.transport.near_maximum import Candidates
from otprior.utils.torch_state import plain_torch, product_roundoff_unit
from otprior.utils.validation import check_tensor, require

# Entries of one block of the score matrix: 16 MiB of float32, whatever the batch and the number of atoms.
SCORES_PER_BLOCK = 1 << 22
ATOMS_PER_BLOCK = 1 << 14

# The smoothed map leaves out atoms whose share is below exp(−16) of the largest: float32 rounding of it.
LEAST_LOG_SHARE = -16.0

# Where more of all pairs of points and atoms than this matter, a whole product is faster than picking them.
DENSE_ABOVE = 1 / 64

# Entries of atoms that are scored in float64 at a time.
EXACT_PER_BLOCK = 1 << 18

ROUNDING_DEVIATIONS = 8.0  # λ of `product_roundoff`


@dataclass(frozen=True)
class BrenierPotential:
    """u(z) = max_i ⟨z, y_i⟩ + h_i, and the transport map ∇u.

    Attributes:
        atoms: y, shape (N, d), float32 or float64.
        offsets: h, shape (N,), float64; −∞ for an atom that no point may be sent to.
        radius: max_i |y_i|, which bounds the rounding error of a score.

    Examples:
        >>> cells = BrenierPotential.build(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.zeros(2))
        >>> cells.assign(torch.tensor([[0.5, 2.0], [-0.5, 2.0]]))
        tensor([1, 0])
    """

    atoms: Tensor
    offsets: Tensor
    radius: float

    @classmethod
    @plain_torch()
    def build(cls, atoms: Tensor, offsets: Tensor, radius: float | None = None) -> BrenierPotential:
        """From atoms (N, d) and offsets (N,); `radius`, if known, saves a pass over the atoms.

        Raises:
            ValueError: If the atoms are no floating matrix, or there is not one offset an atom.
        """
        check_tensor("atoms", atoms)
        check_tensor("offsets", offsets)
        matrix = atoms.ndim == 2 and atoms.numel() > 0 and atoms.is_floating_point()
        rule = "a floating matrix (N, d), not empty"
        require(matrix, "atoms", rule, f"{atoms.dtype} of shape {tuple(atoms.shape)}")
        rule = f"of shape ({len(atoms)},), one an atom"
        require(tuple(offsets.shape) == (len(atoms),), "offsets", rule, tuple(offsets.shape))
        # (Maxima are written into buffers, which a graph would not allow.)
        atoms, offsets = atoms.detach(), offsets.detach()
        if radius is None:
            radius = largest_norm(atoms)
        return cls(atoms, offsets.to(atoms.device, torch.float64), radius)

    @plain_torch()
    def assign(self, z: Tensor) -> Tensor:
        """Finds the cell i(z) of each point; z (B, d) to int64 (B,).

        Scores are screened in the atoms' dtype. Where rounding could decide, the candidates within the error bound of
        the maximum are scored again in float64, and ties go to the lowest index. So a row's cell depends on the row
        alone: not on the rest of the batch, the number of threads or the device.
        """
        return torch.cat(
            [self._assign_block(block, *self._candidates(block, 0.0)) for block in self._blocks(z)]
        )

    def value(self, z: Tensor) -> Tensor:
        """u(z), float64; z (B, d) to (B,)."""
        cell = self.assign(z)
        return (z.double() * self.atoms[cell].double()).sum(dim=1) + self.offsets[cell]

    def barycentre(self, z: Tensor, smoothing: float) -> Tensor:
        """Applies the smoothed map: the mean of the atoms weighted by the softmax of their scores over ε.

        Arguments:
            z: Points, shape (B, d).
            smoothing: ε > 0, in units of a score.

        Returns:
            Shape (B, d), in the atoms' dtype.
        """
        return self.assign_and_barycentre(z, smoothing)[1]

    @plain_torch()
    def assign_and_barycentre(
        self, z: Tensor, smoothing: float, values: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the results of `assign` and `barycentre`, from one product of scores.

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

    @plain_torch()
    def draw(self, z: Tensor, smoothing: float, uniform: Tensor) -> Tensor:
        """Draws an atom for each point, with the probabilities softmax_i (⟨z, y_i⟩ + h_i)/ε.

        Arguments:
            z: Points, shape (B, d).
            smoothing: ε > 0, in units of a score.
            uniform: Draws from [0, 1), shape (B,), float64: quantiles, in the atoms' order.

        Returns:
            Shape (B,), int64. Atoms that together have a share below exp(−16) are left out.
        """
        width = smoothing * (math.log(len(self.atoms)) - LEAST_LOG_SHARE)
        found, first = [], 0
        for block in self._blocks(z):
            own = uniform[first : first + len(block)]
            first += len(block)
            row, atom = self._candidates(block, width)
            if len(row) > DENSE_ABOVE * len(block) * len(self.atoms):
                scores = torch.addmm(self._rounded_offsets, block, self.atoms.T).double()
                total = torch.softmax(scores / smoothing, dim=1).cumsum(dim=1)
                place = torch.searchsorted(total, (own * total[:, -1])[:, None], right=True)[:, 0]
                found.append(place.clamp(max=len(self.atoms) - 1))
            else:
                order = torch.argsort(row * len(self.atoms) + atom)
                row, atom = row[order], atom[order]
                found.append(
                    atom[_quantiles(len(block), row, self._exact(block, row, atom) / smoothing, own)]
                )
        return torch.cat(found)

    def _blocks(self, z: Tensor) -> Iterator[Tensor]:
        return iter(z.split(max(1, SCORES_PER_BLOCK // min(len(self.atoms), ATOMS_PER_BLOCK))))

    def _candidates(self, z: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """Pairs (row, atom), int64: all atoms whose true score may lie within `width` of the maximum."""
        z = z.detach()  # which atoms they are has no gradient
        error = self._score_size(z) * product_roundoff(z.shape[1] + 2, self.atoms.dtype)
        candidates = Candidates((width + 2 * error).to(self.atoms.dtype))
        for first in range(0, len(self.atoms), ATOMS_PER_BLOCK):
            block = slice(first, first + ATOMS_PER_BLOCK)
            candidates.add(torch.addmm(self._rounded_offsets[block], z, self.atoms[block].T), first)
        return candidates.pairs()

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
        """Chooses the best among candidates by float64 scores; ties go to the lowest index.

        Arguments:
            z: Points, shape (B, d).
            row: Row of each candidate, shape (P,), int64.
            atom: Index of each candidate, shape (P,), int64.

        Returns:
            Shape (B,), int64; N for a row without candidates.
        """
        return self._choose(z, row, atom, self._exact(z, row, atom))

    def _choose(self, z: Tensor, row: Tensor, atom: Tensor, exact: Tensor) -> Tensor:
        """`settle` for given exact scores (P,)."""
        best = exact.new_full((len(z),), -math.inf).scatter_reduce_(0, row, exact, "amax")
        tied = exact >= (best - 2 * (z.shape[1] + 2) * 2.0**-53 * self._score_size(z))[row]
        lowest = torch.full((len(z),), len(self.atoms), dtype=torch.int64, device=z.device)
        return lowest.scatter_reduce_(0, row[tied], atom[tied], "amin")

    def _score_size(self, z: Tensor) -> Tensor:
        """|z| max_i |y_i| + max_i |h_i|, to which rounding errors of scores are proportional; (B,), float64."""
        return torch.linalg.vector_norm(z, dim=1, dtype=torch.float64) * self.radius + self._largest_offset

    # (Cached: for a single point they would cost about as much as the search itself.)

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
    # (Drop candidates kept only by the rounding margin.)
    share[share < math.exp(LEAST_LOG_SHARE)] = 0.0
    share /= share.new_zeros(rows).index_add_(0, row, share)[row]
    mean = torch.zeros(rows, values.shape[1], dtype=torch.float64, device=values.device)
    return mean.index_add_(0, row, share[:, None] * values).to(values.dtype)


def _quantiles(rows: int, row: Tensor, log_share: Tensor, uniform: Tensor) -> Tensor:
    """For each of `rows` the place, among its ascending entries (P,), of a quantile of the shares exp(`log_share`)."""
    best = log_share.new_full((rows,), -math.inf).scatter_reduce_(0, row, log_share, "amax")
    total = torch.exp(log_share - best[row]).cumsum(dim=0)
    last = torch.bincount(row, minlength=rows).cumsum(dim=0) - 1
    end = total[last]
    start = torch.cat([end.new_zeros(1), end[:-1]])
    place = torch.searchsorted(total, start + uniform * (end - start), right=True)
    return torch.minimum(place, last)


def largest_norm(rows: Tensor) -> float:
    """max_i |y_i| over rows (N, d), computed in float64."""
    blocks = rows.split(rows_per_block(rows))
    return max(float(torch.linalg.vector_norm(block, dim=1, dtype=torch.float64).max()) for block in blocks)


def matmul_roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff of matrix products of `dtype`, under torch's current setting."""
    return 2.0**-53 if dtype == torch.float64 else product_roundoff_unit()


def product_roundoff(terms: int, dtype: torch.dtype) -> float:
    """The rounding error of an inner product ⟨z, y⟩ of so many terms in `dtype`, over |z| |y|: a bound.

    That is n u in the worst case. Rounding errors of zero mean exceed λ √n u with a probability below
    2 n exp(−λ²/2) a product (Higham & Mary, A new approach to probabilistic rounding error analysis, SIAM J. Sci.
    Comput. 41 (2019), theorem 3.1); with λ = 8 that is 2e-11 for n = 800.
    """
    return min(terms, ROUNDING_DEVIATIONS * terms**0.5) * matmul_roundoff(dtype)


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
    size, mean = rows_per_block(atoms), weighted_mean(atoms, w)
    norms = torch.empty(len(atoms), dtype=torch.float64, device=atoms.device)
    for block, into in zip(atoms.split(size), norms.split(size)):
        into.copy_(torch.linalg.vector_norm(block.double() - mean, dim=1))
    # An atom at the mean has a cell too; without a floor its τ would vanish. (The median, since one outlier
    # must not lift all others.)
    return norms.clamp(min=1e-3 * float(norms.median())) / natural_quantile(w)


def dual_value(potential: BrenierPotential, weights: Tensor, z: Tensor) -> tuple[float, float]:
    """Estimates a lower bound of W2(N(0, I), ν)², and its standard error over the draws.

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
