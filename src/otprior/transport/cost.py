"""How far N(0, I) is from a discrete measure: W2² between two bounds, for any offsets h.

*Below* is the dual value, for the source's draws z and with u of `potential`,

    W2²(μ, ν) ≥ E|z|² + Σ ν_i |y_i|² + 2 Σ ν_i h_i − 2 E u(z),

with equality at the optimum. *Above* is a plan. The draws of a batch, of mass 1/n each, go to their cells; where that
is more than ν_i, the excess moves on to atoms that lack mass, each draw to the one among them at which it scores best.
The result couples the batch to ν exactly, so its cost is at least W2² from the batch to ν, whose mean is at least
W2²(μ, ν), since W2² is convex. Neither bound requires a good h or the cells' masses. Offsets that are not optimal widen
the interval from both sides; so do batches with few draws an atom, whose sampling error the plan has to repair.

Both are means over eight independent batches. The interval's ends lie beyond them by Student's quantile times their
standard errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import BrenierPotential
from otprior.transport.source import Sampler, Source
from otprior.utils.random import seed_from
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_integer, check_tensor, require

BATCHES = 8
LEAST_DRAWS, MOST_DRAWS = 1 << 16, 1 << 27
DRAWS_PER_ATOM = 16
# Student's t has a degree of freedom fewer than there are batches.
QUANTILE_975 = float(stdtrit(BATCHES - 1, 0.975))
# After so many rounds, or when this little mass is left, the rest goes to all atoms that lack mass, in proportion.
ROUNDS = 16
LITTLE = 1e-4
SCORES_PER_BLOCK = 1 << 22
ROWS_PER_BLOCK = 1 << 13


@dataclass(frozen=True)
class TransportCost:
    """Bounds of W2²(μ, ν), each an unbiased estimate of a bound with its standard error.

    Attributes:
        dual: At most W2², on average over draws.
        dual_error: Its standard error.
        primal: At least W2², on average over draws.
        primal_error: Its standard error.
        draws: How many.

    Examples:
        >>> cost = transport_cost(torch.eye(2), torch.zeros(2), draws=4096)
        >>> cost.dual <= cost.primal
        True
    """

    dual: float
    dual_error: float
    primal: float
    primal_error: float
    draws: int

    @property
    def squared_interval(self) -> tuple[float, float]:
        """An interval that contains W2² with a probability of 95 % at least."""
        low, high = self.dual - QUANTILE_975 * self.dual_error, self.primal + QUANTILE_975 * self.primal_error
        return max(low, 0.0), max(high, 0.0)

    @property
    def interval(self) -> tuple[float, float]:
        """An interval that contains W2 with a probability of 95 % at least."""
        low, high = self.squared_interval
        return math.sqrt(low), math.sqrt(high)


@plain_torch()
def transport_cost(
    atoms: Tensor | DiscreteMeasure,
    potential: Tensor,
    weights: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    draws: int | None = None,
    source: str | Sampler = "normal",
) -> TransportCost:
    """Bounds of W2² from N(0, I_d), or another source, to Σ ν_i δ_{y_i}.

    Arguments:
        atoms: y, shape (M, d), or a measure that has been built from them.
        potential: h, shape (M,), as `solve_semidiscrete` returns it; the better, the closer the bounds.
        weights: ν, shape (M,), sum 1; uniform by default.
        generator: Seeds the draws. They must not have been used to find h, so give a generator of its own.
        draws: How many, in eight batches; by default 16 an atom, and 65,536 at least.
        source: As for `solve_semidiscrete`.

    Raises:
        ValueError: On bad atoms, weights, source or draws, or a potential of another shape or not finite on an atom
            of positive weight.

    Source: Kantorovich's semi-dual, as in Mérigot & Thibert, 2020, https://arxiv.org/abs/2003.00855, section 4

    Examples:
        >>> cost = transport_cost(torch.eye(2), torch.zeros(2), draws=4096)
        >>> cost.draws, cost.interval[0] < cost.interval[1]
        (4096, True)
    """
    measure = DiscreteMeasure.of(atoms, weights)
    h = _offsets(measure, potential)
    if draws is None:
        draws = max(LEAST_DRAWS, DRAWS_PER_ATOM * len(measure))
    check_integer("draws", draws, 2 * BATCHES, MOST_DRAWS)
    seed = seed_from(generator)
    law, size = Source.build(source, measure.dim, seed), draws // BATCHES
    # With atoms less their mean, and h less its own, both bounds are E|x|² + Σ ν |y|² less twice a mean of scores.
    mean, y = measure.mean().cpu(), measure.centred()
    masses = measure.weights.to(y.device)
    if not law.mixes:
        h = h + y.double() @ mean.to(y.device)
    brenier = BrenierPotential.build(y, h - masses @ h)
    constant = float(masses @ (y.double() ** 2).sum(dim=1))
    bounds = []
    for k in range(BATCHES):
        x, square = _batch(law, seed, k, size, mean, y.dtype)
        bounds.append([constant + square - 2 * part for part in _scores(brenier, masses, x.to(y))])
    dual, primal = torch.tensor(bounds, dtype=torch.float64).T
    errors = [float(part.std()) / BATCHES**0.5 for part in (dual, primal)]
    return TransportCost(float(dual.mean()), errors[0], float(primal.mean()), errors[1], BATCHES * size)


def _offsets(measure: DiscreteMeasure, potential: Tensor) -> Tensor:
    """The potential of the distinct atoms, float64 (N,)."""
    check_tensor("potential", potential)
    device, given = measure.atoms.device, len(measure.merged_into)
    require(tuple(potential.shape) == (given,), "potential", f"of shape ({given},)", tuple(potential.shape))
    h = potential.to(device, torch.float64)[measure.index.to(device)]
    finite = bool(torch.isfinite(h).all())
    require(finite, "potential", "finite where weights are positive", "NaN or infinity")
    return h


def _batch(
    law: Source, seed: int, number: int, size: int, mean: Tensor, dtype: torch.dtype
) -> tuple[Tensor, float]:
    """Draws of the source (size, d), and their mean squared distance from the atoms' mean.

    That distance is known for the normal law. Draws of another law are taken relative to the atoms' mean.
    """
    x = law.block(seed, "cost", number, size, len(mean))
    if law.mean is None or law.spread is None:
        return x, len(mean) + float(mean @ mean)
    x = (law.mean + law.spread * x - mean).to(dtype)
    return x, float((x.double() ** 2).sum(dim=1).mean())


def _scores(brenier: BrenierPotential, weights: Tensor, x: Tensor) -> tuple[float, float]:
    """The mean of u over the rows of x (n, d), and that of ⟨x, y⟩ under a plan between them and ν."""
    h = brenier.offsets
    cell = brenier.assign(x)
    inner = _inner(brenier, x, cell)
    mean_value = float((inner + h[cell]).mean())
    mass = torch.full_like(inner, 1 / len(x))  # of each row, still in its cell
    room = weights.index_add(0, cell, -mass)  # what an atom lacks; negative where it has too much
    total = float(inner.mean())
    for _ in range(ROUNDS):
        lacking = torch.nonzero(room > 0).reshape(-1)
        rows = torch.nonzero((room < 0)[cell] & (mass > 0)).reshape(-1)
        if not len(lacking) or not len(rows):
            return mean_value, total
        if float(room[lacking].sum()) < LITTLE:
            break
        target = _best(brenier, x, rows, lacking)
        moved = _inner(brenier, x[rows], target)
        loss = (inner + h[cell])[rows] - moved - h[target]
        order = loss.argsort()
        rows, target, moved = rows[order], target[order], moved[order]
        amount = _within(mass[rows], cell[rows], -room)
        amount = _within(amount, target, room)
        mass[rows] -= amount
        room.index_add_(0, cell[rows], amount).index_add_(0, target, -amount)
        total += float(amount @ (moved - inner[rows]))
    rows = torch.nonzero((room < 0)[cell] & (mass > 0)).reshape(-1)
    amount = _within(mass[rows], cell[rows], -room)
    # (Nothing may be left after the last round; then no amount is.)
    share = room.clamp(min=0) / room.clamp(min=0).sum().clamp(min=1e-300)
    anywhere = x[rows].double() @ (share @ brenier.atoms.double())
    return mean_value, total + float(amount @ (anywhere - inner[rows]))


def _inner(brenier: BrenierPotential, x: Tensor, atom: Tensor) -> Tensor:
    """⟨x_k, y_{atom_k}⟩ of rows x (n, d), float64 (n,)."""
    parts = zip(x.split(ROWS_PER_BLOCK), atom.split(ROWS_PER_BLOCK))
    return torch.cat([(a.double() * brenier.atoms[b].double()).sum(dim=1) for a, b in parts])


def _best(brenier: BrenierPotential, x: Tensor, rows: Tensor, among: Tensor) -> Tensor:
    """For each of the rows the atom, of those in `among`, at which it scores best, up to rounding."""
    atoms, h = brenier.atoms[among], brenier.offsets[among].to(x.dtype)
    parts = rows.split(max(1, SCORES_PER_BLOCK // len(among)))
    return among[torch.cat([torch.addmm(h, x[part], atoms.T).argmax(dim=1) for part in parts])]


def _within(amount: Tensor, group: Tensor, limit: Tensor) -> Tensor:
    """Amounts (n,), cut off in their order where those of a group reach its limit, limit (N,)."""
    order = group.argsort(stable=True)
    sorted_amount, sorted_group = amount[order], group[order]
    before = sorted_amount.cumsum(0) - sorted_amount
    first = torch.ones_like(sorted_group, dtype=torch.bool)
    first[1:] = sorted_group[1:] != sorted_group[:-1]
    start = before[first][first.cumsum(0) - 1]
    cut = torch.empty_like(amount)
    cut[order] = torch.minimum((limit[sorted_group] - before + start).clamp(min=0), sorted_amount)
    return cut
