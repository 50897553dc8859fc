"""Fitted grids: the best of all grids where these can be listed, any start and solver, and bad input."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from exact_denoiser import ExactDenoiser
from torch import Tensor, nn

from otprior import GaussianPrior, OTPriorPipeline, bundled, seeds_to_generators
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import IdentityPrior, Prior
from otprior.sampling import fit_grid
from otprior.sampling.fitted_grid import FIRST_SEED

SHAPE = (1, 2, 2)
VP = diffusers.DPMSolverMultistepScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)
SCHEDULE = NoiseSchedule.from_scheduler(VP)


def exact(schedule: NoiseSchedule = SCHEDULE, classes: Any = None, mean: Any = 0.3) -> ExactDenoiser:
    return ExactDenoiser(schedule, mean, 0.4, SHAPE, classes)


def start(timestep: int = 600) -> Prior:
    return IdentityPrior.build(SHAPE, VP, timestep)


def distance_to_flow(grid: tuple[float, ...], prior: Prior | None, seeds: range) -> float:
    """Root mean square distance of the images to those of the exact flow, down to the clean image."""
    network = exact()
    pipe: Any = OTPriorPipeline(network, VP, prior)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(
        batch_size=len(seeds), timesteps=list(grid), num_inference_steps=len(grid),
        generator=seeds_to_generators(seeds), output_type="latent",
    )  # fmt: skip
    z = torch.stack([torch.randn(SHAPE, generator=g) for g in seeds_to_generators(seeds)])
    x = z if prior is None else prior(z)
    alpha, sigma = (
        (SCHEDULE.alpha(999.0), SCHEDULE.sigma(999.0)) if prior is None else (prior.alpha, prior.sigma)
    )
    return float(
        (out.images.double() - network.flow_to_clean(x.double(), alpha, sigma)).square().mean().sqrt()
    )


@pytest.mark.parametrize("timestep", [600, None])
def test_of_two_timesteps_the_best_second_one(timestep: int | None) -> None:
    """Every second timestep is tried, against the exact flow, from a prior and from N(0, I)."""
    prior = None if timestep is None else start(timestep)
    found = fit_grid(exact(), prior, 2, VP, starts=32)
    first = 999 if timestep is None else timestep
    assert found.timesteps[0] == first
    seeds = range(FIRST_SEED, FIRST_SEED + 32)
    every = {t: distance_to_flow((first, t), prior, seeds) for t in range(5, first, 7)}
    reached = distance_to_flow(found.timesteps, prior, seeds)
    # (64 steps are not quite the flow; and rounds of moves end at 8 % of a gap.)
    assert reached < 1.1 * min(every.values()) + 0.003
    assert found.distance <= found.default_distance


def test_a_fitted_grid_is_better_than_the_default_on_other_seeds() -> None:
    prior = start(700)
    found = fit_grid(exact(), prior, 4, VP, starts=48)
    assert len(found.timesteps) == 4
    assert list(found.timesteps) == sorted(found.timesteps, reverse=True)
    seeds = range(1000, 1100)
    default = fit_grid.__globals__["timestep_grid"](SCHEDULE, 700, 4)
    fitted, usual = (distance_to_flow(tuple(grid), prior, seeds) for grid in (found.timesteps, default))
    assert fitted < usual
    # (D is from the fine solution, which is not quite the flow.)
    assert found.distance == pytest.approx(fitted, abs=5e-4)
    assert found.evaluations < 48 * (2 * 64 + 4 * (13 + 24 + 2))


@pytest.mark.parametrize(
    "solver",
    [
        diffusers.UniPCMultistepScheduler.from_config(VP.config),
        diffusers.EulerDiscreteScheduler.from_config(VP.config),
        diffusers.DDPMScheduler.from_config(VP.config),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.EDMEulerScheduler(),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_any_solver_that_takes_a_grid(solver: Any) -> None:
    schedule = NoiseSchedule.from_scheduler(solver)
    found = fit_grid(exact(schedule), None, 3, solver, starts=8, fine_steps=16)
    assert len(found.timesteps) == 3
    assert found.timesteps[0] == pytest.approx(schedule.timestep_range[1])
    assert found.distance <= found.default_distance


def test_by_class_and_with_guidance() -> None:
    network = exact(classes=3, mean=torch.tensor([-0.5, 0.5, 0.0]))
    found = fit_grid(
        network,
        start(),
        2,
        VP,
        starts=6,
        fine_steps=8,
        null_class_label=2,
        class_labels=[0, 1],
        guidance_scale=2.0,
    )
    assert found.distance <= found.default_distance
    assert found.evaluations % 12 == 0  # two for each step and seed


def test_one_step_has_one_grid() -> None:
    found = fit_grid(exact(), start(500), 1, VP, starts=4, fine_steps=8)
    assert found.timesteps == (500,)
    assert found.distance == found.default_distance


class Broken(nn.Module):
    """A network whose answers are no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.config = exact().config
        self.calls = 0

    def forward(self, sample: Tensor, timestep: Any, return_dict: bool = True) -> Any:
        self.calls += 1
        return (sample * float("nan"),)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="num_steps must be at most 4, the timesteps from start on; got 5"):
        fit_grid(exact(), start(3), 5, VP)
    with pytest.raises(ValueError, match="scheduler must be one that can run on a grid of own timesteps"):
        fit_grid(exact(), start(), 3, diffusers.KDPM2DiscreteScheduler.from_config(VP.config))
    broken = Broken()
    with pytest.raises(ValueError, match="finite; got NaN") as raised:
        fit_grid(broken, start(), 3, VP, starts=4)
    assert "network" in str(raised.value)
    assert broken.calls == 3  # not first the 64 of the fine grid
    with pytest.raises(ValueError, match="num_steps must be an integer"):
        fit_grid(exact(), start(), 0, VP)
    with pytest.raises(ValueError, match="starts must be an integer >= 2"):
        fit_grid(exact(), start(), 2, VP, starts=1)


@pytest.mark.slow
def test_the_bundled_network() -> None:
    scheduler = diffusers.UniPCMultistepScheduler.from_config(bundled.load_scheduler().config)
    prior = GaussianPrior.fit(bundled.atoms(), scheduler, 700)
    pipe: Any = OTPriorPipeline.from_pretrained(bundled.pipeline_path(), prior=prior, null_class_label=10)
    found = fit_grid(pipe.unet, prior, 5, scheduler, null_class_label=10, starts=64)
    assert found.distance < found.default_distance
