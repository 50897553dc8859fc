"""POT's `ot.semidiscrete.solve_semidiscrete`: averaged SGD with decreasing regularisation (DRAG).

POT's cost is |x − y|² by default, its score g_i − |x − y_i|² = 2 (⟨x, y_i⟩ + (g_i − |y_i|²)/2) − |x|², hence
h = (g − |y|²)/2. A cost −⟨x, y⟩, given as a callable, is the same transport problem in units of h itself, costs fewer
passes over the scores, and starts from h = 0 where the first starts from h = −|y|²/2; it is one of the settings tried.

Any backend of POT's would do; NumPy and PyTorch are tried.

The function takes no callback. But it asks its sampler for draws once a step, and what it would return if it ended
there is a variable of the calling frame, which the sampler reads; a test compares that with what is returned.

References:
    Genans, Godichon-Baggioni, Vialard & Wintenberger (2025): Stochastic Optimization in Semi-Discrete Optimal
    Transport; Decreasing Entropic Regularization Averaged Gradient for Semi-Discrete Optimal Transport.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from peers import Clock, Peer, Problem, Settings

# The function wants to know when to end; the clock ends it.
FOREVER = 10**12


def minus_dot(x: Any, y: Any) -> Any:
    """The cost −⟨x, y⟩; x (B, d), y (N, d) to (B, N)."""
    return (-x) @ y.T


def arguments(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Keyword arguments of `solve_semidiscrete`, but for the sampler and the number of steps.

    Settings: `step` multiplies POT's own lr0 = √(N B); `batch`; `smoothing` is the first ε of DRAG, 0 for none;
    `cost` is "sqeuclidean" or "dot"; `backend` is "numpy" or "torch".
    """
    smoothing = settings["smoothing"]
    array = torch.from_numpy if settings["backend"] == "torch" else np.asarray
    return {
        "X_target": array(problem.atoms),
        "a_target": None if problem.weights is None else array(problem.filled_weights()),
        "metric": minus_dot if settings["cost"] == "dot" else None,
        "batch_size": settings["batch"],
        "lr0": settings["step"] * math.sqrt(len(problem) * settings["batch"]),
        "decreasing_reg": smoothing > 0,
        "decreasing_reg_initial_eps": smoothing,
    }


def offsets(problem: Problem, settings: Settings, g: np.ndarray) -> np.ndarray:
    """h (N,) of POT's potential g (N,)."""
    g = g.astype(np.float64)
    return g if settings["cost"] == "dot" else (g - problem.square_norms()) / 2


def normal_sampler(problem: Problem, settings: Settings, seed: int) -> Callable[[int], Any]:
    """Draws from N(0, I) in the backend's arrays and the atoms' dtype."""
    dim, dtype = problem.atoms.shape[1], problem.atoms.dtype
    if settings["backend"] == "numpy":
        numpy_generator = np.random.default_rng(seed)
        return lambda size: numpy_generator.standard_normal((size, dim), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    return lambda size: torch.randn(size, dim, generator=generator, dtype=getattr(torch, dtype.name))


def run(problem: Problem, settings: Settings, seed: int, clock: Clock) -> None:
    """Steps until the clock stops it."""
    from ot.semidiscrete import solve_semidiscrete

    sampler = normal_sampler(problem, settings, seed)
    draws = 0

    def reporting(size: int) -> Any:
        nonlocal draws
        if draws:
            frame = sys._getframe(1)
            clock(draws, lambda: offsets(problem, settings, np.asarray(frame.f_locals["g_avg"])))
        draws += size
        return sampler(size)

    given = arguments(problem, settings)
    clock.start()
    with torch.inference_mode():
        solve_semidiscrete(sampler_source=reporting, max_iter=FOREVER, **given)


# NumPy is the backend of the defaults: at N = 10,000, d = 784 and batches of 32 it was 2.5 times as fast as PyTorch.
DEFAULTS = {"step": 1.0, "batch": 32, "smoothing": 0.1, "cost": "sqeuclidean", "backend": "numpy"}

PEER = Peer(
    label="POT",
    defaults=DEFAULTS,
    starts=(DEFAULTS, DEFAULTS | {"batch": 256, "cost": "dot"}),
    axes={"batch": (32, 256, 1024, 4096), "smoothing": (0, 0.1, 10.0, 100.0), "backend": ("numpy", "torch")},
    run=run,
    requires=("ot.semidiscrete", "pip install 'POT>=0.9.7'"),
    note="defaults of the function",
)
