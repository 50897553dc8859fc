"""Newton's method on blocks of draws: its pieces against whole products, and its solutions against exact cells."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from generators.windows import windows
from torch import Tensor

from otprior import solve_semidiscrete
from otprior.transport.cells.contenders import draw_sets, find_contenders, scores_of
from otprior.transport.cells.search import LaguerreCells
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods import Problem, block_newton, exact_cells, sample_average, sgd
from otprior.transport.methods.block_newton import BlockNewton
from otprior.transport.methods.insertion import insert
from otprior.transport.methods.sample_average import SampleAverage
from otprior.transport.potential import natural_scale
from otprior.transport.solution import Outcome


def normal(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def build(atoms: Tensor, weights: Tensor | None = None, seed: int = 0) -> LaguerreCells:
    return LaguerreCells.build(DiscreteMeasure.build(atoms, weights), seed)


@pytest.mark.parametrize(("count", "dim"), [(700, 20), (5000, 6), (5000, 140)])
def test_contenders_are_the_highest_scores(count: int, dim: int) -> None:
    cells = build(normal(count, dim))
    h = torch.linspace(-1, 1, count, dtype=torch.float64)
    found = find_contenders(cells, h, "fit", range(8), 16)
    z = torch.cat(
        [
            torch.cat([s.rows(k, torch.arange(256)) for k in range(len(s))])
            for s in draw_sets(cells, "fit", range(8))
        ]
    )
    scores = z @ cells.atoms.double().T
    top = (scores + h).topk(16, dim=1)
    # float32 products of |z||y| up to 400 in size: where two totals are that near, their order is open.
    torch.testing.assert_close(
        found.totals(h).double() + found.reference.double()[:, None], top.values, rtol=0, atol=2e-4
    )
    assert float((found.atoms == top.indices).double().mean()) > 0.999
    assert torch.equal(found.atoms, find_contenders(cells, h, "fit", [*range(4), *range(4, 8)], 16).atoms)


def test_an_inserted_atom_wins_its_weight() -> None:
    """Of the very draws that it was inserted by; its weight asks for 12 of them."""
    cells = build(torch.cat([normal(400, 10), 0.5 * normal(30, 10, seed=5)]))
    h = torch.zeros(400, dtype=torch.float64)
    old, new = torch.arange(430).split([400, 30])
    contenders = find_contenders(cells, h, "fit", range(16), 16, old)
    atoms, weights = cells.atoms[new], torch.full((30,), 12.0 / (16 * 256), dtype=torch.float64)
    found = insert(cells, contenders, h, new, weights)
    top = contenders.reference + contenders.totals(h).amax(dim=1)
    z = torch.cat([scores_of(s, atoms) for s in draw_sets(cells, "fit", range(16))])
    wins = ((z + found.offsets) >= top[:, None]).sum(dim=0)
    assert bool(((wins >= 11) & (wins <= 13)).all())


def test_entered_atoms_are_contenders_once() -> None:
    cells = build(normal(100, 5))
    contenders = find_contenders(cells, torch.zeros(100, dtype=torch.float64), "fit", range(4), 8)
    absent = torch.tensor(
        [int(next(i for i in range(100) if i not in row)) for row in contenders.atoms.tolist()[:3]]
    )
    rows = torch.tensor([0, 1, 2, 0])
    contenders.enter(rows, torch.cat([absent, contenders.atoms[0, :1]]), contenders.reference[rows] - 1.0)
    for row, atom in enumerate(absent.tolist()):
        place = (contenders.atoms[row] == atom).nonzero()
        assert len(place) == 1
        assert float(contenders.scores[row, place[0, 0]]) == pytest.approx(-1.0, abs=1e-4)
    assert int((contenders.atoms[0] == contenders.atoms[0, 0]).sum()) == 1


def test_the_laplacian_is_the_derivative_of_the_masses() -> None:
    """Over the same draws and at the same ε, by central differences."""
    cells = build(normal(40, 3))
    h = torch.zeros(40, dtype=torch.float64)
    contenders = find_contenders(cells, h, "fit", range(32), 40)
    natural = float(natural_scale(cells.atoms, cells.measure.weights).median())
    average = SampleAverage.build(contenders, h, cells.measure.weights, natural, cells.processes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_average, "MASS_SHARE", sample_average.LAPLACIAN_SHARE)
        patch.setattr(sample_average, "LAPLACIAN_CONTENDERS", 40)
        patch.setattr(sample_average, "LAPLACIAN_DRAWS", 10**6)
        adjacency = torch.from_numpy(average.adjacency(h).toarray())
        step = 1e-2 * float(average.scale.median())
        for j in range(0, 40, 7):
            unit = torch.zeros(40, dtype=torch.float64)
            unit[j] = step
            column = (average.error(h + unit) - average.error(h - unit)) / (2 * step)
            column[j] = 0.0
            # (Second differences of a softmax at a hundredth of its width, and masses in units of 2^-24.)
            torch.testing.assert_close(-column, adjacency[:, j], rtol=2e-2, atol=2e-4 / 40)


@pytest.mark.parametrize(
    "atoms",
    [
        windows(1500, 12),
        normal(1500, 4),
        torch.cat([normal(750, 30), normal(750, 30) + 1e-3 * normal(750, 30, seed=2)]),
    ],
)
def test_minima_leave_what_their_draws_leave(atoms: Tensor) -> None:
    """χ² of a block's minimum is about N/n, of the average of two half of it."""
    cells = build(atoms)
    problem = Problem(cells, 0.01, 10**9)
    *_, two = islice(block_newton.iterates(problem), 5)
    assert two.state is not None
    sets = range(256)
    single = cells.chi_squared(two.state["iterate"], "test", sets).value
    both = cells.chi_squared(two.potential, "test", sets).value
    assert single < 1.5 / block_newton.BLOCK
    assert both < 1.0 / block_newton.BLOCK
    # Half, on average. (Over six runs with near duplicates, which rounding tells apart, 0.61 to 0.81.)
    assert both < 0.9 * single


def test_against_exact_cells_in_the_plane() -> None:
    """The same potential, as nearly as 100 draws an atom allow."""
    atoms = normal(300, 2)
    exact = solve_semidiscrete(atoms).potential
    cells = build(atoms)
    for iterate in block_newton.iterates(Problem(cells, 0.01, 10**9)):
        if iterate.draws > 100 * 300:
            break
    *_, (offsets, _) = exact_cells.newton_steps(cells.measure)
    assert torch.allclose(exact, torch.as_tensor(offsets) - torch.as_tensor(offsets).mean(), atol=1e-6)
    difference = iterate.potential - exact
    spread = float(exact.std())
    assert float(difference.std()) < 0.05 * spread


def test_weights_of_a_thousand_to_one() -> None:
    atoms = windows(600, 10, seed=1)
    weights = torch.logspace(0, 3, 600, dtype=torch.float64)
    solution = solve_semidiscrete(atoms, weights / weights.sum())
    assert solution.stats["method"] == "block newton"
    assert solution.outcome is Outcome.CONVERGED


def test_it_goes_on_bit_for_bit() -> None:
    cells = build(windows(500, 8))
    problem = Problem(cells, 0.01, 10**9)
    whole = list(islice(block_newton.iterates(problem), 5))
    again = list(islice(block_newton.iterates(problem, whole[2].step, whole[2].state), 3))
    for a, b in zip(whole[2:], again):
        assert torch.equal(a.potential, b.potential)
        assert a.draws == b.draws
        assert a.expected_draws == b.expected_draws


def test_what_it_judges_on_its_own_draws_is_true() -> None:
    cells = build(windows(800, 10))
    blocks = BlockNewton(cells)
    *_, last = islice(block_newton.iterates(Problem(cells, 0.01, 10**9)), 5)
    assert last.state is not None
    judged = blocks.judge(blocks.contenders(last.step, last.state["iterate"]), last.potential)
    independent = cells.chi_squared(last.potential, "test", range(128))
    error = math.hypot(judged.standard_error, independent.standard_error)
    assert abs(judged.value - independent.value) < 4 * error


def test_a_budget_in_the_first_block() -> None:
    solution = solve_semidiscrete(windows(400, 8), max_draws=100, throw=False)
    assert solution.outcome is Outcome.BUDGET_SPENT
    assert bool(torch.isfinite(solution.potential).all())


def test_photographs_are_told_from_what_gradients_can_do() -> None:
    for atoms, suited in ((windows(3000, 12), False), (normal(3000, 32), True)):
        assert sgd.suits(Problem(build(atoms), 0.05, 10**9)) is suited
