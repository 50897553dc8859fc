"""The semi-dual over a block of draws, from the contenders of each, and its minimum near by.

Near the offsets at which they were found, the K contenders of a draw z (see `cells.contenders`) are all that matter of

    F(h) = mean_z ε(z) log Σ_i exp((s_i(z) + h_i)/ε(z)) − Σ ν_i h_i,   s_i(z) = ⟨z, y_i⟩.

With π(z) the softmax of the totals s_i + h_i over ε(z), F has

    ∇F = p − ν,   p = mean_z π(z),   ∇²F = mean_z (diag π − π πᵀ)/ε(z),

the Laplacian L of the cells' adjacency, sampled. It is sparse, and (L + D) δ = ν − p is solved by conjugate gradients.
All scales are read off the draws. The gap between a draw's highest total and its sixth gives the scale on which its
atom trades mass with others, for D, which bounds the step where L says nothing: L_ii + D_ii ≥ ν_i/scale_i. The gap to
the second gives ε(z). The gap to the last contender bounds how far an offset moves, since an atom that is not among a
draw's contenders must not become its winner unseen; an atom with fewer lists than the draws that it should win may not
rise at all.

Sums over draws are of integers: they are the same however the draws are shared among processes.

References:
    Kitagawa, Mérigot, Thibert, Convergence of a Newton algorithm for semi-discrete optimal transport (2019).
    Shapiro, Dentcheva, Ruszczyński, Lectures on Stochastic Programming (2009), chapter 5: the sample average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import cg
from torch import Tensor

from otprior.transport.cells.contenders import SETS_PER_PRODUCT, Contenders
from otprior.transport.cells.search import DRAWS_PER_SET
from otprior.transport.distributed import Processes

# The scale on which an atom trades mass: the gap of its draws to the sixth score, over that of independent scores,
# whose k-th is 1/k above the next. An atom trades mass with its nearest on the scale of the gap to the second.
RANK = 6
GAPS_PER_SCALE = sum(1 / k for k in range(1, RANK))
# ε of the masses, and of the Laplacian, in the lesser of the two scales.
MASS_SHARE, LAPLACIAN_SHARE = 0.2, 0.6
# Draws an atom from which the Laplacian is sampled, contenders of each, and how much of ν/scale is added to it.
LAPLACIAN_DRAWS, LAPLACIAN_CONTENDERS, REGULAR = 6, 6, 0.1
# An offset moves by at most this part of the gap to the last contender.
TRUST = 0.5
# Newton steps, and the part of N/n at which χ² over the draws themselves is small enough; the Laplacian's age in steps.
STEPS, ENOUGH, AGE = 12, 0.1, 4
ROWS = 1 << 16
MASS_UNIT, PAIR_UNIT = 1 << 24, 1 << 30


@dataclass(frozen=True)
class SampleAverage:
    """F over the contenders of a block of draws.

    Attributes:
        contenders: Those of this process.
        widths: The scale on which each draw's atom trades mass with its nearest, shape (n, 1), float32: ε(z) is a
            share of it.
        scale: By how much an offset moves its cell's mass by a factor of about e, shape (N,), float64.
        down, up: How far an offset may move, shape (N,), float64.
        weights: ν, shape (N,), float64.
        processes: Those that hold the draws together.
        draws: Of all processes.
    """

    contenders: Contenders
    widths: Tensor
    scale: Tensor
    down: Tensor
    up: Tensor
    weights: Tensor
    processes: Processes
    draws: int

    @classmethod
    def build(
        cls, contenders: Contenders, h: Tensor, weights: Tensor, natural: float, processes: Processes
    ) -> SampleAverage:
        """Reads all scales off the draws, at offsets h; `natural` is the order of `natural_scale`, for rounding."""
        count, unit = len(h), natural / MASS_UNIT
        totals = contenders.totals(h).double()
        listed_each = totals.shape[1]
        order = totals.topk(min(RANK, listed_each), dim=1)
        winner = contenders.atoms.gather(1, order.indices[:, :1])[:, 0]
        second, sixth, last = (
            ((order.values[:, 0] - lower) / unit).round().long()
            for lower in (order.values[:, 1], order.values[:, -1], totals.amin(dim=1))
        )

        def total(index: Tensor, values: Tensor) -> Tensor:
            sums = torch.zeros(count, dtype=torch.int64, device=h.device)
            return processes.sum(sums.index_add_(0, index, values.expand_as(index)))

        listed, one = contenders.atoms.reshape(-1), torch.ones((), dtype=torch.int64, device=h.device)
        wins, lists = total(winner, one), total(listed, one)
        # An atom's gap is the mean of the draws that it wins; or else of those that it contends for.
        nearest, gap, reach = (
            torch.where(
                wins > 0,
                total(winner, value) / wins.clamp(min=1),
                total(listed, value[:, None].expand(-1, listed_each).reshape(-1)) / lists.clamp(min=1),
            )
            * unit
            for value in (second, sixth, last)
        )
        scale = torch.where(lists > 0, gap, gap[lists > 0].median()).clamp(min=unit) / GAPS_PER_SCALE
        nearest = torch.minimum(nearest, scale).clamp(min=unit)
        draws = int(wins.sum())
        reach = TRUST * reach
        up = torch.where(lists >= draws * weights, reach, 0.0)
        width = nearest[winner][:, None].float()
        return cls(contenders, width, scale, reach, up, weights, processes, draws)

    def _shares(
        self, h: Tensor, share: float, most: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Atoms (n, K), their π and ε (n, 1) of some draws after others."""
        rows = len(self.contenders) if most is None else most
        offsets = (h - h.mean()).float()
        for first in range(0, rows, ROWS):
            part = slice(first, min(first + ROWS, rows))
            atoms, epsilon = self.contenders.atoms[part], share * self.widths[part]
            yield atoms, ((self.contenders.scores[part] + offsets[atoms]) / epsilon).softmax(dim=1), epsilon

    def error(self, h: Tensor) -> Tensor:
        """p − ν, shape (N,), float64."""
        total = torch.zeros(len(h), dtype=torch.int64, device=h.device)
        for atoms, shares, _ in self._shares(h, MASS_SHARE):
            units = (shares * MASS_UNIT).round().long()
            total.index_add_(0, atoms.reshape(-1), units.reshape(-1))
        total = self.processes.sum(total).double()
        return total / total.sum() - self.weights

    def adjacency(self, h: Tensor) -> csr_array:
        """The off-diagonal part of −∇²F at a larger ε, sampled: (N, N), symmetric, nonnegative."""
        count, processes = len(h), self.processes
        pairs = csr_array((count, count), dtype=np.int64)
        unit = float(self.scale.median())
        # The first products of the block, of which every process has its share.
        product = SETS_PER_PRODUCT * DRAWS_PER_SET
        products = max(1, min(self.draws, LAPLACIAN_DRAWS * count) // product)
        rows = product * len(processes.share(range(products)))
        for atoms, shares, epsilon in self._shares(h, LAPLACIAN_SHARE, rows):
            shares, place = shares.topk(min(LAPLACIAN_CONTENDERS, shares.shape[1]), dim=1)
            atoms = atoms.gather(1, place)
            first, second = torch.triu_indices(shares.shape[1], shares.shape[1], 1, device=h.device)
            both = shares[:, first] * shares[:, second] * (unit / epsilon)
            value = (both * PAIR_UNIT).round().long()
            kept = value > 0
            entry, i, j = (x[kept].cpu().numpy() for x in (value, atoms[:, first], atoms[:, second]))
            pairs = pairs + coo_array((entry, (i, j)), shape=(count, count)).tocsr()
        first_part, *others = processes.gather(pairs)
        pairs = sum(others, first_part)
        return ((pairs + pairs.T) / (PAIR_UNIT * unit * product * products)).tocsr()


def minimise(average: SampleAverage, h: Tensor) -> Tensor:
    """The minimum of F within the box around h, shape (N,), float64, mean zero."""
    weights, centre = average.weights, h
    error = average.error(h)
    enough = ENOUGH * len(h) / average.draws
    for step in range(STEPS):
        size = float((error**2 / weights).sum())
        if size < enough:
            break
        if step % AGE == 0:
            matrix = average.adjacency(h)
        moved = h - centre
        held = ((moved <= -average.down) & (error > 0)) | ((moved >= average.up) & (error < 0))
        direction = _newton_step(matrix, error, weights, average.scale, ~held)
        length = 1.0
        while True:
            new_h = centre + torch.clamp(moved + length * direction, -average.down, average.up)
            new = average.error(new_h)
            # The convex F falls from h to `new_h` if its slope there does not rise.
            if float(new @ (new_h - h)) <= 0 or float((new**2 / weights).sum()) < size:
                break
            length /= 2
            if length < 1e-2:
                return h - h.mean()
        h, error = new_h, new
    return h - h.mean()


def _newton_step(matrix: csr_array, error: Tensor, weights: Tensor, scale: Tensor, free: Tensor) -> Tensor:
    """(L + D)⁻¹ (ν − p) among the offsets that are free."""
    degree = matrix.sum(axis=1)
    floor = (weights / scale).cpu().numpy()
    diagonal = degree + np.maximum(0, floor - degree) + REGULAR * floor
    mask = free.double().cpu().numpy()
    system = (
        diags_array(mask) @ (diags_array(diagonal) - matrix) @ diags_array(mask) + diags_array(1 - mask)
    ).tocsr()
    right = -error.cpu().numpy() * mask
    step, _ = cg(system, right, rtol=1e-2, maxiter=300, M=diags_array(1 / diagonal))
    return torch.from_numpy(step).to(error.device)
