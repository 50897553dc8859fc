"""The correction of a schedule that keeps some signal at T: brightness of a pipeline's samples, before and after.

Stable Diffusion's scaled-linear betas leave α_T = 0.068, so the latents at T remember the brightness of their images.
White noise does not, and dark images come out too bright (arXiv:2410.13431, whose remedy is a map at T). The network is
exact for a known law of latents: what is wrong is the start's fault alone, and known in closed form.
"""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from tiny_pipelines import VP, normal, quiet
from torch import Tensor, nn

from otprior import GaussianPrior, attach, detach
from otprior.diffusion import ExactDenoiser, GaussianDenoiser, MixtureDenoiser, NoiseSchedule

SHAPE = (4, 8, 8)
SCHEDULER = diffusers.DPMSolverMultistepScheduler(**VP, timestep_spacing="trailing")
SCHEDULE = NoiseSchedule.from_scheduler(SCHEDULER)
LAST = 999
# Images differ in brightness (the mean of channel 0) by 0.4, and pixels around it by 0.5. Dark photographs.
PIXEL, SPREAD, DARK = 0.5, 0.4, -0.6


class ExactNetwork(nn.Module):
    """The noise that a perfectly trained network predicts, with the call of UNet2DConditionModel."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, law: ExactDenoiser) -> None:
        super().__init__()
        self.law = law
        self.config = FrozenDict(in_channels=4, sample_size=8, time_cond_proj_dim=None)

    def forward(self, sample: Tensor, timestep: Any, **_: Any) -> tuple[Tensor]:
        t = float(timestep)
        rows = sample.flatten(1).double()
        return (self.law.noise(rows, SCHEDULE.alpha(t), SCHEDULE.sigma(t)).reshape(sample.shape).float(),)


def bright() -> Tensor:
    """The unit direction of brightness: brightness is its part of an image, by √64."""
    channel = torch.zeros(SHAPE, dtype=torch.float64)
    channel[0] = 1 / 8
    return channel.flatten()


def gaussian(brightness: float) -> GaussianDenoiser:
    u = bright()
    covariance = PIXEL**2 * torch.eye(len(u), dtype=torch.float64) + (8 * SPREAD) ** 2 * torch.outer(u, u)
    return GaussianDenoiser(8 * brightness * u, covariance)


def pipeline(law: ExactDenoiser) -> Any:
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    network: Any = ExactNetwork(law)
    return quiet(
        diffusers.StableDiffusionPipeline(
            unet=network, scheduler=SCHEDULER, requires_safety_checker=False, **parts
        )
    )


def brightness(pipe: Any, steps: int = 40) -> Tensor:
    """Of samples from 200 seeds and their opposites, whose mean is zero."""
    z = normal(200, *SHAPE)
    call = {"prompt_embeds": torch.zeros(400, 1, 1), "guidance_scale": 1.0, "output_type": "latent"}
    images = pipe(**call, height=64, width=64, num_inference_steps=steps, latents=torch.cat([z, -z]))[0]
    return images[:, 0].mean(dim=(1, 2)).double()


def corrected(law: ExactDenoiser, pipe: Any) -> Any:
    latents = law.sample(4000, torch.Generator().manual_seed(3)).float().reshape(-1, *SHAPE)
    prior = GaussianPrior.fit(latents, pipe.scheduler, timestep=LAST, value_range=None)
    return attach(pipe, prior)


def test_dark_images_come_out_dark(caplog: pytest.LogCaptureFixture) -> None:
    law = gaussian(DARK)
    pipe = pipeline(law)
    before = brightness(pipe)
    # The flow takes x along u to μ + s (x − α μ)/√(α² s² + σ²); x has mean 0 in place of α μ.
    alpha, sigma = SCHEDULE.alpha(LAST), SCHEDULE.sigma(LAST)
    s = (PIXEL**2 + (8 * SPREAD) ** 2) ** 0.5
    shrink = (alpha**2 * s**2 + sigma**2) ** 0.5
    wrong = DARK * (1 - s * alpha / shrink)
    assert wrong > DARK + 0.12
    # 40 steps of second order err by about 0.003.
    assert float(before.mean()) == pytest.approx(wrong, abs=0.01)
    after = brightness(corrected(law, pipe))
    # The moments of 4,000 latents err by s/8/√4000 = 0.0064 in brightness.
    assert float(after.mean()) == pytest.approx(DARK, abs=0.02)
    # At T a prior without labels imposes no layout, so there is no warning.
    assert not [each for each in caplog.records if each.name.startswith("otprior")]
    # And every seed keeps its image, but for that.
    moved = after - before
    assert float(moved.std()) < 0.05 * float(before.std())
    assert float(brightness(detach(pipe)).mean()) == pytest.approx(float(before.mean()), abs=1e-6)


def test_dark_and_bright_images() -> None:
    # No Gaussian: three dark images to one bright one. Two moments of the start are right all the same.
    means = torch.stack([gaussian(b).mean for b in (-0.9, 0.3)])
    small = PIXEL**2 * torch.eye(256, dtype=torch.float64) + 0.8**2 * torch.outer(bright(), bright())
    law = MixtureDenoiser(torch.tensor([0.75, 0.25]), means, torch.stack([small, small]))
    pipe = pipeline(law)
    before, after = brightness(pipe), brightness(corrected(law, pipe))
    goal, dark = 0.75 * -0.9 + 0.25 * 0.3, 0.75
    errors = [abs(float(each.mean()) - goal) for each in (before, after)]
    shares = [abs(float((each < -0.3).double().mean()) - dark) for each in (before, after)]
    # 400 seeds with their opposites: the standard errors of mean and share are below 0.026 and 0.022.
    assert errors[0] > 0.1
    assert errors[1] < 0.4 * errors[0]
    assert shares[0] > 0.08
    assert shares[1] < 0.6 * shares[0]
