"""Starts as a command line has them."""

from __future__ import annotations

import diffusers
import pytest

from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.starts import read_starts

VP = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())


def test_starts_have_their_options_and_their_usual_timestep() -> None:
    text = "none@20, gaussian@5,semidiscrete:noise=fresh:t=450@3,mixture:components=30:rank=4@5"
    white, gaussian, fresh, mixture = read_starts(text, VP)
    assert (white.prior, white.start_timestep, white.steps) == ("none", 999, 20)
    assert (gaussian.start_timestep, gaussian.options) == (500, ())
    assert (fresh.start_timestep, fresh.steps, fresh.noise) == (450, 3, "fresh")
    assert (mixture.start_timestep, dict(mixture.options)) == (400, {"components": 30, "rank": 4})
    assert fresh.label == "semidiscrete fresh, t* = 450, 3"
    assert mixture.label == "mixture, t* = 400, components = 30, rank = 4, 5"


def test_white_noise_without_signal_has_a_grid_that_its_scheduler_takes() -> None:
    """Log-SNR is infinite at the end of a flow, and of betas that end at zero."""
    zero = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler(), zero):
        schedule = NoiseSchedule.from_scheduler(scheduler)
        white, gaussian = read_starts("none@4,gaussian@4", schedule)
        assert (white.spacing, gaussian.spacing) == ("grid:time", "grid:log_snr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none", "--starts must be NAME"),
        ("none@0", "--starts must be NAME"),
        ("gaussian@²", "--starts must be NAME"),
        ("mixture:components=-2@5", "components must be an integer >= 1; got -2"),
        ("semidiscrete:noise=fresh:noise=frozen@5", "--starts must be with one value of noise"),
        ("none:t=500@5", "--starts must be none@STEPS for white noise"),
        ("nowhere@5", "prior must be one of"),
        ("gaussian:noise=fresh@5", "--starts must be with options among t, rank"),
        ("gaussian:rank@5", "--starts must be NAME"),
        ("gaussian:rank=many@5", "rank must be a whole number; got 'many'"),
        ("gaussian:t=2000@5", "timestep must be in"),
        ("semidiscrete:noise=loud@5", "noise must be one of"),
        ("gaussian@5,gaussian@5", "--starts must be different"),
    ],
)
def test_others_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_starts(text, VP)
