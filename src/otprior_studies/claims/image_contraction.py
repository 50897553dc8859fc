r"""W2(p_t, N(0, I)) of 1,000 bundled images, in an interval at every t, and whether it obeys the bound and the rate.

Below: Gelbrich's bound, the Bures distance of means and covariances, which are known exactly. Above, two couplings
of p_t and N(0, I), whichever is nearer:

- the flow: F_t(z) has the law p_t if it starts from pure noise, so W2² ≤ E|F_t(z) − z|²;
- α y(z) + σ ε with a z + b ε, where y(z) is the image in which the flow from z ends and a² + b² = 1. At the best a,
  b, W2² ≤ α² E|y|² + σ² d + d − 2 √(α² m² + σ² d²), m = E⟨z, y(z)⟩.

W2(p_0, N(0, I)) itself is bounded below by the dual of the semi-discrete problem, at any offsets. The contraction is
shown if the upper end at t is below α_t times the lower end at 0. For the rate both ends must fall alike: an interval
whose ends fall at different speeds does not determine the rate of the distance.
"""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

from otprior.diffusion.denoisers import FiniteDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow
from otprior_studies.claims.claim import DERIVED, PRIOR_V1, Curves, Effort, Finding, claim
from otprior_studies.claims.gaussian_laws import w2_to_normal_vp
from otprior_studies.claims.images import TIMESTEPS, image_flow, image_offsets, images

# Two-sided 95 %.
NORMAL_QUANTILE = float(stats.norm.ppf(0.975))


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and eigenvalues of the covariance (d,) of rows (N, d), float64."""
    centred = rows - rows.mean(dim=0)
    return rows.mean(dim=0), torch.linalg.eigvalsh(centred.T @ centred / len(rows)).clamp(min=0)


def _limits(values: Tensor) -> tuple[float, float]:
    """95 % limits of the mean of values (n,)."""
    half = NORMAL_QUANTILE * float(values.std()) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


@claim("vp-contraction-images", PRIOR_V1, "VP, 1,000 images: W2(p_t, N(0, I)) ≤ α_t W2(p_0, N(0, I)).")
def vp_contraction_images(effort: Effort) -> Finding:
    flow, atoms = image_flow(effort), images().double()
    mean, variances = _moments(atoms)
    dim, square = atoms.shape[1], float((atoms**2).sum(dim=1).mean())
    z, reached = flow.z.double(), atoms[flow.basin]
    offsets = image_offsets("one", effort.seed)
    # Other draws than the solver's; |z|² is in its place by its mean d.
    dual = (z @ atoms.T + offsets).max(dim=1).values - offsets.mean()
    at_zero = math.sqrt(dim + square - 2 * _limits(dual)[1])
    aligned = max(_limits((z * reached).sum(dim=1))[0], 0.0)

    ratios, lower, upper = [], [], []
    for scales, points in zip(flow.moments, flow.points):
        alpha, sigma = scales
        along_flow = _limits(((points.double() - z) ** 2).sum(dim=1))[1]
        coupled = math.hypot(alpha * aligned, sigma * dim)
        by_images = alpha**2 * square + (1 + sigma**2) * dim - 2 * coupled
        low = w2_to_normal_vp(mean, variances, alpha)
        high = math.sqrt(min(along_flow, by_images))
        lower.append((-math.log(alpha), low))
        upper.append((-math.log(alpha), high))
        ratios.append((low / (alpha * math.sqrt(dim + square)), high / (alpha * at_zero)))
    worst = max(range(len(ratios)), key=lambda i: ratios[i][1])
    return Finding(
        statistic=ratios[worst][1],
        interval=ratios[worst],
        threshold=1.0,
        why=f"W2(p_t, N(0, I))/(α_t W2(p_0, N(0, I))) at the worst of t = {TIMESTEPS[-1]} … {TIMESTEPS[0]}: "
        "the upper end is a coupling over a dual bound, the lower end Gelbrich's bound over a crude one. "
        "Both are below 1.",
        details={
            "W2(p_0, N(0, I)) at least": at_zero,
            "by timestep": {
                str(t): {"ratio": list(r), "W2": [a[1], b[1]]}
                for t, r, a, b in zip(TIMESTEPS, ratios, lower, upper)
            },
        },
        curves=(
            Curves(
                "image-contraction",
                "1,000 images: distance of p_t from white noise",
                "½ ∫ β = −log α",
                "W2(p_t, N(0, I))",
                {
                    "at least (Gelbrich)": lower,
                    "at most (coupling)": upper,
                    "bound α W2(p_0, N(0, I))": [(a, math.exp(-a) * at_zero) for a, _ in lower],
                },
                log="y",
            ),
        ),
    )


@claim(
    "vp-rate-images",
    DERIVED,
    "VP, 1,000 images: W2(p_t, N(0, I)) falls like α_t, and like α_t² once the images are centred.",
)
def vp_rate_images(effort: Effort) -> Finding:
    raw = images().double()
    z = effort.normal("image rate", effort.choose(500, 100), raw.shape[1])
    alphas = (1e-3, 2e-3)
    worst: tuple[float, float] = (0.0, 0.0)
    details = {}
    for name, atoms, expected in (("as they are", raw, 1.0), ("centred", raw - raw.mean(dim=0), 2.0)):
        mean, variances = _moments(atoms)
        law = FiniteDenoiser(atoms)
        lower = [w2_to_normal_vp(mean, variances, a) for a in alphas]
        moved = [probability_flow(law, z, NOISE, Scales.vp(a), steps=8).x - z for a in alphas]
        upper = [math.sqrt(float((m**2).sum(dim=1).mean())) for m in moved]
        slopes = [(math.log(w[1]) - math.log(w[0])) / math.log(2) for w in (lower, upper)]
        off = sorted(abs(slope - expected) for slope in slopes)
        worst = max(worst, (off[0], off[1]), key=lambda pair: pair[1])
        details[name] = {
            "slope of the lower bound": slopes[0],
            "slope of the upper bound": slopes[1],
            "upper over lower": upper[0] / lower[0],
        }
    return Finding(
        statistic=worst[1],
        interval=worst,
        threshold=0.05,
        why="Deviation of the slope of −log W2 in ½ ∫ β from 1 (images as they are) and 2 (centred), "
        "between α = 0.002 and 0.001, at both ends of an interval: Gelbrich below, the flow's own coupling "
        "above.",
        details=details,
    )
