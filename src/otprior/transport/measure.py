"""Discrete measures ν = Σ ν_i δ_{y_i}: the targets of the semi-discrete transport problem.

A user's atoms may repeat and may have zero weight. Both leave the transport problem ill-posed (the cell of a
repeated atom is not determined, that of an atom of zero weight is empty), so equal atoms are merged into the first
of them and atoms of zero weight are removed; `DiscreteMeasure` keeps the index of each given atom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from otprior.utils.validation import as_numbers, check_finite, require

# User weights come as float32 or as decimal text: a sum nearer to 1 than this is rounding, any other a mistake.
WEIGHT_SUM_TOLERANCE = 1e-4

# Rows, and entries, converted to float64 at a time; a whole copy of a million atoms would take gigabytes.
ROWS_PER_BLOCK, ENTRIES_PER_BLOCK = 1 << 14, 1 << 20


@dataclass(frozen=True)
class DiscreteMeasure:
    """Distinct atoms of positive weight, and how they correspond to the atoms given.

    Attributes:
        atoms: Distinct atoms, shape (N, d), float32 (or float64 if given so).
        weights: Their masses, shape (N,), float64, positive, sum 1.
        index: For each atom the lowest index, among those given, of the atoms merged into it; shape (N,).
        merged_into: For each given atom its row in `atoms`, or −1 if its weight is zero; shape (M,).

    Examples:
        >>> DiscreteMeasure.of(torch.tensor([[1.0], [1.0], [2.0]])).weights  # a repeated atom is one
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """

    atoms: Tensor
    weights: Tensor
    index: Tensor
    merged_into: Tensor

    @classmethod
    def of(cls, atoms: Tensor | DiscreteMeasure, weights: Tensor | None = None) -> DiscreteMeasure:
        """`atoms` where they are a measure already, `build(atoms, weights)` otherwise.

        Raises:
            ValueError: If weights are given with a measure; and as `build`.
        """
        if not isinstance(atoms, DiscreteMeasure):
            return cls.build(atoms, weights)
        require(weights is None, "weights", "None with a measure, which has its own", "others")
        return atoms

    @classmethod
    def build(cls, atoms: Tensor, weights: Tensor | None = None) -> DiscreteMeasure:
        """Checks atoms and weights, merges equal atoms and normalises the weights.

        Arguments:
            atoms: Shape (M, d), floating point, finite; half precision is taken as float32.
            weights: Shape (M,), nonnegative, sum 1 up to rounding; uniform by default.

        Raises:
            ValueError: If the atoms are not a non-empty finite matrix, or the weights are negative, are not
                finite, do not sum to 1, or have another length.
        """
        require(isinstance(atoms, Tensor), "atoms", "a torch.Tensor", type(atoms).__name__)
        require(
            atoms.ndim == 2 and atoms.numel() > 0, "atoms", "of shape (N, d), not empty", tuple(atoms.shape)
        )
        require(atoms.is_floating_point(), "atoms", "floating point", atoms.dtype)
        check_finite("atoms", atoms)
        atoms = atoms.detach() if atoms.dtype == torch.float64 else atoms.detach().float()
        count = len(atoms)
        if weights is None:
            weights = torch.full((count,), 1.0 / count, dtype=torch.float64)
        weights = as_numbers("weights", weights)
        require(not weights.is_complex(), "weights", "real", weights.dtype)
        weights = weights.to("cpu", torch.float64)
        require(
            weights.shape == (count,), "weights", f"of shape ({count},), one an atom", tuple(weights.shape)
        )
        check_finite("weights", weights)
        require(
            bool((weights >= 0).all()), "weights", "nonnegative", f"a minimum of {float(weights.min()):.3g}"
        )
        total = float(weights.sum())
        require(abs(total - 1) <= WEIGHT_SUM_TOLERANCE, "weights", "of sum 1", f"a sum of {total:.6g}")

        active = torch.nonzero(weights > 0).reshape(-1)
        # (A selection is a copy.)
        first, group = _group_equal_rows(atoms if len(active) == count else atoms[active])
        merged_into = torch.full((count,), -1, dtype=torch.int64)
        merged_into[active] = group
        mass = torch.zeros(len(first), dtype=torch.float64).index_add_(0, group, weights[active])
        index = active[first]
        distinct = atoms if len(index) == count else atoms[index.to(atoms.device)]
        return cls(distinct, mass / mass.sum(), index, merged_into)

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def dim(self) -> int:
        """The dimension d of the space."""
        return self.atoms.shape[1]

    @property
    def removed(self) -> Tensor:
        """Indices, among the atoms given, of those of zero weight; shape (R,)."""
        return torch.nonzero(self.merged_into < 0).reshape(-1)

    def given_weights(self) -> Tensor:
        """Masses of the atoms as given, those of equal atoms all on the first of them; (M,), float64."""
        masses = torch.zeros(len(self.merged_into), dtype=torch.float64)
        masses[self.index] = self.weights
        return masses

    def mean(self) -> Tensor:
        """The mean Σ ν_i y_i, shape (d,), float64."""
        weights = self.weights.to(self.atoms.device)
        return weighted_mean(self.atoms, weights)

    def centred(self) -> Tensor:
        """The atoms less their mean, shape (N, d), in their dtype."""
        mean = self.mean()
        rows, centred = rows_per_block(self.atoms), torch.empty_like(self.atoms)
        for part, into in zip(self.atoms.split(rows), centred.split(rows)):
            into.copy_(part.double() - mean)
        return centred

    def nearly_centred(self) -> bool:
        """Whether the mean is no longer than the farthest atom is from it."""
        mean = self.mean()
        parts = self.atoms.split(rows_per_block(self.atoms))
        farthest = max(float(torch.linalg.vector_norm(part.double() - mean, dim=1).max()) for part in parts)
        return float(mean.norm()) <= farthest

    def spread_out(self, values: Tensor, fill: float) -> Tensor:
        """Copies values of the distinct atoms, shape (N,), to the atoms given, shape (M,); `fill` on removed ones."""
        padded = torch.cat([values, values.new_full((1,), fill)])
        return padded[self.merged_into.to(values.device)]


def rows_per_block(atoms: Tensor) -> int:
    """How many rows of (N, d) to convert to float64 at a time."""
    return min(ROWS_PER_BLOCK, max(1, ENTRIES_PER_BLOCK // atoms.shape[1]))


def weighted_mean(rows: Tensor, weights: Tensor) -> Tensor:
    """Σ ν_i y_i over rows (N, d) of weights (N,), float64 on the rows' device; shape (d,), float64."""
    size, total = rows_per_block(rows), torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for w, part in zip(weights.split(size), rows.split(size)):
        total += w @ part.double()
    return total


def _group_equal_rows(atoms: Tensor) -> tuple[Tensor, Tensor]:
    """The first row of each group of equal rows (in order of appearance), and each row's group."""
    # Rows are compared by a 64-bit hash: sorting whole rows is slow and takes twice the memory.
    size, found = rows_per_block(atoms), torch.empty(len(atoms), dtype=torch.int64)
    # (Small results that live between large blocks would keep their memory from being used again.)
    for part, into in zip(atoms.cpu().split(size), found.split(size)):
        into.copy_(_hash_rows(part))
    _, first, group = np.unique(found.numpy(), return_index=True, return_inverse=True)
    same = torch.from_numpy(first[group.reshape(-1)])
    repeated = torch.nonzero(same != torch.arange(len(atoms))).reshape(-1)
    if not bool((atoms[repeated.to(atoms.device)] == atoms[same[repeated].to(atoms.device)]).all()):
        # Two different rows share a hash: most unlikely, but they must not be merged.
        _, first, group = np.unique(atoms.cpu().numpy() + 0.0, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return torch.from_numpy(first[order]), torch.from_numpy(rank[group.reshape(-1)])


def _hash_rows(rows: Tensor) -> Tensor:
    """A 64-bit hash of each row, equal for equal rows; int64 (N,)."""
    # Adding zero turns -0.0 into 0.0, so that equal numbers have equal bits.
    words = (rows + 0.0).view(torch.int32 if rows.dtype == torch.float32 else torch.int64).long()
    random = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (words.shape[1],), generator=random) | 1
    # (Multiplication wraps around; the shift brings high bits, which a product leaves where they are, down.)
    words *= factors
    words ^= words >> 29
    return (words * factors.flip(0)).sum(dim=1)
