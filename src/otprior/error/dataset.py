r"""The interval of a prior's error for p_t of given data: every bound that applies, and the best of each kind.

With p = p_t, the law of α X + σ ε for X uniform over N data points, and q the law of a prior's starts:

| prior | below | above |
|---|---|---|
| of Gaussian starts | gelbrich; marginals | shared noise; cells; flow |
| semidiscrete | dual; nearest start (frozen) | chain; independent atoms (coupled, fresh); flow (not for frozen) |
| random atom | 0 | 0: its law is p_t |
| any other | dual | flow; without it no upper bound is known |

Derivations are in docs/prior-error.md and in the docstrings of this package's modules. Bounds from draws (of seeds, of
cells, of p_t) hold with a stated probability, the others are exact to rounding. All bounds of a side miss with
probability 1 − level at most, together, so the best of them may be taken.
"""

from __future__ import annotations

import math

import torch

from otprior.error.bounds.dual import MeanEstimate
from otprior.error.bounds.flow_coupling import FlowCoupling, flow_bound, squared_gap
from otprior.error.bounds.marginals import marginals_squared, normal_products
from otprior.error.interval import Bound, ErrorInterval, best
from otprior.error.semidiscrete import (
    chain_bound,
    dual_bound,
    estimated_links,
    frozen_bound,
    has_normal_noise,
    independent_bound,
)
from otprior.error.start_law import (
    StartDraws,
    draw_starts,
    holds_atoms,
    sample_starts,
    seeds_to_starts,
    semidiscrete,
    starts_are_noised_atoms,
)
from otprior.error.target import Target
from otprior.priors import Prior, SemiDiscretePrior
from otprior.transport.gaussian import (
    coupled_squared,
    gaussian_map,
    gelbrich_squared,
    no_covariance,
    noised,
    shared_axes,
    total_variance,
    variances_along,
)
from otprior.transport.moments import Spectrum
from otprior.utils.random import normal_block, seed_from
from otprior.utils.validation import require

# Number of draws of p_t for which the nearest frozen start is found.
NEAREST_DRAWS = 512
# Number of draws of the starts of a prior that is known by samples alone.
SAMPLED_DRAWS = 2048


def data_error(
    prior: Prior,
    target: Target,
    *,
    label: int | None = None,
    draws: StartDraws | None = None,
    flow: FlowCoupling | None = None,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> ErrorInterval:
    """The interval of W2(p_t of the data, law of the prior's starts), at the prior's timestep.

    Arguments:
        prior: Any prior.
        target: The data. A prior of atoms has the tightest bounds for its own atoms (`StartDraws.target`); for other
            data it is known by samples alone.
        label: The class, for a conditional prior; `target` then holds that class's data.
        draws: Result of `draw_starts` for a semi-discrete prior, at any timestep; drawn here if None.
        flow: Result of `couple_by_flow` for the same data, with the prior's (α, σ) among its moments: adds the flow's
            coupling.
        level: Probability with which each end holds, where it does not hold for certain.
        generator: Seeds the draws that are made here.

    Raises:
        ValueError: If data and prior have different dimensions.

    Examples:
        >>> small = torch.rand(40, 1, 4, 4) * 2 - 1
        >>> found = data_error(GaussianPrior.fit(small, scheduler, timestep=500), Target.of(small))
        >>> found.lower.value <= found.upper.value
        True
    """
    rule = "a Target; Target.of makes one of images"
    require(isinstance(target, Target), "target", rule, type(target).__name__)
    require(target.dim == prior.dim, "data", f"of the prior's dimension {prior.dim}", target.dim)
    start = prior.gaussian_law(label)
    if start is not None:
        return gaussian_error(target, prior.alpha, prior.sigma, start, flow=flow, level=level)
    own = target.rows is None or holds_atoms(prior, target.rows, label)
    if starts_are_noised_atoms(prior) and own:
        return best("data", [Bound(0.0, "exact law")], [Bound(0.0, "exact law")])
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    cells = semidiscrete(prior)
    if cells is None or not own:
        return _sampled_error(prior, target, label, flow, level, generator)
    if draws is None:
        draws = draw_starts(cells, label, generator=generator)
    return _semidiscrete_error(cells, target, label, draws, flow, level, generator)


def gaussian_error(
    target: Target,
    alpha: float,
    sigma: float,
    start: Spectrum,
    *,
    flow: FlowCoupling | None = None,
    level: float = 0.95,
) -> ErrorInterval:
    """The interval of W2(law of α X + σ ε, N(a, S)), at any moment (α, σ), σ = 0 included.

    Arguments:
        target: X: data, or moments alone (then only Gelbrich's bound and its mirror image apply).
        alpha, sigma: The moment.
        start: a and S.
        flow, level: See `data_error`.

    Examples:
        >>> target, white = Target.of(images.images), isotropic(torch.zeros(784), 1.0)
        >>> gaussian_error(target, schedule.alpha(999), schedule.sigma(999), white).upper.value < 1
        True
    """
    clean, moments = target.spectrum, noised(target.spectrum, alpha, sigma)
    nothing = no_covariance(target.dim)
    lower = [Bound(math.sqrt(gelbrich_squared(moments, start)), "gelbrich")]
    upper = [Bound(math.sqrt(coupled_squared(clean, nothing, alpha, sigma, start)), "shared noise")]
    if target.rows is not None or target.given is not None:
        name = "cells" if target.given is None else "given coupling"
        along = shared_axes(clean, start) is not None
        explained = target.explained if along else target.explained_off_axes
        upper.append(Bound(math.sqrt(coupled_squared(clean, explained, alpha, sigma, start)), name))
    if target.rows is not None:
        lower.append(Bound(math.sqrt(_marginals(target, moments, alpha, sigma, start)), "marginals"))
    if flow is not None:
        gap = squared_gap(flow, alpha, sigma, lambda z: gaussian_map(z.double(), start), start, moments)
        upper.append(flow_bound(gap, level, level, f"{len(flow)} draws"))
    return best("data", lower, upper)


def part_level(level: float, parts: int) -> float:
    """The level that each of several limits needs, so that all of them hold together with `level`."""
    return 1 - (1 - level) / parts


def _marginals(target: Target, moments: Spectrum, alpha: float, sigma: float, start: Spectrum) -> float:
    """Exact marginals along the leading axes; along the others, and beyond them, Gelbrich's bound."""
    axes = target.spectrum.basis
    dim, rank = axes.shape
    shift = moments.mean - start.mean.double()
    along = axes.T @ shift
    start_variances = variances_along(axes, start)
    exact = target.places.shape[1]
    products = moments.variances.sqrt()
    products[:exact] = normal_products(target.places, alpha, sigma)
    inside = float(marginals_squared(along, moments.variances, products, start_variances).sum())
    if rank == dim:
        return inside
    # Beyond the axes only total variances are read: B² ≥ (√tr − √tr)².
    beyond = max(total_variance(start) - float(start_variances.sum()), 0.0)
    outside = (math.sqrt((dim - rank) * moments.residual) - math.sqrt(beyond)) ** 2
    return inside + outside + max(float(shift @ shift - along @ along), 0.0)


def _semidiscrete_error(
    prior: SemiDiscretePrior,
    target: Target,
    label: int | None,
    draws: StartDraws,
    flow: FlowCoupling | None,
    level: float,
    generator: torch.Generator,
) -> ErrorInterval:
    alpha, sigma = prior.alpha, prior.sigma
    frozen = prior.noise == "frozen"
    moments = noised(target.spectrum, alpha, sigma)

    part = part_level(level, 1 + frozen)
    starts = draws.starts(alpha, sigma)
    lower = [dual_bound(moments, lambda pair: MeanEstimate(pair.mean_at_target(moments)), starts, part)]
    if frozen:
        picked = torch.multinomial(draws.weights, NEAREST_DRAWS, replacement=True, generator=generator)
        lower.append(frozen_bound(draws, draws.atoms[picked], alpha, sigma, part, generator))

    with_flow = flow is not None and not frozen
    part = part_level(level, estimated_links(prior) + has_normal_noise(prior) + with_flow)
    upper = [chain_bound(draws, alpha, sigma, draws.plan.upper(part), part, level)]
    if has_normal_noise(prior):
        squares = MeanEstimate.of(((draws.signals.double() - target.spectrum.mean) ** 2).sum(dim=1))
        squares += MeanEstimate(target.total_variance)
        upper.append(independent_bound(squares, alpha, part, level))
    if flow is not None and with_flow:
        gap = squared_gap(flow, alpha, sigma, seeds_to_starts(prior, label, generator))
        upper.append(flow_bound(gap, part, level, f"{len(flow)} draws"))
    return best("data", lower, upper)


def _sampled_error(
    prior: Prior,
    target: Target,
    label: int | None,
    flow: FlowCoupling | None,
    level: float,
    generator: torch.Generator,
) -> ErrorInterval:
    """The interval of a prior that is known by samples of its starts alone."""
    moments, seed = noised(target.spectrum, prior.alpha, prior.sigma), seed_from(generator)
    starts = sample_starts(prior, normal_block(seed, "seeds", 0, SAMPLED_DRAWS, prior.dim), label, seed)
    lower = [dual_bound(moments, lambda pair: MeanEstimate(pair.mean_at_target(moments)), starts, level)]
    upper = []
    if flow is not None:
        # The code's further noise is independent of it, as the prior's own is.
        gap = squared_gap(
            flow, prior.alpha, prior.sigma, lambda codes: sample_starts(prior, codes, label, seed + 1)
        )
        upper.append(flow_bound(gap, level, level, f"{len(flow)} draws"))
    return best("data", lower, upper)
