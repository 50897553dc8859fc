"""The error of a prior: W2 between p_t and the law of its starts, as an interval, and its cost in samples.

`data_error` is the error for p_t of a given data set, `population_error` for p_t of the population of held-out data.
`audit` runs both, and more, for a model and its priors.
"""

from __future__ import annotations

from otprior.error.bounds.flow_coupling import FlowCoupling, couple_by_flow
from otprior.error.dataset import data_error, gaussian_error
from otprior.error.interval import Bound, ErrorInterval
from otprior.error.population import HeldOut, gaussian_population_error, population_error
from otprior.error.start_law import draw_starts
from otprior.error.target import Target

__all__ = [
    "Bound",
    "ErrorInterval",
    "FlowCoupling",
    "HeldOut",
    "Target",
    "couple_by_flow",
    "data_error",
    "draw_starts",
    "gaussian_error",
    "gaussian_population_error",
    "population_error",
]
