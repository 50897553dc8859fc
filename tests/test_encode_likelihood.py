"""Likelihood by the change of variables, against densities that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from otprior.diffusion.denoisers import FiniteDenoiser, GaussianDenoiser, MixtureDenoiser
from otprior.diffusion.flow import NOISE, Scales
from otprior.diffusion.likelihood import bits_per_dimension, dequantised, log_likelihood

START = Scales.vp(0.95)


def _mixture() -> MixtureDenoiser:
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    factors = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64) / 2
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return MixtureDenoiser(weights, means, factors @ factors.mT + 0.1 * torch.eye(3))


def _points(law: MixtureDenoiser, start: Scales) -> Tensor:
    return law.noised(20, *start, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("start", [START, Scales(1.0, 0.3)])
def test_sum_over_coordinates_gives_the_density(start: Scales) -> None:
    law = _mixture()
    x = _points(law, start)
    found = log_likelihood(law, x, start, NOISE, method="dop853", spacing="s", rtol=1e-10, atol=1e-10)
    assert torch.allclose(found.log_density, law.log_density(x, *start), atol=1e-7)
    assert bool((found.standard_error == 0).all())


def test_probes_are_without_bias_and_know_their_error() -> None:
    law = _mixture()
    x = _points(law, START)
    exact = law.log_density(x, *START)
    found = log_likelihood(
        law,
        x,
        START,
        NOISE,
        probes=8,
        method="rk4",
        steps=12,
        spacing="s",
        generator=torch.Generator().manual_seed(2),
    )
    scores = (found.log_density - exact) / found.standard_error
    # Twenty deviates of Student's law with 7 degrees of freedom: mean square 1.4 ± 0.6; beyond 6 once in 2,000.
    assert float(scores.abs().max()) < 6
    assert 0.3 < float((scores**2).mean()) < 4


def test_order_of_the_method_is_that_of_the_density() -> None:
    law = _mixture()
    x = _points(law, START)
    exact = law.log_density(x, *START)
    errors = [
        float((log_likelihood(law, x, START, NOISE, steps=n, spacing="s").log_density - exact).abs().mean())
        for n in (50, 100)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


def test_noise_that_is_cut_off_costs_the_error_of_the_prior() -> None:
    law = GaussianDenoiser(torch.full((2,), 0.5), 0.25 * torch.eye(2))
    x = law.noised(10, *START, torch.Generator().manual_seed(0))
    end = Scales.vp(0.01)
    found = log_likelihood(law, x, START, end, method="dop853", spacing="log_snr", rtol=1e-10, atol=1e-10)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(found.code).sum(dim=1)
    missed = law.log_density(found.code, *end) - normal
    assert torch.allclose(law.log_density(x, *START) - found.log_density, missed, atol=1e-7)


def test_shape_of_images_is_kept_and_dtype_too() -> None:
    law = FiniteDenoiser(torch.eye(4))
    images = torch.zeros(3, 1, 2, 2)

    def denoiser(x: Tensor, alpha: float, sigma: float) -> Tensor:
        return law(x.flatten(1), alpha, sigma).reshape(x.shape)

    found = log_likelihood(denoiser, images, START, NOISE, probes=2, spacing="s")
    assert found.code.shape == images.shape
    assert found.code.dtype == torch.float32
    assert found.log_density.dtype == torch.float64


def test_bits_of_a_uniform_image_are_eight() -> None:
    """A density that is constant over all 256 grey levels, 1/2 · 255/256 in [−1, 1] widened by half a level."""
    dim, alpha = 10, 0.9
    constant = math.log(255 / 512) * dim - dim * math.log(alpha)
    bits = bits_per_dimension(torch.tensor([constant], dtype=torch.float64), dim, alpha)
    assert float(bits) == pytest.approx(8, abs=1e-12)


def test_dequantised_images_round_to_themselves() -> None:
    levels = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
    moved = dequantised(levels, torch.Generator().manual_seed(0))
    assert torch.equal((127.5 * (moved + 1)).round().clamp(0, 255), (127.5 * (levels + 1)).round())
    assert float((moved - levels).abs().max()) <= 1 / 255
