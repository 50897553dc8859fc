r"""Draws near the singular set of a semi-discrete map, and what is left when they are rejected.

The potential u(z) = max_i ⟨z, y_i⟩ + h_i is a surface of flat pieces with normals (y_i, −1), and its gradient, the
map, jumps where two pieces meet. Let i_1, …, i_k be the k highest pieces over a draw z, i_1 = i(z). The map jumps by
much near z if the pieces that come next are all steep against its own:

    θ_j = ∠((y_{i_1}, −1), (y_{i_j}, −1)) > θ̂    for j = 2, …, k,

and such draws are rejected, as candidates for a mixture of modes. What is kept falls in cell i with probability p_i
a_i/Σ p_j a_j, a_i the share of the cell that is kept: so the filter moves the masses off the weights that the map was
solved for, and its χ² is to be looked at again.

The map does not change when the atoms are moved or scaled (with h), the angles do: they are seen from the origin of the
atoms and depend on their unit.

References:
    An, Guo, Lei, Luo, Yau & Gu, AE-OT: a new generative model based on extended semi-discrete optimal transport (2020).
    https://openreview.net/forum?id=HkldyTNYwH
    Li et al., DPM-OT (2023). https://arxiv.org/abs/2307.11308
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.transport.potential import ATOMS_PER_BLOCK, SCORES_PER_BLOCK, BrenierPotential
from otprior.utils.validation import check_integer, require

# Candidates beyond k that are scored again in float64, in case rounding put one of them ahead.
SPARE = 4
# Pairs whose normals are compared at a time.
PAIRS_PER_BLOCK = 1 << 12


def leading_cells(potential: BrenierPotential, z: Tensor, k: int) -> Tensor:
    """The k highest pieces over each draw, highest first; z (B, d) to int64 (B, k).

    Scores are screened in the atoms' dtype, and the best k and a few more compared in float64; ties go to the lower
    index.

    Raises:
        ValueError: If k is not between 1 and the number of atoms.
    """
    count = len(potential.atoms)
    check_integer("k", k, 1, count)
    wide = min(k + SPARE, count)
    found = []
    for block in z.split(max(1, SCORES_PER_BLOCK // count)):
        scores = torch.addmm(potential.offsets.to(potential.atoms.dtype), block, potential.atoms.T)
        # (Sorted, so that the stable sort below gives ties to the lower index.)
        cells = scores.topk(wide, dim=1).indices.sort(dim=1).values
        atoms = potential.atoms[cells].double()
        exact = torch.einsum("bkd,bd->bk", atoms, block.double()) + potential.offsets[cells]
        order = exact.argsort(dim=1, descending=True, stable=True)[:, :k]
        found.append(cells.gather(1, order))
    return torch.cat(found)


def lifted_angles(a: Tensor, b: Tensor) -> Tensor:
    """∠((a, −1), (b, −1)) in radians; (..., d) twice to (...), float64.

    By 2 atan2(|u − v|, |u + v|) of unit vectors, which loses nothing at small angles as the arc cosine does.

    Source: Kahan, "How futile are mindless assessments of roundoff?", 2006, section 12
    """
    u, v = (_unit(rows) for rows in (a, b))
    apart, together = (torch.linalg.vector_norm(each, dim=-1) for each in (u - v, u + v))
    return 2 * torch.atan2(apart, together)


def smallest_angle(atoms: Tensor) -> float:
    """The least lifted angle between two different atoms (N, d), N >= 2, in radians; equal ones count once."""
    rows = torch.unique(atoms, dim=0)
    require(len(rows) >= 2, "atoms", "two different ones at least", len(rows))
    unit = _unit(rows)
    place, cosine = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
    for first in range(0, len(unit), ATOMS_PER_BLOCK // 16):
        block = unit[first : first + ATOMS_PER_BLOCK // 16]
        cosines = block @ unit.T
        cosines[torch.arange(len(block)), first + torch.arange(len(block))] = -2.0
        best = cosines.max(dim=1)
        place, cosine = torch.cat([place, best.indices]), torch.cat([cosine, best.values])
    # (Cosines near 1 say little of small angles: the nearest pairs are compared as they are.)
    near = cosine.topk(min(16, len(cosine))).indices
    return float(lifted_angles(rows[near], rows[place[near]]).min())


@dataclass(frozen=True)
class AngleFilter:
    """Keeps a draw if at least one of the pieces 2, …, k over it is within an angle of its own piece.

    Attributes:
        topk: k >= 2.
        threshold: θ̂ in radians, in (0, π).
    """

    topk: int
    threshold: float

    def __post_init__(self) -> None:
        check_integer("topk", self.topk, 2)
        require(0 < self.threshold < torch.pi, "threshold", "an angle in (0, π) radians", self.threshold)

    def kept(self, angles: Tensor) -> Tensor:
        """Which draws stay; the `cell_angles` of m >= k leading cells, (B, m − 1), to bool (B,)."""
        return angles[:, : self.topk - 1].amin(dim=1) <= self.threshold


def cell_angles(atoms: Tensor, cells: Tensor) -> Tensor:
    """θ_2, …, θ_m of each draw.

    Arguments:
        atoms: y, shape (N, d), in the unit and from the origin that angles are to be seen in.
        cells: Of `leading_cells`, shape (B, m), m >= 2.

    Returns:
        Radians, float64 (B, m − 1).
    """
    first, others = cells[:, :1].expand(-1, cells.shape[1] - 1), cells[:, 1:]
    pairs = zip(first.reshape(-1).split(PAIRS_PER_BLOCK), others.reshape(-1).split(PAIRS_PER_BLOCK))
    return torch.cat([lifted_angles(atoms[i], atoms[j]) for i, j in pairs]).reshape(others.shape)


def _unit(rows: Tensor) -> Tensor:
    """(y, −1)/|(y, −1)|, float64."""
    lifted = torch.cat(
        [rows.double(), rows.new_full((*rows.shape[:-1], 1), -1.0, dtype=torch.float64)], dim=-1
    )
    return lifted / torch.linalg.vector_norm(lifted, dim=-1, keepdim=True)
