"""Projection on principal axes: exact cell masses, a cost within its bound."""

from __future__ import annotations

import pytest
import torch
from generators.mixtures import unequal_weights
from torch import Tensor

from otprior.transport import moments
from otprior.transport.chi_squared import chi_squared
from otprior.transport.potential import BrenierPotential, dual_value
from otprior.transport.projection import excess_share, project
from otprior.transport.solve import solve_semidiscrete


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decaying(count: int, dim: int) -> Tensor:
    """Atoms whose spread falls by half every four axes."""
    return 3 * normal(count, dim) * 2 ** (-torch.arange(dim) / 4)


def test_axes_and_variances_of_a_known_covariance() -> None:
    """The second moments of fixed points, by eigh of the weighted covariance for equal weights."""
    y = decaying(500, 12)
    equal = torch.full((500,), 1 / 500).double()
    found = project(y, equal, 5)
    centred = y.double() - y.double().mean(dim=0)
    values = torch.linalg.eigvalsh(centred.T @ centred / 500).flip(0)
    assert found.variance_kept == pytest.approx(float(values[:5].sum() / values.sum()), rel=1e-9)
    assert found.cost_excess == pytest.approx(float(2 * values[5:].sqrt().sum()), rel=1e-6)
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(5).double(), rtol=0, atol=1e-12)
    by_share = project(y, equal, found.variance_kept - 1e-6)
    assert by_share.axes.shape == (12, 5)
    assert project(y, equal, 12).cost_excess == 0


def test_masses_are_exact_and_the_cost_is_within_the_bound() -> None:
    """Measured on draws of the full space, against the dual value of the full problem: a lower bound of W2²."""
    y, weights = decaying(150, 24), unequal_weights(150, 5)
    found = project(y, weights, 8)
    solution = solve_semidiscrete(found.apply(y), weights)
    z = normal(60_000, 24, seed=3)
    cell = BrenierPotential.build(found.apply(y), solution.potential).assign(found.apply(z))
    assert chi_squared(torch.bincount(cell, minlength=150), weights).upper < 0.06
    cost = ((z.double() - y[cell].double()) ** 2).sum(dim=1)
    full = solve_semidiscrete(y, weights, tol=0.01)
    lower, error = dual_value(BrenierPotential.build(y, full.potential), weights, z)
    # (The map's own masses p are not quite ν: both costs are for the same draws, and differ by less than 1 %.)
    excess = float(cost.mean()) - lower
    assert 0 < excess < found.cost_excess + 4 * error + 0.01 * lower
    measured = excess_share(found, y, found.apply(y), solution.potential, seed=5) * float(cost.mean())
    assert excess - 0.01 * lower < measured < found.cost_excess


def test_nothing_is_lost_along_all_axes() -> None:
    y = normal(50, 6)
    found = project(y, torch.full((50,), 0.02), 6)
    assert excess_share(found, y, found.apply(y), normal(50, seed=1).double(), seed=0) < 1e-6


def test_a_row_does_not_depend_on_its_batch() -> None:
    y = normal(300, 40)
    found = project(y, torch.full((300,), 1 / 300), 10)
    z = normal(64, 40, seed=1)
    assert torch.equal(torch.cat([found.apply(row) for row in z.split(1)]), found.apply(z))


def test_in_high_dimension_the_bound_is_wider_and_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    y, weights = decaying(200, 12), torch.full((200,), 1 / 200)
    exact = project(y, weights, 4)
    monkeypatch.setattr("otprior.transport.projection.FULL_COVARIANCE_LIMIT", 8)
    monkeypatch.setattr(moments, "FULL_COVARIANCE_LIMIT", 8)
    streamed = project(y, weights, 4)
    assert streamed.variance_kept == pytest.approx(exact.variance_kept, rel=1e-6)
    assert exact.cost_excess <= streamed.cost_excess <= 3 * exact.cost_excess
    with pytest.raises(ValueError, match=r"rank must be an integer in more than 8 dimensions; got 0\.5"):
        project(y, weights, 0.5)


@pytest.mark.parametrize(
    ("rank", "rule"), [(0, r"an integer in \[1, 12\]"), (13, r"\[1, 12\]"), (1.5, "a share")]
)
def test_bad_rank(rank: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"rank must be .*{rule}"):
        project(normal(20, 12), torch.full((20,), 0.05), rank)


def test_axes_of_equal_variance_do_not_depend_on_threads() -> None:
    # Turning each pair of coordinates by 90 degrees leaves these atoms as they are: every variance comes twice.
    half = torch.randn(600, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(2, 0.1, 64)
    turned = torch.stack([-half[:, 1::2], half[:, ::2]], dim=2).flatten(1)
    atoms = torch.cat([half, turned, -half, -turned])
    weights = torch.full((len(atoms),), 1 / len(atoms), dtype=torch.float64)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(project(atoms, weights, 9).axes)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
