r"""The tightest coupling that can be computed for p_t of a data set: its own probability flow.

The flow carries x ~ p_t to a code z that is N(0, I) exactly, if the score is exact and the flow is followed to α = 0;
for a finite data set both are possible. So (x, T(z)) is a coupling of p_t with the law of T(N(0, I)), for any map T,
and

    W2(p_t, T#N(0, I)) ≤ √E|x − T(z)|².

One pass of the flow, from the earliest t* to pure noise, gives a coupling at every t* on its way. It is no proof, since
draws are finitely many (a confidence limit) and the flow is solved in steps. The second error is measured on some of
the draws, solved again in steps half as long: the method is of fourth order, so the error is about 16/15 of the
difference.

Steps are equal in asinh(b α/σ), b² the larger of 1 and the data's largest variance: the scale on which the flow of a
Gaussian like the data bends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from otprior.diffusion.denoisers import Denoiser, FiniteDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow
from otprior.error.bounds.dual import MeanEstimate
from otprior.error.interval import Bound
from otprior.transport.gaussian import gaussian_map, gelbrich_squared, shared_axes
from otprior.transport.moments import Spectrum
from otprior.utils.random import normal_block, seed_from
from otprior.utils.validation import check_integer, require

# Steps of the fourth-order method in a unit of the time in which they are equal.
STEPS_A_UNIT = 3.0
# Number of draws on which the step error is measured.
CHECKED = 8


@dataclass(frozen=True)
class FlowCoupling:
    """Draws of p_t at several moments, and their codes.

    Attributes:
        scales: The moments, from clean to noisy.
        x: The draws at each moment, at its scale, each of shape (n, d), float32.
        codes: z of each draw, (n, d), float32.
        fine_x, fine_codes: Draws and codes of the first rows, solved in steps half as long.

    Examples:
        >>> draws = couple_by_flow(torch.randn(50, 2), [(0.6, 0.8)], 4, largest_variance=2.0, generator=generator)
        >>> draws.x[0].shape, draws.codes.shape
        (torch.Size([4, 2]), torch.Size([4, 2]))
    """

    scales: tuple[Scales, ...]
    x: tuple[Tensor, ...]
    codes: Tensor
    fine_x: tuple[Tensor, ...]
    fine_codes: Tensor

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, alpha: float, sigma: float) -> int:
        """The index of a moment.

        Raises:
            ValueError: If the coupling does not have it.
        """
        for index, scales in enumerate(self.scales):
            if math.isclose(scales.alpha, alpha, rel_tol=1e-9) and math.isclose(
                scales.sigma, sigma, rel_tol=1e-9
            ):
                return index
        raise ValueError(f"(alpha, sigma) must be a moment of the coupling; got ({alpha:g}, {sigma:g})")


def couple_by_flow(
    rows: Tensor,
    scales: Sequence[tuple[float, float]],
    count: int = 64,
    *,
    largest_variance: float,
    generator: torch.Generator,
) -> FlowCoupling:
    """Draws from p_t of a data set at the cleanest of some moments, and carries the draws through the others to noise.

    Arguments:
        rows: The data, shape (N, d), of equal masses.
        scales: (α, σ) of each moment, α > 0, σ > 0.
        count: Number of draws n.
        largest_variance: Largest principal variance of the data, roughly.
        generator: Seeds the draws.

    Raises:
        ValueError: If there is no moment, or one without signal or noise.

    Source: docs/prior-error.md, "From above"; the flow: Song et al., https://arxiv.org/abs/2011.13456, section 4.3

    Examples:
        >>> flow = couple_by_flow(torch.randn(50, 2), [(0.6, 0.8)], 4, largest_variance=2.0, generator=generator)
        >>> len(flow.scales), flow.codes.shape
        (1, torch.Size([4, 2]))
    """
    check_integer("count", count, 2)
    moments = sorted({Scales(*pair) for pair in scales}, key=lambda each: -each.time)
    require(len(moments) > 0, "scales", "at least one moment", "none")
    noisiest = moments[-1]
    require(noisiest.alpha > 0 and moments[0].sigma > 0, "scales", "of signal and noise", tuple(noisiest))
    seed = seed_from(generator)
    picked = torch.randint(len(rows), (count,), generator=torch.Generator().manual_seed(seed))
    noise = normal_block(seed, "encode", 0, count, rows.shape[1])
    x = moments[0].alpha * rows[picked].float() + moments[0].sigma * noise
    denoiser = FiniteDenoiser(rows)
    bend = max(1.0, math.sqrt(largest_variance))
    main = _carry(denoiser, x, moments, bend, STEPS_A_UNIT)
    fine = _carry(denoiser, x[:CHECKED], moments, bend, 2 * STEPS_A_UNIT)
    return FlowCoupling(tuple(moments), tuple(main[:-1]), main[-1], tuple(fine[:-1]), fine[-1])


@dataclass(frozen=True)
class SquaredGap:
    """|x − T(z)|² over draws.

    Attributes:
        values: Independent values of the same mean as |x − T(z)|², shape (n,).
        stepping: Error of √E|x − T(z)|² by the steps of the flow.
    """

    values: Tensor
    stepping: float


def squared_gap(
    flow: FlowCoupling,
    alpha: float,
    sigma: float,
    image: Callable[[Tensor], Tensor],
    start: Spectrum | None = None,
    reference: Spectrum | None = None,
) -> SquaredGap:
    """The coupling (x, T(z)) at a moment.

    For a Gaussian start T and the map R to another Gaussian along the same axes, E|R(z) − T(z)|² is known, so that
    |x − T|² − |R − T|² + E|R − T|² has the right mean, and much less variance where R is near the flow.

    Arguments:
        flow: A coupling that has the moment.
        alpha, sigma: The moment.
        image: T on codes (n, d).
        start: The moments of T(z), if it is Gaussian.
        reference: Moments near those of p_t, whose Gaussian map is R.
    """
    index = flow.at(alpha, sigma)
    gap = flow.x[index].double() - image(flow.codes).double()
    fine = flow.fine_x[index].double() - image(flow.fine_codes).double()
    stepping = float(((gap[: len(fine)] - fine) ** 2).sum(dim=1).mean().sqrt())
    values = (gap**2).sum(dim=1)
    if start is not None and reference is not None and shared_axes(reference, start) is not None:
        nearby = gaussian_map(flow.codes.double(), reference) - image(flow.codes).double()
        values = values - (nearby**2).sum(dim=1) + gelbrich_squared(reference, start)
    return SquaredGap(values, stepping)


def flow_bound(gap: SquaredGap, part: float, level: float, note: str) -> Bound:
    """The upper confidence limit, of level `part`, plus the error of the steps; reported with `level`."""
    squares = max(MeanEstimate.of(gap.values).limit(part, "upper"), 0.0)
    return Bound(
        math.sqrt(squares) + gap.stepping, "flow", level, f"{note}; {gap.stepping:.1g} for its steps"
    )


def _carry(
    denoiser: Denoiser, x: Tensor, moments: Sequence[Scales], bend: float, density: float
) -> list[Tensor]:
    """The points at each moment and at pure noise."""
    points = [x]
    for start, end in pairwise([*moments, NOISE]):
        for here, there in pairwise(_between(start, end, bend, density)):
            x = probability_flow(denoiser, x, here, there, method="rk4", steps=1).x
        points.append(x)
    return points


def _between(start: Scales, end: Scales, bend: float, density: float) -> list[Scales]:
    """Moments from one to another, equal in asinh(bend α/σ); variance preserving inside."""
    first, last = (math.asinh(bend * each.alpha / each.sigma) for each in (start, end))
    count = max(1, math.ceil(abs(first - last) * density))
    inner = [math.sinh(first + (last - first) * i / count) / bend for i in range(1, count)]
    return [start, *(Scales(ratio / math.hypot(ratio, 1), 1 / math.hypot(ratio, 1)) for ratio in inner), end]
