r"""The same question as `brenier_plane` for 1,000 images in 784 dimensions: is the flow's limit the Brenier map?

The optimal map is known only up to the solver's error in the cells' masses, which moves walls and so causes a
mismatch of its own. Solving twice, from different draws, measures it: the two solutions disagree at least as much as
either of them and the truth (their errors are independent). So the claim is "the flow disagrees with a solution no more
than two solutions with each other".

The cost: for any offsets h, E[u(z) − ⟨z, F(z)⟩ − h_F(z)] ≥ E⟨z, T(z)⟩ − E⟨z, F(z)⟩, with equality at the optimal h;
and the convexity of the semi-dual between two solutions estimates by how much h misses the optimum.
"""

from __future__ import annotations

import math

from torch import Tensor

from otprior.metrics.intervals import bootstrap_mean
from otprior_studies.claims.claim import PRIOR_V1, Effort, Finding, claim
from otprior_studies.claims.images import image_flow, image_offsets, images


@claim(
    "brenier-images",
    PRIOR_V1,
    "For 1,000 images the limit of the flow map is the Brenier map of N(0, I) to the images.",
)
def brenier_images(effort: Effort) -> Finding:
    flow, atoms = image_flow(effort), images().double()
    one, other = image_offsets("one", effort.seed), image_offsets("other", effort.seed)
    z = flow.z.double()
    products = z @ atoms.T
    cells, again = (products + one).argmax(dim=1), (products + other).argmax(dim=1)
    sample = effort.generator("brenier images bootstrap")
    mismatch = bootstrap_mean(flow.basin != cells, sample)
    solver = bootstrap_mean(cells != again, sample)

    middle = (one + other) / 2
    duals = [(products + h).max(dim=1).values - h.mean() for h in (one, other, middle)]
    # Two independent errors e, e' around the optimum: the mean gains (e − e')ᵀ H (e − e')/8, on average half of what
    # one of them loses, eᵀ H e/2; and is itself left with as much as it gains.
    missed = float(((duals[0] + duals[1]) / 2 - duals[2]).mean())
    scores = products + middle
    lost = bootstrap_mean(scores.max(dim=1).values - scores.gather(1, flow.basin[:, None])[:, 0], sample)
    along_flow = products.gather(1, flow.basin[:, None])[:, 0]
    best = float(duals[2].mean())

    rotation = _rotation_that_moves(solver.hi, z, atoms, one, effort)
    return Finding(
        statistic=mismatch.estimate,
        interval=(mismatch.lo, mismatch.hi),
        threshold=solver.hi,
        unseen_rotation=rotation,
        why="Share of the noise that the exact flow of 1,000 images sends to another image than optimal "
        "transport does. The threshold is the share on which two independent solutions of the transport disagree "
        "(upper 95 % limit).",
        details={
            "draws": len(z),
            "settled": flow.settled,
            "two solutions disagree": solver.estimate,
            "E<z, F(z)> of the flow": float(along_flow.mean()),
            "E<z, T(z)> of transport, upper bound": best,
            "of which missed by the solver, about": missed,
            "lost by the flow": lost.estimate / best,
            "lost by the flow, interval": [lost.lo / best, lost.hi / best],
            "distinct images reached": {"flow": len(flow.basin.unique()), "transport": len(cells.unique())},
        },
    )


def _rotation_that_moves(share: float, z: Tensor, atoms: Tensor, offsets: Tensor, effort: Effort) -> float:
    """Degrees by which the noise must be turned, in a random plane through each z, for that share to change cell."""
    aside = effort.normal("brenier images rotation", *z.shape)
    aside -= z * ((aside * z).sum(dim=1) / (z * z).sum(dim=1))[:, None]
    aside *= (z.norm(dim=1) / aside.norm(dim=1))[:, None]
    before = (z @ atoms.T + offsets).argmax(dim=1)
    low, high = 0.0, 90.0
    for _ in range(10):
        angle = math.radians((low + high) / 2)
        turned = math.cos(angle) * z + math.sin(angle) * aside
        moved = float(((turned @ atoms.T + offsets).argmax(dim=1) != before).double().mean())
        low, high = ((low + high) / 2, high) if moved <= share else (low, (low + high) / 2)
    return high
