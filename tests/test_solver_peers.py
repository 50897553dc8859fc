"""The solver benchmark: each adapter means the map that its peer means; what is timed and measured is what is said."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from otprior.transport.potential import BrenierPotential

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import peers  # noqa: E402
import solver  # noqa: E402
from harness import atom_sets, contender, results, running, tuning  # noqa: E402
from harness.measuring import ChiSquaredMeter  # noqa: E402
from peers import Problem, Settings  # noqa: E402

STEPS = 30


@pytest.fixture(params=[False, True], ids=["uniform", "weighted"])
def problem(request: pytest.FixtureRequest) -> Problem:
    """40 atoms of unequal norms in three dimensions."""
    generator = np.random.default_rng(0)
    atoms = generator.standard_normal((40, 3)) * generator.uniform(0.5, 3, (40, 1)) + 1
    weights = generator.uniform(0.2, 1, 40) if request.param else None
    return Problem(atoms.astype(np.float32), None if weights is None else weights / weights.sum())


@pytest.fixture
def z() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2000, 3)).astype(np.float32)


class Steps:
    """A clock that stops after so many reports, and keeps the last h."""

    def __init__(self, count: int) -> None:
        self.left, self.draws, self.started = count, 0, False

    def start(self) -> None:
        self.started = True

    def __call__(self, draws: int, offsets: Callable[[], np.ndarray], last: bool = False) -> None:
        assert self.started
        assert draws > self.draws or last
        self.left -= 1
        self.draws, self.offsets = draws, offsets()
        if not self.left and not last:
            raise contender.TimeIsUp


def run(name: str, problem: Problem, settings: Settings, steps: int = STEPS) -> Steps:
    """The adapter's run, stopped after so many steps."""
    clock = Steps(steps)
    with pytest.raises(contender.TimeIsUp):
        peers.load(name).run(problem, settings, 0, clock)
    return clock


def cells(problem: Problem, offsets: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The assignment that the benchmark measures."""
    potential = BrenierPotential.build(torch.from_numpy(problem.atoms), torch.from_numpy(offsets))
    return potential.assign(torch.from_numpy(z)).numpy()


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal, but for a point in a thousand that rounding in float32 may send to the next cell."""
    return bool((a != b).mean() <= 1e-3) and len(np.unique(a)) > 5


def settings_of(name: str) -> list[Settings]:
    """Defaults, and for each kind of cost, start and optimiser one of those tried."""
    peer = peers.load(name)
    return [peer.defaults | {"step": peer.starts[0]["step"]}, *peer.starts]


# Adapters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("settings", settings_of("pot"), ids=str)
def test_pot_is_what_it_returns_and_assigns_as_it_does(
    problem: Problem, settings: Settings, backend: str, z: np.ndarray
) -> None:
    from ot.semidiscrete import semidiscrete_atom_weights, solve_semidiscrete
    from peers import pot

    settings = settings | {"backend": backend}
    clock = run("pot", problem, settings)
    assert clock.draws == STEPS * settings["batch"]
    given = pot.arguments(problem, settings)
    sampler = pot.normal_sampler(problem, settings, 0)
    g = solve_semidiscrete(sampler_source=sampler, max_iter=STEPS, **given)
    np.testing.assert_array_equal(clock.offsets, pot.offsets(problem, settings, np.asarray(g)))
    points = torch.from_numpy(z) if backend == "torch" else z
    shares = semidiscrete_atom_weights(
        given["X_target"], points, g, a_target=given["a_target"], metric=given["metric"]
    )
    assert same(cells(problem, clock.offsets, z), np.asarray(shares).argmax(axis=1))


def test_pot_defaults_are_those_of_the_function() -> None:
    """lr0 is √(N B) by its documentation; the rest can be read off the signature."""
    import inspect

    from ot.semidiscrete import solve_semidiscrete

    defaults = {k: p.default for k, p in inspect.signature(solve_semidiscrete).parameters.items()}
    ours = peers.load("pot").defaults
    assert defaults["batch_size"] == ours["batch"]
    assert defaults["decreasing_reg"]
    assert defaults["decreasing_reg_initial_eps"] == ours["smoothing"]
    assert defaults["lr0"] is None
    assert defaults["metric"] is None


@pytest.mark.parametrize("settings", settings_of("ott"), ids=str)
def test_ott_is_what_it_returns_and_assigns_as_it_does(
    problem: Problem, settings: Settings, z: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own loop with the same key; float32 sums in another order are what the tolerance is for."""
    jax = pytest.importorskip("jax")
    pytest.importorskip("ott")
    import dataclasses

    import jax.numpy as jnp
    from ott.geometry import semidiscrete_pointcloud
    from ott.problems.linear import semidiscrete_linear_problem
    from ott.solvers.linear import semidiscrete
    from peers import ott

    # One step between two readings of the clock.
    monkeypatch.setattr(ott, "STRIDE", 0.0)
    clock = run("ott", problem, settings)
    assert clock.draws == STEPS * settings["batch"]
    prob, solver = ott.problem_and_solver(problem, settings)
    whole = dataclasses.replace(solver, num_iterations=STEPS, error_eval_every=STEPS, error_num_repeats=1)
    g = np.asarray(jax.jit(whole)(jax.random.key(0), prob).g)
    expected = ott.offsets(problem, settings, g)
    np.testing.assert_allclose(clock.offsets, expected, atol=1e-4 * np.abs(expected).max())

    geometry = semidiscrete_pointcloud.SemidiscretePointCloud(
        lambda key, shape, dtype: jnp.asarray(z), prob.geom.y, cost_fn=prob.geom.cost_fn, epsilon=0.0
    )
    fixed = semidiscrete_linear_problem.SemidiscreteLinearProblem(geometry, b=prob.b)
    sampled = semidiscrete.SemidiscreteOutput(jnp.asarray(g), fixed).sample(jax.random.key(0), len(z))
    assert same(cells(problem, expected, z), np.asarray(sampled.paired_indices[1]))


@pytest.mark.parametrize("settings", settings_of("alignflow"), ids=str)
def test_alignflow_assigns_to_the_least_cost_less_its_dual_vector(
    problem: Problem, settings: Settings, z: np.ndarray
) -> None:
    from peers import alignflow

    v = torch.from_numpy(np.random.default_rng(2).standard_normal(40))
    cost = torch.cdist(torch.from_numpy(z).double(), torch.from_numpy(problem.atoms).double()) ** 2
    assert same(cells(problem, alignflow.offsets(problem, v).numpy(), z), (cost - v).argmin(dim=1).numpy())
    assert run("alignflow", problem, settings).draws == STEPS * settings["batch"]


@pytest.mark.parametrize(
    ("name", "settings", "steps"),
    [
        ("pot", {"step": 0.3, "batch": 256, "smoothing": 0.1, "cost": "dot"}, 1000),
        (
            "ott",
            {"step": 0.1, "schedule": "decreasing", "ema": 0.01, "batch": 1024, "cost": "sqeuclidean"},
            2000,
        ),
        ("dpm_ot", {"step": 0.1, "draws": 10.0}, 300),
        ("alignflow", {"step": 0.03, "batch": 1024, "ema": 0.99, "smoothing": 0.01, "start": "zero"}, 1500),
    ],
)
def test_every_peer_solves_the_problem(
    problem: Problem, name: str, settings: Settings, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To χ² of 0.02, an error of masses of 14 %: so signs, scales and weights are right. (h = 0 has χ² above 0.5.)"""
    if peers.load(name).missing:
        pytest.skip(peers.load(name).missing)
    if name == "ott":
        from peers import ott

        monkeypatch.setattr(ott, "STRIDE", 0.0)
    meter = ChiSquaredMeter(problem)
    start = meter(np.zeros(40), 0.01)
    assert start is not None
    assert start.value > 0.5
    chi2 = meter(run(name, problem, peers.load(name).defaults | settings, steps).offsets, 0.01)
    assert chi2 is not None
    assert chi2.upper < 0.02


def test_ours_ends_by_itself_and_steps_alike(problem: Problem) -> None:
    meter = ChiSquaredMeter(problem)
    clock = Steps(1)
    facts = peers.load("ours").run(problem, {"tol": 0.05, "precision": "float32"}, 0, clock)
    assert facts["outcome"] == "converged"
    assert facts["precision"] == "float32"
    chi2 = meter(clock.offsets, 0.05)
    assert chi2 is not None
    assert chi2.upper < 0.05
    assert run("ours", problem, {}).draws > 0


# What is timed and measured --------------------------------------------------------------------------------


def test_the_clock_stands_still_while_somebody_looks() -> None:
    """Steps of 5 ms, looks of 50 ms."""
    sent = []

    def send(record: dict[str, Any], offsets: np.ndarray) -> float:
        sent.append(record)
        time.sleep(0.05)
        return 0.1

    timer = contender.Timer(first=0.01, stop=0.1, send=send)
    timer.start()

    def steps() -> None:
        for step in itertools.count(1):
            time.sleep(0.005)
            timer(step, lambda: np.zeros(3))

    began = time.perf_counter()
    with pytest.raises(contender.TimeIsUp):
        steps()
    wall = time.perf_counter() - began
    assert timer.seconds == sent[-1]["seconds"] >= 0.1
    assert wall - timer.seconds > 0.045 * len(sent)
    assert [r["last"] for r in sent] == [False] * (len(sent) - 1) + [True]
    # No nearer than the ratio that is promised, but for the end.
    seconds = [r["seconds"] for r in sent[:-1]]
    assert all(b > a for a, b in itertools.pairwise(seconds))
    assert len(sent) <= 3 + math.log(0.1 / 0.01) / math.log(contender.CHECKPOINT_RATIO)


class Truth:
    """Measures offsets by their first entry."""

    def __call__(self, offsets: np.ndarray, target: float) -> Any:
        from otprior.transport.chi_squared import ChiSquared

        value = float(offsets[0])
        return ChiSquared(value, 0.0, 100) if math.isfinite(value) else None


def follow(
    values: list[float], limits: tuple[tuple[float, float], ...]
) -> tuple[dict[str, Any], list[float]]:
    """A run whose checkpoints, one a second, have these χ²."""
    job = running.Job("pot", "tuned", {}, 0, limits)
    progress = running._Progress(job, Truth())  # type: ignore[arg-type]
    stops: list[float] = []
    for second, value in enumerate(values, start=1):
        last = second >= (stops[-1] if stops else limits[0][1])
        record = {"seconds": float(second), "cpu_seconds": 1.0, "draws": 10 * second, "last": last}
        stops.append(progress.see(record, np.array([value])))
        if second >= stops[-1]:
            break
    return progress.result(), stops


def test_the_first_checkpoint_that_reaches_a_target_is_found_between_those_measured() -> None:
    result, stops = follow(
        [3, 2, 1, 0.5, 0.3, 0.04, 0.03, 0.02, 0.015, 0.009, 0.008, 0.007], ((0.05, 20), (0.01, 30))
    )
    assert {t: p["seconds"] for t, p in result["reached"].items()} == {"0.05": 6, "0.01": 10}
    # More time once the first target is reached; none once there is nothing more to reach.
    assert stops[6] == 20
    assert stops[7] == 30
    assert stops[-1] == 0
    assert [p["seconds"] for p in result["curve"]] == [4, 8, 12]


def test_a_run_ends_at_the_limit_of_the_target_that_it_misses() -> None:
    result, stops = follow([3.0] * 50, ((0.05, 20), (0.01, 30)))
    assert result["reached"] == {}
    assert len(stops) == 20
    assert result["curve"][-1]["seconds"] == 20


def test_a_run_whose_potential_is_not_finite_ends() -> None:
    result, stops = follow([3.0, math.nan, math.nan, math.nan, 1.0], ((0.05, 20),))
    assert result["diverged"]
    assert result["curve"][-1]["chi2"] is None
    assert stops[-1] == 0


def test_the_measurement_is_unbiased_where_chi_squared_is_known() -> None:
    """Two atoms at ±1 on the line, offsets ±a: the cells are half-lines that part at −a, of masses Φ(±a)."""
    problem = Problem(np.array([[1.0], [-1.0]], dtype=np.float32), None)
    meter = ChiSquaredMeter(problem)
    for a in (0.02, 0.5):
        mass = 0.5 * (1 + math.erf(a / math.sqrt(2)))
        truth = 2 * (mass - 0.5) ** 2 + 2 * (0.5 - mass) ** 2
        chi2 = meter(np.array([a, -a]), 0.01)
        assert chi2 is not None
        assert abs(chi2.value - truth) < 4 * chi2.standard_error + 1e-4
    assert meter(np.array([np.nan, 0.0]), 0.01) is None


def test_tuning_walks_to_the_best_step_wherever_it_is() -> None:
    """χ² has its minimum at step 100 and size 4; the start is two decades below."""

    def measure(settings: Settings) -> tuning.Trial:
        off = abs(math.log10(settings["step"]) - 2) + abs(settings["size"] - 4)
        if settings["step"] > 200:
            return tuning.Trial(settings, math.inf)
        return tuning.Trial(settings, off) if off > 0.1 else tuning.Trial(settings, 99.0, seconds=1.0)

    peer = peers.Peer(
        "x", {}, ({"step": 1.0, "size": 1}, {"step": 1000.0, "size": 1}), {"size": (1, 4, 9)}, lambda *_: None
    )
    best, trials = tuning.tune(peer, measure)
    assert best == {"step": 100.0, "size": 4}
    assert len({json.dumps(t.settings) for t in trials}) == len(trials)
    assert len(trials) < 20


def test_rows_compare_medians_and_say_how_long_a_failure_was_given() -> None:
    def finished(seconds: float | None) -> dict[str, Any]:
        point = {
            "seconds": seconds or 100.0,
            "cpu_seconds": 1.0,
            "draws": 1000,
            "chi2": 0.04,
            "upper": 0.045,
            "standard_error": 0.003,
        }
        reached = {} if seconds is None else {"0.05": point}
        cost = {
            "seconds": point["seconds"],
            "cpu_seconds": point["seconds"],
            "solve_mib": 10.0,
            "peak_mib": 90.0,
        }
        return {"reached": reached, "curve": [point], "job": {"seed": 0}, **cost}

    def row(times: list[float | None]) -> dict[str, Any]:
        entry = results.Entry("pot", "POT", "tuned", {"step": 1.0}, {0.05: [finished(t) for t in times]})
        result = results.SetResult("line", "", 100, 1, 1.0, [entry], {0.05: 10.0}, {}, [])
        return results.rows_of(result, threads=1)[0]

    reached = row([30.0, None, 50.0])
    assert reached["reached"]
    assert reached["seconds"] == 50
    assert reached["times_ours"] == 5
    assert reached["efficiency"] == pytest.approx(100 / 1000 / 0.04)
    missed = row([30.0, None, None])
    assert not missed["reached"]
    assert missed["times_ours"] == 10
    assert row([30.0, None])["times_ours"] == 6.5


def test_sets_of_atoms_are_what_they_are_called(tmp_path: Path) -> None:
    problem = atom_sets.make("rehearsal", "float32", None, tmp_path)
    assert problem.atoms.shape == (1000, 64)
    assert problem.weights is not None
    assert problem.weights.max() / problem.weights.min() == pytest.approx(1000)
    norms = np.sqrt(problem.square_norms())
    assert np.quantile(norms, 0.95) / np.quantile(norms, 0.05) > 2
    again = atom_sets.read(tmp_path)
    np.testing.assert_array_equal(again.atoms, problem.atoms)
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        atom_sets.make("fashion-60k", "float32", tmp_path / "nowhere", tmp_path / "60k")


def test_a_run_in_its_own_process_is_measured_kept_and_not_done_twice(tmp_path: Path) -> None:
    problem = atom_sets.make("line", "float32", None, tmp_path)
    runner = running.Runner(tmp_path, ChiSquaredMeter(problem), threads=1)
    job = running.Job("alignflow", "default", peers.load("alignflow").defaults, 5, ((0.05, 0.3),))
    result = runner(job)
    assert 0.3 <= result["seconds"] < 5
    assert result["curve"][-1]["draws"] % 128 == 0
    assert result["cpu_seconds"] > 0
    assert result["peak_mib"] > result["solve_mib"] > 0
    assert runner(job) == result
    with pytest.raises(RuntimeError, match="messages are in"):
        runner(running.Job("alignflow", "default", {"step": "no number"}, 5, ((0.05, 0.3),)))


def test_the_command_checks_its_options_and_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--targets", "0"], ["--threads", "-1"], ["--peers", "sinkhorn"], ["--sets", "cifar"]):
        with pytest.raises(SystemExit):
            solver.parse(option)
        assert option[0] in capsys.readouterr().err
    work = tmp_path / "out.work"
    facts = solver.conditions(solver.parse([]))
    solver.claim(work, tmp_path / "out", facts)
    solver.claim(work, tmp_path / "out", facts)
    with pytest.raises(ValueError, match="'threads'"):
        solver.claim(work, tmp_path / "out", facts | {"threads": 3})


@pytest.mark.slow
def test_the_command_from_end_to_end_and_again(tmp_path: Path) -> None:
    """Some thirty processes; the second call finds all of them done."""
    out = tmp_path / "out"
    options = "--sets line --peers alignflow --targets 2 --shortest 0.5 --threads 1 --repeats 1"
    command = [sys.executable, str(BENCHMARKS / "solver.py"), *options.split(), "--out", str(out)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    names = {path.name for path in out.glob("[!.]*")}
    assert names == {"results.csv", "curves.csv", "results.json", "table.md", "solver.png"}
    assert "| otprior |" in (out / "table.md").read_text(encoding="utf-8")
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.work" / "line").glob("*.json")}
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.stdout == first.stdout
    assert runs == {path: path.stat().st_mtime_ns for path in (tmp_path / "out.work" / "line").glob("*.json")}
    other = subprocess.run([*command, "--dtype", "float64"], capture_output=True, text=True)
    assert other.returncode != 0
    assert "dtype" in other.stderr
