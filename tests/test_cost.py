"""W2² between its bounds: lines and products, where it is known; offsets that are far from optimal; other sources."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from generators.line import line
from generators.mixtures import mixture, unequal_weights
from generators.pushforward import product_of_lines
from torch import Generator, Tensor

from otprior import solve_semidiscrete
from otprior.transport.cost import _within, transport_cost


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [1, 2, 60])
def test_on_the_line(count: int) -> None:
    """Eight batches fix a standard error to a quarter, so what is seen of 1.96 errors is allowed 4."""
    truth = line(count, ratio=20.0)
    cost = transport_cost(truth.atoms, truth.potential, truth.weights)
    # The offsets are optimal: the dual value is W2² itself, and the plan repairs the chance of the draws alone.
    assert abs(cost.dual - truth.w2_squared) < 4 * cost.dual_error + 1e-9
    assert cost.dual <= cost.primal + 1e-9
    assert cost.primal - truth.w2_squared < 4 * cost.primal_error + 0.01 * truth.w2_squared
    low, high = cost.interval
    assert low == pytest.approx(math.sqrt(cost.squared_interval[0]))
    assert low <= high


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_any_offsets_give_an_interval_that_has_the_truth(noise: float) -> None:
    truth = product_of_lines((8, 7, 3))
    spoilt = truth.potential + noise * normal(168, seed=1).double()
    cost = transport_cost(truth.atoms, spoilt, truth.weights, draws=16_000)
    low, high = cost.squared_interval
    assert low - 2 * cost.dual_error < truth.w2_squared < high + 2 * cost.primal_error
    if noise == 1.0:
        assert cost.dual < truth.w2_squared - 4 * cost.dual_error  # spoilt offsets show


def test_covers_as_often_as_it_says() -> None:
    """20 intervals, of which each end fails with 2.5 %, and a bit as eight batches tell the error: at most 4 may."""
    truth = product_of_lines((6, 5))
    missed = 0
    for seed in range(20):
        low, high = transport_cost(
            truth.atoms, truth.potential, truth.weights, draws=1600, generator=seeded(seed)
        ).squared_interval
        missed += not low <= truth.w2_squared <= high
    assert missed <= 4


def test_the_plan_is_nearly_the_best_in_high_dimension() -> None:
    """The gap of the solved problem is a small part of W2², as a draw that moves finds an atom nearly as good."""
    atoms, weights = mixture(300, 64) + 1.0, unequal_weights(300, 10)
    solution = solve_semidiscrete(atoms, weights)
    cost = transport_cost(atoms, solution.potential, weights, generator=seeded(5))
    assert 0 < cost.primal - cost.dual < 0.01 * cost.primal


def test_a_uniform_source() -> None:
    """On the line W2² is the integral of (F⁻¹ − G⁻¹)²; and a sampler of the same law gives the same bounds."""
    atoms = normal(20, 1) + 3
    y = atoms[:, 0].double().sort().values.numpy()
    p = (np.arange(200_000) + 0.5) / 200_000
    truth = float(((p - 0.5 - y[(p * 20).astype(int)]) ** 2).mean())
    h = solve_semidiscrete(atoms, source="uniform").potential
    for source in ("uniform", lambda n, d, g: torch.rand(n, d, generator=g) - 0.5):
        cost = transport_cost(atoms, h, source=source)  # type: ignore[arg-type]
        assert abs(cost.dual - truth) < 4 * cost.dual_error + 1e-4
        assert 0 <= cost.primal - cost.dual < 0.01 * truth


def test_against_exact_transport_of_a_batch() -> None:
    """The plan couples a batch exactly: its cost is above the network simplex's, by little."""
    atoms = normal(25, 5)
    h = solve_semidiscrete(atoms).potential
    points = normal(400, 5, seed=9)
    cost = transport_cost(atoms, h, source=lambda n, d, g: points[torch.arange(n) % 400], draws=3200)
    exact = ot.emd2(
        np.full(400, 1 / 400), np.full(25, 1 / 25), ot.dist(points.double().numpy(), atoms.double().numpy())
    )
    assert cost.primal_error < 1e-9  # all batches are these points
    assert cost.dual - 1e-6 <= exact <= cost.primal + 1e-6
    assert cost.primal - exact < 0.03 * exact


def test_amounts_within_limits() -> None:
    amount, group = torch.tensor([3.0, 1.0, 2.0, 2.0]), torch.tensor([1, 0, 1, 1])
    assert _within(amount, group, torch.tensor([5.0, 4.0])).tolist() == [3.0, 1.0, 1.0, 0.0]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"potential must be of shape \(5,\); got \(4,\)"):
        transport_cost(normal(5, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="potential must be finite where weights are positive"):
        transport_cost(normal(5, 2), torch.full((5,), -math.inf))
    with pytest.raises(ValueError, match=r"draws must be an integer in \[16, \d+\]; got 3"):
        transport_cost(normal(5, 2), torch.zeros(5), draws=3)
