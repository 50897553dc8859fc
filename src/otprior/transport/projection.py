"""Transport solved for atoms projected on their leading principal axes.

With P the projection on r orthonormal axes, offsets h solved for the atoms P y_i make the cells of the map
z ↦ y_{i(Pz)} weigh ν exactly as well as they do in r dimensions, since Pz is normal too. The cost is larger: the
map is optimal for the projected problem, and for any orthonormal axes u_k that complete the r,

    W2² (of the map) − W2² (optimal) ≤ 2 Σ_{k>r} √λ_k,   λ_k = Σ_i ν_i ⟨y_i − mean, u_k⟩²,

as the best coupling correlates z with the atoms along u_k by at most √λ_k (Cauchy-Schwarz), and the map not at all.

That is loose where many axes are left out. For the masses that the map has, W2² is also at least the dual value of the
same offsets over the whole atoms, and so

    W2² (of the map) − W2² (optimal) ≤ 2 E[max_j (⟨z, y_j⟩ + h_j) − (⟨z, y_i⟩ + h_i)],   i = i(Pz),

a mean that draws measure: by how much a draw's full scores prefer another atom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.transport.chi_squared import ONE_SIDED_95
from otprior.transport.moments import FULL_COVARIANCE_LIMIT, streaming_spectrum
from otprior.transport.potential import BrenierPotential
from otprior.utils.random import normal_block
from otprior.utils.torch_state import one_thread
from otprior.utils.validation import check_integer, require

ROWS_PER_BLOCK = 1 << 14
EXCESS_BLOCKS, EXCESS_BLOCK = 8, 512


@dataclass(frozen=True)
class Projection:
    """Orthonormal axes, and what is lost by using them alone.

    Attributes:
        axes: Columns u_1, …, u_r, shape (d, r), float64.
        variance_kept: Share of the atoms' variance along them.
        cost_excess: The bound 2 Σ_{k>r} √λ_k on W2² of the map less the optimal W2².
    """

    axes: Tensor
    variance_kept: float
    cost_excess: float

    def apply(self, rows: Tensor) -> Tensor:
        """Coordinates of rows (B, d) along the axes, shape (B, r), in the rows' dtype.

        Computed in float64, so that a row's coordinates do not depend on the other rows.
        """
        axes = self.axes.to(rows.device)
        return torch.cat([(part.double() @ axes).to(rows.dtype) for part in rows.split(ROWS_PER_BLOCK)])


def project(atoms: Tensor, weights: Tensor, rank: int | float) -> Projection:
    """Finds the leading principal axes of atoms: the same on any number of threads.

    Axes of equal variance, and all signs, are decided by the last digits of sums, which threads share out.

    Arguments:
        atoms: y, shape (N, d).
        weights: ν, shape (N,), sum 1; the variances are weighted, the axes are of equal weights.
        rank: How many axes, an integer; or the share of variance to keep, a float below 1.

    Raises:
        ValueError: On another rank, or a share in more than 4,096 dimensions, where not all axes are known.
    """
    dim = atoms.shape[1]
    by_share = isinstance(rank, float)
    if by_share:
        require(0 < rank < 1, "rank", "an integer, or a share of variance in (0, 1)", rank)
        require(
            dim <= FULL_COVARIANCE_LIMIT,
            "rank",
            f"an integer in more than {FULL_COVARIANCE_LIMIT} dimensions",
            rank,
        )
    else:
        check_integer("rank", rank, 1, dim)
    whole = dim <= FULL_COVARIANCE_LIMIT
    with one_thread():
        basis = streaming_spectrum(atoms, dim if whole else int(rank)).basis.to(atoms.device)
        along, total = _variances(atoms, weights.to(atoms.device, torch.float64), basis)
    kept = int(torch.searchsorted(along.cumsum(0), rank * total)) + 1 if by_share else int(rank)
    share = float(along[:kept].sum() / total) if total > 0 else 1.0
    # Where the other axes are unknown, Σ √λ_k ≤ √(number · Σ λ_k).
    lost = along[kept:].clamp(min=0).sqrt().sum() if whole else ((dim - kept) * (1 - share) * total) ** 0.5
    return Projection(basis[:, :kept].contiguous(), share, 2 * float(lost))


def excess_share(
    projection: Projection, atoms: Tensor, projected: Tensor, offsets: Tensor, seed: int
) -> float:
    """Estimates an upper 95 % limit of the bound on what the axes left out add to W2², as a share of W2².

    Arguments:
        projection: P.
        atoms: y, shape (N, d), of positive weight.
        projected: P y, shape (N, r), as `Projection.apply` gives them.
        offsets: h, solved for P y; shape (N,).
        seed: Of the draws.
    """
    whole = BrenierPotential.build(atoms, offsets)
    along = BrenierPotential.build(projected, offsets)
    excess, cost = [], []
    for block in range(EXCESS_BLOCKS):
        z = normal_block(seed, "cost of a projection", block, EXCESS_BLOCK, atoms.shape[1]).to(atoms.device)
        cell = along.assign(projection.apply(z))
        chosen = atoms[cell].double()
        score = (z.double() * chosen).sum(dim=1) + whole.offsets[cell]
        # (The cell may be the best by all axes too, and its score then differs from the maximum by rounding.)
        excess.append(2 * (whole.value(z) - score).clamp(min=0))
        cost.append(((z.double() - chosen) ** 2).sum(dim=1))
    gap = torch.cat(excess)
    upper = float(gap.mean()) + ONE_SIDED_95 * float(gap.std()) / math.sqrt(len(gap))
    return upper / float(torch.cat(cost).mean())


def _variances(atoms: Tensor, weights: Tensor, basis: Tensor) -> tuple[Tensor, float]:
    """Weighted variances of atoms along the columns of `basis`, and in all directions together."""
    mean = torch.zeros(atoms.shape[1], dtype=torch.float64, device=atoms.device)
    for w, part in zip(weights.split(ROWS_PER_BLOCK), atoms.split(ROWS_PER_BLOCK)):
        mean += w @ part.double()
    along = torch.zeros(basis.shape[1], dtype=torch.float64, device=atoms.device)
    total = 0.0
    for w, part in zip(weights.split(ROWS_PER_BLOCK), atoms.split(ROWS_PER_BLOCK)):
        centred = part.double() - mean
        along += w @ (centred @ basis) ** 2
        total += float(w @ (centred**2).sum(dim=1))
    return along, total
