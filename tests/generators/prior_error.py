"""Prior errors that are known: a noised law and a Gaussian start, with moments, a coupling and W2 in closed form.

Three families, in any dimension:

- *Gaussians*: W2 is the Bures-Wasserstein distance, here by POT.
- *Products* of Gaussian mixtures on rotated axes, against a start along the same axes: W2² adds over axes, each by its
  distribution function. The coordinatewise monotone coupling of the clean law with noise explains γ_j = E X_j ζ_j.
- *Convex gradients*: X = ∇u(z), u = ½ zᵀ A z + Σ c_k log cosh⟨b_k, z⟩, without noise: ∇u is optimal (Brenier), so
  W2² = E|∇u(z) − s z|² from N(0, s² I), and Γ = E ∇u(z) zᵀ explains all there is.

Moments come by Gauss-Hermite quadrature where they have no closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import ot
import torch
from scipy.special import ndtr, ndtri

from otprior.transport.gaussian import isotropic
from otprior.transport.moments import Spectrum

FAMILIES = ("gaussian", "product", "gradient")

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class ErrorCase:
    """Moments of X, Γ Γᵀ of a coupling with noise, the moment (α, σ), the start's moments, and W2²."""

    family: str
    clean: Spectrum
    explained: Spectrum
    alpha: float
    sigma: float
    start: Spectrum
    w2_squared: float


def error_case(family: str, dim: int, rng: np.random.Generator) -> ErrorCase:
    """A random case of a family."""
    return {"gaussian": _gaussian, "product": _product, "gradient": _gradient}[family](dim, rng)


def spectrum(mean: np.ndarray, covariance: np.ndarray) -> Spectrum:
    """Moments in the library's form."""
    values, axes = np.linalg.eigh((covariance + covariance.T) / 2)
    order = np.argsort(values)[::-1]
    return Spectrum(
        torch.from_numpy(mean.copy()), torch.from_numpy(axes[:, order].copy()),
        torch.from_numpy(values[order].clip(min=0).copy()), 0.0,
    )  # fmt: skip


def _scales(rng: np.random.Generator) -> tuple[float, float]:
    angle = rng.uniform(0.02, math.pi / 2 - 0.02)
    size = rng.choice([1.0, rng.uniform(0.3, 3)])
    return size * math.cos(angle), size * math.sin(angle)


def _rotation(dim: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


def _covariance(dim: int, rng: np.random.Generator) -> np.ndarray:
    axes = _rotation(dim, rng)
    return (axes * np.exp(rng.normal(scale=1.5, size=dim))) @ axes.T


def _gaussian(dim: int, rng: np.random.Generator) -> ErrorCase:
    mean, covariance = rng.normal(size=dim), _covariance(dim, rng)
    alpha, sigma = _scales(rng)
    size = math.hypot(alpha, sigma)
    if rng.uniform() < 0.5:
        start, start_mean, start_covariance = (
            isotropic(torch.zeros(dim), size**2),
            np.zeros(dim),
            size**2 * np.eye(dim),
        )
    else:
        start_mean, start_covariance = rng.normal(size=dim), _covariance(dim, rng)
        start = spectrum(start_mean, start_covariance)
    noised = alpha**2 * covariance + sigma**2 * np.eye(dim)
    distance = float(
        ot.gaussian.bures_wasserstein_distance(alpha * mean, start_mean, noised, start_covariance)
    )
    clean = spectrum(mean, covariance)
    # Any share of a Gaussian can be explained.
    share = rng.choice([0.0, 1.0, rng.uniform()])
    explained = Spectrum(torch.zeros(dim).double(), clean.basis, share * clean.variances, 0.0)
    return ErrorCase("gaussian", clean, explained, alpha, sigma, start, distance**2)


@dataclass(frozen=True)
class Mixture:
    """A mixture on the line: weights, means, standard deviations, each (K,)."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.weights @ self.means)

    @property
    def variance(self) -> float:
        return float(self.weights @ (self.stds**2 + (self.means - self.mean) ** 2))

    def noised(self, alpha: float, sigma: float) -> Mixture:
        return Mixture(self.weights, alpha * self.means, np.hypot(alpha * self.stds, sigma))

    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points x, their share of the law, and Φ⁻¹(F(x)), for a trapezoidal rule that is exact to rounding."""
        step, reach = self.stds.min() / 4, 9 * self.stds.max()
        x = np.arange(self.means.min() - reach, self.means.max() + reach, step)
        scaled = (x[:, None] - self.means) / self.stds
        density = (self.weights / self.stds * np.exp(-0.5 * scaled**2)).sum(axis=1) / math.sqrt(2 * math.pi)
        below, above = (self.weights * ndtr(scaled)).sum(axis=1), (self.weights * ndtr(-scaled)).sum(axis=1)
        normal = np.where(below < 0.5, ndtri(below), -ndtri(above))
        return x, density * step, np.nan_to_num(normal, posinf=0.0, neginf=0.0)


def line_w2_squared(law: Mixture, mean: float, std: float) -> float:
    """W2² from N(mean, std²): the monotone map sends x to mean + std Φ⁻¹(F(x))."""
    x, share, normal = law.grid()
    return float((share * (x - mean - std * normal) ** 2).sum())


def _product(dim: int, rng: np.random.Generator) -> ErrorCase:
    axes = _rotation(dim, rng)
    alpha, sigma = _scales(rng)
    laws = []
    for _ in range(dim):
        count = int(rng.integers(1, 4))
        weights = rng.dirichlet(np.full(count, 2.0))
        laws.append(Mixture(weights, rng.normal(scale=2, size=count), rng.uniform(0.1, 1, size=count)))
    means = np.array([law.mean for law in laws])
    variances = np.array([law.variance for law in laws])
    products = np.array([(share * x * normal).sum() for x, share, normal in (law.grid() for law in laws)])
    start_means, start_stds = rng.normal(size=dim), rng.uniform(0.2, 2, size=dim)
    if rng.uniform() < 0.3:
        # The gaussian prior itself: the moments of α X + σ ε.
        start_means, start_stds = alpha * means, np.sqrt(alpha**2 * variances + sigma**2)
    distances = [
        line_w2_squared(law.noised(alpha, sigma), a, s) for law, a, s in zip(laws, start_means, start_stds)
    ]
    basis = torch.from_numpy(axes.copy())
    clean = Spectrum(torch.from_numpy(axes @ means), basis, torch.from_numpy(variances), 0.0)
    # (Quadrature may give a γ² that is larger than the variance by its rounding.)
    gamma = torch.from_numpy(np.minimum(products**2, variances))
    explained = Spectrum(torch.zeros(dim).double(), basis, gamma * float(rng.integers(0, 2)), 0.0)
    start = Spectrum(torch.from_numpy(axes @ start_means), basis, torch.from_numpy(start_stds**2), 0.0)
    return ErrorCase("product", clean, explained, alpha, sigma, start, float(sum(distances)))


def _gradient(dim: int, rng: np.random.Generator) -> ErrorCase:
    matrix = 0.3 * _covariance(dim, rng)
    count = int(rng.integers(1, min(dim, 4) + 1))
    directions = rng.normal(size=(count, dim)) / math.sqrt(dim) * rng.uniform(0.3, 3)
    sizes = rng.uniform(0.2, 3, size=count)
    scale = rng.uniform(0.5, 2)
    lengths = np.linalg.norm(directions, axis=1)
    slopes = np.array([(_WEIGHTS / np.cosh(length * _NODES) ** 2).sum() for length in lengths])
    # E ∇u zᵀ, and E of products of the tanh, by quadrature in the plane of two directions.
    gamma = matrix + (directions * (sizes * slopes)[:, None]).T @ directions
    linear = matrix @ directions.T * (sizes * slopes)
    covariance = matrix @ matrix + linear @ directions + (linear @ directions).T
    for k in range(count):
        for j in range(count):
            cosine = directions[k] @ directions[j] / (lengths[k] * lengths[j])
            other = cosine * _NODES[:, None] + math.sqrt(max(1 - cosine**2, 0.0)) * _NODES[None]
            together = np.tanh(lengths[k] * _NODES)[:, None] * np.tanh(lengths[j] * other)
            mean = float(_WEIGHTS @ together @ _WEIGHTS)
            covariance += sizes[k] * sizes[j] * mean * np.outer(directions[k], directions[j])
    w2_squared = float(np.trace(covariance) + scale**2 * dim - 2 * scale * np.trace(gamma))
    zero = np.zeros(dim)
    return ErrorCase(
        "gradient", spectrum(zero, covariance), spectrum(zero, gamma @ gamma.T), 1.0, 0.0,
        isotropic(torch.zeros(dim), scale**2), w2_squared,
    )  # fmt: skip
