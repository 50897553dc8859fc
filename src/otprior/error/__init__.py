"""How wrong a prior is: W2 between p_t and the law of its starts, as an interval, and what it costs in samples.

`data_error` is for p_t of a given data set, `population_error` for that of the population that held-out data come from.
"""

from __future__ import annotations

from otprior.error.bounds.flow_coupling import FlowCoupling, couple_by_flow
from otprior.error.dataset import data_error, gaussian_error
from otprior.error.interval import Bound, ErrorInterval, combined
from otprior.error.population import HeldOut, gaussian_population_error, population_error
from otprior.error.start_law import StartDraws, draw_starts
from otprior.error.target import Target

__all__ = [
    "Bound",
    "ErrorInterval",
    "FlowCoupling",
    "HeldOut",
    "StartDraws",
    "Target",
    "combined",
    "couple_by_flow",
    "data_error",
    "draw_starts",
    "gaussian_error",
    "gaussian_population_error",
    "population_error",
]
