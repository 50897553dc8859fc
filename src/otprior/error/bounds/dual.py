r"""A lower bound that can be estimated without bias: the quadratic pairs of Kantorovich's dual.

For any symmetric A ≻ 0 and any centres m, a with Δ = m − a,

    f(x) = ⟨x̃, (I − A) x̃⟩ + 2⟨Δ, x̃⟩ + |Δ|²,   x̃ = x − m,
    g(y) = ⟨ỹ, (I − A⁻¹) ỹ⟩ − 2⟨Δ, ỹ⟩,          ỹ = y − a,

satisfy f(x) + g(y) ≤ |x − y|² (since 2⟨x̃, ỹ⟩ ≤ ⟨x̃, A x̃⟩ + ⟨ỹ, A⁻¹ ỹ⟩). Hence W2²(p, q) ≥ E_p f + E_q g, and the
best pair, A the linear map between two Gaussians with the moments of p and q, gives Gelbrich's bound.

With moments known only from samples, Gelbrich's bound is a Fréchet distance, and biased upward: no lower bound at all.
So one half of the sample chooses A, m and a, and the other half estimates two plain means: whatever was chosen, their
sum is an unbiased estimate of a lower bound, with a standard error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from otprior.transport.gaussian import (
    compressed,
    joint_axes,
    shared_axes,
    total_variance,
    variances_along,
    variances_on,
)
from otprior.transport.moments import Spectrum

# Eigenvalues below this share of the largest are raised to it, so that A can be inverted; any A is allowed.
RIDGE = 1e-9


@dataclass(frozen=True)
class MeanEstimate:
    """An estimated mean with its standard error, or an exact one.

    Attributes:
        value: The estimate.
        standard_error: Standard error of the estimate; 0 where it is exact.
        freedom: Student's degrees of freedom of the standard error; math.inf where it is exact.
    """

    value: float
    standard_error: float = 0.0
    freedom: float = math.inf

    @classmethod
    def of(cls, values: Tensor) -> MeanEstimate:
        """The mean of independent values (n,), n >= 2."""
        n = len(values)
        return cls(float(values.mean()), float(values.std()) / math.sqrt(n), n - 1)

    def __add__(self, other: MeanEstimate) -> MeanEstimate:
        """The sum with an independent estimate, degrees of freedom after Welch and Satterthwaite."""
        first, second = self.standard_error**2, other.standard_error**2
        total = first + second
        parts = first**2 / self.freedom + second**2 / other.freedom
        freedom = total**2 / parts if parts > 0 else math.inf
        return MeanEstimate(self.value + other.value, math.sqrt(total), freedom)

    def limit(self, level: float, side: str) -> float:
        """The end of a one-sided interval of this level: "lower" or "upper"."""
        if self.standard_error == 0:
            return self.value
        half = float(stats.t.ppf(level, self.freedom)) * self.standard_error
        return self.value - half if side == "lower" else self.value + half


@dataclass(frozen=True)
class QuadraticPair:
    """f and g of this module, A = V K Vᵀ + k (I − V Vᵀ).

    Build it with `between`.

    Attributes:
        target_centre: m, shape (d,).
        start_centre: a, shape (d,).
        axes: V, orthonormal columns, shape (d, r).
        inner: K, shape (r, r), or its diagonal (r,).
        outer: k.
    """

    target_centre: Tensor
    start_centre: Tensor
    axes: Tensor
    inner: Tensor
    outer: float

    @classmethod
    def between(cls, target: Spectrum, start: Spectrum) -> QuadraticPair:
        """Makes the best pair for laws with these moments."""
        shared = shared_axes(target, start)
        outer = math.sqrt(_positive(start.residual) / _positive(target.residual))
        if shared is not None:
            outer = 1.0 if shared.shape[1] == len(shared) else outer
            first, second = (_lifted(variances_on(shared, each)) for each in (target, start))
            inner = (second / first).sqrt()
            return cls(target.mean.double(), start.mean.double(), shared.double(), inner, outer)
        axes = joint_axes(target, start)
        outer = 1.0 if axes.shape[1] == len(axes) else outer
        values, own = torch.linalg.eigh(compressed(axes, target))
        values = _lifted(values)
        root, inverse = (own * values.sqrt()) @ own.T, (own / values.sqrt()) @ own.T
        values, own = torch.linalg.eigh(root @ compressed(axes, start) @ root)
        middle = (own * _lifted(values).sqrt()) @ own.T
        inner = inverse @ middle @ inverse
        return cls(target.mean.double(), start.mean.double(), axes, (inner + inner.T) / 2, outer)

    def at_target(self, x: Tensor) -> Tensor:
        """f on rows (n, d); (n,), float64."""
        return self._values(x, self.target_centre, self.inner, self.outer, 1.0) + float(
            (self._shift**2).sum()
        )

    def at_start(self, y: Tensor) -> Tensor:
        """g on rows (n, d); (n,), float64."""
        return self._values(y, self.start_centre, self._inverse, 1 / self.outer, -1.0)

    def noise_at_target(self, sigma: float) -> float:
        """The mean of f under independent noise σ ε alone: σ² tr(I − A)."""
        dim, rank = self.axes.shape
        trace = float(self.inner.sum() if self.inner.ndim == 1 else self.inner.trace())
        return sigma**2 * (rank - trace + (dim - rank) * (1 - self.outer))

    def mean_at_target(self, law: Spectrum) -> float:
        """The mean of f under any law with these moments."""
        return self._spread(law, self.inner, self.outer) + float(self.at_target(law.mean.double()[None]))

    def mean_at_start(self, law: Spectrum) -> float:
        """The mean of g under any law with these moments."""
        return self._spread(law, self._inverse, 1 / self.outer) + float(
            self.at_start(law.mean.double()[None])
        )

    def _spread(self, law: Spectrum, inner: Tensor, outer: float) -> float:
        """tr (I − M) C for M of the given blocks."""
        total = total_variance(law)
        if inner.ndim == 1:
            along = variances_along(self.axes, law)
            inside, mapped = float(along.sum()), float(inner @ along)
        else:
            block = compressed(self.axes, law)
            inside, mapped = float(block.trace()), float((inner * block).sum())
        return inside - mapped + (total - inside) * (1 - outer)

    @property
    def _shift(self) -> Tensor:
        return self.target_centre - self.start_centre

    @property
    def _inverse(self) -> Tensor:
        return 1 / self.inner if self.inner.ndim == 1 else torch.linalg.inv(self.inner)

    def _values(self, rows: Tensor, centre: Tensor, inner: Tensor, outer: float, sign: float) -> Tensor:
        """⟨r, (I − M) r⟩ + 2 sign ⟨Δ, r⟩ for r = rows − centre and M of the given blocks."""
        centred = rows.double() - centre
        along = centred @ self.axes
        mapped = along * inner if inner.ndim == 1 else along @ inner
        within, squares = (along**2).sum(dim=1), (centred**2).sum(dim=1)
        quadratic = within - (along * mapped).sum(dim=1) + (squares - within) * (1 - outer)
        return quadratic + 2 * sign * centred @ self._shift


def _lifted(values: Tensor) -> Tensor:
    return values.clamp(min=_positive(RIDGE * float(values.max()) if len(values) else 0.0))


def _positive(value: float) -> float:
    return max(value, 1e-30)
