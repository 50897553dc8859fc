"""Semi-discrete optimal transport from N(0, I_d), or another source, to weighted points.

`solve_semidiscrete` is the door: atoms in, potential out, with χ² of the cell masses on fresh draws. `transport_cost`
bounds the distance that the map travels, `pairing` compares given pairs of points with the best ones.

For experiments, the parts: `LaguerreCells` finds the cells of numbered draws, `AveragedSgd` has `init` and `step`,
`StoppingRule` measures χ². Methods are modules of `otprior.transport.methods`, whose docstring says how to add one.
Nothing here knows of images or diffusion models.
"""

from __future__ import annotations

from otprior.transport.assignment import Pairing, best_partners, pairing
from otprior.transport.cells.search import LaguerreCells
from otprior.transport.chi_squared import ChiSquared
from otprior.transport.cost import TransportCost, transport_cost
from otprior.transport.distributed import Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods.sgd import AveragedSgd
from otprior.transport.moments import Spectrum, streaming_spectrum
from otprior.transport.potential import BrenierPotential
from otprior.transport.solution import ConvergenceError, Outcome, Progress, Solution
from otprior.transport.solve import solve_semidiscrete
from otprior.transport.stopping import StoppingRule

__all__ = [
    "AveragedSgd",
    "BrenierPotential",
    "ChiSquared",
    "ConvergenceError",
    "DiscreteMeasure",
    "LaguerreCells",
    "Outcome",
    "Pairing",
    "Processes",
    "Progress",
    "Solution",
    "Spectrum",
    "StoppingRule",
    "TransportCost",
    "best_partners",
    "pairing",
    "solve_semidiscrete",
    "streaming_spectrum",
    "transport_cost",
]
