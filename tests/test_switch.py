"""What a network was trained on decides which schedulers may sample it, and with what."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from cli_helpers import assert_refused, run
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from exact_denoiser import ExactDenoiser
from torch import Tensor

from otprior import IdentityPrior, OTPriorPipeline, SemiDiscretePrior, attach, seeds_to_generators
from otprior.diffusion.codes import code_moments
from otprior.diffusion.likelihood import log_likelihood
from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.sampling_cost import Sampler
from otprior.experiments.sampling import sampler_of
from otprior.sampling import StartSpec, start_scheduler, supported_schedulers
from otprior.sampling.schedulers.names import few_step_scheduler, named_scheduler

FLOW, EDM = FlowMatchEulerDiscreteScheduler(), EDMEulerScheduler()
VP = [
    name
    for name in supported_schedulers()
    if NoiseSchedule.from_scheduler(getattr(diffusers, name)()).kind == "vp"
    and name != "UnCLIPScheduler"  # (It has one table of its own.)
]


def unet(channels: int = 1, out: int | None = None) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=out or channels,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        add_attention=False,
    ).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


# Another process --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "name"),
    [(DDPMScheduler(), "flow"), (DDPMScheduler(), "edm"), (FLOW, "dpm++2m"), (FLOW, "edm"), (EDM, "unipc")],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_a_sampler_of_another_process_is_refused(own: Any, name: str, tmp_path: Path) -> None:
    DDPMPipeline(unet(), own).save_pretrained(tmp_path / "m")
    command = ["sample", tmp_path / "m", "--prior", "none", "--scheduler", name, "--out", tmp_path / "out"]
    assert_refused(run(*command, "--seeds", "0"), "process")
    other = {"flow": FLOW, "edm": EDM}.get(name, DPMSolverMultistepScheduler())
    with pytest.raises(ValueError, match="process"):
        OTPriorPipeline.from_pretrained(tmp_path / "m", scheduler=other)
    pipe = OTPriorPipeline.from_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="process"):
        pipe.scheduler = other
    with pytest.raises(ValueError, match="process"):
        OTPriorPipeline.from_pipe(pipe, scheduler=other)
    with pytest.raises(ValueError, match="process"):
        sampler_of(pipe.scheduler, StartSpec("none", 999, 5, type(other).__name__, "karras"))


def test_a_network_with_another_scheduler_of_its_own_can_still_be_given_it() -> None:
    pipe = OTPriorPipeline(unet(), FLOW)
    assert pipe.scheduler is FLOW


def test_an_attached_pipeline_stays_with_its_process() -> None:
    scheduler = DDPMScheduler()
    pipe = quiet(DDPMPipeline(unet(), scheduler))
    attach(pipe, IdentityPrior.build((1, 8, 8), scheduler, 500))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="process"):
        pipe(num_inference_steps=2)


@pytest.mark.parametrize(
    ("own", "config"),
    [
        (DDPMScheduler(beta_schedule="squaredcos_cap_v2"), {}),
        (DDPMScheduler(prediction_type="v_prediction"), {}),
        (DDPMScheduler(num_train_timesteps=500), {"num_train_timesteps": 1000}),
        (DPMSolverMultistepScheduler(rescale_betas_zero_snr=True), {}),
    ],
)
def test_other_betas_and_another_prediction_are_another_network(own: Any, config: dict[str, Any]) -> None:
    pipe = OTPriorPipeline(unet(), own)
    with pytest.raises(ValueError, match="scheduler must be one for"):
        pipe.scheduler = DPMSolverMultistepScheduler(**config)


# A switch of samplers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    "own", ["DDPMScheduler", "EulerDiscreteScheduler", "LCMScheduler", "CogVideoXDDIMScheduler"]
)
def test_a_switch_keeps_process_and_prediction(own: str, stored: bool, tmp_path: Path) -> None:
    given = {"beta_end": 0.015, "prediction_type": "v_prediction"}
    cls = getattr(diffusers, own)
    scheduler = cls(**given)
    if stored:  # (with all defaults in its file)
        scheduler.save_pretrained(tmp_path)
        scheduler = cls.from_pretrained(tmp_path)
    process = NoiseSchedule.from_scheduler(scheduler)
    for name in VP:
        if name.startswith("KDPM2"):  # (slow to make, and like Euler)
            continue
        if own == "CogVideoXDDIMScheduler" and name != own:
            # Its betas are those of no other class.
            with pytest.raises(ValueError, match="process"):
                named_scheduler(name, scheduler)
            continue
        switched = named_scheduler(name, scheduler)
        assert torch.allclose(
            NoiseSchedule.from_scheduler(switched).log_snrs, process.log_snrs, rtol=0, atol=1e-4
        )
        assert switched.config.prediction_type == "v_prediction"


def test_a_switch_does_not_cut_latents_that_the_folder_does_not_cut() -> None:
    # Latents of standard deviation 3. Cut to [−1, 1], their spread was 0.9.
    own = DPMSolverMultistepScheduler()
    network = ExactDenoiser(NoiseSchedule.from_scheduler(own), 0.0, 3.0)
    for name in ("ddim", "ddpm"):
        pipe = quiet(OTPriorPipeline(network, named_scheduler(name, own)))
        out = pipe(32, latents=noise(32, 1, 2, 2), num_inference_steps=50, output_type="latent",
                   generator=seeds_to_generators(range(32))).images  # fmt: skip
        # 128 numbers: a standard error of 0.19.
        assert float(out.std()) == pytest.approx(3.0, abs=0.6)


def test_a_switch_and_back_still_cuts_pixels_that_the_folder_cuts() -> None:
    assert DDPMScheduler().config.clip_sample
    assert named_scheduler("ddim", few_step_scheduler(DDPMScheduler())).config.clip_sample


@pytest.mark.parametrize(
    "own", ["DEISMultistepScheduler", "SASolverScheduler", "DPMSolverMultistepScheduler"]
)
def test_a_switch_leaves_the_method_to_the_class(own: str, tmp_path: Path) -> None:
    cls = getattr(diffusers, own)
    cls().save_pretrained(tmp_path)  # with algorithm_type in it, whose names differ from class to class
    for name in ("dpm++2m", "dpm++2s", "deis", "sasolver", "unipc"):
        named_scheduler(name, cls.from_pretrained(tmp_path)).set_timesteps(3)


# Learned variances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_variances_that_a_network_predicts_are_left_out_everywhere(channels: int) -> None:
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    both, mean = unet(channels, 2 * channels), unet(channels)
    weights = both.state_dict()
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = weights[name][:channels]
    mean.load_state_dict(weights)
    x = noise(2, channels, 8, 8)
    few = few_step_scheduler(scheduler)
    samples, denoised, ends, densities = [], [], [], []
    for network in (both, mean):
        pipe = quiet(OTPriorPipeline(network, few))
        samples.append(pipe(2, latents=x, num_inference_steps=3, output_type="latent").images)
        denoiser = NetworkDenoiser(network, scheduler)
        with torch.no_grad():
            denoised.append(denoiser(x, 0.6, 0.8))
        schedule = denoiser.schedule
        ends.append(Sampler(network, few)(x, schedule.alpha(500), schedule.sigma(500), [500, 200]))
        clean, noisy = code_moments(schedule)
        densities.append(
            log_likelihood(denoiser, x, clean, noisy, probes=1, steps=2).log_density / x[0].numel()
        )
    for a, b in (samples, denoised, ends, densities):
        assert a.shape == b.shape
        # The same network, but for the order of sums in its last layer.
        assert torch.allclose(a, b, atol=1e-4)


def test_ancestral_ddpm_keeps_the_variances_that_it_takes() -> None:
    scheduler = DDPMScheduler(variance_type="learned_range")
    pipe = quiet(OTPriorPipeline(unet(1, 2), scheduler))
    generators = seeds_to_generators([0, 1])
    learned = pipe(2, num_inference_steps=5, generator=generators, output_type="latent").images
    pipe = quiet(OTPriorPipeline(unet(1, 2), DDPMScheduler(variance_type="fixed_small")))
    fixed = pipe(2, num_inference_steps=5, generator=seeds_to_generators([0, 1]), output_type="latent").images
    assert not torch.allclose(learned, fixed, atol=1e-3)


# NaN --------------------------------------------------------------------------------------------------------


class Overflowing(torch.nn.Module):
    """A network that gives NaN for the second image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = type("Config", (), {"in_channels": 1, "sample_size": 8})()

    def forward(self, sample: Tensor, timestep: Any, return_dict: bool = True) -> tuple[Tensor]:
        out = sample.clone()
        out[1:] = torch.nan
        return (out,)


@pytest.mark.parametrize("output_type", ["pil", "pt", "latent"])
def test_nan_is_an_error_and_no_black_image(output_type: str) -> None:
    pipe = quiet(OTPriorPipeline(Overflowing(), DPMSolverMultistepScheduler()))
    with pytest.raises(ValueError, match="finite; got NaN or infinity in 2 of 3 rows, first in row 1"):
        pipe(3, num_inference_steps=2, output_type=output_type)


def test_nan_is_an_error_in_an_attached_pipeline() -> None:
    scheduler = DDPMScheduler()
    network = unet()
    with torch.no_grad():
        network.conv_out.bias.fill_(torch.nan)
    pipe = quiet(DDPMPipeline(network, scheduler))
    attach(pipe, IdentityPrior.build((1, 8, 8), scheduler, 500))
    with pytest.raises(ValueError, match="finite"):
        pipe(num_inference_steps=2)


# A prior without classes ------------------------------------------------------------------------------------


def test_a_prior_without_classes_is_worth_a_warning_once(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = DDPMScheduler()
    torch.manual_seed(0)
    network = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, num_class_embeds=3,
                          block_out_channels=(8,), down_block_types=("DownBlock2D",),
                          up_block_types=("UpBlock2D",), norm_num_groups=4)  # fmt: skip
    data = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    plain = SemiDiscretePrior.fit(data, scheduler, timestep=500, tol=0.5)
    by_class = SemiDiscretePrior.fit(
        data, scheduler, timestep=500, tol=0.5, labels=torch.arange(12) % 2, num_classes=2
    )
    pipe = quiet(OTPriorPipeline(network, few_step_scheduler(scheduler), plain, null_class_label=2))
    with caplog.at_level(logging.WARNING):
        pipe(1, num_inference_steps=1)
        assert not caplog.records
        for _ in range(2):
            pipe(2, class_labels=[0, 1], num_inference_steps=1)
        assert [record.getMessage().count("25 %") for record in caplog.records] == [1]
        pipe.prior = by_class
        pipe(2, class_labels=[0, 1], num_inference_steps=1)
    assert len(caplog.records) == 1


# Steps that do nothing --------------------------------------------------------------------------------------


def stepping(name: str) -> list[dict[str, Any]]:
    """Configs of a class that differ in where its steps end."""
    known = inspect.signature(getattr(diffusers, name).__init__).parameters
    flags = [each for each in known if each.startswith("use_") and each.endswith(("sigmas", "lambdas"))]
    flags = [each for each in flags if each != "use_flow_sigmas"]
    found: list[dict[str, Any]] = [{flag: True} for flag in flags]
    found += [
        {"timestep_spacing": spacing} for spacing in ("linspace", "trailing") if "timestep_spacing" in known
    ]
    if "final_sigmas_type" in known:
        found += [each | {"final_sigmas_type": "sigma_min"} for each in found]
    if "set_alpha_to_one" in known:
        found += [each | {"set_alpha_to_one": False} for each in found]
    return found


@pytest.mark.parametrize(
    "name",
    # (KDPM2's are slow to make, and end like Euler.)
    [*(each for each in VP if "KDPM2" not in each), "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"],
)
def test_every_evaluation_has_an_effect(name: str) -> None:
    cls, own = getattr(diffusers, name), {"clip_sample": False, "skip_prk_steps": True}
    own = {key: value for key, value in own.items() if key in inspect.signature(cls.__init__).parameters}
    edm = name.startswith("EDM")
    for config in stepping(name) or [{}]:
        scheduler = cls(**own, **config)
        for steps in (1, 2, 5):
            try:
                start = start_scheduler(scheduler, 0.31 if edm else 500, steps)
            except ValueError as error:
                assert "prevents it" in str(error)  # noqa: PT017
                assert steps == 1  # (which is at timestep 0, says diffusers)
                continue
            assert start.nfe in (steps, steps + 1, 2 * steps - 1), (config, steps)
            x = noise(1, 1, 8, 8) * float(start.sigma)
            for index in range(start.nfe):
                out = (start.model_input(x, index) + noise(1, 1, 8, 8).flip(-1)).tanh()
                after = start.step(out, index, x, torch.Generator().manual_seed(index))
                assert not torch.allclose(after, x, rtol=1e-5, atol=1e-6), (config, steps, index)
                x = after
            assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    ("scheduler", "grid", "left"),
    [
        (diffusers.DEISMultistepScheduler(), [500, 200, 0], [500, 200]),
        (diffusers.DDIMScheduler(set_alpha_to_one=False), [500, 200, 0], [500, 200]),
        (diffusers.DDIMScheduler(), [500, 200, 0], [500, 200, 0]),
        (FLOW, [700.0, 300.0, 0.0], [700.0, 300.0]),
        (EDMEulerScheduler(final_sigmas_type="sigma_min"), [0.3, -1.0, -1.5536520], [0.3, -1.0]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_timestep_where_the_class_ends_is_left_out(scheduler: Any, grid: Any, left: Any) -> None:
    start = start_scheduler(scheduler, grid[0], timesteps=grid)
    assert start.timesteps.tolist() == pytest.approx(left)


def test_euler_says_so_when_a_folder_gives_another_class() -> None:
    # (Continuous Euler takes log(σ)/4: another process than that of its betas.)
    pipe = OTPriorPipeline(unet(), DDPMScheduler(prediction_type="v_prediction"))
    with pytest.raises(ValueError, match="process"):
        pipe.scheduler = EulerDiscreteScheduler(
            prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True
        )
