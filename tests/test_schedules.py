"""Schedules against the schedulers' own tables, and against their definitions."""

from __future__ import annotations

import json
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from otprior.diffusion.schedule import NoiseSchedule

VP = {
    "ddpm linear": diffusers.DDPMScheduler(),
    "ddim scaled-linear": diffusers.DDIMScheduler(beta_schedule="scaled_linear"),
    "dpm++ cosine": diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2"),
    "dpm++ single": diffusers.DPMSolverSinglestepScheduler(),
    "unipc short": diffusers.UniPCMultistepScheduler(num_train_timesteps=50, beta_end=0.3),
    "deis": diffusers.DEISMultistepScheduler(),
    "pndm": diffusers.PNDMScheduler(),
    "euler": diffusers.EulerDiscreteScheduler(),
    "trained betas": diffusers.DDPMScheduler(
        num_train_timesteps=7, trained_betas=[1e-3, 0.3, 1e-2, 0.2, 0.5, 0.1, 0.9]
    ),
    "zero SNR, exact": diffusers.DDIMScheduler(rescale_betas_zero_snr=True),
    "zero SNR, 2^-24": diffusers.DPMSolverMultistepScheduler(rescale_betas_zero_snr=True),
}
SCHEDULERS: dict[str, Any] = VP | {
    "edm": diffusers.EDMEulerScheduler(),
    "euler continuous": diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.02, sigma_max=700.0
    ),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow unipc": diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
}


@pytest.mark.parametrize("name", VP)
def test_vp_is_the_schedulers_own_table(name: str) -> None:
    scheduler = VP[name]
    schedule = NoiseSchedule.from_scheduler(scheduler)
    table = scheduler.alphas_cumprod.double()
    if name.startswith("zero SNR"):
        table[-1] = 0  # what the network saw; some schedulers put 2^-24 there for their own divisions
    t = torch.arange(len(table))
    assert schedule.kind == "vp"
    assert schedule.num_train_timesteps == len(table)
    # Squares, roots and logarithms of a table in float64: a few ulps, magnified by 1/(1 − ᾱ) in σ.
    torch.testing.assert_close(schedule.alpha(t), table.sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.sigma(t), (1 - table).sqrt(), rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.prior_scale(t), torch.ones(len(t), dtype=torch.float64))
    assert schedule.alpha(3) == float(schedule.alpha(t)[3])


def test_vp_agrees_with_the_sigmas_that_euler_integrates() -> None:
    euler = diffusers.EulerDiscreteScheduler()
    euler.set_timesteps(timesteps=[700, 321, 40])
    schedule = NoiseSchedule.from_scheduler(euler)
    ratio = schedule.sigma(euler.timesteps) / schedule.alpha(euler.timesteps)
    # The scheduler computes in float32; at t = 40, 1 − ᾱ loses two digits of seven.
    torch.testing.assert_close(ratio, euler.sigmas[:-1].double(), rtol=1e-5, atol=0)


def test_edm_agrees_with_its_scheduler() -> None:
    edm = diffusers.EDMEulerScheduler()
    edm.set_timesteps(9)
    schedule = NoiseSchedule.from_scheduler(edm)
    inner = edm.timesteps[1:-1]  # the ends may miss the range by a rounding of float32
    torch.testing.assert_close(schedule.sigma(inner), edm.sigmas[1:-2].double(), rtol=1e-6, atol=0)
    assert float(schedule.alpha(0.0)) == 1.0
    assert schedule.prior_scale(schedule.timestep_range[1]) == pytest.approx(edm.init_noise_sigma, rel=1e-12)


def test_ve_table() -> None:
    sigmas = np.geomspace(0.01, 50, 232)
    schedule = NoiseSchedule.ve(sigmas)
    t = torch.arange(232)
    torch.testing.assert_close(schedule.sigma(t), torch.from_numpy(sigmas), rtol=1e-13, atol=0)
    # Geometric levels are linear in log-SNR, so interpolation is exact between them.
    assert schedule.sigma(7.5) == pytest.approx(math.sqrt(sigmas[7] * sigmas[8]), rel=1e-13)
    assert schedule.prior_scale(231) == pytest.approx(math.hypot(1, 50))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_names_times_as_the_network_is_told(shift: float) -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    flow.set_timesteps(6)
    schedule = NoiseSchedule.from_scheduler(flow)
    torch.testing.assert_close(schedule.sigma(flow.timesteps), flow.sigmas[:-1].double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        schedule.alpha(flow.timesteps), 1 - flow.sigmas[:-1].double(), rtol=1e-5, atol=1e-7
    )
    assert schedule.log_snr(1000) == -math.inf
    assert schedule.log_snr(0) == math.inf
    assert schedule.timestep(-math.inf) == 1000


@pytest.mark.parametrize("name", SCHEDULERS)
def test_log_snr_falls_and_its_inverse_returns(name: str) -> None:
    schedule = NoiseSchedule.from_scheduler(SCHEDULERS[name])
    low, high = schedule.timestep_range
    t = torch.linspace(low, high, 1237, dtype=torch.float64)
    level = schedule.log_snr(t)
    assert bool((level[1:] < level[:-1]).all())
    torch.testing.assert_close(schedule.timestep(level), t, rtol=1e-12, atol=1e-10)
    ratio = 2 * (schedule.alpha(t) / schedule.sigma(t)).log()
    torch.testing.assert_close(ratio, level, rtol=1e-12, atol=1e-9)
    if schedule.discrete:
        knots = torch.arange(schedule.num_train_timesteps or 0)
        torch.testing.assert_close(schedule.timestep(schedule.log_snr(knots)), knots.double(), rtol=0, atol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_facts_survive_json(name: str) -> None:
    schedule = NoiseSchedule.from_scheduler(SCHEDULERS[name])
    text = json.dumps(schedule.to_dict(), allow_nan=False)
    again = NoiseSchedule.from_dict(json.loads(text))
    t = torch.linspace(*schedule.timestep_range, 321, dtype=torch.float64)
    torch.testing.assert_close(again.log_snr(t), schedule.log_snr(t), rtol=1e-11, atol=1e-11)
    assert (again.kind, again.discrete) == (schedule.kind, schedule.discrete)


@pytest.mark.parametrize("name", ["zero SNR, exact", "zero SNR, 2^-24"])
def test_zero_terminal_snr_is_exact(name: str) -> None:
    schedule = NoiseSchedule.from_scheduler(SCHEDULERS[name])
    assert schedule.log_snr(999) == -math.inf
    assert (schedule.alpha(999), schedule.sigma(999)) == (0.0, 1.0)
    assert schedule.timestep(-math.inf) == 999
    half = schedule.alpha(998) / schedule.sigma(998) / 2
    assert schedule.log_snr(998.5) == pytest.approx(2 * math.log(half), rel=1e-12)


def test_numbers_and_tensors_come_back_as_they_came() -> None:
    schedule = NoiseSchedule.from_scheduler(VP["ddpm linear"])
    assert isinstance(schedule.alpha(500), float)
    many = schedule.log_snr(torch.tensor([[1, 2], [3, 4]]))
    assert many.shape == (2, 2)
    assert many.dtype == torch.float64


@pytest.mark.parametrize("t", [-1, 999.01, 1500, float("nan")])
def test_out_of_range_names_the_range(t: float) -> None:
    schedule = NoiseSchedule.from_scheduler(VP["ddpm linear"])
    with pytest.raises(ValueError, match=r"in \[0, 999\]"):
        schedule.alpha(t)
    with pytest.raises(ValueError, match="log_snr must be in"):
        schedule.timestep(99.0)


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="VQDiffusionScheduler"):
        NoiseSchedule.from_scheduler(diffusers.VQDiffusionScheduler(num_vec_classes=8))
    with pytest.raises(ValueError, match="strictly less signal"):
        NoiseSchedule.vp([0.9, 0.9, 0.5])
    with pytest.raises(ValueError, match="invert_sigmas"):
        NoiseSchedule.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    with pytest.raises(ValueError, match="integer"):
        NoiseSchedule.from_scheduler(VP["ddpm linear"]).check_timestep(3.5)


# Any process by its scales -----------------------------------------------------------------------------------


def test_from_scales_of_two_points_is_the_flow() -> None:
    t = torch.linspace(0, 1, 2)
    schedule, flow = NoiseSchedule.from_scales(1 - t, t, times=t), NoiseSchedule.flow(1)
    inside = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    for name in ("alpha", "sigma", "log_snr", "prior_scale"):
        ours, exact = getattr(schedule, name)(inside), getattr(flow, name)(inside)
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(schedule.timestep(schedule.log_snr(inside)), inside, rtol=1e-12, atol=0)
    assert schedule.timestep(-2.473525254297854) == pytest.approx(0.775, rel=1e-12)
    # Both ends, where a scale is zero.
    assert (schedule.log_snr(0.0), schedule.log_snr(1.0)) == (math.inf, -math.inf)
    assert (schedule.timestep(math.inf), schedule.timestep(-math.inf)) == (0.0, 1.0)
    schedule.check_timestep(0.123)


def test_from_scales_of_a_table_is_that_table_and_discrete() -> None:
    vp = NoiseSchedule.from_scheduler(diffusers.DDIMScheduler())
    table = NoiseSchedule.from_scales(vp.alpha(vp.times), vp.sigma(vp.times))
    assert table.num_train_timesteps == 1000
    torch.testing.assert_close(table.log_snr(vp.times), vp.log_snrs, rtol=1e-12, atol=1e-12)
    again = NoiseSchedule.from_dict(json.loads(json.dumps(table.to_dict())))
    torch.testing.assert_close(again.alpha(vp.times), vp.alpha(vp.times), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="an integer"):
        again.check_timestep(3.5)


@pytest.mark.parametrize(
    ("alpha", "sigma", "times", "message"),
    [
        ([1.0, 0.5], [0.1], None, "of one shape"),
        ([1.0, 0.5], [0.1, 0.5], [1.0, 0.0], "times must be increasing"),
        ([1.0, -0.5], [0.1, 0.5], None, "nonnegative"),
        ([1.0, 0.0], [0.1, 0.0], None, "not both zero"),
        ([1.0, 1.0], [0.5, 0.1], None, "less signal"),
        ([1.0], [0.5], None, "at least two"),
    ],
)
def test_scales_that_are_no_process(alpha: Any, sigma: Any, times: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule.from_scales(alpha, sigma, times)
