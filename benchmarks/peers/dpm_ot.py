"""DPM-OT's scheme: Adam on cell frequencies of fresh draws, many of them a step.

Rate 0.1 and 10 N draws a step; whenever 50 steps bring no smaller gradient, three times at most, draws are doubled and
the rate is multiplied by 0.8. Adam is without bias correction. It iterates h itself, from zero, with its mean at zero.
(Published with a source uniform on the cube; here it is N(0, I), as for all.)

References:
    Li, Li, Wang, Lei, Luo & Gu (2023): DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport.
    https://arxiv.org/abs/2307.11308
"""

from __future__ import annotations

import torch

from otprior_studies.papers.dpm_ot.published import adam
from peers import Clock, Peer, Problem, Settings


def run(problem: Problem, settings: Settings, seed: int, clock: Clock) -> None:
    """Settings: `step` is Adam's rate, `draws` a step in units of N."""
    clock.start()
    y = torch.from_numpy(problem.atoms)
    weights = torch.from_numpy(problem.filled_weights())
    size = max(1, round(settings["draws"] * len(y)))

    def normal(count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(count, y.shape[1], generator=generator, dtype=y.dtype)

    generator = torch.Generator().manual_seed(seed)
    for state in adam(y, weights, normal, settings["step"], size, generator):
        clock(state.draws, lambda h=state.offsets: h.double().numpy())


PEER = Peer(
    label="DPM-OT's Adam",
    defaults={"step": 0.1, "draws": 10.0},
    starts=({"step": 1.0, "draws": 1.0},),
    axes={"draws": (0.01, 0.1, 1.0, 10.0)},
    run=run,
    note="as published",
)
