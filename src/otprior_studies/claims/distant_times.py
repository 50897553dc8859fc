r"""The flow's coupling of two moments against optimal transport: neighbouring, and distant.

The flow's velocity is a gradient at each time. So between neighbouring times its coupling is optimal to first
order, for any law, and for any process that moves mass along gradients. Optimality there says nothing about the flow.
Only distant times show whether the map from noise to data is optimal.

Two figures for three atoms in the plane. Towards α < 1, pairs (x, x') of the flow at pure noise and at α are paired
anew at least cost: exactly 0 for an optimal map, and biased towards 0 otherwise, so with its power. At the data end
the optimal map is known (`brenier_plane`), and the excess in cost, 2 E[u(z) − ⟨z, F(z)⟩ − h_F(z)], has no such
bias.
"""

from __future__ import annotations

import torch

from otprior.diffusion.denoisers import FiniteDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow
from otprior_studies.claims.claim import PRIOR_V1, Curves, Effort, Finding, claim
from otprior_studies.claims.planar import GENERIC, cells, laguerre_offsets
from otprior_studies.claims.power import COST_ROUNDING, mean_excess, smallest_turn

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.999)
NEIGHBOUR = 0.02


@claim(
    "distant-times",
    PRIOR_V1,
    "Both stages of a diffusion model compute optimal transport: the flow's coupling of any two times is "
    "optimal.",
)
def distant_times(effort: Effort) -> Finding:
    count, sets = effort.choose(1000, 400), effort.choose(8, 4)
    atoms, weights = GENERIC[3]
    law, offsets = FiniteDenoiser(atoms, weights), laguerre_offsets(atoms, weights)
    z = effort.normal("distant times", sets * count, 2)
    x, here = z, NOISE
    curves: dict[str, list[tuple[float, float]]] = {
        "from pure noise": [],
        "from 2 % nearer to noise in s": [],
    }
    for alpha in ALPHAS:
        before = Scales.vp(float(torch.tanh(torch.tensor(Scales.vp(alpha).time / (1 + NEIGHBOUR)).double())))
        near = probability_flow(law, x, here, before, steps=24).x
        x, here = probability_flow(law, near, before, Scales.vp(alpha), steps=4).x, Scales.vp(alpha)
        found = [mean_excess(list(zip(origin.split(count), x.split(count)))) for origin in (z, near)]
        for points, excess in zip(curves.values(), found):
            points.append((alpha, excess.estimate))
    last = found[0]

    distant, neighbouring = curves.values()
    scores = z @ atoms.T + offsets
    reached = law.shares(x, *here).argmax(dim=1)
    lost = scores.max(dim=1).values - scores.gather(1, reached[:, None])[:, 0]
    best = (z - atoms[cells(atoms, offsets, z)]).square().sum(dim=1)
    final = 2 * float(lost.mean()) / float(best.mean())

    optimal = atoms[cells(atoms, offsets, z[:count])]
    rotation = smallest_turn(optimal, z[:count], lambda: effort.generator("distant times rotation"))
    return Finding(
        statistic=last.estimate,
        interval=(last.lo, last.hi),
        threshold=COST_ROUNDING,
        unseen_rotation=rotation,
        why=f"Relative excess in cost of the flow's pairs between pure noise and α = {ALPHAS[-1]} over "
        "their best pairing, three atoms. Between neighbouring times it is 0 or all but 0, as for every "
        "gradient flow, which proves nothing.",
        details={
            "points": count,
            "sets": sets,
            "excess by α, from pure noise": {str(a): v for a, v in distant},
            "excess by α, from 2 % nearer to noise": {str(a): v for a, v in neighbouring},
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
