r"""The flow's coupling of two moments against optimal transport: neighbouring, and distant.

The flow's velocity is a gradient at each time. So between neighbouring times its coupling is optimal to first
order, for any law, and for any process that moves mass along gradients; to find it so says nothing of the flow.
What the map from noise to data is, is seen at distant times only.

Two figures for three atoms in the plane. Towards α < 1, pairs (x, x') of the flow at pure noise and at α are paired
anew at least cost: exactly 0 for an optimal map, and biased towards 0 otherwise, so with its power. At the data end
the optimal map is known (`brenier_plane`), and the excess in cost, 2 E[u(z) − ⟨z, F(z)⟩ − h_F(z)], has no such
bias.
"""

from __future__ import annotations

import torch

from otprior.diffusion.denoisers import FiniteDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow
from otprior.metrics.intervals import seed_set_interval
from otprior_studies.claims.claim import (
    Claim,
    Curves,
    Effort,
    Finding,
    judge_test,
)
from otprior_studies.claims.papers import PRIOR_V1
from otprior_studies.claims.planar import GENERIC, cells, laguerre_offsets
from otprior_studies.claims.rotation import (
    COST_ROUNDING,
    excess_cost,
    rotate,
    smallest_caught,
)

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.999)
NEIGHBOUR = 0.02


def _run(effort: Effort) -> Finding:
    count, sets = effort.of(1000, 400), effort.of(8, 4)
    atoms, weights = GENERIC[3]
    law, offsets = FiniteDenoiser(atoms, weights), laguerre_offsets(atoms, weights)
    z = effort.normal("distant times", sets * count, 2)
    x, here = z, NOISE
    curves: dict[str, list[tuple[float, float]]] = {
        "from pure noise": [],
        "from 2 % nearer to noise in s": [],
    }
    last = None
    for alpha in ALPHAS:
        before = Scales.vp(float(torch.tanh(torch.tensor(Scales.vp(alpha).time / (1 + NEIGHBOUR)).double())))
        near = probability_flow(law, x, here, before, steps=24).x
        x, here = probability_flow(law, near, before, Scales.vp(alpha), steps=4).x, Scales.vp(alpha)
        for name, origin in zip(curves, (z, near)):
            values = [max(excess_cost(a, b), 0.0) for a, b in zip(origin.split(count), x.split(count))]
            found = seed_set_interval(values)
            curves[name].append((alpha, found.estimate))
            if name == "from pure noise":
                last = found
    assert last is not None

    scores = z @ atoms.T + offsets
    reached = law.shares(x, *here).argmax(dim=1)
    lost = scores.max(dim=1).values - scores.gather(1, reached[:, None])[:, 0]
    best = (z - atoms[cells(atoms, offsets, z)]).square().sum(dim=1)
    final = 2 * float(lost.mean()) / float(best.mean())

    optimal = atoms[cells(atoms, offsets, z[:count])]

    def caught(degrees: float) -> bool:
        turned = rotate(z[:count], degrees, effort.generator("distant times rotation"))
        return excess_cost(turned, optimal) > COST_ROUNDING

    rotation = smallest_caught(caught)
    interval = (max(last.lo, 0.0), last.hi)
    return Finding(
        statistic=last.estimate,
        interval=interval,
        threshold=COST_ROUNDING,
        verdict=judge_test(interval, COST_ROUNDING, rotation),
        why=f"Relative excess in cost of the flow's pairs between pure noise and α = {ALPHAS[-1]} over "
        "their best pairing, three atoms. Between neighbouring times it is 0 or all but 0, as for every "
        "gradient flow, which proves nothing.",
        power=f"rotation of {rotation:.2g}° or more",
        details={
            "points": count,
            "sets": sets,
            "excess by α, from pure noise": {str(a): v for a, v in curves["from pure noise"]},
            "excess by α, from 2 % nearer to noise": {str(a): v for a, v in list(curves.values())[1]},
            "excess at the data end, without the bias of few points": final,
        },
        curves=(
            Curves(
                "distant-times",
                "Cost of the flow's pairs over the least cost",
                "α of the later moment",
                "relative excess",
                curves,
            ),
        ),
    )


CLAIMS = (
    Claim(
        "distant-times",
        PRIOR_V1,
        "Both stages of a diffusion model compute optimal transport: the flow's coupling of any two times "
        "is optimal.",
        _run,
    ),
)
