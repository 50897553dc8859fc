"""Exact denoisers against quadrature, automatic differentiation and each other."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from otprior.diffusion.denoisers import ExactDenoiser, FiniteDenoiser, GaussianDenoiser, MixtureDenoiser

SCALES = [(0.9, 0.4), (0.1, 0.995), (1.0, 3.0), (0.0, 1.0), (0.5, 0.02)]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _covariance(dim: int, rank: int, seed: int) -> Tensor:
    factor = _random(dim, rank, seed=seed)
    return factor @ factor.T / dim


def _gaussian(dim: int = 3, rank: int = 3) -> GaussianDenoiser:
    return GaussianDenoiser(_random(dim, seed=1), _covariance(dim, rank, seed=2))


def _mixture(dim: int = 3, count: int = 3) -> MixtureDenoiser:
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)[:count]
    covariances = torch.stack([_covariance(dim, dim, seed=k) for k in range(count)])
    return MixtureDenoiser(weights / weights.sum(), 2 * _random(count, dim, seed=7), covariances)


def _finite(dim: int = 3, count: int = 6) -> FiniteDenoiser:
    weights = torch.arange(1, count + 1, dtype=torch.float64)
    return FiniteDenoiser(2 * _random(count, dim, seed=9), weights / weights.sum())


ALL = [_gaussian(), _gaussian(rank=1), _mixture(), _finite()]


@pytest.mark.parametrize(("law", "scales"), product(ALL, SCALES))
def test_score_and_jacobian_are_derivatives(law: ExactDenoiser, scales: tuple[float, float]) -> None:
    x = scales[0] * law.sample(5, torch.Generator().manual_seed(0)) + scales[1] * _random(5, law.dim)
    x.requires_grad_()
    (score,) = torch.autograd.grad(law.log_density(x, *scales).sum(), x)
    # Rounding of |x − α y|²/σ² is what limits the agreement at small σ.
    tolerance = 1e-10 / scales[1] ** 2
    assert torch.allclose(law.score(x, *scales), score, rtol=1e-9, atol=tolerance)
    jacobian = torch.autograd.functional.jacobian(lambda v: law(v, *scales).sum(dim=0), x).transpose(0, 1)
    assert torch.allclose(law.jacobian(x, *scales), jacobian, rtol=1e-9, atol=tolerance)
    noise = law.noise(x, *scales)
    assert torch.allclose(scales[0] * law(x, *scales) + scales[1] * noise, x, atol=1e-12)


@pytest.mark.parametrize("scales", [(0.9, 0.4), (0.1, 0.995), (1.0, 3.0)])
def test_mixture_on_the_line_against_quadrature(scales: tuple[float, float]) -> None:
    weights, means, spreads = (0.3, 0.7), (-1.0, 2.0), (0.5, 1.2)
    law = MixtureDenoiser(
        torch.tensor(weights), torch.tensor(means)[:, None], torch.tensor(spreads)[:, None, None] ** 2
    )
    alpha, sigma = scales
    x = 0.7

    def moment(power: int) -> float:
        def integrand(clean: float) -> float:
            density = sum(w * norm.pdf(clean, m, s) for w, m, s in zip(weights, means, spreads))
            return clean**power * density * norm.pdf(x, alpha * clean, sigma)

        return quad(integrand, -15, 15, epsabs=1e-13, epsrel=1e-12, limit=500)[0]

    point = torch.tensor([[x]], dtype=torch.float64)
    mean = moment(1) / moment(0)
    assert float(law.log_density(point, *scales)) == pytest.approx(math.log(moment(0)), abs=1e-7)
    assert float(law(point, *scales)) == pytest.approx(mean, abs=1e-7)
    variance = moment(2) / moment(0) - mean**2
    assert float(law.posterior_covariance(point, *scales)) == pytest.approx(variance, abs=1e-6)


def test_finite_against_bayes() -> None:
    law = _finite(dim=2, count=4)
    alpha, sigma = 0.6, 0.8
    x = _random(7, 2)
    joint = np.stack(
        [
            float(w) * multivariate_normal.pdf(x.numpy(), alpha * y.numpy(), sigma**2 * np.eye(2))
            for w, y in zip(law.weights, law.atoms)
        ],
        axis=1,
    )
    shares = joint / joint.sum(axis=1, keepdims=True)
    assert np.allclose(law.shares(x, alpha, sigma), shares, atol=1e-13)
    assert np.allclose(law(x, alpha, sigma), shares @ law.atoms.numpy(), atol=1e-12)
    assert np.allclose(law.log_density(x, alpha, sigma), np.log(joint.sum(axis=1)), atol=1e-12)


@pytest.mark.parametrize("scales", SCALES)
def test_laws_that_are_the_same_law(scales: tuple[float, float]) -> None:
    x = _random(5, 3)
    one = _gaussian()
    alone = MixtureDenoiser(torch.ones(1), one.mean[None], one.covariance[None])
    assert torch.allclose(one(x, *scales), alone(x, *scales), atol=1e-12)
    points = _finite()
    narrow = MixtureDenoiser(points.weights, points.atoms, torch.zeros(6, 3, 3))
    for a, b in [
        (points(x, *scales), narrow(x, *scales)),
        (points.posterior_covariance(x, *scales), narrow.posterior_covariance(x, *scales)),
        (points.covariance, narrow.covariance),
    ]:
        assert torch.allclose(a, b, atol=1e-10)
    # α and σ matter only by their ratio, once x is scaled alike.
    assert torch.allclose(
        points(2 * x, 2 * scales[0], 2 * scales[1]), points(x, *scales), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("law", ALL)
def test_without_signal_the_mean_is_all_there_is_to_say(law: ExactDenoiser) -> None:
    assert torch.allclose(law(_random(4, law.dim), 0.0, 1.0), law.mean.expand(4, -1), atol=1e-14)


@pytest.mark.parametrize("law", ALL)
def test_samples_have_the_moments(law: ExactDenoiser) -> None:
    draws = law.noised(200_000, 0.8, 0.5, torch.Generator().manual_seed(3))
    cov = 0.64 * law.covariance + 0.25 * torch.eye(law.dim)
    # Five standard errors of a mean, and of a covariance (fourth moments here stay below 3 times the square).
    error = 5 * cov.diagonal().sqrt() / len(draws) ** 0.5
    assert bool(((draws.mean(dim=0) - 0.8 * law.mean).abs() < error).all())
    assert torch.allclose(draws.T.cov(), cov, atol=5 * 2 * float(cov.diagonal().max()) / len(draws) ** 0.5)


@pytest.mark.parametrize("law", ALL)
def test_single_precision_stays_single(law: ExactDenoiser) -> None:
    x = _random(4, law.dim)
    single = law(x.float(), 0.6, 0.8)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), law(x, 0.6, 0.8), atol=1e-4)


def test_bad_input_is_refused() -> None:
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="covariance must be symmetric"):
        GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="covariance must be positive semidefinite"):
        GaussianDenoiser(torch.zeros(2), -eye)
    with pytest.raises(ValueError, match="covariance must be of shape"):
        GaussianDenoiser(torch.zeros(3), eye)
    with pytest.raises(ValueError, match="weights must be of sum 1"):
        FiniteDenoiser(eye, torch.ones(2))
    with pytest.raises(ValueError, match="atoms must be finite"):
        FiniteDenoiser(eye / 0)
    law = FiniteDenoiser(eye)
    with pytest.raises(ValueError, match="x must be of shape"):
        law(torch.zeros(3, 5), 1.0, 1.0)
    with pytest.raises(ValueError, match="scales must be alpha >= 0 and sigma > 0"):
        law(torch.zeros(3, 2), 1.0, 0.0)
