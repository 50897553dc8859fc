"""Discrete measures: what is merged, what is set aside, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otprior.transport.measure import DiscreteMeasure
from otprior.transport.solve import solve_semidiscrete


def build(rows: list[list[float]], weights: list[float] | None = None) -> DiscreteMeasure:
    mass = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    return DiscreteMeasure.build(torch.tensor(rows, dtype=torch.float32), mass)


def test_duplicates_are_merged_into_the_first_in_order_of_appearance() -> None:
    measure = build([[3, 0], [1, 1], [3, 0], [2, 2], [1, 1], [3, 0]], [0.1, 0.2, 0.1, 0.3, 0.1, 0.2])
    assert measure.atoms.tolist() == [[3, 0], [1, 1], [2, 2]]
    assert measure.index.tolist() == [0, 1, 3]
    assert measure.merged_into.tolist() == [0, 1, 0, 2, 1, 0]
    torch.testing.assert_close(measure.weights, torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64))
    assert len(measure) == 3
    assert measure.dim == 2


def test_negative_zero_is_zero_and_an_ulp_is_a_difference() -> None:
    above = float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)))
    measure = build([[0.0, 1.0], [-0.0, 1.0], [0.0, above]])
    assert measure.merged_into.tolist() == [0, 0, 1]


def test_zero_weights_are_set_aside() -> None:
    measure = build([[1.0], [2.0], [3.0], [2.0]], [0.5, 0.0, 0.25, 0.25])
    # Atom 1 weighs nothing, so its duplicate, atom 3, stands for itself.
    assert measure.merged_into.tolist() == [0, -1, 1, 2]
    assert measure.index.tolist() == [0, 2, 3]
    assert measure.removed.tolist() == [1]
    spread = measure.spread_out(torch.tensor([10.0, 20.0, 30.0]), fill=-1.0)
    assert spread.tolist() == [10, -1, 20, 30]


def test_one_atom() -> None:
    measure = build([[1.0, 2.0]])
    assert len(measure) == 1
    assert measure.weights.tolist() == [1.0]
    assert len(build([[1.0], [1.0], [1.0]])) == 1
    assert len(build([[1.0], [2.0]], [0.0, 1.0])) == 1


def test_mean_is_in_float64() -> None:
    measure = build([[1.0, 0.0], [0.0, 1.0]], [0.25, 0.75])
    assert measure.mean().dtype == torch.float64
    assert measure.mean().tolist() == [0.25, 0.75]


def test_weights_are_normalised_within_rounding() -> None:
    weights = torch.full((10_000,), 1e-4)  # float32: their sum is off in the seventh digit
    measure = DiscreteMeasure.build(torch.arange(10_000.0)[:, None], weights)
    assert float(measure.weights.sum()) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_is_taken(dtype: torch.dtype) -> None:
    measure = DiscreteMeasure.build(torch.tensor([[1.0], [1.0], [-2.0]], dtype=dtype, requires_grad=True))
    assert measure.atoms.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert measure.atoms.tolist() == [[1], [-2]]
    assert not measure.atoms.requires_grad


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 3)), min_size=1, max_size=12))
def test_mass_is_kept_atom_by_atom(rows: list[tuple[int, int]]) -> None:
    """Any measure, against a dictionary."""
    atoms = torch.tensor([[float(value)] for value, _ in rows])
    weights = torch.tensor([float(weight) for _, weight in rows], dtype=torch.float64)
    if weights.sum() == 0:
        return
    weights /= weights.sum()
    expected: dict[float, float] = {}
    for (value,), weight in zip(atoms.tolist(), weights.tolist()):
        if weight > 0:
            expected[value] = expected.get(value, 0) + weight
    measure = DiscreteMeasure.build(atoms, weights)
    assert list(expected) == measure.atoms.reshape(-1).tolist()
    assert measure.weights.tolist() == pytest.approx(list(expected.values()), abs=1e-12)
    positive = weights > 0
    assert torch.equal(measure.atoms[measure.merged_into[positive]], atoms[positive])


def rows(*shape: int) -> Tensor:
    return torch.arange(float(torch.tensor(shape).prod())).reshape(shape)


@pytest.mark.parametrize(
    ("atoms", "weights", "message"),
    [
        ([[1.0]], None, "atoms must be a torch.Tensor; got list"),
        (rows(3), None, r"atoms must be of shape \(N, d\), not empty; got \(3,\)"),
        (torch.zeros(0, 2), None, r"got \(0, 2\)"),
        (torch.zeros(2, 0), None, r"got \(2, 0\)"),
        (torch.zeros(2, 1, dtype=torch.int64), None, "atoms must be floating point; got torch.int64"),
        (torch.tensor([[0.0], [float("nan")]]), None, "atoms must be finite; .* first in row 1"),
        (torch.tensor([[float("inf")], [0.0]]), None, "atoms must be finite; .* first in row 0"),
        (
            rows(2, 1),
            torch.tensor([0.5, 0.5, 0.0]),
            r"weights must be of shape \(2,\), one an atom; got \(3,\)",
        ),
        (rows(2, 1), torch.tensor([[0.5, 0.5]]), r"got \(1, 2\)"),
        (rows(2, 1), torch.tensor([1.5, -0.5]), "weights must be nonnegative; got a minimum of -0.5"),
        (rows(2, 1), torch.tensor([0.5, float("nan")]), "weights must be finite"),
        (rows(2, 1), torch.tensor([0.5, 0.4]), "weights must be of sum 1; got a sum of 0.9"),
        (rows(2, 1), torch.tensor([0.0, 0.0]), "weights must be of sum 1; got a sum of 0"),
    ],
)
def test_errors_say_what_the_rule_is_and_what_came(atoms: Tensor, weights: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiscreteMeasure.build(atoms, weights)


def test_a_measure_that_is_built_already_is_taken_as_it_is() -> None:
    atoms, weights = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), torch.arange(9.0) / 36
    measure = DiscreteMeasure.build(atoms, weights)
    assert DiscreteMeasure.of(measure) is measure
    one, other = solve_semidiscrete(measure), solve_semidiscrete(atoms, weights)
    assert torch.equal(one.potential, other.potential)
    assert one.removed.tolist() == other.removed.tolist() == [0]
    with pytest.raises(ValueError, match="weights must be None"):
        solve_semidiscrete(measure, weights)
