r"""The Fokker-Planck equation in Hermite modes: exact in time, and each axis by itself.

For dx = −x dt + √2 dw the equation is ∂p/∂t = div(x p) + Δp. Write p = φ f with φ the normal density. The functions
φ(x) h_n(x), h_n = He_n/√(n!), are eigenfunctions on an axis, of eigenvalue −n, and the operator is a sum over axes. So,
with n = (n_1, …, n_d) and h_n(x) = h_{n_1}(x_1) ⋯ h_{n_d}(x_d),

    f(x, t) = Σ c_n e^{−(n_1 + … + n_d) t} h_n(x),     c_n = ∫ p(x, 0) h_n(x) dx,

and if c is a tensor train, its core of axis k is scaled along n by e^{−n t}: the equation does not raise ranks, there
is no time step, mass (c_0 = 1) is kept exactly, and only the initial density is approximated. An axis along
which the law is a Gaussian of variance v has c_n falling like |1 − v|^{n/2}: fast for smooth laws, and not at all from
a variance of 2 on, where f is not square-integrable.

The integrals are sums over equal steps, which settle faster than any power of the step for smooth p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from otprior.utils.validation import check_integer, require
from otprior_studies.fokker_planck.trains import FunctionTrain, decompose, hermite

# A density as a train: points of an axis (q,) to the matrices of each axis there, of shapes (r_{k−1}, q, r_k).
Cores = Callable[[Tensor], Sequence[Tensor]]

# Nodes of the integrals, ±REACH by STEP: p h_n is below 1e-12 beyond for variances up to 1, and has no wavelength
# below 0.2 for variances above 0.1 and the modes that there are by default.
REACH, STEP = 11.0, 0.08
MODES = 200
# A last mode above this share of the largest means that modes are missing; the share is about the error at a point.
RESOLVED = 1e-7
# Modes of smaller share are left out as they die: h_n is below 1e5 within 6 standard deviations.
NEGLIGIBLE = 1e-18


@dataclass(frozen=True)
class HermitePath:
    """A density p(x, t) that solves the equation, at any t ≥ 0.

    Attributes:
        cores: c, the modes at t = 0, each of shape (r_{k−1}, n, r_k), float64.
    """

    cores: Sequence[Tensor]

    @classmethod
    def from_cores(cls, cores: Cores, modes: int = MODES) -> Self:
        """Builds the path from a density at t = 0 that is a train of functions.

        Raises:
            ValueError: If the density's mass is not 1, or it is too narrow (or too wide) for that many modes.
        """
        nodes, weights = _quadrature(modes)
        projected = [torch.einsum("rqs,qn->rns", core, weights) for core in cores(nodes)]
        last = max(float(core[:, -2:].abs().max() / core.abs().max()) for core in projected)
        return cls(projected)._checked(last)

    @classmethod
    def from_density(cls, density: Callable[[Tensor], Tensor], dim: int, modes: int = 100) -> Self:
        """Builds the path from any density at t = 0, points (B, d) to (B,), on a full grid in 2 or 3 dimensions.

        Raises:
            ValueError: See `from_cores`.
        """
        check_integer("dim", dim, 2, 3)
        nodes, weights = _quadrature(modes)
        # By slices of the first axis, so that a grid in space is never held as points.
        rest = torch.cartesian_prod(*[nodes] * (dim - 1)).reshape(-1, dim - 1)
        slices = [density(torch.cat([node.expand(len(rest), 1), rest], dim=1)) for node in nodes]
        values = torch.stack(slices).reshape([len(nodes)] * dim)
        for _ in range(dim):
            values = torch.tensordot(values, weights, dims=([0], [0]))
        # (The modes themselves are compared: singular vectors of negligible weight are all noise.)
        ends = max(float(values.narrow(axis, modes - 2, 2).abs().max()) for axis in range(dim))
        return cls(decompose(values))._checked(ends / float(values.abs().max()))

    def _checked(self, last: float) -> Self:
        """Returns itself if its mass is 1 and the last modes are a small share, `last`, of the largest."""
        require(abs(self.mass - 1) < 1e-6, "density", "of mass 1", self.mass)
        hint = "Raise modes, or start later, when the density is smoother"
        require(last < RESOLVED, "modes", f"so many that the last is below {RESOLVED:g}", f"{last:.2g}", hint)
        return self

    @property
    def mass(self) -> float:
        """∫ p dx, the same at all times."""
        row = torch.ones(1, dtype=torch.float64)
        for core in self.cores:
            row = row @ core[:, 0]
        return float(row)

    def ratio(self, t: float) -> FunctionTrain:
        """f(·, t) = p/φ."""
        require(0 <= t < math.inf, "t", "at least 0", t)
        count = self.cores[0].shape[1]
        decay = torch.exp(-t * torch.arange(count, dtype=torch.float64))[:, None]
        scaled = [core * decay for core in self.cores]
        size = torch.stack([core.abs().amax(dim=(0, 2)) / core.abs().max() for core in scaled]).amax(dim=0)
        keep = max(3, int(torch.nonzero(size > NEGLIGIBLE).max()) + 1)
        return FunctionTrain([core[:, :keep] for core in scaled], hermite)

    def log_density(self, t: float, x: Tensor) -> Tensor:
        """log p(x, t); x (B, d) to (B,)."""
        normal = -0.5 * ((x**2).sum(dim=1) + x.shape[1] * math.log(2 * math.pi))
        return normal + self.ratio(t)(x).log()

    def score(self, t: float, x: Tensor) -> Tensor:
        """∇ log p(x, t); x (B, d) to (B, d)."""
        return self.ratio(t).log_gradient(x) - x

    def score_with_jacobian(self, t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        """∇ log p(x, t) and ∇² log p(x, t); x (B, d) to (B, d) and (B, d, d)."""
        gradient, hessian = self.ratio(t).log_derivatives(x)
        return gradient - x, hessian - torch.eye(x.shape[1], dtype=x.dtype)


def _quadrature(modes: int) -> tuple[Tensor, Tensor]:
    """Nodes (q,), and the weights (q, n) with which values of p at them sum to modes."""
    check_integer("modes", modes, 3)
    nodes = torch.arange(-REACH, REACH + STEP / 2, STEP, dtype=torch.float64)
    return nodes, hermite(nodes, modes)[0] * STEP
