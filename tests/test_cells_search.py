"""Mixed draws are normal, their cells those of the draws themselves, and χ² from them is unbiased."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from generators.mixtures import mixture, unequal_weights
from torch import Tensor

from otprior.transport.cells import search
from otprior.transport.cells.search import DRAWS_PER_SET, DrawSets, LaguerreCells
from otprior.transport.chi_squared import chi_squared, chi_squared_of_sets
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import BrenierPotential, natural_scale


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def all_rows(draws: DrawSets) -> Tensor:
    return torch.stack([draws.rows(k, torch.arange(DRAWS_PER_SET)) for k in range(len(draws))])


def test_mixers_are_blocks_of_orthogonal_matrices() -> None:
    mixers = DrawSets.draw(0, "fit", [3], 200, True).mixers
    assert mixers is not None
    square = mixers.double().unflatten(1, (-1, search.BASE_DRAWS))
    eye = torch.eye(search.BASE_DRAWS, dtype=torch.float64).expand_as(square)
    torch.testing.assert_close(square @ square.mT, eye, rtol=0, atol=1e-5)  # float32
    # Uniform on the sphere: no coordinate of a row leans to one side (it would, without the signs).
    means = torch.cat([DrawSets.draw(0, "fit", [k], 200, True).mixers[0] for k in range(40)]).mean(dim=0)  # type: ignore[index]
    assert float(means.abs().max()) < 4 / math.sqrt(40 * DRAWS_PER_SET * search.BASE_DRAWS)


@pytest.mark.parametrize("kind", [{}, {"mirrored": True}, {"mirrored": True, "blocks": 8}, {"blocks": 4}])
def test_mixed_draws_have_the_moments_of_the_normal_law(kind: dict[str, Any]) -> None:
    """Over 200 sets, along fixed directions: mean, variance and fourth moment. Draws of a set are correlated, so the
    standard errors are those of the 200 means over sets."""
    rows = torch.stack([all_rows(DrawSets.draw(1, "fit", [k], 130, True, **kind))[0] for k in range(200)])
    direction = torch.nn.functional.normalize(normal(130, 3).double(), dim=0)
    values = rows @ direction  # (200, 256, 3)
    for power, expected in ((1, 0.0), (2, 1.0), (4, 3.0)):
        of_set = (values**power).mean(dim=1)
        # (Of odd powers the mean over a mirrored set is zero.)
        error = of_set.std(dim=0) / math.sqrt(200) + 1e-9
        assert bool(((of_set.mean(dim=0) - expected).abs() < 4 * error).all())


def test_base_draws_are_cut_and_atoms_rotated_where_blocks_do_not_share_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    even = normal(200, 163)
    given = DiscreteMeasure.build(even)
    cells = LaguerreCells.build(given, 0)
    assert cells.blocks == 8
    assert torch.equal(cells.atoms, given.centred())
    # Half of the coordinates are almost constant: four of eight blocks have nothing. And atoms that lie in one block
    # each: all scores of one would come from four numbers. After a rotation, all blocks have some of each.
    half = torch.cat([even[:, :80], 0.01 * even[:, 80:]], dim=1)
    for atoms in (half, torch.eye(163), half.double()):
        measure = DiscreteMeasure.build(atoms)
        cells, centred = LaguerreCells.build(measure, 0), measure.centred()
        assert cells.blocks == 8
        # A rotation: products are the same, up to rounding.
        rounding = 1e-5 if atoms.dtype == torch.float32 else 1e-12
        expected = centred @ centred.T
        torch.testing.assert_close(cells.atoms @ cells.atoms.T, expected, rtol=0, atol=rounding * 160)
        assert not torch.equal(cells.atoms, centred)
    # Large atoms are not copied for it.
    monkeypatch.setattr(search, "MOST_ROTATED", 0)
    measure = DiscreteMeasure.build(half - half.mean(dim=0))
    cells = LaguerreCells.build(measure, 0, centre=False)
    assert cells.blocks == 1
    assert cells.atoms is measure.atoms


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("dim", [5, 130])
def test_cells_are_those_of_the_draws(dim: int, bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near duplicates among the atoms, so that rounding would decide; blocks of any size."""
    y = mixture(700, dim)
    y = torch.cat([y, y + 1e-4 * normal(700, dim, seed=1)])
    measure = DiscreteMeasure.build(y)
    laguerre = LaguerreCells.build(measure, 7, bfloat16)
    offsets = normal(1400, seed=2).double() * 1e-3
    rows = all_rows(
        DrawSets.draw(7, "fit", [4, 9], dim, dim >= 128, mirrored=True, blocks=laguerre.blocks)
    ).flatten(0, 1)
    expected = (rows @ laguerre.atoms.double().T + offsets).argmax(dim=1)
    found = laguerre.find(offsets, "fit", [4, 9])
    assert torch.equal(found.flatten(), expected)
    monkeypatch.setattr(search, "ATOMS_PER_BLOCK", 333)
    apart = torch.cat([laguerre.find(offsets, "fit", [k]) for k in (4, 9)])
    assert torch.equal(apart, found)


def test_chi_squared_of_sets_is_unbiased_and_states_its_error() -> None:
    """An unsolved potential, whose χ² many independent draws tell; 120 estimates from mixed draws spread about it
    as they say. (120 fix a mean to 9 % of a standard error and a spread to 6 %.)"""
    atoms, weights = mixture(60, 128), unequal_weights(60, 20)
    measure = DiscreteMeasure.build(atoms, weights)
    laguerre = LaguerreCells.build(measure, 0)
    offsets = 0.3 * natural_scale(atoms, weights) * normal(60, seed=3).double()
    z = normal(150_000, 128, seed=4)
    cells = BrenierPotential.build(laguerre.atoms, offsets).assign(z)
    truth = chi_squared(torch.bincount(cells, minlength=60), weights)
    estimates = [
        chi_squared_of_sets(laguerre.find(offsets, "test", range(12 * k, 12 * k + 12)), weights)
        for k in range(120)
    ]
    values = torch.tensor([estimate.value for estimate in estimates])
    spread = float(values.std())
    assert abs(float(values.mean()) - truth.value) < 4 * math.hypot(
        spread / math.sqrt(120), truth.standard_error
    )
    stated = math.sqrt(sum(estimate.standard_error**2 for estimate in estimates) / 120)
    assert 0.7 < stated / spread < 1.4
    assert estimates[0].draws == 12 * DRAWS_PER_SET


def test_chi_squared_of_sets_of_one_draw_is_chi_squared() -> None:
    weights = unequal_weights(9, 5)
    cells = torch.multinomial(weights, 300, replacement=True, generator=torch.Generator().manual_seed(0))
    one = chi_squared_of_sets(cells[:, None], weights)
    other = chi_squared(torch.bincount(cells, minlength=9), weights)
    assert one.value == pytest.approx(other.value, abs=1e-12)
    assert one.standard_error == pytest.approx(other.standard_error, rel=1e-9)
    with pytest.raises(ValueError, match="cells must be of at least 3 sets; got 2"):
        chi_squared_of_sets(cells[:2, None], weights)
