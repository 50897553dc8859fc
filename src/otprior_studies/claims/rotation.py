"""How large a rotation a test would have caught: its power, in degrees."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from otprior.transport.assignment import pairing

# Relative excess that rounding of the sums can make.
COST_ROUNDING = 1e-10


def rotate(z: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Rows z (B, d) turned by an angle in each of ⌊d/2⌋ random planes at right angles.

    It leaves N(0, I) as it is; so a map onto noise, followed by it, still is one, but no longer optimal.
    """
    dim = z.shape[1]
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0].to(z)
    along, pairs = z @ axes, dim // 2
    first, second = along[:, :pairs], along[:, pairs : 2 * pairs]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = torch.cat([c * first - s * second, s * first + c * second, along[:, 2 * pairs :]], dim=1)
    return turned @ axes.T


def smallest_caught(caught: Callable[[float], bool], steps: int = 8) -> float:
    """The smallest angle in degrees, up to 90, that `caught` notices; by bisection of its logarithm."""
    low, high = math.log(0.01), math.log(90.0)
    if not caught(90.0):
        return 90.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if caught(math.exp(middle)) else (middle, high)
    return math.exp(high)


def excess_cost(x: Tensor, y: Tensor) -> float:
    """Relative excess of the cost Σ|x_i − y_i|² of pairs (n, d) over that of their best pairing.

    If y = T(x) with T optimal, it is 0 for any n, exactly: a gradient of a convex function is cyclically monotone.
    (If T is not, it can be 0 all the same, the likelier the fewer points there are for the dimension.)
    """
    return pairing(x, y).excess
