r"""Pairs of points compared with the best pairing of the same points: exact discrete optimal transport.

A map pairs n points x_i with n points c_i. For the square distance the cost of pairing by a permutation π is

    Σ |x_i − c_π(i)|² = Σ |x_i|² + Σ |c_i|² − 2 Σ ⟨x_i, c_π(i)⟩,

so that only the products matter, and shifting all x or all c changes nothing in the choice. If c_i = T(x_i) with T
optimal between any two laws, the given pairs are the best pairing of *any* n points (the graph of T is cyclically
monotone). The reverse is not so: the study of claims measures what such a test misses.

Three scales for the same thing:

- the excess of the cost, relative to the best: what the literature reports. Small for every map in high dimension,
  even for a random one, because most of |x − c|² is |x|² + |c|²;
- the part of the *gain* that is lost. By pairing, Σ ⟨x_i, c_i⟩ can be raised from n ⟨x̄, c̄⟩, the mean
  of a random pairing, to that of the best. So 0 is optimal and 1 is random, whatever the dimension;
- the share of points whose partner in the best pairing is another than the given one.

References:
    Crouse, On implementing 2D rectangular assignment algorithms (2016): the algorithm that SciPy has.
    Villani, Optimal transport, old and new (2009), chapter 5: cyclical monotonicity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_finite, require

# Rounding of the sums, relative to the products that enter them.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Pairing:
    """Figures of a pairing of n points.

    Attributes:
        points: n.
        cost: Mean of |x_i − c_i|².
        best: The same for the best pairing.
        excess: (cost − best)/best, at least 0.
        lost: Part of the gain that is lost, at least 0.
        moved: Share of points whose best partner is another than the given (or an equal) one.
        crossed: Share of pairs i < j that are cheaper exchanged, ⟨x_i − x_j, c_i − c_j⟩ < 0.
        crossed_near: The same share among pairs of each x_i with its nearest other x_j.
        longest_cycle: Most points that the best pairing exchanges in one cycle; 1 if it exchanges none.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> pairing(x, x.flip(0)).best
        0.0
    """

    points: int
    cost: float
    best: float
    excess: float
    lost: float
    moved: float
    crossed: float
    crossed_near: float
    longest_cycle: int


@plain_torch()
def best_partners(x: Tensor, c: Tensor) -> Tensor:
    """π of the best pairing, of x_i with c_π(i); int64 (n,).

    Arguments:
        x, c: Points of shape (n, ...) each, of equally many entries; computed in float64.

    Raises:
        ValueError: If they differ in number or width, or are not finite.

    Examples:
        >>> best_partners(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.1], [0.2]]))
        tensor([1, 0])
    """
    x, c = _rows(x, c)
    return _best(x @ c.T)


@plain_torch()
def pairing(x: Tensor, c: Tensor) -> Pairing:
    """Compares the pairs (x_i, c_i) with the best pairing of the same points.

    Arguments:
        x, c: Points of shape (n, ...) each, n >= 2, of equally many entries; computed in float64.

    Raises:
        ValueError: If they differ in number or width, or are not finite.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> found = pairing(x, x.flip(0))
        >>> found.cost > found.best
        True
    """
    x, c = _rows(x, c)
    require(len(x) >= 2, "points", "at least two", len(x))
    products = x @ c.T
    own = products.diagonal().clone()  # contiguous, so that equal sums round equally
    best = _best(products)
    gained = products.gather(1, best[:, None])[:, 0]
    squares = float((x**2).sum() + (c**2).sum())
    given, optimum = float(own.sum()), float(gained.sum())
    # (The optimum is one of all pairings: below the given one by rounding alone.)
    short = max(optimum - given, 0.0)
    chance = float(x.sum(dim=0) @ c.sum(dim=0)) / len(x)
    attainable = optimum - chance
    exchange = own[:, None] + own[None, :] - products - products.T
    tolerance = ROUNDING * float(x.norm(dim=1).max() * c.norm(dim=1).max())
    crossed = exchange < -tolerance
    pairs = len(x) * (len(x) - 1)
    rows = torch.arange(len(x))
    others = (best != rows) & (x[best] != x).any(dim=1) & (c[best] != c).any(dim=1)
    return Pairing(
        points=len(x),
        cost=(squares - 2 * given) / len(x),
        best=(squares - 2 * optimum) / len(x),
        excess=2 * short / max(squares - 2 * optimum, ROUNDING * squares),
        lost=short / attainable if attainable > ROUNDING * _size(products) else 0.0,
        moved=float(others.double().mean()),
        crossed=float(crossed.sum()) / pairs,
        crossed_near=float(crossed[rows, _nearest_other(x)].double().mean()),
        longest_cycle=_longest_cycle(best.tolist()),
    )


def _rows(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    x, c = x.detach().flatten(1).double().cpu(), c.detach().flatten(1).double().cpu()
    require(x.shape == c.shape, "x and c", "of equal shape", (tuple(x.shape), tuple(c.shape)))
    check_finite("x", x)
    check_finite("c", c)
    return x, c


def _best(products: Tensor) -> Tensor:
    _, columns = linear_sum_assignment(products.numpy(), maximize=True)
    best = torch.from_numpy(columns)
    # An optimum that is not unique may come out as another of equal cost; the given pairing then stands for it.
    given = products.diagonal()
    if float(products.gather(1, best[:, None]).sum() - given.sum()) <= ROUNDING * _size(products):
        return torch.arange(len(products))
    return best


def _size(products: Tensor) -> float:
    """A bound on the sum over any pairing."""
    return float(products.abs().max()) * len(products)


def _nearest_other(x: Tensor) -> Tensor:
    """Index of the nearest other point of each, (n,)."""
    return torch.cdist(x, x).fill_diagonal_(float("inf")).argmin(dim=1)


def _longest_cycle(permutation: list[int]) -> int:
    longest, seen = 0, [False] * len(permutation)
    for start in range(len(permutation)):
        length, place = 0, start
        while not seen[place]:
            seen[place] = True
            place, length = permutation[place], length + 1
        longest = max(longest, length)
    return longest
