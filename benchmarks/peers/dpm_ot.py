"""DPM-OT's scheme, written from its description: Adam on cell frequencies of fresh draws, many of them a step.

Rate 0.1 and 10 N draws a step; whenever 50 steps bring no smaller gradient, three times at most, draws are doubled and
the rate is multiplied by 0.8. Adam is without bias correction. It iterates h itself, from zero, with its mean at zero.
(Published with a source uniform on the cube; here it is N(0, I), as for all.)

References:
    Li, Li, Wang, Lei, Luo & Gu (2023): DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport.
    https://arxiv.org/abs/2307.11308
"""

from __future__ import annotations

import math

import torch

from peers import Clock, Peer, Problem, Settings

__all__ = ["PEER"]

PATIENCE = 50
DOUBLINGS = 3
RATE_FACTOR = 0.8
MOMENTUM, SECOND_MOMENTUM, TINY = 0.9, 0.999, 1e-8
SCORES_PER_BLOCK = 1 << 22


def run(problem: Problem, settings: Settings, seed: int, clock: Clock) -> None:
    """Settings: `step` is Adam's rate, `draws` a step in units of N."""
    clock.start()
    y = torch.from_numpy(problem.atoms)
    weights = torch.from_numpy(problem.filled_weights())
    generator = torch.Generator().manual_seed(seed)
    rate, size = settings["step"], max(1, round(settings["draws"] * len(y)))
    h, first, second = torch.zeros_like(weights), torch.zeros_like(weights), torch.zeros_like(weights)
    best, bad_steps, doublings, draws = math.inf, 0, 0, 0
    while True:
        gradient = _frequencies(y, h, size, generator) - weights
        draws += size
        first.lerp_(gradient, 1 - MOMENTUM)
        second.lerp_(gradient**2, 1 - SECOND_MOMENTUM)
        h = h - rate * first / (second.sqrt() + TINY)
        h -= h.mean()
        clock(draws, lambda h=h: h.double().numpy())

        norm = float(torch.linalg.vector_norm(gradient))
        best, bad_steps = (norm, 0) if norm < best else (best, bad_steps + 1)
        if bad_steps > PATIENCE and doublings < DOUBLINGS:
            size, rate = 2 * size, RATE_FACTOR * rate
            best, bad_steps, doublings = math.inf, 0, doublings + 1


def _frequencies(y: torch.Tensor, h: torch.Tensor, draws: int, generator: torch.Generator) -> torch.Tensor:
    """The share of `draws` points of N(0, I) in each cell; (N,), in y's dtype."""
    counts = torch.zeros(len(y), dtype=torch.int64)
    rows = max(1, SCORES_PER_BLOCK // len(y))
    for start in range(0, draws, rows):
        z = torch.randn(min(rows, draws - start), y.shape[1], generator=generator, dtype=y.dtype)
        counts += torch.bincount(torch.addmm(h, z, y.T).argmax(dim=1), minlength=len(y))
    return counts.to(y.dtype) / draws


PEER = Peer(
    label="DPM-OT's Adam",
    defaults={"step": 0.1, "draws": 10.0},
    starts=({"step": 1.0, "draws": 1.0},),
    axes={"draws": (0.01, 0.1, 1.0, 10.0)},
    run=run,
    note="as published",
)
