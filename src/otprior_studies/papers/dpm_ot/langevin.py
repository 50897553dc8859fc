r"""Annealed Langevin dynamics: at each of several falling noise levels a few steps along the score, with noise.

The process explodes in variance, x = x_0 + σ ε, and its score needs no network of its own: by Tweedie's formula

    s(x, σ) = ∇ log p_σ(x) = (D(x) − x)/σ²

for any denoiser D at the moment (α, σ) = (1, σ). A variance-preserving network is one, exactly: its latents are those
of this process times α at the moment of equal log-SNR, σ_vp/α = σ, and a density changes with the scale so that

    s(x, σ) = α s_vp(α x).

At a level the chain is x ← x + η σ² s(x, σ) + √(2η) σ ξ, ξ ~ N(0, I), with a step η relative to the level's variance.
For data of variance λ it contracts to its mean by r = 1 − η σ²/V, V = λ + σ², so a variance v becomes r² v + 2 η σ²
in a step, and ends at V/(1 − η σ²/2V): above V, by more the longer the step. The last level is followed by D(x).

References:
    Song & Ermon, Improved techniques for training score-based generative models (2020), technique 4.
    https://arxiv.org/abs/2006.09011
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from scipy.optimize import minimize_scalar
from torch import Tensor

from otprior.diffusion.denoisers import Denoiser
from otprior.utils.validation import check_integer, require


def geometric_levels(begin: float, end: float, count: int) -> tuple[float, ...]:
    """Noise levels σ_0 = begin > … > σ_{count − 1} = end > 0 of equal ratio; one level is the end."""
    check_integer("count", count, 1)
    if count == 1:
        return (end,)
    require(0 < end < begin < math.inf, "begin and end", "with 0 < end < begin", f"{begin:g} and {end:g}")
    ratio = math.log(end / begin)
    return tuple(begin * math.exp(ratio * place / (count - 1)) for place in range(count))


def chain_variance(variance: float, data_variance: float, sigma: float, step: float, steps: int) -> float:
    """The variance, in each direction, after steps at a level, for normal data and their exact score.

    Arguments:
        variance: v before them.
        data_variance: λ.
        sigma: The level σ > 0.
        step: η, relative to σ².
        steps: How many.
    """
    whole = data_variance + sigma**2
    contraction = (1 - step * sigma**2 / whole) ** (2 * steps)
    return contraction * variance + (1 - contraction) * whole / (1 - step * sigma**2 / (2 * whole))


def best_step(ratio: float, steps: int) -> float:
    """The η in (0, 1) that leaves a level with the variance nearest to its own (technique 4 of the reference).

    For data at a point, latents come from the level before with variance (ratio · σ)². The variance after `steps` at σ
    is above σ² for every η: below the least is nothing, so the least is the nearest.

    Arguments:
        ratio: Ratio of a level to the next, above 1.
        steps: At each level.
    """
    _check(ratio, steps)
    return _least(lambda step: chain_variance(ratio**2, 0.0, 1.0, step, steps), 0.0)


def settled_variance(ratio: float, step: float, steps: int) -> float:
    """Where the variance, in units of the level's square, settles over many levels, for data at a point.

    Each level takes v to c γ² v + (1 − c)/(1 − η/2), c = (1 − η)^{2n}, with γ the ratio and n the steps; infinite where
    a level contracts less than the next one falls.
    """
    kept = (1 - step) ** (2 * steps)
    return (1 - kept) / (1 - step / 2) / (1 - kept * ratio**2) if kept * ratio**2 < 1 else math.inf


def settled_step(ratio: float, steps: int) -> float:
    """The η in (0, 1) for which `settled_variance` is least: what `best_step` leaves out is that errors add up.

    Arguments:
        ratio: Ratio of a level to the next, above 1.
        steps: At each level.
    """
    _check(ratio, steps)
    # (Below, a level contracts less than the next one falls.)
    return _least(lambda step: settled_variance(ratio, step, steps), 1 - ratio ** (-1 / steps))


def _check(ratio: float, steps: int) -> None:
    require(1 < ratio < math.inf, "ratio", "above 1", ratio)
    check_integer("steps", steps, 1)


def _least(variance: Callable[[float], float], low: float) -> float:
    """The η in (low, 1) where a variance is least."""
    return float(minimize_scalar(variance, bounds=(low, 1.0), method="bounded", options={"xatol": 1e-10}).x)


def ve_score(denoiser: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """s(x, σ) of the process x_0 + σ ε; x of any shape (B, ...)."""
    return (denoiser(x, 1.0, sigma) - x) / sigma**2


def annealed_langevin(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    steps: int,
    step: float,
    draw: Callable[[], Tensor],
    denoise: bool = True,
) -> Tensor:
    """Clean data from latents, by `len(sigmas) * steps` calls of the denoiser, and one more if `denoise`.

    Arguments:
        denoiser: The data's denoiser.
        x: Latents x_0 + σ ε, with σ the first level or somewhat above, shape (B, ...).
        sigmas: Falling levels.
        steps: At each.
        step: η, in (0, 1).
        draw: Gives noise ξ ~ N(0, I) of x's shape, a call a step.
        denoise: Whether D at the last level ends it.
    """
    require(len(sigmas) > 0, "sigmas", "at least one level", 0)
    falling = all(later < earlier for earlier, later in pairwise(sigmas)) and sigmas[-1] > 0
    require(falling, "sigmas", "positive and falling", list(sigmas))
    check_integer("steps", steps, 1)
    require(0 < step < 1, "step", "in (0, 1)", step)
    for sigma in sigmas:
        for _ in range(steps):
            x = (
                x
                + step * sigma**2 * ve_score(denoiser, x, sigma)
                + math.sqrt(2 * step) * sigma * draw().to(x)
            )
    return denoiser(x, 1.0, sigmas[-1]) if denoise else x
