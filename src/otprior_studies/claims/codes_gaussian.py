r"""For Gaussian data the encoder is the optimal map to the normal law: exactly, up to what is left of the signal at T.

With C_t = α_t² Σ + σ_t² I all C_t commute, the probability flow carries each principal coordinate by itself, and
from t_0 to T

    E_T(x) = α_T μ + C_T^{1/2} C_{t_0}^{−1/2} (x − α_{t_0} μ):

the optimal map from N(α_{t_0} μ, C_{t_0}) to N(α_T μ, C_T). The optimal map to N(0, I), C_{t_0}^{−1/2} (x − α_{t_0}
μ), is its limit as α_T → 0, and the difference is α_T μ + ½ α_T² (Σ − I) (…) + …. (t_0 > 0, since a Σ that is not
invertible has no code at σ = 0.)
"""

from __future__ import annotations

from otprior.diffusion.denoisers import GaussianDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow
from otprior_studies.claims.claim import CODES, Curves, Effort, Finding, claim
from otprior_studies.claims.gaussian_laws import random_gaussians

START = Scales.vp(0.99)
TOLERANCE = 1e-9


@claim(
    "codes-gaussian", CODES, "For Gaussian data the encoder is the optimal transport map to the normal law."
)
def codes_gaussian(effort: Effort) -> Finding:
    # Eigenvalues from 1e-3 to 1e3, a third of the laws of half rank. (Beyond, the rounding of Σ itself costs more than
    # the tolerance: 1e-16 of its largest entry, over the smallest eigenvalue of C_{t_0}.)
    laws = random_gaussians(effort, "codes gaussian", effort.choose(60, 12), spread=1e3)
    sample = effort.generator("codes gaussian draws")
    ends = [Scales.vp(a) for a in (1e-1, 1e-2, 1e-4, 1e-6)]
    to_limit = {end.alpha: 0.0 for end in ends}
    worst = 0.0
    for law in laws:
        # The flow sees (μ, Σ) alone; the optimal maps are made from the axes that Σ was made from.
        denoiser = GaussianDenoiser(law.mean, law.covariance)
        x = denoiser.noised(16, *START, sample)
        spread = (START.alpha**2 * law.variances + START.sigma**2).sqrt()
        white = ((x - START.alpha * law.mean) @ law.axes) / spread
        for end in (*ends, NOISE):
            code = probability_flow(denoiser, x, START, end, method="dop853", rtol=1e-12, atol=1e-13).x
            gain = (end.alpha**2 * law.variances + end.sigma**2).sqrt()
            optimal = end.alpha * law.mean + (white * gain) @ law.axes.T
            worst = max(worst, float((code - optimal).abs().max()))
            if end is not NOISE:
                miss = float((code - white @ law.axes.T).abs().max())
                to_limit[end.alpha] = max(to_limit[end.alpha], miss)
    return Finding(
        statistic=worst,
        interval=(0.0, worst),
        threshold=TOLERANCE,
        exact=True,
        why="Largest difference of an entry between the encoder, solved as an ODE, and the optimal map to "
        "N(α_T μ, C_T), for α_T from 0.1 to 0: random, half-rank and ill-conditioned covariances in 1 to "
        "64 dimensions. From the optimal map to N(0, I) it differs by about α_T |E x_0| until α_T = 0.",
        details={
            "laws": len(laws),
            "largest difference from the optimal map to N(0, I), by α_T": {
                str(a): m for a, m in to_limit.items()
            },
        },
        curves=(
            Curves(
                "codes-gaussian",
                "Gaussian codes against the optimal map to N(0, I)",
                "α_T",
                "largest difference of an entry",
                {"encoder to α_T": list(to_limit.items())},
                "xy",
            ),
        ),
    )
