"""The score under coupled pairs, against closed forms: finite sums, the Gaussian law, Stein's identity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from otprior.priors.coupling import SemiDiscreteCoupling
from otprior.priors.coupling.pairs import Pairs
from otprior.priors.coupling.score import corrected_noise, guided_velocity, score_from_noise

SPREAD, ENTROPY, COUNT = 1.5, 0.5, 200


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def line() -> SemiDiscreteCoupling:
    """Quantiles of N(0, 1.5²): nearly the coupling of two normal laws."""
    middle = (torch.arange(COUNT).double() + 0.5) / COUNT
    atoms = torch.special.ndtri(middle)[:, None]
    atoms *= SPREAD / atoms.square().mean().sqrt()
    return SemiDiscreteCoupling.fit(atoms.float(), value_range=None, entropy=ENTROPY, tol=0.005)


def exact(coupling: SemiDiscreteCoupling, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """log p_t up to a constant, and the means of the noise and of the corrected noise given x_t = x; x (n, 1)."""
    atoms, offsets = coupling.maps.atoms.double(), coupling.maps.potential
    z = (x[:, None] - t * atoms) / (1 - t)  # (n, N, d): the noise, if the image were y_i
    shares = torch.log_softmax((z @ atoms.T + offsets) / ENTROPY, dim=2)
    log_weight = -0.5 * z.square().sum(dim=2) + shares.diagonal(dim1=1, dim2=2)
    weight = torch.softmax(log_weight, dim=1)
    pairs = [Pairs(own.float(), coupling.images.images, None, torch.arange(len(atoms))) for own in z.detach()]
    corrected = torch.stack([corrected_noise(coupling, one).double() for one in pairs])
    means = [(weight[..., None] * part).sum(dim=1) for part in (z, corrected)]
    return torch.logsumexp(log_weight, dim=1), *means


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_corrected_noise_is_the_score_of_a_finite_sum(line: SemiDiscreteCoupling, t: float) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].requires_grad_()
    log_density, noise, corrected = exact(line, x, t)
    (score,) = torch.autograd.grad(log_density.sum(), x)
    found = score_from_noise(corrected, torch.full((9,), t, dtype=torch.float64))
    # Float32 noise and barycentres, divided by ε and 1 − t.
    torch.testing.assert_close(found, score, rtol=1e-3, atol=0.005)
    # The plain noise is no score: it is off by the correction, which is not small.
    plain = score_from_noise(noise, torch.full((9,), t, dtype=torch.float64))
    assert float((plain - score).abs().max()) > 0.1


@pytest.mark.parametrize("t", [0.2, 0.7])
def test_between_normal_laws_it_is_the_normal_score(line: SemiDiscreteCoupling, t: float) -> None:
    # x_t is N(0, v), v = (1 − t)² + t² s² + 2 t (1 − t) c with ε c = s² − c².
    covariance = (-ENTROPY + (ENTROPY**2 + 4 * SPREAD**2) ** 0.5) / 2
    variance = (1 - t) ** 2 + (t * SPREAD) ** 2 + 2 * t * (1 - t) * covariance
    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    _, noise, corrected = exact(line, x, t)
    times = torch.full((7,), t, dtype=torch.float64)
    # (200 quantiles are not a normal law: 2 % within 1.5 standard deviations.)
    torch.testing.assert_close(score_from_noise(corrected, times), -x / variance, rtol=0.02, atol=0.02)
    # The velocity needs no correction: E[y − z | x_t] by linear regression.
    slope = (t * SPREAD**2 - (1 - t) + (1 - 2 * t) * covariance) / variance
    torch.testing.assert_close((x - noise) / t, slope * x, rtol=0.03, atol=0.03)


def test_guidance_moves_by_the_difference_of_scores() -> None:
    # Independent pairs: v = (x − E z)/t, and the correction is none, so it is the usual guidance.
    noise, without, x = (torch.randn(4, 3, generator=seeded(k)) for k in range(3))
    t = torch.tensor([0.1, 0.3, 0.6, 0.9])
    v, v0 = ((x - mean) / t[:, None] for mean in (noise, without))
    torch.testing.assert_close(guided_velocity(v, noise, without, t, 2.5), v + 1.5 * (v - v0))


def test_steins_identity_holds_in_many_dimensions_and_by_class() -> None:
    # E⟨−∇ log p_t(x), x⟩ = d for any law; the plain noise is off by t/(1 − t) E⟨z, y⟩.
    images = torch.randn(60, 12, generator=seeded(3)) * 1.5 + 0.3
    labels, t = torch.arange(60) % 2, 0.4
    fitted = SemiDiscreteCoupling.fit(images, labels, value_range=None, entropy=2.0, tol=0.01)
    pairs = fitted.sample(50_000, seeded(4))
    x = (1 - t) * pairs.noise + t * pairs.images
    inner = (corrected_noise(fitted, pairs) * x).double().sum(dim=1) / (1 - t)
    plain = (pairs.noise * x).double().sum(dim=1) / (1 - t)
    error = float(inner.std()) / len(inner) ** 0.5
    assert abs(float(inner.mean()) - 12) < 4 * error
    assert float(plain.mean()) - 12 > 20 * error


def test_without_entropy_there_is_no_correction() -> None:
    fitted = SemiDiscreteCoupling.fit(torch.tensor([[-1.0], [1.0]]), value_range=None)
    with pytest.raises(ValueError, match="coupling must be one with entropy"):
        corrected_noise(fitted, fitted.sample(2, seeded()))


def test_scores_refuse_times_at_which_they_are_none_and_pairs_that_do_not_fit() -> None:
    noise = torch.randn(3, 2, generator=seeded())
    for t in (torch.tensor([0.0, 0.5, 1.0]), torch.zeros(2), torch.full((3,), torch.nan)):
        with pytest.raises(ValueError, match="t must be"):
            score_from_noise(noise, t)
    with pytest.raises(ValueError, match="t must be above 0"):
        guided_velocity(noise, noise, -noise, torch.zeros(3), 2.0)
    fitted = SemiDiscreteCoupling.fit(
        noise.repeat(4, 1), torch.arange(12) % 2, value_range=None, entropy=0.5, tol=0.1
    )
    pairs = fitted.sample(4, seeded())
    with pytest.raises(ValueError, match="labels must be given"):
        corrected_noise(fitted, pairs._replace(labels=None))
    with pytest.raises(ValueError, match=r"pairs\.images must be shaped"):
        corrected_noise(fitted, pairs._replace(images=pairs.images[:2]))
