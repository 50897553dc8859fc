r"""How much the exact flow can amplify a prior's error: the analytic bound on samples.

Two points on the probability flow of one score s with sym ∇s ≤ λ(t), dx = f x dt + g dw being the forward process, end
at most I times as far apart as they were at t*, and if a network's score is off by J(t) in mean square under p_t,

    W2(p_ε, q_ε) ≤ ½ ∫ g² I √J dt + I(t*) W2(p_t*, q_t*),      I(t) = exp ∫_ε^t (−f + ½ g² λ) dt,

λ being that of the score that samples (the network's). The reverse stochastic process, both points driven by one noise,
has g² in the place of ½ g². (The form is that of Kwon, Fan & Lee, for the stochastic process.)

In the log-SNR l = log(α²/σ²) f dt = d log α and ½ g² dt = −½ σ² dl. With D the denoiser, σ² ∇s = α ∂D/∂x − I, so let
κ(l) = sup_x λ_max(sym α ∂D/∂x), and everything is

    I = (σ_ε/σ_t) exp ½ ∫ κ dl,            stochastic: (α_t/α_ε) (σ_ε/σ_t)² exp ∫ κ dl,            l from l(t) to l(ε),
    ½ ∫ g² I √J dt = ½ ∫ σ I e dl,         e = σ √J, the root mean square error of the predicted noise.

- Gaussian data of largest variance v: κ = v e^l/(1 + v e^l), so I = √((σ_ε² + α_ε² v)/(σ_t² + α_t² v)), which is 1
  for unit variance under VP.
- Data in a set of diameter D: α ∂D/∂x = e^l Cov(x_0 | x), so κ ≤ e^l D²/4, since no law on an interval of length D
  has a larger variance (Popoviciu). Two points reach it, midway. Then log I ≈ (D²/8) e^{l(ε)}: for two points that
  are apart the bound is astronomically large, though nearly no x is ever midway.

References:
    Kwon, Fan & Lee, Score-based generative modeling secretly minimizes the Wasserstein distance (2022),
    https://arxiv.org/abs/2212.06359
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.integrate import quad

from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.validation import require

# κ as a function of the log-SNR.
Gain = Callable[[float], float]

# Below this log-SNR, data of the size of images cannot be distinguished from noise, and the integral is negligible.
NOISIEST = -60.0


def gaussian_gain(variance: float) -> Gain:
    """κ of Gaussian data whose largest variance is `variance`."""
    require(variance >= 0, "variance", "at least 0", variance)
    return lambda level: variance * math.exp(level) / (1 + variance * math.exp(level))


def diameter_gain(diameter: float) -> Gain:
    """A bound of κ for data no two of which are further apart than `diameter`; exact for two points."""
    require(diameter >= 0, "diameter", "at least 0", diameter)
    return lambda level: math.exp(level) * diameter**2 / 4


def log_growth(
    schedule: NoiseSchedule, start: float, end: float, gain: Gain, *, stochastic: bool = False
) -> float:
    """log I from timestep `start` (noisier) to `end`.

    Arguments:
        schedule: The forward process.
        start, end: Timesteps; there is noise at `end`.
        gain: κ, or a bound of it.
        stochastic: For the reverse stochastic process rather than the flow.

    Raises:
        ValueError: If `end` is noisier than `start`, or without noise; or, for the stochastic process, `start` without
            signal.
    """
    noisy, clean = schedule.log_snr(float(start)), schedule.log_snr(float(end))
    require(noisy <= clean < math.inf, "end", "cleaner than start, with some noise left", (start, end))
    noisy = max(noisy, NOISIEST)
    area = quad(gain, noisy, clean, epsabs=1e-12, epsrel=1e-12, limit=400)[0] if clean > noisy else 0.0
    fall = math.log(schedule.sigma(float(end)) / schedule.sigma(float(start)))
    if not stochastic:
        return fall + area / 2
    before, after = schedule.alpha(float(start)), schedule.alpha(float(end))
    require(before > 0, "start", "a timestep with signal", start)
    return math.log(before / after) + 2 * fall + area
