r"""For laws that are not Gaussian: is the encoder the optimal map to the normal law? In 2 to 7 dimensions.

Two tests on the same laws, mixtures of four Gaussians with exact scores, encoded from α = 0.98 to pure noise.

- *Jacobian.* Optimal maps have a symmetric one. Its antisymmetric part is measured to the ODE's error, point by
  point, in any dimension: the primary test.
- *Cost*, as the paper does it: Σ|x_i − E(x_i)|² against the best pairing of the same points and codes. It is 0 for
  an optimal map at any n, and biased towards 0 for any other: a better pairing needs points that are near each
  other in the right places, of which there are fewer the higher the dimension. So each n and dimension comes with
  its power: a map that is known to be optimal is followed by a rotation, and the smallest one that is noticed is
  sought.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from otprior.diffusion.denoisers import MixtureDenoiser
from otprior.diffusion.flow import NOISE, Scales, flow_jacobian, probability_flow
from otprior.metrics.intervals import Interval
from otprior_studies.claims.by_dimension import DIMENSIONS, cost_finding, jacobian_finding
from otprior_studies.claims.claim import CODES, Effort, Finding, claim
from otprior_studies.claims.flow_jacobian import ODE_TOLERANCE, antisymmetry
from otprior_studies.claims.power import mean_excess, smallest_turn

START = Scales.vp(0.98)


@cache
def mixture_law(dim: int, seed: int) -> MixtureDenoiser:
    """Four Gaussians with random centres, axes and weights; covariance about I."""
    effort = Effort(seed=seed)
    means = effort.normal(f"mixture {dim} means", 4, dim)
    factors = effort.normal(f"mixture {dim} factors", 4, dim, dim) / (2 * dim**0.5)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    return MixtureDenoiser(weights, means, factors @ factors.mT + 0.02 * torch.eye(dim))


@claim(
    "codes-jacobian",
    CODES,
    "For common laws in 2 to 7 dimensions the encoder is the optimal map to the normal law (Jacobian).",
)
def codes_jacobian(effort: Effort) -> Finding:
    tangents, error = {}, 0.0
    for dim in DIMENSIONS:
        law = mixture_law(dim, effort.seed)
        x = law.noised(effort.choose(400, 60), *START, effort.generator(f"codes jacobian {dim}"))
        _, jacobian = flow_jacobian(law, x, START, NOISE, rtol=1e-11, atol=1e-11)
        _, looser = flow_jacobian(law, x[:20], START, NOISE, rtol=1e-9, atol=1e-9)
        tangents[dim] = antisymmetry(jacobian)
        error = max(error, float((tangents[dim][:20] - antisymmetry(looser)).abs().max()))
    return jacobian_finding(
        tangents,
        ("ODE error", error),
        ODE_TOLERANCE,
        lambda: effort.generator("codes jacobian bootstrap"),
        "By exact scores.",
    )


def _optimal_pairs(dim: int, count: int, seed: int, stream: str) -> tuple[Tensor, Tensor]:
    """Points x and T(x), T known to be optimal onto N(0, I): whitening, of a Gaussian with the mixture's covariance."""
    variances, axes = torch.linalg.eigh(mixture_law(dim, seed).covariance)
    code = Effort(seed=seed).normal(stream, count, dim)
    return (code @ axes * variances.sqrt()) @ axes.T, code


def _unseen(dim: int, count: int, effort: Effort) -> float:
    x, code = _optimal_pairs(dim, count, effort.seed, f"codes power {dim} {count}")
    return smallest_turn(x, code, lambda: effort.generator(f"codes rotation {dim}"))


@claim(
    "codes-cost",
    CODES,
    "For common laws in 2 to 7 dimensions the encoder is the optimal map to the normal law (cost, as the "
    "paper tests it).",
)
def codes_cost(effort: Effort) -> Finding:
    sizes = effort.choose((125, 250, 500, 1000), (100, 400))
    count, sets = sizes[-1], effort.choose(5, 4)
    excess: dict[int, Interval] = {}
    unseen: dict[int, list[tuple[float, float]]] = {}
    for dim in DIMENSIONS:
        law = mixture_law(dim, effort.seed)
        x = law.noised(sets * count, *START, effort.generator(f"codes cost {dim}"))
        code = probability_flow(law, x, START, NOISE, steps=60).x
        excess[dim] = mean_excess(list(zip(x.split(count), code.split(count))))
        unseen[dim] = [(n, _unseen(dim, n, effort)) for n in sizes]
    return cost_finding(
        excess,
        unseen,
        count,
        lambda worst: (
            f"Relative excess of Σ|x − E(x)|² over the best pairing of the same {count:,} points and codes, "
            f"in dimension {worst}, where it is largest. It is small, and the higher the dimension the more it is "
            "biased towards 0: read it with its power."
        ),
        ("codes-power", "What the discrete test would have caught"),
    )
