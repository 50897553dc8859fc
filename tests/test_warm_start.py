"""The start from few atoms: nearer to the solution than the model alone, whatever the number of the few."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from otprior.transport.cells.search import LaguerreCells
from otprior.transport.chi_squared import chi_squared
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods import warm_start
from otprior.transport.methods.sgd import AveragedSgd
from otprior.transport.potential import BrenierPotential

ATOMS, DIM, DRAWS = 4500, 8, 60_000


def _chi2(measure: DiscreteMeasure, offsets: Tensor) -> float:
    potential = BrenierPotential.build((measure.atoms - measure.mean()).float(), offsets)
    z = torch.randn(DRAWS, DIM, generator=torch.Generator().manual_seed(1))
    return chi_squared(torch.bincount(potential.assign(z), minlength=ATOMS), measure.weights).value


@pytest.mark.parametrize("most", [warm_start.MOST_COARSE, 200])
def test_start_from_few_atoms_is_better_than_the_model(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "MOST_COARSE", most)
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(20, DIM, generator=generator)
    places = torch.randint(20, (ATOMS,), generator=generator)
    atoms = centres[places] + 0.5 * torch.randn(ATOMS, DIM, generator=generator)
    measure = DiscreteMeasure.build(atoms, torch.full((ATOMS,), 1 / ATOMS))
    model = independent_score_start(atoms - measure.mean(), measure.weights)
    start = warm_start.warm_start(LaguerreCells.build(measure, 0), AveragedSgd)
    assert start.shape == (ATOMS,)
    assert start.dtype == torch.float64
    assert float(start.mean()) == pytest.approx(0, abs=1e-9)
    # They come to 42 or 94 and 337, each known to a few percent.
    assert _chi2(measure, start) < 0.7 * _chi2(measure, model)
