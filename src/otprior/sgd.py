"""Averaged stochastic gradient on the semi-dual, preconditioned for high dimension.

For z normal and ln N ≪ d the scores ⟨z, y_i⟩ of centred atoms are nearly independent normal variables of spread
|y_i|, so their maximum is nearly Gumbel. With q_i = √(2 ln 1/ν_i) and τ_i = |y_i|/q_i,

- a cell's mass moves like exp(h_i/τ_i), so τ_i/ν_i turns a mass error into the change of h_i that mends it: the
  preconditioner, with which every coordinate has the same rate of convergence;
- τ is the natural unit of smoothing: a softmax at ε ≪ τ hardly changes the masses, and at ε near τ it spreads one
  draw over many cells, which is what the first steps need;
- the masses of the independent-score model itself are one-dimensional integrals, and the h at which they equal ν is
  the start.

Steps decrease as (1 + t/t₀)^(−0.6), slower than 1/t, and the answer is the average of the iterates with weights that
grow with t (Polyak & Juditsky, 1992; Shamir & Zhang, 2013).

Where the model is wrong, steps are too long. Near duplicates and tight clusters trade mass among themselves on the
scale of their differences, so the step of h_i is held below that of the distance to the nearest other atom. In two or
three dimensions that does not help enough: see `newton`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.draws import normal_block
from otprior.measures import DiscreteMeasure
from otprior.semidual import BrenierPotential, natural_quantile, natural_scale

__all__ = ["AveragedSgd", "SgdState", "independent_score_start"]

STEP_EXPONENT = 0.6
# Relative noise of a step: its scale times the spread √(1/(Bν)) of a frequency over its mass.
STEP_NOISE = 0.45
AVERAGING_POWER = 2
CLIP = 3.0  # an update moves h_i by no more than this many τ_i
FIRST_SMOOTHING = 0.4  # in units of the median τ
NEIGHBOUR_CAP = 2.0  # τ for a step: at most this many distances to the nearest atom, over q
DISTANCES_PER_BLOCK = 1 << 24


@dataclass(frozen=True)
class SgdState:
    """Where the iteration stands: after `step` blocks, the iterate and its weighted average, both (N,) float64."""

    step: int
    iterate: Tensor
    average: Tensor


class AveragedSgd:
    """The iteration for one measure: `state = init()`, then `state = step(state)` as often as wanted.

    Arguments:
        measure: N distinct atoms with positive weights.
        seed: Of the draws; step t uses block t of the stream "fit".
        planned_draws: How many draws are expected; the smoothing ends a quarter of the way there.
    """

    def __init__(self, measure: DiscreteMeasure, seed: int, planned_draws: int) -> None:
        atoms = measure.atoms
        self.block_size = _block_size(len(measure))
        self._seed = seed
        # The common part ⟨z, mean⟩ of all scores moves no argmax, only the size of the numbers.
        self._atoms = (atoms.double() - measure.mean()).to(atoms.dtype)
        self._weights = measure.weights.to(atoms.device)
        self._radius = float(torch.linalg.vector_norm(self._atoms, dim=1).max())
        self._tau = natural_scale(atoms, self._weights)
        cap = NEIGHBOUR_CAP * _nearest_distance(self._atoms) / natural_quantile(self._weights)
        self._step_scale = torch.minimum(self._tau, cap).clamp(min=1e-3 * self._tau)
        noise = (1 / (self.block_size * self._weights)).sqrt()
        self._first_step = (STEP_NOISE / noise).clamp(max=STEP_NOISE)
        self._decay_steps = max(20.0, 5 * len(measure) / self.block_size)
        self._smoothed_steps = planned_draws / self.block_size / 4

    def init(self) -> SgdState:
        """The start: the fixed point of the independent-score model."""
        h = independent_score_start(self._tau, self._weights)
        return SgdState(0, h, h)

    def step(self, state: SgdState) -> SgdState:
        """One block of draws, one update."""
        z = normal_block(self._seed, "fit", state.step, self.block_size, self._atoms.shape[1])
        masses = self._masses(z.to(self._atoms.device, self._atoms.dtype), state)
        rate = self._first_step * (1 + state.step / self._decay_steps) ** -STEP_EXPONENT
        update = rate * (masses / self._weights - 1)
        iterate = state.iterate - self._step_scale * update.clamp(-CLIP, CLIP)
        iterate -= iterate.mean()
        weight = (AVERAGING_POWER + 1) / (state.step + 1 + AVERAGING_POWER)
        return SgdState(state.step + 1, iterate, state.average + weight * (iterate - state.average))

    def _masses(self, z: Tensor, state: SgdState) -> Tensor:
        """The share of a block in each cell, smoothed while the iteration is young; shape (N,), float64."""
        potential = BrenierPotential(self._atoms, state.iterate, self._radius)
        left = 1 - state.step / self._smoothed_steps
        if left > 0.1:
            smoothing = FIRST_SMOOTHING * left * float(self._tau.median())
            return potential.soft_masses(z, smoothing)
        return torch.bincount(potential.assign(z), minlength=len(self._weights)).double() / len(z)


def independent_score_start(tau: Tensor, weights: Tensor, iterations: int = 12, points: int = 96) -> Tensor:
    """The offsets at which independent scores s_i ~ N(h_i, |y_i|²) win with probabilities ν.

    P(i wins) = ∫ φ_i(x) Π_{j≠i} Φ_j(x) dx on a grid of `points`, and h_i ← h_i − τ_i ln(P(i wins)/ν_i).

    Arguments:
        tau: τ of `natural_scale`, positive, shape (N,), float64.
        weights: ν, shape (N,), float64.

    Returns:
        h, shape (N,), float64, mean zero.
    """
    q = natural_quantile(weights)
    norms = tau * q
    h = -norms * q
    for _ in range(iterations):
        top = float((h + norms * (q + 3)).max())
        bottom = float((h + 0.5 * norms * q).median())
        x = torch.linspace(bottom, top, points, dtype=h.dtype, device=h.device)
        log_win = torch.full_like(h, -math.inf)
        below_all = torch.stack([torch.special.log_ndtr((value - h) / norms).sum() for value in x])
        for value, total in zip(x, below_all):
            deviation = (value - h) / norms
            density = -0.5 * deviation**2 - norms.log() - torch.special.log_ndtr(deviation)
            log_win = torch.logaddexp(log_win, density + total)
        log_win -= torch.logsumexp(log_win, dim=0)
        h = h - tau * (log_win - weights.log()).clamp(-2, 2)
    return h - h.mean()


def _nearest_distance(atoms: Tensor) -> Tensor:
    """The distance of each atom (N, d) to the nearest other one; shape (N,), float64."""
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


def _block_size(atoms: int) -> int:
    """Draws a step: 512, and a twentieth of the atoms where that is more, up to 4,096; a multiple of 256."""
    return min(4096, max(512, atoms // 20 // 256 * 256))
