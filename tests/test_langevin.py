"""Annealed Langevin dynamics: levels, steps and chains against closed forms; a network's score in the other process."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from exact_denoiser import ExactDenoiser

from otprior.data import bundled
from otprior.diffusion.denoisers import GaussianDenoiser, MixtureDenoiser
from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior_studies.papers.dpm_ot.langevin import (
    annealed_langevin,
    best_step,
    chain_variance,
    geometric_levels,
    settled_step,
    settled_variance,
    ve_score,
)

# DPM-OT's levels and step for CIFAR-10.
PUBLISHED = geometric_levels(50.0, 0.01, 232)
PUBLISHED_STEP = 6.2e-6 / 0.01**2


def test_levels_are_geometric_and_the_published_one_is_where_it_was_said_to_be() -> None:
    ratios = [later / earlier for earlier, later in itertools.pairwise(PUBLISHED)]
    assert ratios == pytest.approx([ratios[0]] * 231, rel=1e-12)
    assert (PUBLISHED[0], PUBLISHED[-1]) == pytest.approx((50.0, 0.01), rel=1e-12)
    assert PUBLISHED[222] == pytest.approx(50 * math.exp(-222 / 231 * math.log(5000)), rel=1e-12)
    assert PUBLISHED[222] == pytest.approx(0.0139, abs=5e-5)
    assert geometric_levels(3.0, 0.5, 1) == (0.5,)


def test_chain_variance_is_its_recursion() -> None:
    data, sigma, step = 0.7, 0.4, 0.3
    contraction = 1 - step * sigma**2 / (data + sigma**2)
    variance = 5.0
    for _ in range(7):
        variance = contraction**2 * variance + 2 * step * sigma**2
    assert chain_variance(5.0, data, sigma, step, 7) == pytest.approx(variance, rel=1e-13)


def test_best_step_is_its_closed_form_for_one_step_and_the_published_one_for_the_published_levels() -> None:
    # (1 − η)² γ² + 2 η is least at 1 − η = 1/γ². The minimum is flat: the place is found to the root of rounding.
    for ratio in (1.1, 2.0, 6.0):
        assert best_step(ratio, 1) == pytest.approx(1 - 1 / ratio**2, abs=1e-6)
    ratio = PUBLISHED[0] / PUBLISHED[1]
    assert best_step(ratio, 5) == pytest.approx(PUBLISHED_STEP, rel=0.05)


def test_the_settled_variance_is_the_recursions_and_its_step_the_best() -> None:
    for ratio, steps in ((1.0376, 1), (1.0376, 5), (1.5, 1)):
        best = settled_step(ratio, steps)
        for step in (best, 0.9 * best, min(1.1 * best, 0.99)):
            variance = 1.0
            for _ in range(400):
                variance = chain_variance(ratio**2 * variance, 0.0, 1.0, step, steps)
            assert settled_variance(ratio, step, steps) == pytest.approx(variance, rel=1e-9)
            assert variance >= settled_variance(ratio, best, steps) - 1e-12
    # One published step a level leaves noise of 1.5 times the level's standard deviation.
    assert settled_variance(PUBLISHED[0] / PUBLISHED[1], PUBLISHED_STEP, 1) ** 0.5 == pytest.approx(
        1.53, abs=0.01
    )
    assert settled_variance(2.0, 0.3, 1) == math.inf


def test_the_chain_ends_with_the_variance_of_its_recursion() -> None:
    """Along two axes of different spread, from latents above the first level, in float64."""
    spread, count = torch.tensor([0.0, 0.8], dtype=torch.float64), 40_000
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)
    denoiser = GaussianDenoiser(mean, torch.diag(spread))
    sigmas, steps, step, start = geometric_levels(1.5, 0.3, 4), 2, 0.4, 2.0
    generator = torch.Generator().manual_seed(0)
    x = denoiser.noised(count, 1.0, start, generator)

    def draw() -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    latents = annealed_langevin(denoiser, x, sigmas, steps, step, draw, denoise=False)
    images = annealed_langevin(denoiser, x, sigmas, steps, step, draw)
    for axis, data in enumerate(spread.tolist()):
        variance = data + start**2
        for sigma in sigmas:
            variance = chain_variance(variance, data, sigma, step, steps)
        # Five standard errors of a sample variance.
        within = 5 * math.sqrt(2 / count)
        assert float(latents[:, axis].var()) == pytest.approx(variance, rel=within)
        gain = data / (data + sigmas[-1] ** 2)
        assert float(images[:, axis].var()) == pytest.approx(gain**2 * variance, rel=within, abs=1e-15)
        assert float(latents[:, axis].mean()) == pytest.approx(
            float(mean[axis]), abs=5 * math.sqrt(variance / count)
        )


def test_scores_of_the_two_processes_differ_by_the_signals_scale() -> None:
    """s(x, σ) = α s_vp(α x) at equal log-SNR, in float64, with the score of a mixture's density by autograd."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    law = MixtureDenoiser(
        torch.tensor([0.1, 0.2, 0.3, 0.4]), means, torch.stack([0.3 * torch.eye(3, dtype=torch.float64)] * 4)
    )
    for alpha in (0.999, 0.6, 0.05):
        noise = math.sqrt(1 - alpha**2)
        x = law.noised(6, 1.0, noise / alpha, generator).requires_grad_()
        (score,) = torch.autograd.grad(law.log_density(x, 1.0, noise / alpha).sum(), x)
        x = x.detach()
        torch.testing.assert_close(ve_score(law, x, noise / alpha), score, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(alpha * law.score(alpha * x, alpha, noise), score, rtol=1e-9, atol=1e-10)


def test_a_networks_score_is_the_closed_form_of_its_data() -> None:
    """Through the change of process and of prediction; a network is told its timestep in float32."""
    scheduler = bundled.load_scheduler()
    schedule = NoiseSchedule.from_scheduler(scheduler)
    network = NetworkDenoiser(ExactDenoiser(schedule, 0.2, 0.5), scheduler)
    generator = torch.Generator().manual_seed(2)
    for sigma in (0.02, 0.3, 4.0, 100.0):
        x = 0.2 + math.hypot(0.5, sigma) * torch.randn(5, 1, 2, 2, generator=generator, dtype=torch.float64)
        exact = -(x - 0.2) / (0.25 + sigma**2)
        # The noise level is off by the rounding of t, which D − x sees divided by σ².
        torch.testing.assert_close(ve_score(network, x, sigma), exact, rtol=2e-5, atol=2e-5 / sigma)


def test_the_bundled_networks_score_is_its_own_at_its_own_timesteps() -> None:
    """At an integer timestep nothing is rounded: the same network in float64, asked directly, agrees to 1e-9."""
    pipe = bundled.load_pipeline()
    unet, label = pipe.unet.double().eval(), bundled.null_class_label()
    schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
    labels = torch.full((2,), label)
    network = NetworkDenoiser(unet, pipe.scheduler, labels)
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for t in (3, 400):
        alpha, noise = schedule.alpha(t), schedule.sigma(t)
        with torch.no_grad():
            predicted = unet(alpha * x, t, class_labels=labels, return_dict=False)[0]
            found = ve_score(network, x, noise / alpha)
        torch.testing.assert_close(found, -alpha * predicted / noise, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize(
    ("sigmas", "steps", "step", "rule"),
    [
        ((), 1, 0.1, "sigmas must be at least one level"),
        ((1.0, 1.0), 1, 0.1, "sigmas must be positive and falling"),
        ((1.0, 0.0), 1, 0.1, "sigmas must be positive and falling"),
        ((1.0,), 0, 0.1, "steps must be an integer >= 1"),
        ((1.0,), 1, 1.0, "step must be in"),
    ],
)
def test_bad_chains_are_refused(sigmas: tuple[float, ...], steps: int, step: float, rule: str) -> None:
    denoiser = GaussianDenoiser(torch.zeros(1), torch.eye(1))
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=rule):
        annealed_langevin(denoiser, x, sigmas, steps, step, lambda: x)


def test_bad_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="begin and end must be with 0 < end < begin"):
        geometric_levels(0.01, 50.0, 5)
    with pytest.raises(ValueError, match="ratio must be above 1"):
        best_step(1.0, 5)
