"""Starting stock schedulers at t*: against closed forms, and bit by bit against what diffusers does itself."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from exact_denoiser import ExactDenoiser
from torch import Tensor

from otprior.diffusion.grids import timestep_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.sampling.schedulers import matching_timestep, start_scheduler, supported_schedulers
from otprior.sampling.schedulers.start import Start

STOCHASTIC = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "SASolverScheduler",
    "UnCLIPScheduler",
    "DDPMWuerstchenScheduler",
)
# They jump to the clean image and draw noise anew, which is right for networks distilled to that only.
DISTILLED = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler")


def make(name: str, **config: Any) -> Any:
    cls = getattr(diffusers, name)
    wanted = {"clip_sample": False, "skip_prk_steps": True, **config}
    return cls(**{k: v for k, v in wanted.items() if k in inspect.signature(cls.__init__).parameters})


def middle(scheduler: Any) -> float:
    """A t* of about log-SNR −2.5 in each family's units."""
    return {"vp": 500, "flow": 777.0, "ve": 0.31, "scales": 0.8}[NoiseSchedule.from_scheduler(scheduler).kind]


def sample(start: Start, network: ExactDenoiser, x: Tensor, seed: int = 0) -> Tensor:
    """The sampling loop, from latents in the network's own scale at t*."""
    schedule = network.schedule
    t = float(start.timesteps[0])
    t = min(max(t, schedule.timestep_range[0]), schedule.timestep_range[1])
    x = x * start.scale(schedule.alpha(t), schedule.sigma(t))
    generator = torch.Generator().manual_seed(seed)
    for i, told in enumerate(start.timesteps):
        out = network(start.model_input(x, i), told, return_dict=False)[0]
        x = start.step(out, i, x, generator)
    return x


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Every row of the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", supported_schedulers())
def test_a_single_image_is_found_from_anywhere(name: str) -> None:
    # One atom μ: the exact network says μ at every time, so each sampler must return it, noisy or not. What is
    # left is the noise of the first timestep (σ = 0.01) in classes that end there rather than at σ = 0.
    scheduler = make(name)
    network = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.0)
    start = start_scheduler(scheduler, middle(scheduler), 5)
    out = sample(start, network, noise(8, 1, 2, 2))
    assert float((out - 0.3).abs().max()) < 0.06
    assert abs(network.calls[0][0] - middle(scheduler)) < 1e-3
    assert len(network.calls) == start.nfe


@pytest.mark.parametrize("name", [n for n in supported_schedulers() if n not in DISTILLED])
def test_gaussian_data_is_solved_from_mid_schedule(name: str) -> None:
    scheduler = make(name)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    network = ExactDenoiser(schedule, 0.3, 0.5)
    t = middle(scheduler)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    count = 4000 if name in STOCHASTIC else 16
    x = alpha * (0.3 + 0.5 * noise(count, 1, 2, 2)) + sigma * noise(count, 1, 2, 2, seed=1)
    out = sample(start_scheduler(scheduler, t, 100), network, x)
    if name in STOCHASTIC:
        # 16,000 numbers: standard errors 0.004 of the mean and 0.003 of the spread, plus 100 steps' own error.
        assert float(out.mean()) == pytest.approx(0.3, abs=0.02)
        assert float(out.std()) == pytest.approx(0.5, abs=0.02)
    else:
        # First-order classes err by about 1/K; those that end at σ = 0.01 by that.
        # (CogVideoX's t = 500 is noisier than the others' by two units of log-SNR.)
        expected = network.flow_to_clean(x.double(), alpha, sigma)
        assert float((out - expected).abs().max()) < (0.08 if "CogVideoX" in name else 0.05)


@pytest.mark.parametrize("name", supported_schedulers())
def test_own_grid_is_run_or_refused(name: str) -> None:
    scheduler = make(name)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    t = middle(scheduler)
    grid = timestep_grid(schedule, t, 4, "karras")
    if not supported_schedulers()[name].own:
        with pytest.raises(ValueError, match=r"Use \w+Scheduler.from_config"):
            start_scheduler(scheduler, t, timesteps=grid)
        return
    start = start_scheduler(scheduler, t, timesteps=grid)
    distinct = list(dict.fromkeys(start.timesteps.tolist()))
    assert distinct == pytest.approx(grid, rel=1e-5)
    network = ExactDenoiser(schedule, 0.3, 0.0)
    tolerance = 0.12 if name == "TCDScheduler" else 0.06  # its default first σ is 0.03
    assert float((sample(start, network, noise(8, 1, 2, 2)) - 0.3).abs().max()) < tolerance


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large", "fixed_small_log"])
def test_a_fixed_variance_stays(kind: str) -> None:
    start = start_scheduler(make("DDPMScheduler", variance_type=kind), 500, 5)
    assert start.scheduler.config.variance_type == kind


GENERIC = "Of those that can, DPMSolverMultistepScheduler is for VP"
REFUSED = {
    "CMStochasticIterativeScheduler": GENERIC,
    "CosineDPMSolverMultistepScheduler": GENERIC,
    "DDIMInverseScheduler": "Use DPMSolverMultistepScheduler.from_config",
    "DPMSolverMultistepInverseScheduler": "Use DPMSolverMultistepScheduler.from_config",
    "FlowMatchHeunDiscreteScheduler": "Use FlowMatchEulerDiscreteScheduler.from_config",
    "IPNDMScheduler": GENERIC,
    "RePaintScheduler": "Use DPMSolverMultistepScheduler.from_config",
    "SCMScheduler": GENERIC,
    "ScoreSdeVeScheduler": GENERIC,
    "VQDiffusionScheduler": GENERIC,
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_with_a_name(name: str) -> None:
    if name == "CosineDPMSolverMultistepScheduler":
        pytest.importorskip("torchsde")
    with pytest.raises(ValueError, match=f"got {name}. {REFUSED[name]}"):
        start_scheduler(make(name, num_vec_classes=8), 500, 5)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("PNDMScheduler", {"skip_prk_steps": False}, "skip_prk_steps=True"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "mu must be given"),
        ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -0.5}, "first timestep"),
        (
            "EulerDiscreteScheduler",
            {"use_karras_sigmas": True, "sigma_max": 5.0},
            "first timestep|first sigma",
        ),
    ],
)
def test_a_config_that_moves_the_start_is_refused(name: str, config: dict[str, Any], message: str) -> None:
    scheduler = make(name, **config)
    with pytest.raises(ValueError, match=message):
        start_scheduler(scheduler, middle(scheduler), 5)


# Bit for bit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_truncated_betas_are_own_timesteps(name: str) -> None:
    scheduler = make(name)
    network = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.5)
    x = noise(4, 1, 2, 2)
    truncated = start_scheduler(scheduler, 500, 5, spacing="linspace")
    assert truncated.timesteps.tolist() == [500, 400, 300, 200, 100]
    own = start_scheduler(scheduler, 500, timesteps=truncated.timesteps.tolist())
    assert torch.equal(sample(truncated, network, x), sample(own, network, x))


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "DDPMScheduler"]
)
def test_the_tail_of_a_stock_run(name: str) -> None:
    # At T = 1000, ten trailing steps visit 999, 899, ..., 99: from 499 on they are five steps from 499.
    scheduler = make(name, timestep_spacing="trailing")
    network = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.5)
    x = noise(4, 1, 2, 2)
    whole = make(name, timestep_spacing="trailing")
    whole.set_timesteps(10)
    if hasattr(whole, "set_begin_index"):
        whole.set_begin_index(5)
    tail, extra = x, {}
    if name in STOCHASTIC:
        extra["generator"] = torch.Generator().manual_seed(0)
    for t in whole.timesteps[5:]:
        tail = whole.step(network(tail, t, return_dict=False)[0], t, tail, **extra).prev_sample
    assert torch.equal(sample(start_scheduler(scheduler, 499, 5), network, x), tail)


@pytest.mark.parametrize(
    "name", ["UniPCMultistepScheduler", "DEISMultistepScheduler", "LMSDiscreteScheduler"]
)
def test_set_sigmas_are_the_stock_ones(name: str) -> None:
    scheduler = make(name, timestep_spacing="linspace")
    network = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.5)
    x = noise(4, 1, 2, 2)
    stock = start_scheduler(scheduler, 500, 6)
    own = start_scheduler(scheduler, 500, timesteps=stock.timesteps.tolist())
    assert torch.equal(own.scheduler.sigmas, stock.scheduler.sigmas)
    assert torch.equal(sample(own, network, x), sample(stock, network, x))


def test_from_the_last_timestep_nothing_is_truncated() -> None:
    for config in ({}, {"rescale_betas_zero_snr": True, "prediction_type": "sample"}):
        scheduler = make("DPMSolverMultistepScheduler", **config)
        stock = make("DPMSolverMultistepScheduler", **config)
        stock.set_timesteps(7)
        start = start_scheduler(scheduler, 999, 7, spacing="linspace")
        assert torch.equal(start.timesteps, stock.timesteps)
        assert torch.equal(start.scheduler.sigmas, stock.sigmas)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("shape", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "karras", "exponential", "beta", "lu"])
def test_every_stock_spacing_starts_at_t(spacing: str, shape: str, rescale: bool) -> None:
    scheduler = make("DPMSolverMultistepScheduler", beta_schedule=shape, rescale_betas_zero_snr=rescale)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    start = start_scheduler(scheduler, 600, 7, spacing=spacing)
    assert start.nfe == 7
    assert abs(int(start.timesteps[0]) - 600) <= 1
    table = schedule.sigma(600) / schedule.alpha(600)
    # The table is float32; in the middle of the schedule that leaves six digits.
    assert float(start.scheduler.sigmas[0]) == pytest.approx(table, rel=1e-5)
    assert bool((start.scheduler.sigmas.diff() <= 0).all())


# Scale, and agreement of samplers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "timesteps", [None, [499, 303, 170, 61]], ids=["five trailing steps", "an uneven grid"]
)
def test_first_order_samplers_agree(timesteps: list[int] | None) -> None:
    # DPM-Solver++ of order 1, DDIM and Euler are one map in three scales; float32 leaves 1e-6 a step.
    network = ExactDenoiser(NoiseSchedule.from_scheduler(make("DDIMScheduler")), 0.3, 0.5)
    x = noise(16, 1, 2, 2)
    given = {"timesteps": timesteps} if timesteps else {"num_inference_steps": 5, "spacing": "trailing"}
    images = [
        sample(start_scheduler(scheduler, 499, **given), network, x)
        for scheduler in (
            make("DPMSolverMultistepScheduler", solver_order=1),
            make("DDIMScheduler"),
            make("EulerDiscreteScheduler"),
            make("DEISMultistepScheduler", solver_order=1),
        )
    ]
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(images[2], images[0], rtol=0, atol=1e-5)
    # DEIS ends at the first timestep's σ = 0.01 instead of 0.
    torch.testing.assert_close(images[3], images[0], rtol=0, atol=0.05)


def test_ddim_steps_end_where_the_next_begins() -> None:
    # 501 timesteps in 7 strides: diffusers' DDIM would evaluate at 428 what it stepped to 429.
    network = ExactDenoiser(NoiseSchedule.from_scheduler(make("DDIMScheduler")), 0.3, 0.5)
    x = noise(16, 1, 2, 2)
    start = start_scheduler(make("DDIMScheduler"), 500, 7)
    first_order = make("DPMSolverMultistepScheduler", solver_order=1)
    own = start_scheduler(first_order, 500, timesteps=start.timesteps.tolist())
    torch.testing.assert_close(sample(start, network, x), sample(own, network, x), rtol=0, atol=1e-5)


def test_scale() -> None:
    euler = start_scheduler(make("EulerDiscreteScheduler"), 500, 5)
    schedule = NoiseSchedule.from_scheduler(make("EulerDiscreteScheduler"))
    assert euler.scale(schedule.alpha(500), schedule.sigma(500)) == 1 / schedule.alpha(500)
    assert (
        start_scheduler(make("DDIMScheduler"), 500, 5).scale(schedule.alpha(500), schedule.sigma(500)) == 1.0
    )
    # From exactly zero SNR, the noise decides: Euler's σ there is 4096.
    zero = make("EulerDiscreteScheduler", rescale_betas_zero_snr=True)
    assert start_scheduler(zero, 999, 5).scale(0.0, 1.0) == pytest.approx(4096, rel=1e-6)


def test_matching_timestep(caplog: pytest.LogCaptureFixture) -> None:
    linear = NoiseSchedule.from_scheduler(make("DDIMScheduler"))
    edm, flow = NoiseSchedule.edm(0.002, 80), NoiseSchedule.flow(1000)
    alpha, sigma = linear.alpha(500), linear.sigma(500)
    assert matching_timestep(linear, alpha, sigma) == 500
    assert edm.sigma(matching_timestep(edm, alpha, sigma)) == pytest.approx(sigma / alpha, rel=1e-12)
    assert matching_timestep(flow, alpha, sigma) == pytest.approx(1000 * sigma / (alpha + sigma), rel=1e-12)
    assert not caplog.records
    short = NoiseSchedule.from_scheduler(make("DDIMScheduler", num_train_timesteps=20, beta_end=0.5))
    found = matching_timestep(short, alpha, sigma)
    assert found == round(short.timestep(linear.log_snr(500)))
    assert "off by" in caplog.text
    zero = NoiseSchedule.from_scheduler(make("DDIMScheduler", rescale_betas_zero_snr=True))
    assert matching_timestep(zero, 0.0, 1.0) == 999
    with pytest.raises(ValueError, match="log_snr must be in"):
        matching_timestep(linear, 1e-9, 1.0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_grids_are_not_shifted_twice(shift: float) -> None:
    scheduler = make("FlowMatchEulerDiscreteScheduler", shift=shift)
    start = start_scheduler(scheduler, 600.0, timesteps=[600.0, 250.0, 100.0])
    torch.testing.assert_close(start.timesteps, torch.tensor([600.0, 250.0, 100.0]))
    torch.testing.assert_close(start.scheduler.sigmas, torch.tensor([0.6, 0.25, 0.1, 0.0]))
    assert (start.alpha, start.sigma) == (0.4, 0.6)
    # From the top it is the grid that the pipelines of Flux and SD 3.5 give to the stock class, 1, (K − 1)/K, ..., 1/K.
    whole = make("FlowMatchEulerDiscreteScheduler", shift=shift)
    whole.set_timesteps(sigmas=[k / 8 for k in range(8, 0, -1)])
    torch.testing.assert_close(start_scheduler(scheduler, 1000.0, 8).timesteps, whole.timesteps)


FLOWS = [
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "shift_terminal": 0.1}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "time_shift_type": "linear"}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "shift_terminal": 0.02}),
    ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}),
    *(
        (name, {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction", **more})
        for name, more in (
            ("DPMSolverMultistepScheduler", {}),
            ("DPMSolverSinglestepScheduler", {}),
            ("UniPCMultistepScheduler", {}),
            ("UniPCMultistepScheduler", {"use_dynamic_shifting": True}),
            ("DEISMultistepScheduler", {}),
            ("SASolverScheduler", {}),
        )
    ),
]


@pytest.mark.parametrize(("name", "config"), FLOWS, ids=lambda value: str(value)[:40])
def test_every_flow_grid_begins_at_t_and_ends_at_the_shifted_kth_of_it(
    name: str, config: dict[str, Any]
) -> None:
    scheduler = make(name, **config)
    mu = 0.8 if config.get("use_dynamic_shifting") else None
    start = start_scheduler(scheduler, 700.0, 4, mu=mu)
    e = {None: 3.0 if len(config) > 1 or "shift" in config else 1.0, 0.8: math.exp(0.8)}[mu]
    e = 0.8 if config.get("time_shift_type") == "linear" else e
    top = 0.7 / (e - (e - 1) * 0.7)
    ends = [e * u / (1 + (e - 1) * u) for u in (top, top / 4)]
    told = start.timesteps.tolist()
    assert (told[0], told[-1]) == pytest.approx((700.0, 1000 * ends[1]), rel=1e-5)
    assert start.scheduler.sigmas[:-1].tolist() == pytest.approx([t / 1000 for t in told], rel=1e-5)
    assert float(start.scheduler.sigmas[-1]) <= 0.0011
    # A pipeline's own grid from the top is squeezed to the same.
    if not config.get("use_karras_sigmas"):
        squeezed = start_scheduler(scheduler, 700.0, sigmas=[1, 0.75, 0.5, 0.25], mu=mu)
        torch.testing.assert_close(squeezed.timesteps, start.timesteps, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "config"), FLOWS, ids=lambda value: str(value)[:40])
def test_every_flow_scheduler_follows_the_flow_of_gaussian_data(name: str, config: dict[str, Any]) -> None:
    scheduler = make(name, **config)
    network = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.5)
    count = 4000 if name == "SASolverScheduler" else 16
    x = 0.3 * (0.3 + 0.5 * noise(count, 1, 2, 2)) + 0.7 * noise(count, 1, 2, 2, seed=1)
    mu = 0.8 if config.get("use_dynamic_shifting") else None
    out = sample(start_scheduler(scheduler, 700.0, 100, mu=mu), network, x)
    if count > 16:  # standard errors 0.004 and 0.003, plus 100 steps' own error
        assert (float(out.mean()), float(out.std())) == pytest.approx((0.3, 0.5), abs=0.02)
    else:  # first order errs by about 1/K
        assert float((out - network.flow_to_clean(x.double(), 0.3, 0.7)).abs().max()) < 0.05


def test_flow_from_the_very_top_is_finite() -> None:
    for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        scheduler = make(name, use_flow_sigmas=True, prediction_type="flow_prediction")
        network = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), 0.3, 0.5)
        x = noise(16, 1, 2, 2)
        start, out = start_scheduler(scheduler, 1000.0, 50), x
        for i, t in enumerate(start.timesteps):
            out = start.step(network(out, t, return_dict=False)[0], i, out)
        # Second order, but the first step is long in log-SNR.
        assert float((out - network.flow_to_clean(x.double(), 0.0, 1.0)).abs().max()) < 0.05


def test_sigmas_are_for_flows_and_fall() -> None:
    with pytest.raises(ValueError, match="flow-matching"):
        start_scheduler(make("EulerDiscreteScheduler"), 500, sigmas=[3.0, 1.0])
    with pytest.raises(ValueError, match="strictly decreasing"):
        start_scheduler(make("FlowMatchEulerDiscreteScheduler"), 500.0, sigmas=[0.5, 0.6])


def test_edm_from_the_top_is_stock() -> None:
    for schedule in ("karras", "exponential"):
        scheduler, stock = (make("EDMEulerScheduler", sigma_schedule=schedule) for _ in range(2))
        stock.set_timesteps(9)
        start = start_scheduler(scheduler, math.log(80) / 4, 9)
        torch.testing.assert_close(start.scheduler.sigmas, stock.sigmas, rtol=1e-5, atol=0)
        torch.testing.assert_close(start.timesteps, stock.timesteps, rtol=1e-5, atol=1e-6)


def test_continuous_euler() -> None:
    config = {
        "timestep_type": "continuous",
        "prediction_type": "v_prediction",
        "sigma_min": 0.002,
        "sigma_max": 700.0,
    }
    start = start_scheduler(make("EulerDiscreteScheduler", use_karras_sigmas=True, **config), 0.5, 6)
    assert float(start.scheduler.sigmas[0]) == pytest.approx(math.exp(2), rel=1e-6)
    assert float(start.timesteps[0]) == 0.5
    assert start.scale(1.0, math.exp(2)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="use_karras_sigmas"):
        start_scheduler(make("EulerDiscreteScheduler", **config), 0.5, 6)


# Counting, checks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nfe"),
    [("HeunDiscreteScheduler", 9), ("KDPM2DiscreteScheduler", 9), ("PNDMScheduler", 6), ("DDIMScheduler", 5)],
)
def test_nfe_of_five_steps(name: str, nfe: int) -> None:
    assert start_scheduler(make(name), 500, 5).nfe == nfe
    assert start_scheduler(make(name), 500, 1).nfe == 1
    assert float(start_scheduler(make(name), 500, 1).timesteps[0]) == 500


def test_the_users_scheduler_is_left_alone() -> None:
    for name in supported_schedulers():
        scheduler = make(name)
        before = {k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(scheduler).items()}
        start_scheduler(scheduler, middle(scheduler), 3)
        for key, value in vars(scheduler).items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)
            else:
                np.testing.assert_equal(value, before[key], f"{name}.{key}")


@pytest.mark.parametrize("steps", [7, 11, 14, 30, 46])
def test_trailing_has_as_many_steps_as_asked(steps: int) -> None:
    # diffusers' own trailing yields 8 timesteps for 7 of 600, the last of them −1.
    for start in (599, 998, 510):
        grid = start_scheduler(
            make("DPMSolverMultistepScheduler"), start, steps, spacing="trailing"
        ).timesteps
        assert len(grid) == steps
        assert int(grid[0]) == start
        assert int(grid[-1]) >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be an integer"),
        ({"num_inference_steps": 502}, "at most 501"),
        ({}, "one given"),
        ({"num_inference_steps": 5, "timesteps": [500, 3]}, "one given"),
        ({"timesteps": []}, "at least one"),
        ({"timesteps": [500, 700]}, "strictly decreasing"),
        ({"timesteps": [500, 500]}, "strictly decreasing"),
        ({"timesteps": [1500, 700]}, r"in \[0, 999\]"),
        ({"timesteps": [400, 300]}, "start_timestep = 500"),
        ({"timesteps": [500, 300.5]}, "integer"),
        ({"num_inference_steps": 5, "spacing": "leading"}, "spacing must be one of"),
        ({"timesteps": [500, 3], "spacing": "karras"}, "spacing"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start_scheduler(make("DPMSolverMultistepScheduler"), 500, **arguments)


def test_spacing_that_the_class_lacks() -> None:
    with pytest.raises(ValueError, match="one that DDIMScheduler has"):
        start_scheduler(make("DDIMScheduler"), 500, 5, spacing="karras")
    with pytest.raises(ValueError, match=r"in \[0, 999\]"):
        start_scheduler(make("DDIMScheduler"), 1000, 5)
