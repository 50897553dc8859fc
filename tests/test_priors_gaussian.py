"""The gaussian prior: exact against closed forms, and against the probability flow of a Gaussian, integrated.

With x̄ = x/α and λ = σ/α the probability flow of x_0 ~ N(μ, Σ) is dx̄/dλ = λ (Σ + λ² I)⁻¹ (x̄ − μ). It takes the
corrected start α_T μ + C_T^{1/2} z at T to α_t μ + C_t^{1/2} z at t, which is the prior's start. The usual start z
differs from the corrected one by z − T_T(z), whose mean square is the prior error W2²(N(0, I), p_T), and the flow,
which is linear, carries that difference to C_t^{1/2} C_T^{−1/2} (z − T_T(z)).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import diffusers
import pytest
import torch
from generators.gaussians import Gaussian, gaussian, with_moments
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior
from otprior.transport import moments
from otprior.transport.gaussian import gaussian_map
from otprior.transport.moments import Spectrum, streaming_spectrum

SCHEDULE = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
DIM = 12
SHAPE = (3, 2, 2)
VARIANCES = torch.tensor([4.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.01, 0.0])


@pytest.fixture(scope="module")
def law() -> Gaussian:
    return gaussian(VARIANCES, seed=1)


@pytest.fixture(scope="module")
def spectrum(law: Gaussian) -> Spectrum:
    """Of rows whose moments are the law's: what the library estimates is then the law itself."""
    return streaming_spectrum(with_moments(law, 40), rank=DIM)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("timestep", [0, 100, 500, 999])
def test_is_the_closed_form_in_float64(law: Gaussian, spectrum: Spectrum, timestep: int) -> None:
    alpha, sigma = SCHEDULE.alpha(timestep), SCHEDULE.sigma(timestep)
    z = normal(50, DIM)
    start = gaussian_map(z, spectrum, alpha, sigma)
    torch.testing.assert_close(start, law.noised(alpha, sigma).transport(z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 11])
def test_low_rank_plus_isotropic_is_the_root_of_what_it_says(law: Gaussian, rank: int) -> None:
    spectrum = streaming_spectrum(with_moments(law, 40), rank)
    u = spectrum.basis
    eye = torch.eye(DIM, dtype=torch.float64)
    truncated = Gaussian(law.mean, (u * spectrum.variances) @ u.T + spectrum.residual * (eye - u @ u.T))
    assert float(torch.trace(truncated.covariance)) == pytest.approx(float(VARIANCES.sum()))
    z = normal(50, DIM)
    expected = truncated.noised(0.6, 0.8).transport(z)
    torch.testing.assert_close(gaussian_map(z, spectrum, 0.6, 0.8), expected, rtol=0, atol=1e-10)


# The probability flow --------------------------------------------------------------------------------------


def velocity(law: Gaussian, log_ratio: float, x: Tensor) -> Tensor:
    """dx̄/d ln λ on rows (B, d): by a linear solve, which shares nothing with the closed form."""
    square = math.exp(2 * log_ratio)
    eye = torch.eye(DIM, dtype=torch.float64)
    return square * torch.linalg.solve(law.covariance + square * eye, (x - law.mean).T).T


def heun(f: Callable[[float, Tensor], Tensor], t: float, h: float, x: Tensor) -> Tensor:
    k1 = f(t, x)
    return x + h / 2 * (k1 + f(t + h, x + h * k1))


def runge_kutta_4(f: Callable[[float, Tensor], Tensor], t: float, h: float, x: Tensor) -> Tensor:
    k1 = f(t, x)
    k2 = f(t + h / 2, x + h / 2 * k1)
    k3 = f(t + h / 2, x + h / 2 * k2)
    k4 = f(t + h, x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def flow(law: Gaussian, x: Tensor, start: int, end: int, steps: int, step: Callable[..., Tensor]) -> Tensor:
    """Latents at timestep `start` to timestep `end`, in `steps` equal steps of ln λ = −log_snr/2."""
    begin, finish = -SCHEDULE.log_snr(float(start)) / 2, -SCHEDULE.log_snr(float(end)) / 2
    h = (finish - begin) / steps
    x = x / SCHEDULE.alpha(start)
    for k in range(steps):
        x = step(lambda t, y: velocity(law, t, y), begin + k * h, h, x)
    return x * SCHEDULE.alpha(end)


@pytest.mark.parametrize(
    ("step", "order", "counts"), [(heun, 2, (16, 32, 64, 128)), (runge_kutta_4, 4, (8, 16, 32))]
)
@pytest.mark.parametrize("timestep", [300, 500])
def test_is_the_probability_flow_from_the_corrected_start(
    law: Gaussian,
    spectrum: Spectrum,
    timestep: int,
    step: Callable[..., Tensor],
    order: int,
    counts: tuple[int, ...],
) -> None:
    """The integrator's error, and nothing else, stands between them: it falls with the integrator's order."""
    z = normal(20, DIM)
    start = gaussian_map(z, spectrum, SCHEDULE.alpha(timestep), SCHEDULE.sigma(timestep))
    corrected = gaussian_map(z, spectrum, SCHEDULE.alpha(999), SCHEDULE.sigma(999))
    errors = [
        float(torch.linalg.vector_norm(flow(law, corrected, 999, timestep, n, step) - start)) for n in counts
    ]
    logs = torch.tensor([[math.log(n), math.log(e)] for n, e in zip(counts, errors)], dtype=torch.float64)
    centred = logs - logs.mean(dim=0)
    slope = float((centred[:, 0] * centred[:, 1]).sum() / (centred[:, 0] ** 2).sum())
    assert slope == pytest.approx(-order, abs=0.4)  # the next order shows at steps this long
    fine = flow(law, corrected, 999, timestep, 1024, runge_kutta_4)
    torch.testing.assert_close(fine, start, rtol=0, atol=1e-9)


@pytest.mark.parametrize("noisiest", [999, 600])
def test_from_plain_noise_the_difference_is_the_prior_error(
    law: Gaussian, spectrum: Spectrum, noisiest: int
) -> None:
    """z of exact mean 0 and covariance I, so that means over it are expectations."""
    eye = torch.eye(DIM, dtype=torch.float64)
    z = with_moments(Gaussian(torch.zeros(DIM, dtype=torch.float64), eye), 100)
    at_end = law.noised(SCHEDULE.alpha(noisiest), SCHEDULE.sigma(noisiest))
    corrected = gaussian_map(z, spectrum, SCHEDULE.alpha(noisiest), SCHEDULE.sigma(noisiest))
    error = float(((z - corrected) ** 2).sum(dim=1).mean())
    assert error == pytest.approx(at_end.w2_squared, rel=1e-6)

    target = law.noised(SCHEDULE.alpha(500), SCHEDULE.sigma(500))
    plain = flow(law, z, noisiest, 500, 512, runge_kutta_4)
    start = gaussian_map(z, spectrum, SCHEDULE.alpha(500), SCHEDULE.sigma(500))
    carried = (z - corrected) @ torch.linalg.solve(at_end.root, target.root)
    # (Roots of one law at two times commute.)
    torch.testing.assert_close(plain - start, carried, rtol=0, atol=1e-8)
    assert float((plain - start).abs().max()) > 1e-4  # there is something to see


# The component ---------------------------------------------------------------------------------------------


def images(law: Gaussian, count: int = 60) -> Tensor:
    return with_moments(law, count).float().reshape(count, *SHAPE)


def test_fit_finds_the_moments_and_the_start_is_float32(law: Gaussian) -> None:
    prior = GaussianPrior.fit(images(law), SCHEDULE, timestep=500, value_range=None)
    z = normal(30, *SHAPE).float()
    start = prior(z)
    assert start.dtype == torch.float32
    expected = law.noised(prior.alpha, prior.sigma).transport(z.double().flatten(1)).reshape(z.shape)
    torch.testing.assert_close(start.double(), expected, rtol=0, atol=1e-5)
    assert prior.source(z) is None


def test_start_has_the_moments_of_the_latents(law: Gaussian) -> None:
    prior = GaussianPrior.fit(images(law), SCHEDULE, timestep=400, value_range=None)
    white = Gaussian(torch.zeros(DIM, dtype=torch.float64), torch.eye(DIM, dtype=torch.float64))
    start = prior(with_moments(white, 300).float().reshape(300, *SHAPE)).double().flatten(1)
    target = law.noised(prior.alpha, prior.sigma)
    torch.testing.assert_close(start.mean(dim=0), target.mean, rtol=0, atol=1e-5)
    centred = start - start.mean(dim=0)
    torch.testing.assert_close(centred.T @ centred / 300, target.covariance, rtol=0, atol=2e-5)


def test_each_class_has_its_own_moments() -> None:
    laws = [gaussian(VARIANCES, seed=1), gaussian(VARIANCES.flip(0), seed=2)]
    labels = torch.arange(120) % 2
    data = torch.empty(120, *SHAPE)
    for label, law in enumerate(laws):
        data[labels == label] = images(law)
    prior = GaussianPrior.fit(data, SCHEDULE, 500, labels, value_range=None)
    z = normal(10, *SHAPE).float()
    wanted = torch.tensor([0, 1, 1, 0, 1, 0, 0, 0, 1, 1])
    start = prior(z, wanted).double().flatten(1)
    for label, law in enumerate(laws):
        rows = wanted == label
        expected = law.noised(prior.alpha, prior.sigma).transport(z.double().flatten(1)[rows])
        torch.testing.assert_close(start[rows], expected, rtol=0, atol=1e-5)


def test_beyond_the_limit_the_covariance_is_low_rank(law: Gaussian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "FULL_COVARIANCE_LIMIT", 6)
    monkeypatch.setattr("otprior.priors.gaussian.FULL_COVARIANCE_LIMIT", 6)
    monkeypatch.setattr("otprior.priors.gaussian.DEFAULT_RANK", 4)
    prior = GaussianPrior.fit(images(law), SCHEDULE, 500, value_range=None)
    assert prior.bases.shape == (1, DIM, 4)
    torch.testing.assert_close(prior.variances[0], VARIANCES[:4], rtol=0, atol=1e-5)
    assert float(prior.residuals[0]) == pytest.approx(float(VARIANCES[4:].mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, r"rank must be an integer in \[1, 12\]; got 0"),
        ({"rank": 13}, r"rank must be an integer in \[1, 12\]; got 13"),
        ({"timestep": 1000}, r"timestep must be in \[0, 999\]"),
        ({"timestep": 500.5}, "timestep must be an integer"),
        ({"labels": torch.tensor([0] * 59 + [1])}, "data must be at least two images for class 1; got 1"),
        ({"labels": torch.zeros(60).long(), "num_classes": 2}, "at least two images for class 1; got 0"),
        ({"labels": torch.zeros(59).long()}, r"labels must be of shape \(60,\)"),
        ({"value_range": "auto"}, r"images must be in \[-1, 1\]"),
    ],
)
def test_bad_fits(law: Gaussian, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianPrior.fit(images(law), SCHEDULE, **{"value_range": None, **options})
