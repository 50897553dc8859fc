r"""Bounds on the error of a semi-discrete start α b(z) + σ n, by a chain of laws from the start's to p_t.

    α b + σ n  →  α y_i + σ n  →  α y_i + σ ε  →  α X + σ ε,      i = i(z) the cell, ε ~ N(0, I) independent of it.

- *Smoothing*: b is the softmax mean of atoms, not y_i. With the same seed, W2 ≤ α √E|b − y_i|².
- *Noise*: n = ρ z + √(1 − ρ²) ε'. Given its cell, of mass p_i, z has relative entropy ln 1/p_i to N(0, I), and by
  Talagrand's inequality its W2² from there is at most twice that. Adding the same √(1 − ρ²) ε' on both sides adds
  nothing to a coupling's cost, so over all cells W2 ≤ ρ σ √(2 H(p)) ≤ ρ σ √(2 ln N). Fresh noise has ρ = 0. Whitened
  noise has less relative entropy, ln N + E e(z) at most, and draws estimate the mean (`transport.whitening`). Frozen
  noise is a point ε_i for each atom: W2² ≤ σ² E|ε − ε_i|² = σ² (d + E|ε_i|²).
- *Masses*: the cells' masses are not those of X: α W2(Σ p_i δ_{y_i}, law of X), from `mass_coupling` for the atoms
  themselves, from held-out data for the population.

Another bound keeps n and takes X independent of the seed: W2² ≤ α² E|b − X|². It is the better one where little
signal is left, and holds where n is N(0, I), as coupled and fresh noise are. From below, frozen starts are N points
w_i, and every coupling sends each point of p_t to one of them: W2² ≥ E min_i |x − w_i|².
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from otprior.error.bounds.dual import MeanEstimate, QuadraticPair
from otprior.error.interval import Bound
from otprior.error.start_law import StartDraws
from otprior.priors import SemiDiscretePrior
from otprior.transport.moments import Spectrum
from otprior.utils.random import normal_block, seed_from


def dual_bound(
    chosen: Spectrum, target_mean: Callable[[QuadraticPair], MeanEstimate], starts: Tensor, level: float
) -> Bound:
    """A lower bound from draws of starts: one half chooses the dual pair, the other estimates it.

    Arguments:
        chosen: Moments of p_t, of data that `target_mean` does not estimate from.
        target_mean: Returns E_p f for a pair.
        starts: Draws of starts, (n, d).
        level: Probability with which the limit holds.
    """
    half = len(starts) // 2
    pair = QuadraticPair.between(chosen, _moments_along(starts[:half], chosen.basis))
    estimate = target_mean(pair) + MeanEstimate.of(pair.at_start(starts[half:]))
    return Bound(
        math.sqrt(max(estimate.limit(level, "lower"), 0.0)), "dual", level, f"{len(starts):,} starts"
    )


def _moments_along(starts: Tensor, axes: Tensor) -> Spectrum:
    """Mean of starts (n, d), and their variances along orthonormal `axes` (d, k) and, on average, beyond."""
    mean = starts.double().mean(dim=0)
    centred = starts.double() - mean
    variances = ((centred @ axes) ** 2).mean(dim=0)
    dim, rank = axes.shape
    left = float((centred**2).sum()) / len(starts) - float(variances.sum())
    return Spectrum(mean, axes, variances, max(left, 0.0) / (dim - rank) if rank < dim else 0.0)


def has_normal_noise(prior: SemiDiscretePrior) -> bool:
    """Whether the start's noise is N(0, I), all cells taken together."""
    return prior.noise in ("coupled", "fresh")


def estimated_links(prior: SemiDiscretePrior) -> int:
    """Number of links of the chain that are estimated: masses; smoothing, frozen or whitened noise if there is any."""
    return 1 + bool(prior.smoothing) + (not has_normal_noise(prior))


def chain_bound(
    draws: StartDraws, alpha: float, sigma: float, masses: float, part_level: float, level: float
) -> Bound:
    """The upper bound by the chain of this module.

    Arguments:
        draws: Draws of the prior's starts.
        alpha, sigma: Scales.
        masses: An upper bound of W2² between the atoms with the cells' masses and the clean data.
        part_level: Level of the limit of each estimated link.
        level: Level of all bounds of the interval together, as reported.
    """
    prior = draws.prior
    links = {"masses": alpha * math.sqrt(masses)}
    if prior.smoothing:
        off = ((draws.signals.double() - draws.atoms[draws.cells].double()) ** 2).sum(dim=1)
        links["smoothing"] = alpha * math.sqrt(MeanEstimate.of(off).limit(part_level, "upper"))
    if prior.noise == "coupled":
        links["noise"] = prior.correlation * sigma * math.sqrt(2 * math.log(len(draws.atoms)))
    elif prior.noise == "whitened":
        assert draws.entropies is not None
        left = math.log(len(draws.atoms)) + MeanEstimate.of(draws.entropies).limit(part_level, "upper")
        links["noise"] = sigma * math.sqrt(2 * max(left, 0.0))
    elif prior.noise == "frozen":
        sizes = (draws.noises.double() ** 2).sum(dim=1)
        links["noise"] = sigma * math.sqrt(prior.dim + MeanEstimate.of(sizes).limit(part_level, "upper"))
    note = " + ".join(f"{name} {value:.3g}" for name, value in links.items())
    return Bound(sum(links.values()), "chain", level, note)


def independent_bound(squares: MeanEstimate, alpha: float, part_level: float, level: float) -> Bound:
    """α √E|b − X|², from an estimate of the mean."""
    return Bound(alpha * math.sqrt(squares.limit(part_level, "upper")), "independent atoms", level)


def frozen_bound(
    draws: StartDraws, rows: Tensor, alpha: float, sigma: float, level: float, generator: torch.Generator
) -> Bound:
    """√E min_i |x − w_i|², lower confidence limit.

    Arguments:
        draws: Draws of a frozen prior's starts.
        rows: Draws of clean data, (n, d): each is noised to one x of p_t.
        alpha, sigma: Scales.
        level: Probability with which the limit holds.
        generator: Seeds the noise.
    """
    noise = normal_block(seed_from(generator), "nearest", 0, len(rows), rows.shape[1])
    x = alpha * rows.float() + sigma * noise
    frozen = draws.prior._noise_of_atoms().cpu()[draws.index]
    nearest = torch.cdist(x, (alpha * draws.atoms + sigma * frozen).float()).min(dim=1).values
    estimate = MeanEstimate.of(nearest.double() ** 2)
    return Bound(math.sqrt(max(estimate.limit(level, "lower"), 0.0)), "nearest start", level)
