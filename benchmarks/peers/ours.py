"""otprior, by `solve_semidiscrete`, which stops by itself, or by the steps behind it, for a curve.

The time of the first includes all it does: checking and merging the atoms, its start, and the measurements on draws of
its own by which it decides to stop. Products are in the atoms' dtype, as they are for the peers; with `precision`
"auto" they may be in bfloat16, which is reported apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from otprior import solve_semidiscrete
from otprior.transport.cells.search import LaguerreCells
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods.sgd import AveragedSgd
from otprior.transport.methods.warm_start import warm_start
from peers import Clock, Peer, Problem, Settings


def run(problem: Problem, settings: Settings, seed: int, clock: Clock) -> dict[str, Any]:
    """With `tol` (and `precision`), to the end in one call; else step by step until the clock stops it."""
    atoms = torch.from_numpy(problem.atoms)
    weights = None if problem.weights is None else torch.from_numpy(problem.weights)
    clock.start()
    if "tol" in settings:
        generator = torch.Generator().manual_seed(seed)
        solution = solve_semidiscrete(atoms, weights, generator=generator, throw=False, **settings)
        clock(solution.stats["draws"], solution.potential.numpy, last=True)
        kept = {key: solution.stats[key] for key in ("method", "precision")}
        return kept | {"outcome": solution.outcome.value}
    measure = DiscreteMeasure.build(atoms, weights)
    cells = LaguerreCells.build(measure, seed)
    sgd = AveragedSgd(cells)
    state = sgd.init(warm_start(cells, AveragedSgd))
    while True:
        state = sgd.step(state)
        clock(state.step * sgd.draws_per_step, lambda state=state: _offsets(measure, state.average))


def _offsets(measure: DiscreteMeasure, average: torch.Tensor) -> np.ndarray:
    """On the atoms as they were given."""
    return measure.spread_out(average, fill=-np.inf).numpy()


PEER = Peer(label="otprior", defaults={}, starts=(), axes={}, run=run)
