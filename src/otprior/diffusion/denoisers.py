r"""Exact denoisers: E[x_0 | x] where x = α x_0 + σ ε and the law of x_0 is known.

For some laws of clean data, what a network learns is known in closed form. Noise, score and Jacobian follow from the
posterior mean D(x) = E[x_0 | x] and the posterior covariance V(x) = Cov(x_0 | x):

    noise        ε̂(x) = (x − α D(x))/σ
    score        ∇ log p(x) = (α D(x) − x)/σ²           (Tweedie)
    Jacobian     ∂D/∂x = (α/σ²) V(x)                    (symmetric)

A moment of the process is its pair of scales (α, σ), α ≥ 0 and σ > 0, in any schedule: VP has
α² + σ² = 1, VE α = 1, and α = 0 is pure noise. Points are rows x (B, d), and results have their dtype; parameters are
kept in float64.

References:
    Efron, Tweedie's formula and selection bias, J. Am. Stat. Assoc. 106 (2011).
    Finite data: Scarvelis, Borde & Solomon, Closed-form diffusion models (2023), https://arxiv.org/abs/2310.12395
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from otprior.utils.validation import check_finite, require


class Denoiser(Protocol):
    """Anything that estimates clean data: D(x, α, σ) for x of any shape (B, ...), of the same shape.

    Examples:
        >>> denoiser: Denoiser = GaussianDenoiser(torch.zeros(2), torch.eye(2))
        >>> denoiser(torch.ones(1, 2), 0.6, 0.8)  # α x where Σ = I and α² + σ² = 1
        tensor([[0.6000, 0.6000]])
    """

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor: ...


class ExactDenoiser(ABC):
    """The posterior mean of clean data with a known law, and what follows from it.

    Attributes:
        mean: E x_0, shape (d,), float64.
        covariance: Cov x_0, shape (d, d), float64.

    Examples:
        >>> law: ExactDenoiser = FiniteDenoiser(torch.tensor([[-1.0], [1.0]]))
        >>> law.score(torch.zeros(1, 1), 0.6, 0.8)
        tensor([[0.]])
    """

    @property
    @abstractmethod
    def mean(self) -> Tensor: ...

    @property
    @abstractmethod
    def covariance(self) -> Tensor: ...

    @property
    def dim(self) -> int:
        """d."""
        return len(self.mean)

    @abstractmethod
    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """D(x) = E[x_0 | x]; x (B, d) to (B, d)."""

    @abstractmethod
    def posterior_covariance(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """V(x) = Cov(x_0 | x); x (B, d) to (B, d, d)."""

    @abstractmethod
    def log_density(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """log of the density of α x_0 + σ ε; x (B, d) to (B,)."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Clean draws x_0, shape (count, d), float64."""

    def noise(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """ε̂(x) = E[ε | x]; x (B, d) to (B, d)."""
        return (x - alpha * self(x, alpha, sigma)) / sigma

    def score(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """∇ log of the density of α x_0 + σ ε; x (B, d) to (B, d)."""
        return (alpha * self(x, alpha, sigma) - x) / sigma**2

    def jacobian(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """∂D/∂x; x (B, d) to (B, d, d), symmetric."""
        return (alpha / sigma**2) * self.posterior_covariance(x, alpha, sigma)

    def noised(self, count: int, alpha: float, sigma: float, generator: torch.Generator) -> Tensor:
        """Draws of α x_0 + σ ε, shape (count, d), float64; σ = 0 is allowed."""
        clean = self.sample(count, generator)
        return alpha * clean + sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)


class GaussianDenoiser(ExactDenoiser):
    r"""x_0 ~ N(μ, Σ), Σ = U diag(λ) Uᵀ of any rank:

        D(x) = μ + U diag(α λ/(α² λ + σ²)) Uᵀ (x − α μ),   V = U diag(λ σ²/(α² λ + σ²)) Uᵀ.

    Arguments:
        mean: μ, shape (d,).
        covariance: Σ, shape (d, d), symmetric, no eigenvalue below −1e-10 of the largest.

    Raises:
        ValueError: If shapes do not match, a value is not finite, or Σ is not symmetric positive semidefinite.

    Examples:
        >>> GaussianDenoiser(torch.zeros(2), torch.eye(2))(torch.ones(1, 2), 1.0, 1.0)
        tensor([[0.5000, 0.5000]])
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        mean, covariance = mean.double(), covariance.double()
        rule = f"of shape ({len(mean)}, {len(mean)})"
        require(covariance.shape == (len(mean), len(mean)), "covariance", rule, tuple(covariance.shape))
        check_finite("mean", mean)
        check_finite("covariance", covariance)
        skew = float((covariance - covariance.T).abs().max())
        size = float(covariance.abs().max())
        require(skew <= 1e-10 * size, "covariance", "symmetric", f"entries that differ by {skew:g}")
        variances, basis = torch.linalg.eigh((covariance + covariance.T) / 2)
        lowest, highest = float(variances[0]), float(variances[-1])
        rule = "positive semidefinite"
        require(lowest >= -1e-10 * highest, "covariance", rule, f"an eigenvalue of {lowest:g}")
        self._mean = mean
        self.variances = variances.clamp(min=0)
        self.basis = basis

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def covariance(self) -> Tensor:
        return (self.basis * self.variances) @ self.basis.T

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        _check(x, self.dim, alpha, sigma)
        gain = alpha * self.variances / self._noised_variances(alpha, sigma)
        mean, basis = self._mean.to(x), self.basis.to(x)
        return mean + ((x - alpha * mean) @ basis * gain.to(x)) @ basis.T

    def posterior_covariance(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        _check(x, self.dim, alpha, sigma)
        left = self.variances * sigma**2 / self._noised_variances(alpha, sigma)
        return ((self.basis * left) @ self.basis.T).to(x).expand(len(x), -1, -1)

    def log_density(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        _check(x, self.dim, alpha, sigma)
        variances = self._noised_variances(alpha, sigma)
        along = (x - alpha * self._mean.to(x)) @ self.basis.to(x)
        constant = self.dim * math.log(2 * math.pi) + float(variances.log().sum())
        return -0.5 * ((along**2 / variances.to(x)).sum(dim=1) + constant)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return self._mean + (z * self.variances.sqrt()) @ self.basis.T

    def _noised_variances(self, alpha: float, sigma: float) -> Tensor:
        return alpha**2 * self.variances + sigma**2


class MixtureDenoiser(ExactDenoiser):
    r"""x_0 from N(μ_k, Σ_k) with probability w_k: with r_k(x) ∝ w_k N(x; α μ_k, α² Σ_k + σ² I),

        D = Σ r_k D_k,   V = Σ r_k (V_k + D_k D_kᵀ) − D Dᵀ.

    Arguments:
        weights: w, shape (K,), positive, sum 1.
        means: μ, shape (K, d).
        covariances: Σ, shape (K, d, d).

    Raises:
        ValueError: If weights, means and covariances do not match, or one is not of its kind.

    Examples:
        >>> mixture = MixtureDenoiser(torch.ones(2) / 2, torch.tensor([[-2.0], [2.0]]), torch.ones(2, 1, 1))
        >>> mixture(torch.zeros(1, 1), 0.6, 0.8)
        tensor([[0.]])
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights = _weights(weights, len(means))
        rule = f"{len(means)}, one for each mean"
        require(len(covariances) == len(means), "number of covariances", rule, len(covariances))
        self.components: Sequence[GaussianDenoiser] = [
            GaussianDenoiser(mean, covariance) for mean, covariance in zip(means, covariances)
        ]

    @property
    def mean(self) -> Tensor:
        return self.weights @ torch.stack([component.mean for component in self.components])

    @property
    def covariance(self) -> Tensor:
        centred = torch.stack([component.mean for component in self.components]) - self.mean
        within = torch.stack([component.covariance for component in self.components])
        return torch.einsum("k,kij->ij", self.weights, within + centred[:, :, None] * centred[:, None])

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        share = self._log_joint(x, alpha, sigma).softmax(dim=1)
        return torch.einsum("bk,bki->bi", share, self._means(x, alpha, sigma))

    def posterior_covariance(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        share = self._log_joint(x, alpha, sigma).softmax(dim=1)
        means = self._means(x, alpha, sigma)
        off = means - torch.einsum("bk,bki->bi", share, means)[:, None]
        within = torch.stack([c.posterior_covariance(x, alpha, sigma) for c in self.components], dim=1)
        return torch.einsum("bk,bkij->bij", share, within + off[..., :, None] * off[..., None, :])

    def log_density(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        return self._log_joint(x, alpha, sigma).logsumexp(dim=1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        draws = torch.stack([component.sample(count, generator) for component in self.components], dim=1)
        return draws[torch.arange(count), which]

    def _log_joint(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """log w_k N(x; …), shape (B, K)."""
        each = torch.stack([c.log_density(x, alpha, sigma) for c in self.components], dim=1)
        return each + self.weights.log().to(x)

    def _means(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        return torch.stack([component(x, alpha, sigma) for component in self.components], dim=1)


class FiniteDenoiser(ExactDenoiser):
    r"""x_0 one of N points y_i with probability w_i: r_i(x) ∝ w_i exp(−|x − α y_i|²/2σ²),

        D = Σ r_i y_i,   V = Σ r_i y_i y_iᵀ − D Dᵀ.

    A network that fits its training data perfectly would learn this denoiser. Its probability flow ends in the data
    points.

    Arguments:
        atoms: y, shape (N, d).
        weights: w, shape (N,), positive, sum 1; uniform by default.

    Raises:
        ValueError: If there is no atom, a value is not finite, or weights and atoms do not match.

    Examples:
        >>> FiniteDenoiser(torch.tensor([[-1.0], [1.0]]))(torch.tensor([[3.0]]), 1.0, 0.1)
        tensor([[1.]])
    """

    def __init__(self, atoms: Tensor, weights: Tensor | None = None) -> None:
        require(atoms.ndim == 2 and len(atoms) > 0, "atoms", "of shape (N, d), N >= 1", tuple(atoms.shape))
        check_finite("atoms", atoms)
        self.atoms = atoms.double()
        count = len(atoms)
        uniform = torch.full((count,), 1 / count, dtype=torch.float64)
        self.weights = uniform if weights is None else _weights(weights, count)
        # (Constants of a call, in the dtypes and on the devices seen so far.)
        self._kept: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.atoms

    @property
    def covariance(self) -> Tensor:
        centred = self.atoms - self.mean
        return (centred * self.weights[:, None]).T @ centred

    def shares(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """r_i(x), the probability that y_i is behind x; x (B, d) to (B, N)."""
        return self._logits(x, alpha, sigma).softmax(dim=1)

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        return self.shares(x, alpha, sigma) @ self._parts(x)[0]

    def posterior_covariance(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        share = self.shares(x, alpha, sigma)
        atoms = self._parts(x)[0]
        off = atoms - (share @ atoms)[:, None]
        return torch.einsum("bn,bni,bnj->bij", share, off, off)

    def log_density(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        constant = (x**2).sum(dim=1) / sigma**2 + self.dim * math.log(2 * math.pi * sigma**2)
        return self._logits(x, alpha, sigma).logsumexp(dim=1) - 0.5 * constant

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.atoms[torch.multinomial(self.weights, count, replacement=True, generator=generator)]

    def _logits(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """log w_i − |x − α y_i|²/2σ², less |x|²/2σ², which all share; shape (B, N)."""
        _check(x, self.dim, alpha, sigma)
        atoms, half_squares, log_weights = self._parts(x)
        offset = log_weights - (alpha / sigma) ** 2 * half_squares
        return torch.addmm(offset, x, atoms.T, alpha=alpha / sigma**2)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Atoms (N, d), |y|²/2 (N,) and log w (N,), in the dtype and on the device of x."""
        key = (x.dtype, x.device)
        if key not in self._kept:
            half_squares = (self.atoms**2).sum(dim=1) / 2
            self._kept[key] = (self.atoms.to(x), half_squares.to(x), self.weights.log().to(x))
        return self._kept[key]


def _check(x: Tensor, dim: int, alpha: float, sigma: float) -> None:
    require(x.ndim == 2 and x.shape[1] == dim, "x", f"of shape (B, {dim})", tuple(x.shape))
    require(alpha >= 0 and sigma > 0, "scales", "alpha >= 0 and sigma > 0", (alpha, sigma))


def _weights(weights: Tensor, count: int) -> Tensor:
    weights = weights.double()
    require(weights.shape == (count,), "weights", f"of shape ({count},)", tuple(weights.shape))
    require(bool((weights > 0).all()), "weights", "positive", float(weights.min()))
    total = float(weights.sum())
    require(abs(total - 1) < 1e-6, "weights", "of sum 1", total)
    return weights / total
