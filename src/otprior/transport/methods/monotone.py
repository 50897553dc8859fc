"""Semi-discrete transport on the line, exactly: the monotone map.

In one dimension the optimal map is nondecreasing, so the cells are intervals in the order of the atoms, and the
boundary between the k-th and the next is at the normal quantile of the masses so far, b_k = Φ⁻¹(ν_1 + … + ν_k).
There both atoms score alike, b_k y_k + h_k = b_k y_{k+1} + h_{k+1}, which gives h by a running sum. (A single atom is
exact too, in any dimension.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods import Iterate, Problem

name = "monotone"


def suits(problem: Problem) -> bool:
    """One atom; or atoms on the line, a source of known quantiles, and no entropy."""
    cells = problem.cells
    on_line = problem.measure.dim == 1 and cells.source.quantiles is not None and not cells.entropy
    return len(problem.measure) == 1 or on_line


def iterates(problem: Problem, step: int = 0, state: Mapping[str, Tensor] | None = None) -> Iterator[Iterate]:
    """Yields the exact potential."""
    measure, quantiles = problem.measure, problem.cells.source.quantiles
    if len(measure) == 1 or quantiles is None:
        potential = torch.zeros(1, dtype=torch.float64, device=measure.atoms.device)
    else:
        potential = monotone_potential(measure, quantiles)
    yield Iterate(potential, complete=True, known_chi2=0.0)


def monotone_potential(
    measure: DiscreteMeasure, quantile: Callable[[Tensor], Tensor] = torch.special.ndtri
) -> Tensor:
    """The optimal offsets of a measure on the line (d = 1).

    Arguments:
        measure: N distinct atoms of positive weight.
        quantile: The source's quantile function; Φ⁻¹ of the normal law by default.

    Returns:
        h, shape (N,), float64, mean zero.
    """
    y, order = measure.atoms.double().reshape(-1).sort()
    mass_so_far = measure.weights.to(y.device)[order].cumsum(0)[:-1]
    boundary = quantile(mass_so_far.clamp(max=1 - 2.0**-53))
    steps = -boundary * y.diff()
    h = torch.empty_like(y)
    h[order] = torch.cat([y.new_zeros(1), steps.cumsum(0)])
    return h - h.mean()
