"""The solver against truths: the line, products, symmetry, exact discrete transport; its outcomes; bad input."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from generators.line import line
from generators.mixtures import clusters, mixture, unequal_weights
from generators.pushforward import product_of_lines
from generators.symmetric import cross_polytope, polygon, polygon_w2_squared, simplex
from torch import Tensor

from otprior.transport.cells import search
from otprior.transport.cells.search import LaguerreCells
from otprior.transport.chi_squared import ChiSquared, chi_squared
from otprior.transport.cost import transport_cost
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods import Problem, block_newton, exact_cells, newton, sgd
from otprior.transport.potential import BrenierPotential, dual_value, natural_scale
from otprior.transport.solution import ConvergenceError, Outcome, Progress, Solution
from otprior.transport.solve import choose, solve_semidiscrete
from otprior.transport.stopping import StoppingRule


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_squared_of(
    solution: Solution, atoms: Tensor, weights: Tensor | None = None, draws: int = 40_000
) -> ChiSquared:
    """χ² on draws of this file's own, by float64 brute force."""
    nu = torch.full((len(atoms),), 1 / len(atoms)).double() if weights is None else weights
    counts = torch.zeros(len(atoms), dtype=torch.int64)
    for z in normal(draws, atoms.shape[1], seed=12345).double().split(4000):
        cells = (z @ atoms.double().T + solution.potential).argmax(dim=1)
        counts += torch.bincount(cells, minlength=len(atoms))
    return chi_squared(counts, nu)


def agrees(a: ChiSquared, b: ChiSquared) -> bool:
    return abs(a.value - b.value) < 4 * math.hypot(a.standard_error, b.standard_error)


# Truths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.0, 100.0])
@pytest.mark.parametrize("count", [1, 2, 37, 400])
def test_the_line_is_solved_by_sorting(count: int, ratio: float) -> None:
    truth = line(count, ratio=ratio)
    solution = solve_semidiscrete(truth.atoms, truth.weights)
    torch.testing.assert_close(solution.potential, truth.potential, rtol=0, atol=1e-9)
    potential = BrenierPotential.build(truth.atoms, solution.potential)
    z = normal(3000, 1, seed=1).double()
    assert torch.equal(potential.assign(z), truth.cell(z))
    value, error = dual_value(potential, truth.weights, z)
    assert abs(value - truth.w2_squared) < 4 * error
    assert solution.outcome is Outcome.CONVERGED
    # The cells are exact, so the χ² measured is noise.
    assert abs(solution.chi2.value) < 4 * solution.chi2.standard_error + 1e-12


@pytest.mark.parametrize(("counts", "ratio"), [((12, 12), 1.0), ((8, 7), 8.0), ((5, 4, 4), 4.0)])
def test_a_product_in_two_and_three_dimensions(counts: tuple[int, ...], ratio: float) -> None:
    """Offsets agree with the known ones to the change that the χ² left stands for, τ √χ², and a bit."""
    truth = product_of_lines(counts, ratio=ratio)
    solution = solve_semidiscrete(truth.atoms, truth.weights, tol=0.02)
    assert solution.stats["method"] == "exact cells"
    assert solution.outcome is Outcome.CONVERGED
    assert solution.chi2.upper <= 0.02
    tau = natural_scale(truth.atoms, truth.weights)
    off = (solution.potential - truth.potential) / tau
    assert float((truth.weights @ off**2).sqrt()) < 0.15
    z = normal(20_000, len(counts), seed=1).double()
    potential = BrenierPotential.build(truth.atoms, solution.potential)
    value, error = dual_value(potential, truth.weights, z)
    assert abs(value - truth.w2_squared) < 4 * error + 0.02 * truth.w2_squared
    same = potential.assign(z) == truth.cell(z)
    assert float(same.double().mean()) > 0.9  # masses are off by up to √0.02 = 14 %, root mean square


def test_300_atoms_in_the_plane() -> None:
    atoms = normal(300, 2)
    solution = solve_semidiscrete(atoms)
    assert solution.outcome is Outcome.CONVERGED
    assert solution.chi2.upper <= 0.05
    assert agrees(chi_squared_of(solution, atoms), solution.chi2)


@pytest.mark.parametrize(
    "atoms", [simplex(3), simplex(16), cross_polytope(2), cross_polytope(12), polygon(9)]
)
def test_symmetric_atoms_have_equal_offsets_and_known_cells(atoms: Tensor) -> None:
    solution = solve_semidiscrete(atoms, tol=0.01)
    nu = torch.full((len(atoms),), 1 / len(atoms)).double()
    # An error δ of h/τ moves masses by about that factor: √χ² is what may be left.
    assert float(solution.potential.std()) < 1.5 * 0.01**0.5 * float(natural_scale(atoms, nu).median())
    z = normal(5000, atoms.shape[1], seed=1).double()
    cells = BrenierPotential.build(atoms, solution.potential).assign(z)
    # Masses that are off by √χ² = 10 %, root mean square, misplace up to half of that.
    assert float((cells == (z @ atoms.T).argmax(dim=1)).double().mean()) > 0.95


def test_polygon_distance_in_closed_form() -> None:
    atoms = polygon(7)
    solution = solve_semidiscrete(atoms, tol=0.01)
    potential = BrenierPotential.build(atoms, solution.potential)
    value, error = dual_value(potential, torch.full((7,), 1 / 7), normal(40_000, 2, seed=1).double())
    assert abs(value - polygon_w2_squared(7)) < 4 * error


def test_against_exact_discrete_transport() -> None:
    """n draws of z against the atoms, solved by POT's network simplex.

    On those draws the dual value is below the exact distance for any offsets. How far: F is quadratic about its
    minimum with curvature about ν/τ, so an error of masses Δp costs Σ τ Δp²/(2ν) in F, twice that in W2², and χ² of the
    masses is what the solver left plus the N/n by which n draws differ from the law. The bound allows twice that.
    """
    atoms, weights = mixture(80, 16), unequal_weights(80, 10)
    solution = solve_semidiscrete(atoms, weights, tol=0.02)
    z = normal(2000, 16, seed=1)
    cost = ot.dist(z.double().numpy(), atoms.double().numpy())
    plan, log = ot.emd(np.full(2000, 1 / 2000), weights.numpy(), cost, log=True, numItermax=10**6)
    potential = BrenierPotential.build(atoms, solution.potential)
    value, error = dual_value(potential, weights, z)
    # (`dual_value` has d for E|z|²; on these draws it is their mean.)
    on_draws = value - 16 + float((z.double() ** 2).sum(dim=1).mean())
    gap = log["cost"] - on_draws
    tau = float(natural_scale(atoms, weights).max())
    assert -1e-9 <= gap <= 2 * tau * (solution.chi2.upper + 80 / 2000)
    assert gap < error  # small compared with the chance of the draws
    agreement = plan[np.arange(2000), potential.assign(z).numpy()].sum()
    assert agreement > 0.85


@pytest.mark.parametrize("dim", [2, 32])
@pytest.mark.parametrize("ratio", [30.0, 1000.0])
def test_unequal_weights(dim: int, ratio: float) -> None:
    atoms, weights = mixture(150, dim), unequal_weights(150, ratio)
    solution = solve_semidiscrete(atoms, weights)
    assert solution.outcome is Outcome.CONVERGED
    assert agrees(chi_squared_of(solution, atoms, weights), solution.chi2)


def test_high_dimension_by_stochastic_gradient() -> None:
    atoms = mixture(500, 64)
    solution = solve_semidiscrete(atoms, generator=seeded(3))
    assert solution.stats["method"] == "sgd"
    assert solution.outcome is Outcome.CONVERGED
    assert solution.chi2.upper <= 0.05
    assert solution.stats["draws"] <= 100_000  # the bound for index-only gradients at tol is 10,000
    assert float(solution.potential.mean()) == pytest.approx(0, abs=1e-12)
    independent = chi_squared_of(solution, atoms)
    assert agrees(independent, solution.chi2)
    assert independent.upper <= 0.06  # tol, and the chance of one more estimate


@pytest.mark.parametrize("width", [0.1, 0.01])
def test_clusters_whose_atoms_are_near_each_other(width: float) -> None:
    """The scale of a step is the distance to the neighbours, not to the mean."""
    atoms = clusters(200, 16, centres=8, width=width)
    solution = solve_semidiscrete(atoms)
    assert solution.outcome is Outcome.CONVERGED
    assert agrees(chi_squared_of(solution, atoms), solution.chi2)


def test_near_duplicates() -> None:
    y = normal(100, 64)
    atoms = torch.cat([y, y + 0.01 * normal(100, 64, seed=1)])
    solution = solve_semidiscrete(atoms)
    assert solution.stats["method"] == "sgd"
    assert agrees(chi_squared_of(solution, atoms), solution.chi2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "dim", "method"),
    [(10_000, 2, "exact cells"), (10_000, 3, "exact cells"), (5000, 4, "block newton"), (5000, 9, "sgd")],
)
def test_thousands_of_atoms_in_few_dimensions(count: int, dim: int, method: str) -> None:
    atoms = normal(count, dim)
    solution = solve_semidiscrete(atoms)
    assert solution.stats["method"] == method
    assert solution.chi2.upper <= 0.05
    assert agrees(chi_squared_of(solution, atoms), solution.chi2)


@pytest.mark.slow
def test_the_bundled_images() -> None:
    """The data the package is for: d = 784, uneven, with near duplicates; draws within a quarter of the plan."""
    from otprior.data import bundled

    atoms = bundled.atoms().images[:2000].flatten(1)
    solution = solve_semidiscrete(atoms)
    assert solution.chi2.upper <= 0.05
    assert solution.stats["draws"] <= 1.25 * 2 * 2000 / 0.05
    assert agrees(chi_squared_of(solution, atoms), solution.chi2)


# Laws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 8])
def test_scale_translation_and_order(dim: int) -> None:
    """c y has offsets c h, y + b has the same; and no atom's offset depends on its place in the list."""
    atoms = mixture(100, dim)
    reference = solve_semidiscrete(atoms, generator=seeded(0)).potential
    unit = float(natural_scale(atoms, torch.full((100,), 0.01)).median())
    # Powers of two are exact; what is left is rounding, which the iteration may amplify a little.
    for factor in (2.0**-20, 2.0**20):
        scaled = solve_semidiscrete(factor * atoms, generator=seeded(0)).potential / factor
        torch.testing.assert_close(scaled, reference, rtol=0, atol=1e-3 * unit)
    moved = solve_semidiscrete(atoms + 4.0, generator=seeded(0)).potential
    torch.testing.assert_close(moved - moved.mean(), reference, rtol=0, atol=1e-2 * unit)
    order = torch.randperm(100, generator=seeded(1))
    shuffled = solve_semidiscrete(atoms[order], generator=seeded(0)).potential
    torch.testing.assert_close(shuffled, reference[order], rtol=0, atol=1e-2 * unit)


def test_rotation() -> None:
    """N(0, I) does not see it: cells turn with the atoms."""
    atoms = normal(60, 2).double()
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    a = solve_semidiscrete(atoms, tol=0.01)
    b = solve_semidiscrete(atoms @ turn, tol=0.01)
    z = normal(5000, 2, seed=1).double()
    cells = BrenierPotential.build(atoms, a.potential).assign(z)
    turned = BrenierPotential.build(atoms @ turn, b.potential).assign(z @ turn)
    assert float((cells == turned).double().mean()) > 0.95


# Degenerate measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 64])
def test_one_atom(dim: int) -> None:
    for atoms in (normal(1, dim), normal(1, dim).expand(3, dim)):
        solution = solve_semidiscrete(atoms)
        assert solution.potential.tolist() == [0.0] * len(atoms)
        assert solution.outcome is Outcome.CONVERGED
        assert solution.chi2.value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 40])
def test_duplicates_carry_their_representatives_value_and_weightless_atoms_none(dim: int) -> None:
    y = mixture(20, dim)
    given = torch.cat([y[:5], y, y[3:4]])  # atoms 5 to 9 and 25 repeat
    weights = torch.full((26,), 1.0).double()
    weights[12] = 0
    weights /= weights.sum()
    solution = solve_semidiscrete(given, weights)
    assert torch.equal(solution.potential[5:10], solution.potential[:5])
    assert solution.potential[25] == solution.potential[3]
    assert solution.removed.tolist() == [12]
    assert solution.potential[12] == -math.inf
    assert solution.stats["atoms"] == 19
    # The representatives alone, with the summed weights, are the same problem.
    merged = torch.tensor([2, 2, 2, 3, 2, 1, 1, 0, *[1] * 12]).double() / 25
    distinct = solve_semidiscrete(y, merged)
    torch.testing.assert_close(solution.potential[5:25], distinct.potential)
    assert float(
        solution.potential[torch.isfinite(distinct.potential).nonzero()[:, 0] + 5].mean()
    ) == pytest.approx(0)


def test_two_atoms_of_unequal_weight() -> None:
    """One boundary, at Φ⁻¹ of the mass: h_1 − h_0 is |y_1 − y_0| times that quantile, in any dimension."""
    for dim in (2, 40):
        y = normal(2, dim)
        solution = solve_semidiscrete(y, torch.tensor([0.8, 0.2]), tol=1e-3)
        truth = float(torch.linalg.vector_norm(y[1] - y[0]) * torch.special.ndtri(torch.tensor(0.2)))
        difference = float(solution.potential[1] - solution.potential[0])
        # χ² = (Δp)²/(ν_0 ν_1) ≤ 1e-3 allows Δp = 0.013, that is 0.045 of the spread of z.
        assert abs(difference - truth) < 0.05 * float(torch.linalg.vector_norm(y[1] - y[0]))


# Outcomes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [4, 12])
def test_a_spent_budget_raises_with_its_remedy_or_is_returned(dim: int) -> None:
    atoms = normal(200, dim)
    with pytest.raises(
        ConvergenceError, match=r"budget spent: χ² = .* tol = 0.01. Raise max_draws"
    ) as caught:
        solve_semidiscrete(atoms, tol=0.01, max_draws=2000)
    assert "throw=False" in str(caught.value)
    solution = solve_semidiscrete(atoms, tol=0.01, max_draws=2000, throw=False)
    assert caught.value.solution.chi2 == solution.chi2
    assert solution.outcome is Outcome.BUDGET_SPENT
    assert solution.chi2.upper > 0.01
    assert bool(torch.isfinite(solution.potential).all())
    assert solution.stats["draws"] <= 2000 + 512  # whole blocks
    # What is returned is nevertheless what it says it is.
    assert agrees(chi_squared_of(solution, atoms), solution.chi2)


def test_one_draw_is_a_budget_too() -> None:
    for dim in (4, 8):
        assert solve_semidiscrete(normal(100, dim), max_draws=1, throw=False).outcome is Outcome.BUDGET_SPENT


def circle_in_space() -> Tensor:
    return torch.nn.functional.pad(polygon(100) + 0.01 * normal(100, 2).double(), (0, 30)).float()


def test_divergence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours on a circle have scores that move together: long steps for independent ones make it worse."""
    monkeypatch.setattr(block_newton, "CONTENDERS_IN_MEMORY", 0)
    monkeypatch.setattr(sgd, "NEIGHBOUR_CAP", 100.0)
    monkeypatch.setattr(sgd, "SHARED_STEP_NOISE", 20.0)
    solution = solve_semidiscrete(circle_in_space(), max_draws=4000, throw=False)
    assert solution.outcome is Outcome.DIVERGED
    with pytest.raises(ConvergenceError, match=r"diverged: .* Check the atoms for extreme outliers"):
        solve_semidiscrete(circle_in_space(), max_draws=4000)


def test_newton_steps_in_where_gradients_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgd, "NEIGHBOUR_CAP", 100.0)
    monkeypatch.setattr(sgd, "TRIAL_LIMIT", float("inf"))
    solution = solve_semidiscrete(circle_in_space())
    assert solution.stats["method"] == "sgd, then block newton"
    assert solution.outcome is Outcome.CONVERGED
    assert agrees(chi_squared_of(solution, circle_in_space()), solution.chi2)


def test_every_outcome_has_a_remedy() -> None:
    assert all(outcome.remedy.endswith(".") for outcome in Outcome)


def test_shared_draws_leave_less() -> None:
    """After 15 draws an atom 0.47 N/n where cells share them, 0.95 where not; each is known to a tenth."""
    measure = DiscreteMeasure.of(normal(1000, 64))
    cells, left = search.LaguerreCells.build(measure, 3), {}
    for shared in (False, True):
        method = sgd.AveragedSgd(cells, shared=shared)
        state = method.init()
        while state.step * method.draws_per_step < 15 * len(measure):
            state = method.step(state)
        left[shared] = cells.chi_squared(state.average, "judge", range(100)).value
        assert (method.width(state) > 0) == shared
    assert left[True] < 0.7 * left[False]


# What the reported χ² rests on -----------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 8, 130])
def test_chi_squared_is_reported_on_draws_that_nothing_else_used(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[str, int]] = []
    draw = search.normal_block

    def recording(seed: int, stream: str, block: int, size: int, dimension: int) -> Tensor:
        used.append((stream, block))
        return draw(seed, stream, block, size, dimension)

    monkeypatch.setattr(search, "normal_block", recording)
    solution = solve_semidiscrete(normal(100, dim))
    last = used[-(solution.chi2.draws // search.DRAWS_PER_SET) :]
    assert {stream for stream, _ in last} <= {"test", "test, mixers"}
    assert not set(last) & set(used[: -len(last)])
    assert draw(0, "test", 0, 8, 4).ne(draw(0, "fit", 0, 8, 4)).all()


def test_a_stop_on_a_lucky_estimate_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first estimate of every potential but the one that was planned is perfect, the second must refuse."""
    sums: list[float] = []
    honest = StoppingRule.chi_squared

    def lucky(self: StoppingRule, potential: Tensor) -> ChiSquared:
        sums.append(float(potential.sum() + potential[0]))
        first = len(sums) > 1 and sums.count(sums[-1]) == 1
        return ChiSquared(0.0, 0.0, 8192) if first else honest(self, potential)

    monkeypatch.setattr(StoppingRule, "chi_squared", lucky)
    solution = solve_semidiscrete(normal(200, 12), tol=1e-3, max_draws=2000, throw=False)
    assert solution.outcome is Outcome.BUDGET_SPENT


def test_same_generator_seed_same_potential() -> None:
    for dim in (4, 8):
        a, b, c = (solve_semidiscrete(normal(60, dim), generator=seeded(s)) for s in (5, 5, 6))
        assert torch.equal(a.potential, b.potential)
        assert a.chi2 == b.chi2
        assert not torch.equal(a.potential, c.potential)
    # None is a fixed seed too, not the global generator.
    assert torch.equal(solve_semidiscrete(normal(9, 2)).potential, solve_semidiscrete(normal(9, 2)).potential)


@pytest.fixture
def restored_threads() -> object:
    before = torch.get_num_threads()
    yield None
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("dim", [2, 8])
def test_threads_change_nothing(dim: int) -> None:
    """Counts are exact; smoothed masses are float32 sums, whose rounding may follow the number of threads: far below
    the error that is left, and no draw changes its cell but by that."""
    atoms = mixture(60, dim)
    torch.set_num_threads(1)
    one = solve_semidiscrete(atoms)
    torch.set_num_threads(2)
    two = solve_semidiscrete(atoms)
    unit = float(natural_scale(atoms, torch.full((60,), 1 / 60)).median())
    torch.testing.assert_close(one.potential, two.potential, rtol=0, atol=1e-4 * unit)
    assert one.stats["draws"] == two.stats["draws"]
    assert one.chi2.value == pytest.approx(two.chi2.value, abs=1e-3)


def test_progress_is_reported_and_never_falls_back() -> None:
    for dim in (4, 8):
        reports: list[Progress] = []
        solution = solve_semidiscrete(normal(150, dim), progress=reports.append)
        done = [report.draws for report in reports]
        assert len(done) >= 2
        assert done == sorted(done)
        assert done[-1] <= solution.stats["draws"]
        assert all(report.expected_draws >= 1 for report in reports)


def test_an_exception_in_progress_stops_the_solve() -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_semidiscrete(normal(150, 8), progress=interrupt)


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 6, 200])
def test_atoms_in_float64_are_left_as_they_are(dim: int) -> None:
    atoms = 3 + torch.randn(20, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = atoms.clone()
    solution = solve_semidiscrete(atoms, tol=0.5, throw=False)
    transport_cost(atoms, solution.potential, draws=1024)
    assert torch.equal(atoms, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0}, "tol must be a positive number up to .*; got 0"),
        ({"tol": 1e-9}, "takes billions of draws"),
        ({"tol": 1e-320}, "takes billions of draws"),
        ({"tol": -0.1}, "tol must be a positive number up to .*; got -0.1"),
        ({"tol": float("nan")}, "tol must be a positive number up to .*; got nan"),
        ({"tol": "0.05"}, "tol must be a positive number up to .*; got '0.05'"),
        ({"max_draws": 0}, "max_draws must be an integer >= 1; got 0"),
        ({"max_draws": 1e5}, "max_draws must be an integer >= 1; got 100000.0"),
        ({"weights": torch.tensor([0.7, 0.7])}, "weights must be of sum 1; got a sum of 1.4"),
        ({"weights": torch.tensor([1.5, -0.5])}, "weights must be nonnegative"),
        ({"atoms": torch.tensor([[0.0], [float("nan")]])}, "atoms must be finite"),
        (
            {"atoms": torch.tensor([[0.0], [1e31]])},
            "atoms must be of entries up to 1e\\+30 in size; got 1e\\+31",
        ),
        ({"atoms": torch.zeros(0, 3)}, "atoms must be of shape"),
    ],
)
def test_bad_input(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_semidiscrete(**{"atoms": torch.tensor([[0.0], [1.0]]), **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [3, 4])
def test_newton_reaches_a_small_tolerance(seed: int) -> None:
    atoms = normal(30, 2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    solution = solve_semidiscrete(atoms, tol=3e-4, source="uniform", generator=generator)
    assert solution.stats["method"] == "newton"
    assert solution.outcome is Outcome.CONVERGED
    assert solution.chi2.upper <= 3e-4


@pytest.mark.parametrize(
    ("atoms", "methods"),
    [
        (normal(300, 16), [sgd, block_newton]),
        (normal(300, 4), [block_newton]),
        (normal(300, 3), [exact_cells, newton]),
    ],
)
def test_a_trial_says_which_method_suits(atoms: Tensor, methods: list[object]) -> None:
    cells = LaguerreCells.build(DiscreteMeasure.build(atoms), seed=0)
    assert choose(Problem(cells, tol=0.05, max_draws=20_000)) == methods
