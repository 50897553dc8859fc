"""OTT-JAX's `SemidiscreteSolver`: an optax optimiser on the unregularised semi-dual, with a moving average.

Its score is g_i − cost(x, y_i). For the cost |x − y|² that makes h = (g − |y|²)/2, for its `NegDotProduct` h = g.

Step size, batch and optimiser have no defaults; its tutorial's are taken (plain SGD at 0.02, 128 draws, ε = 0).
`potential_ema` weighs the *new* iterate: the default 0.99 hardly averages, 0.01 averages over a hundred steps.

The solver's public `step` runs here in a compiled loop of some steps between two readings of the clock. Compilation and
a first call come before the clock starts, and the solver's own χ², which would cost time, is not computed.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from peers import Clock, Peer, Problem, Settings

# Seconds of compiled steps between two readings of the clock.
STRIDE = 0.03
# Steps after which the decreasing schedule has come down to 1/√2.
DECAY_STEPS = 100
TUTORIAL_RATE, TUTORIAL_ATOMS = 0.02, 96


def problem_and_solver(problem: Problem, settings: Settings) -> tuple[Any, Any]:
    """OTT's problem and solver. (The solver's number of iterations only sizes its record of losses.)

    Settings: `optimizer` is "sgd", whose rate is `step` times N (a gradient is of size 1/N), or "adam" at rate `step`;
    `schedule` is "constant" or "decreasing", as 1/√(1 + t/100); `ema` is `potential_ema`; `batch`; `cost` is
    "sqeuclidean" or "dot".
    """
    import jax
    import jax.numpy as jnp
    import optax
    from ott.geometry import costs, semidiscrete_pointcloud
    from ott.problems.linear import semidiscrete_linear_problem
    from ott.solvers.linear import semidiscrete

    if problem.atoms.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    cost = costs.NegDotProduct() if settings["cost"] == "dot" else costs.SqEuclidean()
    geometry = semidiscrete_pointcloud.SemidiscretePointCloud(
        jax.random.normal, jnp.asarray(problem.atoms), cost_fn=cost, epsilon=0.0
    )
    weights = None if problem.weights is None else jnp.asarray(problem.filled_weights())
    rate = settings["step"] * (len(problem) if settings["optimizer"] == "sgd" else 1)
    schedule = (
        (lambda step: rate * (1 + step / DECAY_STEPS) ** -0.5)
        if settings["schedule"] == "decreasing"
        else rate
    )
    solver = semidiscrete.SemidiscreteSolver(
        num_iterations=1,
        batch_size=settings["batch"],
        optimizer={"sgd": optax.sgd, "adam": optax.adam}[settings["optimizer"]](schedule),
        error_eval_every=1,
        potential_ema=settings["ema"],
    )
    return semidiscrete_linear_problem.SemidiscreteLinearProblem(geometry, b=weights), solver


def offsets(problem: Problem, settings: Settings, g: np.ndarray) -> np.ndarray:
    """h (N,) of OTT's potential g (N,)."""
    g = g.astype(np.float64)
    return g if settings["cost"] == "dot" else (g - problem.square_norms()) / 2


def run(problem: Problem, settings: Settings, seed: int, clock: Clock) -> None:
    """Steps until the clock stops it."""
    import jax

    prob, solver = problem_and_solver(problem, settings)
    # As in the solver's own loop, whose other half is for its χ².
    key, _ = jax.random.split(jax.random.key(seed))

    @jax.jit
    def advance(prob: Any, state: Any, steps: int) -> Any:
        def step(_: int, state: Any) -> Any:
            return solver.step(jax.random.fold_in(key, state.it), state, prob)

        return jax.lax.fori_loop(0, steps, step, state)

    jax.block_until_ready(advance(prob, _first_state(prob, solver), 1))
    started = time.perf_counter()
    jax.block_until_ready(advance(prob, _first_state(prob, solver), 1))
    stride = max(1, int(STRIDE / (time.perf_counter() - started)))

    clock.start()
    state = _first_state(prob, solver)
    while True:
        state = jax.block_until_ready(advance(prob, state, stride))
        clock(
            int(state.it) * settings["batch"],
            lambda state=state: offsets(problem, settings, np.asarray(state.g_ema)),
        )


def _first_state(prob: Any, solver: Any) -> Any:
    """What the solver's own call starts from: g = 0."""
    import jax.numpy as jnp
    from ott.solvers.linear.semidiscrete import SemidiscreteState

    dtype = prob.geom.dtype
    zero, none = jnp.zeros(prob.geom.shape[1], dtype), jnp.full((1,), jnp.inf, dtype)
    return SemidiscreteState(
        it=jnp.array(0),
        epsilon=jnp.array(jnp.nan, dtype),
        g=zero,
        g_ema=zero,
        opt_state=solver.optimizer.init(zero),
        losses=none,
        grad_norms=none,
        errors=none,
    )


PEER = Peer(
    label="OTT-JAX",
    defaults={
        "optimizer": "sgd",
        "step": TUTORIAL_RATE / TUTORIAL_ATOMS,
        "schedule": "constant",
        "ema": 0.99,
        "batch": 128,
        "cost": "sqeuclidean",
    },
    starts=(
        {"optimizer": "sgd", "step": 1.0, "schedule": "constant", "ema": 0.01, "batch": 1024, "cost": "dot"},
        {"optimizer": "adam", "step": 0.3, "schedule": "constant", "ema": 0.01, "batch": 1024, "cost": "dot"},
    ),
    axes={
        "schedule": ("constant", "decreasing"),
        "ema": (0.99, 0.1, 0.01, 0.001),
        "batch": (128, 1024, 4096),
        "cost": ("sqeuclidean", "dot"),
    },
    run=run,
    requires=("ott", "pip install ott-jax"),
    note="its tutorial's settings; step size, batch and optimiser have no defaults",
)
