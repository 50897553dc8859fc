r"""The interval of a prior's error for p_t of the population, estimated from held-out data.

*Below*: the quadratic pairs of `dual`. One half of the held-out data chooses the pair, the other half estimates its
mean over the population, to which independent noise adds σ² tr(I − A) exactly.

*Above*: W2² is convex in each of its measures. So with μ_n the empirical measure of n draws X_1, …, X_n,

    W2²(p_t of the population, q) ≤ E W2²(p_t of μ_n, q),

and an upper bound of the right side for a given data set is one of the left in expectation. The held-out data are cut
into blocks, each a data set of its own, and the mean over blocks has Student's upper limit. (Blocks are small, and a
small data set's p_t is further from any smooth q than the population's: these bounds err on the safe side.) The
coupling that shares the noise gives a mean over single X, so it needs no blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.error.bounds.dual import MeanEstimate, QuadraticPair
from otprior.error.bounds.flow_coupling import (
    FlowCoupling,
    SquaredGap,
    couple_by_flow,
    flow_bound,
    squared_gap,
)
from otprior.error.dataset import part_level
from otprior.error.interval import Bound, ErrorInterval, best
from otprior.error.semidiscrete import (
    chain_bound,
    dual_bound,
    estimated_links,
    frozen_bound,
    has_normal_noise,
    independent_bound,
)
from otprior.error.start_law import StartDraws, draw_starts, seeds_to_starts, semidiscrete
from otprior.error.target import axes_kept
from otprior.priors import Prior, SemiDiscretePrior
from otprior.transport.gaussian import bures_squared, gaussian_map, isotropic, noised, variances_along
from otprior.transport.moments import Spectrum, streaming_spectrum
from otprior.utils.validation import check_finite, check_integer, invalid, require

# Up to this dimension the dual pair is unrestricted; beyond, it is diagonal along the start's own axes, to avoid d³.
FREE_PAIR_LIMIT = 128
# Rows of a block that are matched with draws of starts, at most.
MATCHED = 512
# Blocks of held-out data, and rows that each must have.
BLOCKS = 8
ROWS_A_BLOCK = 4
LEAST_HELD_OUT = ROWS_A_BLOCK * BLOCKS


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out data, split for estimates that must not use the same rows.

    Build it with `of`.

    Attributes:
        chosen: Moments of the half that chooses.
        measured: The half that estimates, shape (m, d).
        rows: All of them, in random order, shape (n, d).
        blocks: Disjoint data sets that make up `rows`.
        flows: For each block, draws of its p_t with their codes; empty without moments.

    Examples:
        >>> HeldOut.of(torch.randn(100, 1, 4, 4), generator=generator).measured.shape
        torch.Size([50, 16])
    """

    chosen: Spectrum
    measured: Tensor
    rows: Tensor
    blocks: tuple[Tensor, ...]
    flows: tuple[FlowCoupling, ...]

    @classmethod
    def of(
        cls,
        images: Tensor,
        scales: Sequence[tuple[float, float]] = (),
        *,
        blocks: int = BLOCKS,
        draws: int = 16,
        generator: torch.Generator,
    ) -> HeldOut:
        """Splits images (N, C, H, W) or rows (N, d) at random.

        Arguments:
            images: At least four for each block.
            scales: Moments (α, σ) of the flow's coupling.
            blocks: Number of blocks, at least 2.
            draws: Number of draws of each block's p_t.
            generator: Seeds the shuffle and the draws.

        Raises:
            ValueError: If there are too few images, or one has NaN or infinity.
        """
        rows = images.flatten(1)
        check_finite("held-out data", rows)
        check_integer("blocks", blocks, 2)
        least = ROWS_A_BLOCK * blocks
        require(len(rows) >= least, "held-out data", f"at least {least} images", len(rows))
        rows = rows[torch.randperm(len(rows), generator=generator)]
        half = len(rows) // 2
        chosen = streaming_spectrum(rows[:half], axes_kept(rows.shape[1]))
        parts = tuple(rows.tensor_split(blocks))
        largest = float(chosen.variances.max())
        flows = tuple(
            couple_by_flow(part, scales, draws, largest_variance=largest, generator=generator)
            for part in (parts if scales else ())
        )
        return cls(chosen, rows[half:], rows, parts, flows)

    def target_mean(self, pair: QuadraticPair, alpha: float, sigma: float) -> MeanEstimate:
        """E f over the population's p_t, from the half that estimates."""
        values = pair.at_target(alpha * self.measured.double()) + pair.noise_at_target(sigma)
        return MeanEstimate.of(values)


def population_error(
    prior: Prior,
    held_out: HeldOut,
    *,
    label: int | None = None,
    draws: StartDraws | None = None,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> ErrorInterval:
    """The interval of W2(p_t of the population, law of the prior's starts): each end holds with `level`.

    Arguments:
        prior: A prior of Gaussian starts (`Prior.gaussian_law`), or a semi-discrete one.
        held_out: Data that the prior was not fitted on (of the class).
        label: The class, for a conditional prior.
        draws: Result of `draw_starts` for a semi-discrete prior; drawn here if None.
        level: Probability with which each end holds.
        generator: Seeds the draws that are made here.

    Raises:
        ValueError: If the prior is of another kind, or of another dimension than the data.

    Source: docs/prior-error.md, "For the population"

    Examples:
        >>> held_out = HeldOut.of(images.images, generator=generator)
        >>> population_error(prior, held_out).lower.level
        0.95
    """
    dim = held_out.rows.shape[1]
    require(dim == prior.dim, "held-out data", f"of the prior's dimension {prior.dim}", dim)
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    start = prior.gaussian_law(label)
    if start is not None:
        return gaussian_population_error(held_out, prior.alpha, prior.sigma, start, level)
    cells = semidiscrete(prior)
    if cells is None:
        raise invalid("prior", "semi-discrete or of Gaussian starts", type(prior).__name__)
    if draws is None:
        draws = draw_starts(cells, label, generator=generator)
    return _semidiscrete_error(cells, held_out, label, draws, level, generator)


def gaussian_population_error(
    held_out: HeldOut, alpha: float, sigma: float, start: Spectrum, level: float = 0.95
) -> ErrorInterval:
    """The interval of W2(law of α X + σ ε, N(a, S)), X from the population: each end holds with `level`.

    Arguments:
        held_out: Draws of X, on which `start` does not depend.
        alpha, sigma: The moment.
        start: a and S.
        level: Probability with which each end holds.

    Source: docs/prior-error.md, "For the population"; below after Gelbrich, 1990

    Examples:
        >>> held_out = HeldOut.of(images.images, generator=generator)
        >>> gaussian_population_error(held_out, 0.6, 0.8, isotropic(torch.zeros(784), 1.0)).lower.value > 0
        True
    """
    chosen = held_out.chosen
    if len(start.mean) > FREE_PAIR_LIMIT and start.basis.shape[1]:
        variances = variances_along(start.basis, chosen)
        dim, rank = start.basis.shape
        left = float(chosen.variances.sum()) + (dim - chosen.basis.shape[1]) * chosen.residual
        beyond = max(left - float(variances.sum()), 0.0) / (dim - rank) if rank < dim else 0.0
        chosen = Spectrum(chosen.mean, start.basis, variances, beyond)
    pair = QuadraticPair.between(noised(chosen, alpha, sigma), start)
    below = held_out.target_mean(pair, alpha, sigma) + MeanEstimate(pair.mean_at_start(start))
    note = f"{len(held_out.rows):,} images"
    lower = [Bound(math.sqrt(max(below.limit(level, "lower"), 0.0)), "dual", level, note)]

    part = part_level(level, 1 + bool(held_out.flows))
    # |α X − a|² + B²(σ² I, S), averaged over single X.
    spread = bures_squared(isotropic(start.mean, sigma**2), start)
    squares = ((alpha * held_out.rows.double() - start.mean) ** 2).sum(dim=1) + spread
    upper = [Bound(math.sqrt(MeanEstimate.of(squares).limit(part, "upper")), "shared noise", level, note)]
    if held_out.flows:
        bound = _flow_bound(
            held_out, alpha, sigma, lambda z: gaussian_map(z.double(), start), part, level, start
        )
        upper.append(bound)
    return best("population", lower, upper)


def _semidiscrete_error(
    prior: SemiDiscretePrior,
    held_out: HeldOut,
    label: int | None,
    draws: StartDraws,
    level: float,
    generator: torch.Generator,
) -> ErrorInterval:
    alpha, sigma = prior.alpha, prior.sigma
    frozen = prior.noise == "frozen"
    part = part_level(level, 1 + frozen)
    chosen = noised(held_out.chosen, alpha, sigma)
    starts = draws.starts(alpha, sigma)
    lower = [dual_bound(chosen, lambda pair: held_out.target_mean(pair, alpha, sigma), starts, part)]
    if frozen:
        lower.append(frozen_bound(draws, held_out.rows, alpha, sigma, part, generator))

    with_flow = bool(held_out.flows) and not frozen
    part = part_level(level, estimated_links(prior) + has_normal_noise(prior) + with_flow)
    masses = _matched(held_out, draws).limit(part, "upper")
    upper = [chain_bound(draws, alpha, sigma, masses, part, level)]
    if has_normal_noise(prior):
        n = min(len(draws.signals), len(held_out.rows))
        squares = ((draws.signals[:n].double() - held_out.rows[:n].double()) ** 2).sum(dim=1)
        upper.append(independent_bound(MeanEstimate.of(squares), alpha, part, level))
    if with_flow:
        image = seeds_to_starts(prior, label, generator)
        upper.append(_flow_bound(held_out, alpha, sigma, image, part, level))
    return best("population", lower, upper)


def _matched(held_out: HeldOut, draws: StartDraws) -> MeanEstimate:
    """E W2² between a block's data and draws of the prior's atoms: an upper bound for population and atoms."""
    import ot

    chosen = draws.atoms[draws.cells].double()
    costs = []
    parts = chosen.tensor_split(len(held_out.blocks))
    for block, atoms in zip(held_out.blocks, parts):
        n, m = min(len(block), MATCHED), min(len(atoms), MATCHED)
        cost = torch.cdist(block[:n].double(), atoms[:m]) ** 2
        uniform = torch.full((n,), 1 / n, dtype=torch.float64), torch.full((m,), 1 / m, dtype=torch.float64)
        costs.append(
            float(ot.emd2(uniform[0].numpy(), uniform[1].numpy(), cost.numpy(), numItermax=1_000_000))
        )
    return MeanEstimate.of(torch.tensor(costs, dtype=torch.float64))


def _flow_bound(
    held_out: HeldOut,
    alpha: float,
    sigma: float,
    image: Callable[[Tensor], Tensor],
    part: float,
    level: float,
    start: Spectrum | None = None,
) -> Bound:
    """The flow bound from the mean over blocks, each coupled by its own flow."""
    reference = noised(held_out.chosen, alpha, sigma)
    gaps = [squared_gap(each, alpha, sigma, image, start, reference) for each in held_out.flows]
    means = torch.stack([gap.values.mean() for gap in gaps])
    stepping = math.sqrt(sum(gap.stepping**2 for gap in gaps) / len(gaps))
    count = sum(len(each) for each in held_out.flows)
    return flow_bound(SquaredGap(means, stepping), part, level, f"{count} draws in {len(gaps)} blocks")
