r"""Particles that move with a solution of the Fokker-Planck equation, from data towards the normal law.

    dx/dt = −x − ∇ log p(x, t)          moves the law along as dx = −x dt + √2 dw does,
    dJ/dt = −(I + ∇² log p(x, t)) J     is the derivative of the map, J(0) = I.

In the terms of `otprior.diffusion.flow` this is the probability flow of a variance-preserving process, whose signal
scale is α = α_0 e^{−t} if it was α_0 at t = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from otprior.diffusion.flow import integrate
from otprior.utils.validation import check_finite, require


class DensityPath(Protocol):
    """A density p(x, t) for t in some range."""

    def score(self, t: float, x: Tensor) -> Tensor:
        """∇ log p(x, t); x (B, d) to (B, d)."""
        ...

    def score_with_jacobian(self, t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        """∇ log p(x, t) and ∇² log p(x, t); x (B, d) to (B, d) and (B, d, d)."""
        ...


def carry(
    path: DensityPath,
    x: Tensor,
    times: Sequence[float],
    *,
    method: str = "dop853",
    rtol: float = 1e-8,
    atol: float = 1e-8,
) -> Tensor:
    """Moves particles x (B, d) from times[0] to times[-1].

    Arguments:
        path: The density that they move with.
        x: Draws of the density at times[0], float64.
        times: Ends of the steps of fixed-step methods; adaptive ones use the first and the last alone.
        method: One of `otprior.diffusion.flow.METHODS`.
        rtol, atol: Tolerances of adaptive methods.

    Returns:
        The particles at times[-1], (B, d).

    Raises:
        ValueError: If a particle leaves the region where the density is known.
    """
    _check(x, times)

    def velocity(t: float, points: Tensor) -> Tensor:
        return -points - path.score(t, points)

    moved = integrate(velocity, x, times, method=method, rtol=rtol, atol=atol)
    check_finite("particles", moved)
    return moved


def carry_with_jacobian(
    path: DensityPath,
    x: Tensor,
    times: Sequence[float],
    *,
    method: str = "dop853",
    rtol: float = 1e-8,
    atol: float = 1e-8,
) -> tuple[Tensor, Tensor]:
    """Moves particles as `carry` does; returns them, (B, d), and their derivatives by x, (B, d, d)."""
    _check(x, times)
    count, dim = x.shape
    eye = torch.eye(dim, dtype=x.dtype).expand(count, dim, dim)

    def velocity(t: float, state: Tensor) -> Tensor:
        points, jacobian = state[:, :dim], state[:, dim:].reshape(count, dim, dim)
        score, bend = path.score_with_jacobian(t, points)
        turned = -jacobian - bend @ jacobian
        return torch.cat([-points - score, turned.reshape(count, -1)], dim=1)

    state = torch.cat([x, eye.reshape(count, -1)], dim=1)
    state = integrate(velocity, state, times, method=method, rtol=rtol, atol=atol)
    check_finite("particles", state)
    return state[:, :dim], state[:, dim:].reshape(count, dim, dim)


def _check(x: Tensor, times: Sequence[float]) -> None:
    require(
        x.ndim == 2 and x.dtype == torch.float64, "x", "of shape (B, d), float64", (tuple(x.shape), x.dtype)
    )
    require(len(times) >= 2, "times", "two or more", len(times))
