r"""The Fokker-Planck equation as the authors of 2202.07477 solve it: their package fpcross, on Chebyshev nodes.

A step of ∂p/∂t = div(x p) + Δp is half a step of diffusion (a matrix exponential along each axis), one of drift (values
are carried along characteristics, at the nodes that a cross approximation chooses), and half a step of diffusion
again. It is of second order in the step, with p = 0 held at the ends of every axis. It does not use that the equation
separates into axes; `otprior_studies.fokker_planck.hermite` does, and serves as its reference.

Needs fpcross (`pip install "otprior[theory]"`), which runs from two dimensions on.

References:
    Chertkov & Oseledets, Solution of the Fokker-Planck equation by cross approximation method in the tensor train
    format, Front. Artif. Intell. 4 (2021).
    Khrulkov, Ryzhakov, Chertkov & Oseledets, Understanding DDPM latent codes through optimal transport (2023),
    https://arxiv.org/abs/2202.07477
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprior.utils.validation import check_integer, require
from otprior_studies.fokker_planck.hermite import Cores
from otprior_studies.fokker_planck.trains import FunctionTrain, chebyshev


@dataclass(frozen=True)
class CrossPath:
    """A density p(x, t) at equally spaced times, as a train of Chebyshev series.

    Attributes:
        step: Distance of two times.
        trains: p at t = 0, step, 2 step, ….
        half_width: ℓ; p is known on [−ℓ, ℓ]^d.
    """

    step: float
    trains: Sequence[FunctionTrain]
    half_width: float

    @property
    def times(self) -> list[float]:
        """Every second time: ends of Runge-Kutta steps ("rk4") whose midpoints are known, too."""
        return [self.step * k for k in range(0, len(self.trains), 2)]

    def density(self, t: float, x: Tensor) -> Tensor:
        """p(x, t) at one of the path's times; x (B, d) to (B,)."""
        return self._at(t, x)(x)

    def score(self, t: float, x: Tensor) -> Tensor:
        """∇ log p(x, t); x (B, d) to (B, d)."""
        return self._at(t, x).log_gradient(x)

    def score_with_jacobian(self, t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        """∇ log p(x, t) and ∇² log p(x, t); x (B, d) to (B, d) and (B, d, d)."""
        return self._at(t, x).log_derivatives(x)

    def _at(self, t: float, x: Tensor) -> FunctionTrain:
        place = round(t / self.step)
        known = abs(t - place * self.step) < 1e-6 * self.step and 0 <= place < len(self.trains)
        rule = f"a multiple of {self.step:g} up to {self.step * (len(self.trains) - 1):g}"
        require(known, "t", rule, t, "Use method 'rk4' with the path's own times")
        farthest = float(x.abs().max())
        hint = "Raise half_width, with more nodes"
        require(farthest <= self.half_width, "points", f"within {self.half_width:g}", farthest, hint)
        return self.trains[place]


def solve_by_cross(
    cores: Cores, *, duration: float, steps: int, nodes: int = 60, half_width: float = 6.0, tol: float = 1e-6
) -> CrossPath:
    """Solves the equation from a density that is a train of functions.

    Arguments:
        cores: The density at t = 0.
        duration: The last time.
        steps: Number of time steps; even, so that particles can make steps of twice the length.
        nodes: Number of nodes on an axis. A Gaussian of standard deviation s needs about 5 half_width/s.
        half_width: ℓ; the density should be negligible outside [−ℓ, ℓ]^d.
        tol: Relative tolerance of truncations and of the cross approximation.

    Raises:
        ImportError: If fpcross is not installed.
        ValueError: If a number is out of range, or there is only one dimension, which fpcross does not solve.
    """
    check_integer("steps", steps, 2)
    require(steps % 2 == 0, "steps", "even", steps)
    check_integer("nodes", nodes, 4)
    for name, value in (("duration", duration), ("half_width", half_width), ("tol", tol)):
        require(value > 0, name, "positive", value)
    try:
        import teneva
        from fpcross import FPCross
    except ImportError as error:
        raise ImportError("fpcross is needed: pip install 'otprior[theory]'") from error

    places = half_width * torch.cos(torch.linspace(0, torch.pi, nodes, dtype=torch.float64))
    start = [core.numpy() for core in cores(places)]
    require(len(start) > 1, "dimension", "2 or more", len(start))
    equation = _ornstein_uhlenbeck(start, tol)
    equation.set_coef(1.0)
    equation.set_grid(nodes, -float(half_width), float(half_width))
    equation.set_grid_time(steps, duration)
    equation.init()
    solver = FPCross(equation, with_log=False, with_a_list=True)
    solver.solve()
    series = [teneva.func_int(start), *solver.A_list]
    basis = chebyshev(half_width)
    trains = [FunctionTrain([torch.from_numpy(core.copy()) for core in each], basis) for each in series]
    return CrossPath(duration / steps, trains, half_width)


def _ornstein_uhlenbeck(start: list[np.ndarray], tol: float) -> Any:
    """∂p/∂t = div(x p) + Δp from a density in tensor-train form, as fpcross states an equation."""
    import teneva
    from fpcross import Equation

    class OrnsteinUhlenbeck(Equation):
        def init(self) -> None:
            self.with_rs = self.with_rt = False

        def build_r0(self) -> list[np.ndarray]:
            self.Y0 = teneva.copy(start)
            return self.Y0

        def f(self, points: np.ndarray, t: float) -> np.ndarray:
            return -points

        def f1(self, points: np.ndarray, t: float) -> np.ndarray:
            return -np.ones_like(points)

    return OrnsteinUhlenbeck(len(start), tol)
