"""The potential of a model in which scores are independent: a start that takes no draws.

For z normal and ln N ≪ d the scores ⟨z, y_i⟩ of centred atoms are nearly independent normal variables of standard
deviation |y_i|. The masses of the model P(i wins) are one-dimensional integrals, and the h at which they equal ν is
near the optimum in high dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprior.transport.potential import natural_quantile, natural_scale

ITERATIONS, GRID_POINTS = 12, 96
KINDS_PER_E = 16.0


def independent_score_start(atoms: Tensor, weights: Tensor) -> Tensor:
    """The offsets at which independent scores s_i ~ N(h_i, |y_i|²) win with probabilities ν.

    P(i wins) = ∫ φ_i(x) Π_{j≠i} Φ_j(x) dx on a grid, and h_i ← h_i − τ_i ln(P(i wins)/ν_i), τ of `natural_scale`.
    Atoms whose τ and ν agree to three percent are treated as one kind.

    Arguments:
        atoms: y, shape (N, d).
        weights: ν, shape (N,), positive, sum 1.

    Returns:
        h, shape (N,), float64, mean zero.
    """
    weights = weights.to(atoms.device, torch.float64)
    tau = natural_scale(atoms, weights)
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
    for _ in range(ITERATIONS):
        top = float((h + norms * (q + 3)).max())
        bottom = float((h + 0.5 * norms * q).median())
        x = torch.linspace(bottom, top, GRID_POINTS, dtype=h.dtype, device=h.device)[:, None]
        deviation = (x - h) / norms  # (grid, kinds)
        log_below = torch.special.log_ndtr(deviation)
        density = -0.5 * deviation**2 - norms.log() - log_below
        log_win = torch.logsumexp(density + (log_below * count).sum(dim=1, keepdim=True), dim=0)
        log_win -= torch.logsumexp(log_win + count.log(), dim=0)
        h = h - tau * (log_win - log_weight).clamp(-2, 2)
    # An atom differs a little from its kind: a longer one wins more often by itself, a heavier one has to.
    beyond = exact - torch.stack([log_tau, log_weight], dim=1)[kind]
    h = h[kind] + tau[kind] * (beyond[:, 1] - q[kind] ** 2 * beyond[:, 0])
    return h - h.mean()
