r"""The adjacency of the Laguerre cells: the normal mass of the faces between them, sampled along random circles.

Two cells i, j that share a face F move mass across it when an offset changes. With φ the density of N(0, I_d),

    H_ij = ∂p_i/∂h_j · (−1) = (1/|y_i − y_j|) ∫_F φ dS,

and the Hessian of the semi-dual is the graph Laplacian L = diag(H 1) − H. As zφ = −∇φ, the divergence theorem on cell i
gives the mean of the noise in it,

    m_i = E[z | i(z) = i] = (1/p_i) Σ_j H_ij (y_i − y_j) = (1/p_i) (L y)_i.

*Sampling.* For independent a, b ~ N(0, I) the circle z(θ) = a cos θ + b sin θ has z(θ) ~ N(0, I) at each θ and a
velocity of the same law, independent of it. So it crosses F with the density E|⟨n, ż⟩| = √(2/π) of its mass, and

    E[crossings of F] = 2π √(2/π) ∫_F φ dS = √(8π) ∫_F φ dS.

Counts of crossings are therefore unbiased, without a smoothing width and in any dimension; the arcs between them
estimate the masses p_i. (A line would do as well, by Crofton's formula, but is short: a circle has length 2π √d.)

How the cells along a circle are found is in `cells.circles`. (One that is entered and left between two of its angles
is missed: of the crossings of a plane at a distance c from the origin a share (π c/256)²/2 at most, 7e-4 at c = 3.)

References:
    Kitagawa, Mérigot & Thibert, Convergence of a Newton algorithm for semi-discrete optimal transport (2019), for the
    Hessian. https://arxiv.org/abs/1603.05579
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.sparse import coo_array, csr_array, diags_array
from torch import Tensor

from otprior.transport.cells.circles import find_crossings
from otprior.transport.cells.search import DRAWS_PER_SET, DrawSets, LaguerreCells
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import SCORES_PER_BLOCK
from otprior.utils.validation import check_integer

CIRCLES_PER_SET = DRAWS_PER_SET // 2
LEAST_DRAWS = 2 * DRAWS_PER_SET
PAIRS_AT_A_TIME = 1 << 12
CROSSINGS_PER_FACE_MASS = math.sqrt(8 * math.pi)


@dataclass(frozen=True)
class Adjacency:
    """The faces between Laguerre cells that were met, each with its mass.

    Pairs of atoms that do not appear were never seen to meet: their entries are zero, or below one crossing.

    Attributes:
        pairs: Indices i < j, among the atoms given, of the cells that meet; int64 (P, 2).
        values: H_ij, shape (P,), float64.
        standard_errors: Their standard errors, shape (P,), from the spread over independent sets of circles.
        masses: p_i as the circles' arcs have it, shape (M,), float64; equal atoms' on the first of them.
        measure: The atoms, and how they correspond to those given.
        draws: Draws of N(0, I) that were taken; two make a circle.
    """

    pairs: Tensor
    values: Tensor
    standard_errors: Tensor
    masses: Tensor
    measure: DiscreteMeasure
    draws: int

    def matrix(self) -> csr_array:
        """H, symmetric with a zero diagonal, sparse (M, M)."""
        i, j = self.pairs.numpy().T
        count = len(self.masses)
        half = coo_array((self.values.numpy(), (i, j)), shape=(count, count)).tocsr()
        return csr_array(half + half.T)

    def laplacian(self) -> csr_array:
        """L = diag(H 1) − H, the Hessian of the semi-dual, sparse (M, M)."""
        h = self.matrix()
        return csr_array(diags_array(h.sum(axis=1)) - h)

    def conditional_means(self) -> tuple[Tensor, Tensor]:
        """The mean of N(0, I) in each cell, m_i = (1/p_i) Σ_j H_ij (y_i − y_j).

        Returns:
            Means (M, d), float64, and the square roots (M,) of their mean squared errors E|m̂_i − m_i|², from those of H
            taken as independent. An atom equal to an earlier one has its values; where no draw fell they are NaN.
        """
        measure, count = self.measure, len(self.measure)
        place = torch.full((len(self.masses),), -1, dtype=torch.int64)
        place[measure.index] = torch.arange(count)
        i, j = place[self.pairs].T
        atoms = measure.atoms.cpu().double()
        pull, square = torch.zeros_like(atoms), torch.zeros(count, dtype=torch.float64)
        parts = (each.split(PAIRS_AT_A_TIME) for each in (i, j, self.values, self.standard_errors))
        for one, two, h, error in zip(*parts):
            apart = atoms[one] - atoms[two]
            pull.index_add_(0, one, h[:, None] * apart)
            pull.index_add_(0, two, -h[:, None] * apart)
            off = error**2 * (apart**2).sum(dim=1)
            square.index_add_(0, one, off)
            square.index_add_(0, two, off)
        mass = self.masses[measure.index]
        mass = torch.where(mass > 0, mass, torch.nan)
        means = torch.cat([pull / mass[:, None], torch.full((1, atoms.shape[1]), torch.nan)])
        return means[measure.merged_into], measure.spread_out(square.sqrt() / mass, float("nan"))


def sample_adjacency(measure: DiscreteMeasure, potential: Tensor, draws: int, seed: int) -> Adjacency:
    """Samples the adjacency of the cells of N(0, I).

    Arguments:
        measure: The atoms.
        potential: h of the atoms given, shape (M,), float64.
        draws: Draws of N(0, I), at least 512; rounded up to whole sets of 256.
        seed: Of the draws.

    Raises:
        ValueError: If there are fewer draws.
    """
    check_integer("draws", draws, LEAST_DRAWS)
    cells = LaguerreCells.build(measure, seed)
    offsets = potential.to(cells.atoms.device, torch.float64)[measure.index.to(cells.atoms.device)]
    count, sets = len(measure), -(-draws // DRAWS_PER_SET)
    total = torch.zeros(count, dtype=torch.float64)
    met = []
    for number in range(sets):
        keys, mass = _set_of_circles(cells, offsets, number)
        met.append(keys.unique(return_counts=True))
        total += mass
    found, index = torch.cat([key for key, _ in met]).unique(return_inverse=True)
    hits = torch.cat([times for _, times in met]).double()
    mean = torch.zeros(len(found), dtype=torch.float64).index_add_(0, index, hits) / sets
    square = torch.zeros(len(found), dtype=torch.float64).index_add_(0, index, hits**2) / sets
    error = ((square - mean**2).clamp(min=0) / (sets - 1)).sqrt()
    i, j = found // count, found % count
    atoms = measure.atoms.cpu()
    apart = torch.cat(
        [
            torch.linalg.vector_norm(atoms[one].double() - atoms[two].double(), dim=1)
            for one, two in zip(*(each.split(PAIRS_AT_A_TIME) for each in (i, j)))
        ]
    )
    unit = CIRCLES_PER_SET * CROSSINGS_PER_FACE_MASS * apart
    masses = torch.zeros(len(measure.merged_into), dtype=torch.float64)
    masses[measure.index] = total / (2 * math.pi * CIRCLES_PER_SET * sets)
    pairs = torch.stack([measure.index[i], measure.index[j]], dim=1)
    return Adjacency(pairs, mean / unit, error / unit, masses, measure, sets * DRAWS_PER_SET)


def _set_of_circles(cells: LaguerreCells, offsets: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The crossings of a set, each as i N + j for its pair i < j; and the arcs in each cell, (N,), in radians."""
    count, dim = cells.atoms.shape
    draws = DrawSets.draw(cells.seed, "adjacency", [number], dim, cells.mixed).to(cells.atoms.device)
    base = draws.base[0].to(cells.atoms.dtype)
    mixer = None if draws.mixers is None else draws.mixers[0].to(cells.atoms.dtype)
    keys, mass = [], torch.zeros(count, dtype=torch.float64)
    products = base if mixer is None else base @ cells.atoms.T
    # (Neighbouring rows of a mixer are orthogonal, so that a circle's two draws are independent.)
    rows = 2 * max(1, SCORES_PER_BLOCK // (2 * count))
    for some in torch.arange(DRAWS_PER_SET, device=base.device).split(rows):
        scores = products[some] @ cells.atoms.T if mixer is None else mixer[some] @ products
        found = find_crossings(scores[0::2], scores[1::2], offsets)
        left, entered, angle = (each.cpu() for each in (found.left, found.entered, found.angle))
        keys.append(torch.minimum(left, entered) * count + torch.maximum(left, entered))
        mass.index_add_(0, left, angle)
        mass.index_add_(0, entered, -angle)
        mass += 2 * math.pi * torch.bincount(found.first.cpu(), minlength=count).double()
    return torch.cat(keys), mass
