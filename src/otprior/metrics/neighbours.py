r"""Exact nearest neighbours; precision, recall, density and coverage of one set by another.

Squared distances come from one matrix product, |x − y|² = |x|² + |y|² − 2⟨x, y⟩, which is fast and
inexact. With u the unit roundoff, each is within

    b(x) = 2 γ |x| R + 4 u (|x| + R)²,   γ = (D + 4) u / (1 − (D + 4) u),   R = max |y|,

of the truth (Higham 2002, section 3.1; rows are centred first, which shrinks R). What the bound leaves
open is decided by the differences themselves in float64. So answers depend neither on the size of
the blocks nor on the number of threads, and equal rows are at distance 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from otprior.metrics._rows import as_rows, check_same_width
from otprior.utils.torch_state import plain_torch, product_roundoff_unit
from otprior.utils.validation import check_integer

# Entries of one block of the distance matrix: 16 MB in float32.
_BLOCK_ENTRIES = 2**22
# Entries of one list of differences: 1 MB in float64, which stays in cache.
_DIFFERENCE_ENTRIES = 2**17


@plain_torch()
def nearest(x: Tensor, y: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Finds the `k` rows of `y` nearest to each row of `x`, by exhaustive search.

    Arguments:
        x: Queries, shape (N, D) or (N, C, H, W).
        y: Points, shape (M, D) or (M, C, H, W).
        k: Number of neighbours, 1 <= k <= M.

    Returns:
        Euclidean distances, ascending, shape (N, k), in the dtype of `x`, computed in float64; and indices
        into `y`, shape (N, k), int64. Of equally distant points the lowest index comes first.

    Raises:
        ValueError: If `k` is out of range, or the inputs are malformed or of different widths.

    Examples:
        >>> distances, which = nearest(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0]]))
        >>> which
        tensor([[1]])
    """
    x, y = as_rows("x", x), as_rows("y", y)
    check_same_width("x", x, "y", y)
    check_integer("k", k, 1, len(y))
    distances = torch.empty(len(x), k, dtype=x.dtype, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for start, squared, bound in _screen(x, y):
        # A true neighbour's value is at most one bound above the k-th true one, which is at most one bound
        # above the k-th value.
        limit = squared.topk(k, dim=1, largest=False).values[:, -1:] + 2.0 * bound
        rows, columns = torch.nonzero(squared <= limit, as_tuple=True)
        exact = squared_distances(x, y, rows + start, columns)
        # Pairs come sorted by row, then column: two stable sorts keep columns ascending among ties.
        order = torch.argsort(exact, stable=True)
        order = order[torch.argsort(rows[order], stable=True)]
        first = torch.searchsorted(rows, torch.arange(len(squared), device=x.device))
        chosen = order[first[:, None] + torch.arange(k, device=x.device)]
        distances[start : start + len(squared)] = exact[chosen].sqrt().to(x.dtype)
        indices[start : start + len(squared)] = columns[chosen]
    return distances, indices


def first_within(x: Tensor, radius: float) -> Tensor:
    """Finds the first row within `radius` of each row of `x`, its own at the latest; (N, D) to (N,)."""
    first = torch.arange(len(x), device=x.device)
    for start, squared, bound in _screen(x, x, earlier=True):
        own = first[start : start + len(squared)]
        possible = squared <= radius**2 + bound
        possible &= torch.arange(squared.shape[1], device=x.device) < own[:, None]
        # Only the first candidate of a row is checked, until it turns out to be too far.
        open_rows = torch.nonzero(possible.any(dim=1))[:, 0]
        while len(open_rows):
            candidate = possible[open_rows].int().argmax(dim=1)
            equal = squared_distances(x, x, open_rows + start, candidate) <= radius**2
            own[open_rows[equal]] = candidate[equal]
            open_rows, candidate = open_rows[~equal], candidate[~equal]
            possible[open_rows, candidate] = False
            open_rows = open_rows[possible[open_rows].any(dim=1)]
    return first


def _ball_membership(x: Tensor, y: Tensor, radii: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Finds the rows of `y` in the open ball of radius `radii[i]` around row i of `x`.

    Yields for each block its first row, and a boolean matrix of shape (rows of the block, M). With float64
    radii from `nearest`, a point at exactly the radius is outside.
    """
    limits = radii.double().square()[:, None]
    for start, squared, bound in _screen(x, y):
        limit = limits[start : start + len(squared)].to(squared.dtype)
        inside = squared < limit
        rows, columns = torch.nonzero((squared - limit).abs_() <= bound, as_tuple=True)
        inside[rows, columns] = (
            squared_distances(x, y, rows + start, columns).sqrt() < radii[rows + start].double()
        )
        yield start, inside


@plain_torch()
def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, float]:
    """Computes four shares that separate fidelity from variety, with balls that reach to each row's k-th neighbour.

    - precision: share of fake rows inside some real row's ball;
    - recall: share of real rows inside some fake row's ball;
    - density: mean over fake rows of the number of real balls around it, over k (may exceed 1);
    - coverage: share of real rows whose ball holds a fake row.

    Balls are open, and reach to the k-th neighbour within the row's own set, the row itself not counted.
    All four depend on the numbers of rows: compare figures at equal N and M only.

    Arguments:
        real: Shape (N, D), N > k.
        fake: Shape (M, D), M > k.
        k: Neighbours that make a radius.

    Raises:
        ValueError: If `k` leaves no neighbour, or the inputs are malformed.

    Source: Kynkäänniemi et al., 2019, https://arxiv.org/abs/1904.06991 (precision, recall); Naeem et al.,
    "Reliable fidelity and diversity metrics", 2020, https://arxiv.org/abs/2002.09797 (density, coverage)

    Examples:
        >>> figures = precision_recall_density_coverage(torch.randn(50, 2), torch.randn(50, 2) + 9)
        >>> figures["precision"], figures["coverage"]
        (0.0, 0.0)
    """
    return {name: float(terms.mean()) for name, terms in neighbourhood_terms(real, fake, k).items()}


def neighbourhood_terms(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, Tensor]:
    """Computes the terms whose means are `precision_recall_density_coverage`, with its arguments, in float64.

    Returns:
        "precision" and "density": shape (M,), one a fake row; "recall" and "coverage": shape (N,), one a
        real row.
    """
    real, fake = as_rows("real", real).double(), as_rows("fake", fake).double()
    check_same_width("fake", fake, "real", real)
    check_integer("k", k, 1, min(len(real), len(fake)) - 1)
    balls_around = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    covered = torch.empty(len(real), dtype=torch.bool, device=real.device)
    for start, inside in _ball_membership(real, fake, nearest(real, real, k + 1)[0][:, k]):
        balls_around += inside.sum(dim=0)
        covered[start : start + len(inside)] = inside.any(dim=1)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, inside in _ball_membership(fake, real, nearest(fake, fake, k + 1)[0][:, k]):
        recalled |= inside.any(dim=0)
    return {
        "precision": (balls_around > 0).double(),
        "recall": recalled.double(),
        "density": balls_around.double() / k,
        "coverage": covered.double(),
    }


def _screen(x: Tensor, y: Tensor, earlier: bool = False) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Blocks of approximate squared distances: first row, (B, M) values, and (B, 1) bounds of their error.

    With `earlier`, for x the same as y, columns end with the last row of the block.
    """
    # In TensorFloat-32 or bfloat16 the bound would not hold.
    dtype = torch.float32 if product_roundoff_unit() <= 2.0**-24 else torch.float64
    centre = y.double().mean(dim=0)
    points = (y.double() - centre).to(dtype)
    lengths = points.double().norm(dim=1)
    squared_lengths, largest = lengths.square().to(dtype), float(lengths.max())
    roundoff = torch.finfo(dtype).eps / 2.0
    gamma = (x.shape[1] + 4) * roundoff / (1.0 - (x.shape[1] + 4) * roundoff)
    step = max(1, _BLOCK_ENTRIES // len(y))
    for start in range(0, len(x), step):
        rows = (x[start : start + step].double() - centre).to(dtype)
        length = rows.double().norm(dim=1, keepdim=True)
        end = start + len(rows) if earlier else len(y)
        values = torch.addmm(squared_lengths[:end], rows, points[:end].T, alpha=-2.0)
        bound = 2.0 * gamma * length * largest + 4.0 * roundoff * (length + largest).square()
        yield start, values.add_(length.square().to(dtype)), bound.to(dtype)


def squared_distances(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """|x_i − y_j|² in float64 for pairs (i, j) of indices, shape (P,)."""
    step = max(1, _DIFFERENCE_ENTRIES // x.shape[1])
    # Filled in place: a list of small results between large temporaries would fragment the heap.
    values = torch.empty(len(rows), dtype=torch.float64, device=x.device)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = x[rows[part]].double() - y[columns[part]].double()
        torch.sum(difference.square_(), dim=1, out=values[part])
    return values
