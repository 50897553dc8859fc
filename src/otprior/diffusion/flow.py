r"""The probability flow between any two moments of a forward process, as an ordinary differential equation.

With x = α x_0 + σ ε and D = E[x_0 | x], the flow moves x so that its law stays that of the process. It depends on the
process only through the ratio α/σ, once x is divided by its scale √(α² + σ²). So two choices fix everything:

    time      s = asinh(α/σ), from 0 (pure noise) to ∞ (clean);
    point     u = x/√(α² + σ²), whose scales are α = tanh s and σ = sech s,

and the flow is

    du/ds = D(u, tanh s, sech s) − tanh(s) u.                                                       (1)

(From the usual form in k = σ/α, d(x/α)/dk = ε̂, with k = 1/sinh s.) In this time nothing is singular at either end: at
s = 0 the right side is E x_0, so the flow can start from noise without any signal, where other choices of time need a
cut-off; and for large s a step of s is a step of log-SNR, s ≈ log(2 α/σ), the scale on which details form. Near pure
noise, with Σ = Cov x_0,

    u(s) = z + s E x_0 + ½ s² (Σ − I) z + O(s³),   u(0) = z,

which is why a start from plain z at small α costs α |E x_0|, and only O(α²) once the data are centred.

References:
    Song et al., Score-based generative modeling through stochastic differential equations (2021), section 4.3,
    https://arxiv.org/abs/2011.13456
    Karras, Aittala, Aila & Laine, Elucidating the design space of diffusion-based generative models (2022),
    section 3, https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from otprior.diffusion.denoisers import Denoiser, ExactDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior.utils.validation import check_choice, check_integer, invalid, require

Velocity = Callable[[float, Tensor], Tensor]

FIXED_STEP_METHODS = ("euler", "heun", "rk4")
# Adaptive: SciPy's, on the CPU; torchdiffeq's, on any device (`pip install otprior[theory]`).
_SCIPY = ("dop853",)
_TORCHDIFFEQ = ("dopri5", "dopri8")
METHODS = FIXED_STEP_METHODS + _SCIPY + _TORCHDIFFEQ
_SPACINGS = ("s", "log_snr")


class Scales(NamedTuple):
    """A moment of a forward process: x = α x_0 + σ ε, α ≥ 0, σ > 0.

    Examples:
        >>> Scales.vp(0.6), Scales.at(schedule, 999).alpha < 0.01
        (Scales(alpha=0.6, sigma=0.8), True)
    """

    alpha: float
    sigma: float

    @classmethod
    def at(cls, schedule: NoiseSchedule, t: float) -> Self:
        """The scales of a schedule at timestep `t`."""
        return cls(schedule.alpha(float(t)), schedule.sigma(float(t)))

    @classmethod
    def vp(cls, alpha: float) -> Self:
        """Those of a variance-preserving process with signal scale α in [0, 1)."""
        return cls(alpha, math.sqrt((1 - alpha) * (1 + alpha)))

    @property
    def time(self) -> float:
        """s = asinh(α/σ)."""
        return math.asinh(self.alpha / self.sigma)

    @property
    def size(self) -> float:
        """√(α² + σ²)."""
        return math.hypot(self.alpha, self.sigma)


# Pure noise: the limit of every process, from which the flow can start.
NOISE = Scales(0.0, 1.0)


def flow_grid(start: Scales, end: Scales, steps: int, spacing: str = "s") -> list[Scales]:
    """Moments from `start` to `end`, both included, with `steps` steps between; variance preserving inside.

    Arguments:
        spacing: Equal steps of s = asinh(α/σ) ("s"), or of log(α/σ) ("log_snr"), which pure noise does not have.
            Use the first with an exact denoiser and the second with a network: near noise the error of its image
            estimate is that of its noise estimate over α, and long steps of s would carry that far.

    Raises:
        ValueError: If `steps` is below 1, the spacing is unknown, or is "log_snr" and an end is pure noise.

    Examples:
        >>> [round(moment.alpha, 2) for moment in flow_grid(NOISE, Scales.vp(0.9), 3)]
        [0.0, 0.45, 0.75, 0.9]
    """
    check_integer("steps", steps, 1)
    check_choice("spacing", spacing, _SPACINGS)
    if spacing == "log_snr":
        ratios = [scales.alpha / scales.sigma for scales in (start, end)]
        require(min(ratios) > 0, "spacing", "'s' to or from pure noise", repr(spacing))
        first, last = (math.log(ratio) for ratio in ratios)
    else:
        first, last = start.time, end.time
    inner = [first + (last - first) * i / steps for i in range(1, steps)]
    times = [math.asinh(math.exp(x)) for x in inner] if spacing == "log_snr" else inner
    return [start, *(Scales(*_unit_scales(s)) for s in times), end]


@dataclass(frozen=True)
class FlowSolution:
    """Points at the end of a flow.

    Attributes:
        x: Points at the scale of the end, of the shape and dtype of those given.
        evaluations: Number of calls of the denoiser.

    Examples:
        >>> law = GaussianDenoiser(torch.zeros(2), torch.eye(2))
        >>> flow = probability_flow(law, torch.ones(1, 2), NOISE, Scales.vp(0.99), steps=4)
        >>> flow.x.shape, flow.evaluations
        (torch.Size([1, 2]), 16)
    """

    x: Tensor
    evaluations: int


def probability_flow(
    denoiser: Denoiser,
    x: Tensor,
    start: Scales,
    end: Scales,
    *,
    method: str = "rk4",
    steps: int = 64,
    spacing: str = "s",
    rtol: float = 1e-10,
    atol: float = 1e-10,
) -> FlowSolution:
    """Carries points along the flow: towards clean data (decode) or towards noise (encode).

    Arguments:
        denoiser: D, exact or a network in a wrapper.
        x: Points at the scale of `start`, shape (B, ...).
        start: Their moment.
        end: The moment to go to.
        method: "euler", "heun", "rk4" with equal steps, of order 1, 2, 4; "dop853" (SciPy, in float64 on the CPU),
            "dopri5" and "dopri8" (torchdiffeq) with adaptive steps, which all rows share.
        steps: Number of equal steps.
        spacing: The coordinate in which steps are equal: see `flow_grid`.
        rtol, atol: Tolerance of adaptive methods for one step's error, root-mean-square over all entries.

    Raises:
        ValueError: On bad scales, method, number of steps, or an adaptive solve that fails.

    Examples:
        >>> law = GaussianDenoiser(torch.zeros(2), torch.eye(2))
        >>> probability_flow(law, torch.ones(1, 2), NOISE, Scales.vp(0.9)).x  # N(0, I) stays as it is
        tensor([[1., 1.]])
    """
    for name, scales in (("start", start), ("end", end)):
        usual = scales.alpha >= 0 and 0 < scales.sigma < math.inf
        require(usual, name, "scales with alpha >= 0 and sigma > 0", tuple(scales))
    counted = 0

    def velocity(s: float, u: Tensor) -> Tensor:
        nonlocal counted
        counted += 1
        alpha, sigma = _unit_scales(s)
        return denoiser(u, alpha, sigma) - alpha * u

    times = [scales.time for scales in flow_grid(start, end, steps, spacing)]
    u = integrate(velocity, x / start.size, times, method=method, rtol=rtol, atol=atol)
    return FlowSolution(u * end.size, counted)


def flow_jacobian(
    denoiser: ExactDenoiser,
    x: Tensor,
    start: Scales,
    end: Scales,
    *,
    method: str = "dop853",
    steps: int = 64,
    rtol: float = 1e-12,
    atol: float = 1e-12,
) -> tuple[Tensor, Tensor]:
    """Computes the flow map and its derivative, by the variational equation dJ/ds = (∂D/∂u − tanh(s) I) J.

    Each factor ∂D/∂u is symmetric, and their product over time is in general not: a transport map that is optimal
    for the square distance has a symmetric Jacobian (Brenier), so J − Jᵀ is a test.

    Arguments:
        x: Points at the scale of `start`, shape (B, d), in float64: in float32 the tolerances cannot be reached.

    Returns:
        The points at the scale of `end`, (B, d), and the Jacobian there by x, (B, d, d).

    Examples:
        >>> law = GaussianDenoiser(torch.zeros(2), torch.eye(2))
        >>> image, jacobian = flow_jacobian(law, torch.ones(1, 2, dtype=torch.float64), NOISE, Scales.vp(0.9))
        >>> jacobian.shape
        torch.Size([1, 2, 2])
    """
    count, dim = x.shape
    eye = torch.eye(dim).to(x).expand(count, dim, dim)

    def velocity(s: float, state: Tensor) -> Tensor:
        alpha, sigma = _unit_scales(s)
        u, jacobian = state[:, :dim], state[:, dim:].reshape(count, dim, dim)
        moved = denoiser.jacobian(u, alpha, sigma) @ jacobian - alpha * jacobian
        return torch.cat([denoiser(u, alpha, sigma) - alpha * u, moved.reshape(count, -1)], dim=1)

    state = torch.cat([x / start.size, eye.reshape(count, -1)], dim=1)
    times = [scales.time for scales in flow_grid(start, end, steps)]
    state = integrate(velocity, state, times, method=method, rtol=rtol, atol=atol)
    jacobian = state[:, dim:].reshape(count, dim, dim)
    return state[:, :dim] * end.size, jacobian * (end.size / start.size)


def _unit_scales(s: float) -> tuple[float, float]:
    # The last stage of a step towards pure noise may miss s = 0 by a rounding.
    s = max(s, 0.0)
    return math.tanh(s), 1 / math.cosh(s)


def integrate(
    velocity: Velocity, u: Tensor, times: Sequence[float], *, method: str, rtol: float, atol: float
) -> Tensor:
    """Solves du/ds = velocity(s, u) from times[0] to times[-1]; `u` of any shape.

    Fixed-step methods step from each time to the next; adaptive ones use the two ends only.
    """
    check_choice("method", method, METHODS)
    if method in FIXED_STEP_METHODS:
        for begin, end in pairwise(times):
            u = _step(velocity, u, begin, end, method)
        return u
    require(rtol > 0 and atol > 0, "rtol, atol", "positive", (rtol, atol))
    if times[0] == times[-1]:
        return u
    adaptive = _scipy if method in _SCIPY else _torchdiffeq
    return adaptive(velocity, u, (times[0], times[-1]), method, rtol, atol)


def _step(velocity: Velocity, u: Tensor, begin: float, end: float, method: str) -> Tensor:
    step, middle = end - begin, (begin + end) / 2
    first = velocity(begin, u)
    if method == "euler":
        return u + step * first
    if method == "heun":
        return u + (step / 2) * (first + velocity(end, u + step * first))
    second = velocity(middle, u + (step / 2) * first)
    third = velocity(middle, u + (step / 2) * second)
    fourth = velocity(end, u + step * third)
    return u + (step / 6) * (first + 2 * second + 2 * third + fourth)


def _scipy(
    velocity: Velocity, u: Tensor, times: tuple[float, float], method: str, rtol: float, atol: float
) -> Tensor:
    def flat(s: float, state: object) -> object:
        points = torch.as_tensor(state, dtype=torch.float64).to(u.device, u.dtype).reshape(u.shape)
        return velocity(float(s), points).double().cpu().numpy().ravel()

    begin = u.double().cpu().numpy().ravel()
    solved = solve_ivp(flat, times, begin, method=method.upper(), rtol=rtol, atol=atol, t_eval=times[1:])
    if not solved.success:
        raise invalid("rtol, atol", "such that the flow can be solved", (rtol, atol), solved.message)
    return torch.from_numpy(solved.y[:, -1]).to(u.device, u.dtype).reshape(u.shape)


def _torchdiffeq(
    velocity: Velocity, u: Tensor, times: tuple[float, float], method: str, rtol: float, atol: float
) -> Tensor:
    try:
        from torchdiffeq import odeint
    except ImportError:
        hint = "pip install 'otprior[theory]', or use method='dop853'"
        raise invalid("method", "one that is installed", repr(method), hint) from None
    ends = torch.tensor(times, dtype=torch.float64, device=u.device)
    return odeint(lambda s, v: velocity(float(s), v), u, ends, rtol=rtol, atol=atol, method=method)[-1]
