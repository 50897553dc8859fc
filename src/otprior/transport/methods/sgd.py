"""Averaged stochastic gradient on the semi-dual, preconditioned for high dimension.

For z normal and ln N ≪ d the scores ⟨z, y_i⟩ of centred atoms are nearly independent normal variables of spread
|y_i|, so their maximum is nearly Gumbel. With q_i = √(2 ln 1/ν_i) and τ_i = |y_i|/q_i,

- a cell's mass moves like exp(h_i/τ_i), so τ_i/ν_i turns a mass error into the change of h_i that mends it: the
  preconditioner, with which every coordinate has the same rate of convergence;
- the masses of the independent-score model itself are one-dimensional integrals, and the h at which they equal ν is
  the start.

A step counts in which cells a block of draws falls. Draws are mixed from few (see `mixing`), which is what makes a
step cheap. Steps decrease as (1 + t/t₀)^(−0.6), slower than 1/t, and the answer is the average of the iterates with
weights that grow like √t (Polyak & Juditsky, 1992; Shamir & Zhang, 2013).

Where the model is wrong, steps are too long. Near duplicates and tight clusters trade mass among themselves on the
scale of their differences, so the step of h_i is held below that of the distance to the nearest other atom. In two or
three dimensions that does not help enough: see `newton`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.transport.cells.entropic import SmoothedFinder
from otprior.transport.cells.search import DRAWS_PER_SET, CellFinder
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import natural_quantile, natural_scale
from otprior.utils.random import normal_block

STEP_EXPONENT = 0.6
# Relative noise of a step: its scale times the spread √(1/(Bν)) of a frequency over its mass.
STEP_NOISE = 0.45
# The step is halved or so after this many draws an atom.
DECAY_DRAWS = 2.5
AVERAGING_POWER = 0.5
CLIP = 3.0  # an update moves h_i by no more than this many τ_i
NEIGHBOUR_CAP = 2.0  # τ for a step: at most this many distances to the nearest atom, over q
COMPARED_WITH_ALL = 1 << 15  # atoms up to which each is compared with all others
DISTANCES_PER_BLOCK = 1 << 22
LINES, NEIGHBOURS_ON_LINE, LINE_BLOCK = 4, 4, 1 << 14
KINDS_PER_E = 128.0


@dataclass(frozen=True)
class SgdState:
    """Where the iteration stands: after `step` blocks, the iterate and its weighted average, both (N,) float64."""

    step: int
    iterate: Tensor
    average: Tensor


class AveragedSgd:
    """The iteration for one measure: `state = init(start)`, then `state = step(state)` as often as wanted.

    Step t uses the sets t·S to t·S + S − 1 of the stream "fit", S = `sets_per_step`.

    Arguments:
        measure: N distinct atoms with positive weights.
        finder: Of their cells.
    """

    def __init__(self, measure: DiscreteMeasure, finder: CellFinder | SmoothedFinder) -> None:
        self.sets_per_step = _sets_per_step(len(measure))
        self.block_size = self.sets_per_step * DRAWS_PER_SET
        self._finder = finder
        self._weights = measure.weights.to(finder.atoms.device)
        self._tau = natural_scale(measure.atoms, self._weights)
        cap = NEIGHBOUR_CAP * _nearest_distance(finder.atoms) / natural_quantile(self._weights)
        self._step_scale = torch.minimum(self._tau, cap).clamp(min=1e-3 * self._tau)
        # Smoothed masses change on the scale of ε, where that is larger.
        self._step_scale.clamp_(min=finder.entropy)
        noise = (1 / (self.block_size * self._weights)).sqrt()
        self._first_step = (STEP_NOISE / noise).clamp(max=STEP_NOISE)
        self._decay_steps = max(20.0, DECAY_DRAWS * len(measure) / self.block_size)

    def init(self, start: Tensor | None = None) -> SgdState:
        """The state before the first step, at the offsets `start` (N,) or at the independent-score model's."""
        h = independent_score_start(self._tau, self._weights) if start is None else start
        return SgdState(0, h, h)

    def step(self, state: SgdState) -> SgdState:
        """One block of draws, one update."""
        return self.update(state, self.counts(state, range(self.sets_per_step)))

    def counts(self, state: SgdState, sets: Sequence[int]) -> Tensor:
        """Hits of each cell by some of the step's sets; int64 (N,). A block may be split this way."""
        numbers = [state.step * self.sets_per_step + k for k in sets]
        return self._finder.hits(state.iterate, "fit", numbers)

    def update(self, state: SgdState, counts: Tensor) -> SgdState:
        """The next state from the counts (N,) of a whole block."""
        rate = self._first_step * (1 + state.step / self._decay_steps) ** -STEP_EXPONENT
        update = rate * (counts.double() / (self.block_size * self._finder.per_draw) / self._weights - 1)
        iterate = state.iterate - self._step_scale * update.clamp(-CLIP, CLIP)
        iterate -= iterate.mean()
        weight = (AVERAGING_POWER + 1) / (state.step + 1 + AVERAGING_POWER)
        return SgdState(state.step + 1, iterate, state.average + weight * (iterate - state.average))


def independent_score_start(tau: Tensor, weights: Tensor, iterations: int = 12, points: int = 96) -> Tensor:
    """The offsets at which independent scores s_i ~ N(h_i, |y_i|²) win with probabilities ν.

    P(i wins) = ∫ φ_i(x) Π_{j≠i} Φ_j(x) dx on a grid of `points`, and h_i ← h_i − τ_i ln(P(i wins)/ν_i). Atoms whose τ
    and ν agree to half a percent are treated as one kind.

    Arguments:
        tau: τ of `natural_scale`, positive, shape (N,), float64.
        weights: ν, shape (N,), float64.

    Returns:
        h, shape (N,), float64, mean zero.
    """
    unit = tau.median()
    exact = torch.stack([(tau / unit).log(), weights.log()], dim=1)
    kinds, kind, count = (
        exact.mul(KINDS_PER_E).round_().unique(dim=0, return_inverse=True, return_counts=True)
    )
    log_tau, log_weight = kinds.div_(KINDS_PER_E).unbind(dim=1)
    tau = unit * log_tau.exp()
    log_weight = log_weight - torch.logsumexp(log_weight + count.log(), dim=0)
    q = natural_quantile(log_weight.exp())
    norms = tau * q
    h = -norms * q
    for _ in range(iterations):
        top = float((h + norms * (q + 3)).max())
        bottom = float((h + 0.5 * norms * q).median())
        x = torch.linspace(bottom, top, points, dtype=h.dtype, device=h.device)[:, None]
        deviation = (x - h) / norms  # (points, kinds)
        log_below = torch.special.log_ndtr(deviation)
        density = -0.5 * deviation**2 - norms.log() - log_below
        log_win = torch.logsumexp(density + (log_below * count).sum(dim=1, keepdim=True), dim=0)
        log_win -= torch.logsumexp(log_win + count.log(), dim=0)
        h = h - tau * (log_win - log_weight).clamp(-2, 2)
    # An atom differs a little from its kind: a longer one wins more often by itself, a heavier one has to.
    beyond = exact - torch.stack([log_tau, log_weight], dim=1)[kind]
    h = h[kind] + tau[kind] * (beyond[:, 1] - q[kind] ** 2 * beyond[:, 0])
    return h - h.mean()


def _nearest_distance(atoms: Tensor) -> Tensor:
    """The distance of each atom (N, d) to the nearest other one, or to one that is near; shape (N,), float64."""
    if len(atoms) > COMPARED_WITH_ALL:
        return _distance_along_lines(atoms)
    half_squares = 0.5 * (atoms**2).sum(dim=1)
    rows = max(1, DISTANCES_PER_BLOCK // len(atoms))
    nearest = []
    for start in range(0, len(atoms), rows):
        # ⟨y_i, y_j⟩ − |y_j|²/2 is largest for the nearest y_j.
        closeness = torch.addmm(-half_squares, atoms[start : start + rows], atoms.T)
        closeness.diagonal(start).fill_(-math.inf)
        nearest.append(closeness.argmax(dim=1))
    # Rounding may have picked another near atom; its distance is then exact all the same.
    return torch.linalg.vector_norm((atoms - atoms[torch.cat(nearest)]).double(), dim=1)


def _distance_along_lines(atoms: Tensor) -> Tensor:
    """The least distance to the neighbours in the order of projections on random lines: finds near duplicates and
    tight clusters, which is what the step is held back for, in linear time."""
    lines = normal_block(0, "lines", 0, LINES, atoms.shape[1]).to(atoms.device, atoms.dtype)
    nearest = torch.full((len(atoms),), math.inf, dtype=torch.float64, device=atoms.device)
    for line in lines:
        order = (atoms @ line).argsort()
        for first in range(0, len(order), LINE_BLOCK):
            index = order[first : first + LINE_BLOCK + NEIGHBOURS_ON_LINE]
            points = atoms[index]
            for shift in range(1, NEIGHBOURS_ON_LINE + 1):
                distance = torch.linalg.vector_norm(points[shift:] - points[:-shift], dim=1).double()
                for one in (index[shift:], index[:-shift]):
                    nearest[one] = torch.minimum(nearest[one], distance)
    return nearest


def _sets_per_step(atoms: int) -> int:
    """Sets of draws a step: a tenth of the atoms in draws, between 512 draws and 16,384."""
    return min(64, max(2, round(atoms / 10 / DRAWS_PER_SET)))
