"""The perfect network: against the denoiser with whole covariances, as a component of a pipeline, and its draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from otprior import OTPriorPipeline, seeds_to_generators
from otprior.diffusion.denoisers import MixtureDenoiser
from otprior.diffusion.mixture_network import MixtureNetwork
from otprior.diffusion.schedule import NoiseSchedule

SCHEDULER = diffusers.DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02)
SCHEDULE = NoiseSchedule.from_scheduler(SCHEDULER)
SHAPE = (1, 3, 4)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts() -> dict[str, Tensor]:
    """Three components of ranks 2, 2 and 1 in 12 dimensions."""
    bases = torch.linalg.qr(normal(3, 12, 2, seed=1))[0]
    variances = torch.tensor([[2.0, 0.5], [1.0, 0.3], [0.7, 0.0]], dtype=torch.float64)
    bases[2, :, 1] = 0
    residuals = torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64)
    return {"means": normal(3, 12, seed=2), "bases": bases, "variances": variances, "residuals": residuals}


def network(**options: Any) -> MixtureNetwork:
    return MixtureNetwork.of(SHAPE, SCHEDULE, weights=WEIGHTS, **parts(), **options)


def whole() -> MixtureDenoiser:
    given = parts()
    covariances = []
    for basis, variances, residual in zip(given["bases"], given["variances"], given["residuals"]):
        own = torch.eye(12, dtype=torch.float64) - basis @ basis.T
        covariances.append(basis @ torch.diag(variances) @ basis.T + residual * own)
    return MixtureDenoiser(WEIGHTS, given["means"], torch.stack(covariances))


@pytest.mark.parametrize("timestep", [0, 100, 500, 999])
def test_it_is_the_denoiser_with_whole_covariances(timestep: int) -> None:
    alpha, sigma = SCHEDULE.alpha(float(timestep)), SCHEDULE.sigma(float(timestep))
    x = whole().noised(50, alpha, sigma, torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        network().denoise(x, alpha, sigma), whole()(x, alpha, sigma), rtol=1e-9, atol=1e-9
    )
    noise = network()(x.reshape(-1, *SHAPE), torch.tensor([timestep] * 50)).sample
    torch.testing.assert_close(noise.flatten(1), whole().noise(x, alpha, sigma), rtol=1e-6, atol=1e-6)


def test_draws_have_the_mixtures_moments() -> None:
    x = network().draw(60_000, torch.Generator().manual_seed(4)).flatten(1).double()
    law = whole()
    # Errors of 60,000 draws: 0.004 standard deviations, of variances up to 3.
    torch.testing.assert_close(x.mean(dim=0), law.mean, rtol=0, atol=0.04)
    torch.testing.assert_close(torch.cov(x.T), law.covariance, rtol=0, atol=0.12)


def test_a_pipeline_takes_it_and_comes_back_from_disk(tmp_path: Path) -> None:
    pipe: Any = OTPriorPipeline(network(), SCHEDULER)
    pipe.save_pretrained(tmp_path / "model")
    again: Any = OTPriorPipeline.from_pretrained(tmp_path / "model")
    assert isinstance(again.unet, MixtureNetwork)
    assert again.unet.weights.dtype == torch.float64
    images = []
    for each in (pipe, again):
        each.set_progress_bar_config(disable=True)
        generators = seeds_to_generators(range(400))
        out = each(batch_size=400, num_inference_steps=60, generator=generators, output_type="latent")
        images.append(out.images)
    assert torch.equal(*images)
    # Many steps from T: nearly the mixture's own moments; 400 images have errors of 0.05 to 0.1.
    off = images[0].flatten(1).double().mean(dim=0) - whole().mean
    assert float(off.abs().max()) < 0.35


def test_an_error_is_smooth_and_of_its_size() -> None:
    exact, wrong = network(), network(error=0.2)
    x = normal(500, 12, seed=5)
    alpha, sigma = SCHEDULE.alpha(600.0), SCHEDULE.sigma(600.0)
    off = wrong.denoise(x, alpha, sigma) - exact.denoise(x, alpha, sigma)
    assert float(off.square().mean().sqrt()) == pytest.approx(0.2 * sigma, rel=0.2)
    near = x + 1e-4 * normal(500, 12, seed=6)
    moved = wrong.denoise(near, alpha, sigma) - exact.denoise(near, alpha, sigma) - off
    assert float(moved.abs().max()) < 0.01
    with pytest.raises(ValueError, match="error must be nonnegative"):
        network(error=-1.0)
