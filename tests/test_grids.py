"""Grids from t*: order, ends, and equal spacing in the coordinate that names them."""

from __future__ import annotations

import itertools

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otprior.diffusion.grids import SPACINGS, timestep_grid
from otprior.diffusion.schedule import NoiseSchedule

LINEAR = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
COSINE = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
EDM = NoiseSchedule.edm(0.002, 80)
FLOW = NoiseSchedule.flow(1000)


@settings(deadline=None, max_examples=200)
@given(
    schedule=st.sampled_from([LINEAR, COSINE]),
    start=st.integers(0, 999),
    num_steps=st.integers(1, 40),
    spacing=st.sampled_from(SPACINGS),
)
def test_discrete_grids_are_distinct_integers_from_the_start(
    schedule: NoiseSchedule, start: int, num_steps: int, spacing: str
) -> None:
    if num_steps > start + 1:
        with pytest.raises(ValueError, match=f"at most {start + 1}"):
            timestep_grid(schedule, start, num_steps, spacing)
        return
    grid = timestep_grid(schedule, start, num_steps, spacing)
    assert len(grid) == num_steps
    assert grid[0] == start
    assert grid[-1] >= 0
    assert all(isinstance(t, int) for t in grid)
    assert all(a > b for a, b in itertools.pairwise(grid))


@pytest.mark.parametrize(("schedule", "start"), [(EDM, 0.2), (FLOW, 700.0)])
@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_equal_steps_in_the_coordinate(schedule: NoiseSchedule, start: float, rho: float) -> None:
    end = schedule.timestep(5.0)
    for spacing in SPACINGS:
        grid = torch.tensor([*timestep_grid(schedule, start, 8, spacing, end=end, rho=rho), end]).double()
        ratio = schedule.sigma(grid) / schedule.alpha(grid)
        coordinate = {"time": grid, "log_snr": ratio.log(), "karras": ratio ** (1 / rho)}[spacing]
        steps = coordinate[:-1] - coordinate[1:]
        assert bool((steps > 0).all())
        # Interpolation and powers in float64; grids pass through float32 nowhere.
        torch.testing.assert_close(steps, steps.mean().expand(8), rtol=1e-5, atol=0)


def test_rounding_moves_a_point_by_half_a_timestep_at_most() -> None:
    grid = torch.tensor(timestep_grid(LINEAR, 500, 5, "log_snr", end=LINEAR.timestep(6.0)))
    level = torch.linspace(LINEAR.log_snr(500), 6.0, 6, dtype=torch.float64)[:-1]
    assert float((grid - LINEAR.timestep(level)).abs().max()) <= 0.5


def test_default_ends() -> None:
    assert timestep_grid(LINEAR, 500, 5, "time") == [500, 400, 300, 200, 100]
    # σ/α = 0.3/K at the dropped point: the next step of the same length lands there.
    for num_steps in (3, 5, 10):
        a, b = (EDM.log_snr(t) for t in timestep_grid(EDM, 0.3, num_steps, "log_snr")[-2:])
        assert EDM.sigma(EDM.timestep(b + (b - a))) == pytest.approx(0.3 / num_steps, rel=1e-9)


def test_karras_tends_to_log_snr_as_rho_grows() -> None:
    karras = timestep_grid(EDM, 0.3, 6, "karras", rho=1e7)
    assert karras == pytest.approx(timestep_grid(EDM, 0.3, 6, "log_snr"), abs=1e-6)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="spacing must be one of"):
        timestep_grid(LINEAR, 500, 5, "cosine")
    with pytest.raises(ValueError, match="num_steps must be an integer"):
        timestep_grid(LINEAR, 500, 0)
    with pytest.raises(ValueError, match=r"start must be in \[0, 999\]"):
        timestep_grid(LINEAR, 1000, 5)
    with pytest.raises(ValueError, match="start must be an integer"):
        timestep_grid(LINEAR, 500.5, 5)
    with pytest.raises(ValueError, match="end must be below start"):
        timestep_grid(LINEAR, 500, 5, end=600)
    with pytest.raises(ValueError, match="end must be at least 0"):
        timestep_grid(LINEAR, 500, 5, end=-1)
    zero = NoiseSchedule.from_scheduler(diffusers.DDIMScheduler(rescale_betas_zero_snr=True))
    with pytest.raises(ValueError, match="some signal"):
        timestep_grid(zero, 999, 5, "log_snr")
    assert timestep_grid(zero, 999, 3, "time") == [999, 666, 333]
