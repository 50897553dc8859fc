"""Semi-discrete transport on the line, exactly: the monotone map.

In one dimension the optimal map is nondecreasing, so the cells are intervals in the order of the atoms, and the
boundary between the k-th and the next sits at the normal quantile of the masses so far, b_k = Φ⁻¹(ν_1 + … + ν_k).
There both atoms score alike, b_k y_k + h_k = b_k y_{k+1} + h_{k+1}, which gives h by a running sum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from otprior.transport.measure import DiscreteMeasure


def monotone_potential(
    measure: DiscreteMeasure, quantile: Callable[[Tensor], Tensor] = torch.special.ndtri
) -> Tensor:
    """The optimal offsets h, shape (N,), float64, mean zero, of a measure on the line (d = 1).

    `quantile` is that of the source, Φ⁻¹ of the normal law by default.
    """
    y, order = measure.atoms.double().reshape(-1).sort()
    mass_so_far = measure.weights.to(y.device)[order].cumsum(0)[:-1]
    boundary = quantile(mass_so_far.clamp(max=1 - 2.0**-53))
    steps = -boundary * y.diff()
    h = torch.empty_like(y)
    h[order] = torch.cat([y.new_zeros(1), steps.cumsum(0)])
    return h - h.mean()
