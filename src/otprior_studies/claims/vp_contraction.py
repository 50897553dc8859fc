r"""How fast the variance-preserving process forgets, and that the variance-exploding one does not.

VP: couple x_0 with its optimal partner w ~ N(0, I) and give both the same noise: α x_0 + σ ε has the law p_t, α w +
σ ε is N(0, I), and their distance is α |x_0 − w|. So for any data

    W2(p_t, N(0, I)) ≤ α_t W2(p_0, N(0, I)),   α_t = exp(−½ ∫ β).

Exactly for Gaussians, W2² = α² |μ|² + ¼ α⁴ |Σ − I|² + …: a straight line in −log α = ½ ∫ β of slope 1, or 2 where the
data are centred, which the bound does not see.

VE: α = 1, the usual start is N(0, σ_t² I), and W2(p_t, N(0, σ_t² I)) falls to |E x_0| and not to 0, since a shift is
never forgotten. (Centred data: |Σ|/(2 σ_t) → 0, so only like a power of σ.)
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from otprior_studies.claims.claim import DERIVED, PRIOR_V1, Curves, Effort, Finding, claim
from otprior_studies.claims.gaussian_laws import random_gaussians, w2_to_noise_ve, w2_to_normal_vp

# Closed forms in float64: sums of squares over up to 64 coordinates, then a ratio.
ROUNDING = 1e-12


@claim(
    "vp-contraction",
    PRIOR_V1,
    "VP, Gaussian data: W2(p_t, N(0, I)) ≤ α_t W2(p_0, N(0, I)), exponential in ½ ∫ β.",
)
def vp_contraction(effort: Effort) -> Finding:
    laws = random_gaussians(effort, "vp contraction", effort.choose(1000, 100))
    # White noise but for its mean: equality at every t.
    laws.append(replace(laws[0], variances=torch.ones_like(laws[0].variances)))
    alphas = torch.logspace(-8, 0, 41, dtype=torch.float64).tolist()[:-1]
    excess = max(
        w2_to_normal_vp(law.mean, law.variances, a) / (a * w2_to_normal_vp(law.mean, law.variances, 1.0)) - 1
        for law in laws
        for a in alphas
    )
    return Finding(
        statistic=excess,
        interval=(excess - ROUNDING, excess + ROUNDING),
        threshold=1e-8,
        exact=True,
        why="Largest excess over 1 of W2(p_t)/(α_t W2(p_0)), in closed form. Equality where only the mean "
        "is wrong; a proof for any data is one line (same noise for both).",
        details={"laws": len(laws), "signal scales": len(alphas)},
    )


@claim("vp-rate", DERIVED, "VP, Gaussian data: W2(p_t, N(0, I)) falls like α_t, and like α_t² if E x_0 = 0.")
def vp_rate(effort: Effort) -> Finding:
    laws = random_gaussians(effort, "vp rate", effort.choose(1000, 100), spread=10.0)
    worst = 0.0
    for law in laws:
        for centred, expected in ((False, 1.0), (True, 2.0)):
            mean = torch.zeros_like(law.mean) if centred else law.mean
            far, near = (math.log(w2_to_normal_vp(mean, law.variances, a)) for a in (1e-7, 1e-6))
            worst = max(worst, abs((near - far) / math.log(10) - expected))
    law, alphas = laws[0], torch.logspace(-4, 0, 33, dtype=torch.float64).tolist()
    at_zero = w2_to_normal_vp(law.mean, law.variances, 1.0)
    series = {
        "mean and covariance": [(-math.log(a), w2_to_normal_vp(law.mean, law.variances, a)) for a in alphas],
        "centred": [(-math.log(a), w2_to_normal_vp(0 * law.mean, law.variances, a)) for a in alphas],
        "bound α W2(p_0, N(0, I))": [(-math.log(a), a * at_zero) for a in alphas],
    }
    title = "A Gaussian forgets its mean like α and its covariance like α²"
    return Finding(
        statistic=worst,
        interval=(max(0.0, worst - ROUNDING), worst + ROUNDING),
        threshold=1e-8,
        exact=True,
        why="Largest deviation of the slope of −log W2 in ½ ∫ β from 1, or from 2 for centred laws, "
        "between α = 1e-6 and 1e-7.",
        details={"laws": len(laws)},
        curves=(Curves("vp-rate", title, "½ ∫ β = −log α", "W2(p_t, N(0, I))", series, "y"),),
    )


@claim("ve-contraction", DERIVED, "VE: W2(p_t, N(0, σ_t² I)) falls to 0 as σ_t grows.")
def ve_contraction(effort: Effort) -> Finding:
    laws = random_gaussians(effort, "ve", effort.choose(1000, 100))
    sigma = 1e9
    ratios = [
        w2_to_noise_ve(law.mean, law.variances, sigma) / float(torch.linalg.vector_norm(law.mean))
        for law in laws
    ]
    law, sigmas = laws[0], torch.logspace(-1, 4, 31, dtype=torch.float64).tolist()
    series = {
        "mean and covariance": [(s, w2_to_noise_ve(law.mean, law.variances, s)) for s in sigmas],
        "centred": [(s, w2_to_noise_ve(0 * law.mean, law.variances, s)) for s in sigmas],
    }
    title = "A variance-exploding process never forgets the mean"
    return Finding(
        statistic=min(ratios),
        interval=(min(ratios) - ROUNDING, max(ratios) + ROUNDING),
        threshold=0.0,
        exact=True,
        why="W2(p_t, N(0, σ_t² I))/|E x_0| at σ_t = 1e9: the limit is |E x_0|, not 0, because α_t = 1 and "
        "a shift stays. Centre the data, or start from N(E x_0, σ_T² I).",
        details={"laws": len(laws), "sigma": sigma},
        curves=(Curves("ve-limit", title, "σ_t", "W2(p_t, N(0, σ_t² I))", series, "xy"),),
    )
