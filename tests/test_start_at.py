"""Schedulers of a stock class that begin at t*: the steps are the same, and pipelines see the class."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from exact_denoiser import ExactDenoiser
from tiny_pipelines import pixel_unet
from torch import Tensor

from otprior import OTPriorPipeline, attach, start_at
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior, IdentityPrior, SemiDiscretePrior
from otprior.sampling.schedulers import start_scheduler, supported_schedulers
from otprior.sampling.schedulers.start import find_origin

LINEAR = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
SHAPE = (2, 4, 4)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(name: str, **config: Any) -> Any:
    cls = getattr(diffusers, name)
    wanted = {"clip_sample": False, "skip_prk_steps": True, **config}
    return cls(**{k: v for k, v in wanted.items() if k in inspect.signature(cls.__init__).parameters})


@pytest.fixture(scope="module")
def prior() -> GaussianPrior:
    data = 0.3 + 0.5 * noise(400, *SHAPE, seed=5)
    return GaussianPrior.fit(data, LINEAR, 500, value_range=None)


def run(scheduler: Any, network: Any, x: Tensor) -> Tensor:
    """A pipeline's loop."""
    takes = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": torch.Generator().manual_seed(0)} if takes else {}
    timesteps = scheduler.timesteps
    for t in timesteps[:-1] if isinstance(scheduler, diffusers.DDPMWuerstchenScheduler) else timesteps:
        x_in = scheduler.scale_model_input(x, t)
        x = scheduler.step(network(x_in, t, return_dict=False)[0], t, x, **extra).prev_sample
    return x


# The same steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", supported_schedulers())
def test_it_steps_as_a_scheduler_that_is_made_by_hand(name: str, prior: GaussianPrior) -> None:
    stock = make(name)
    network = ExactDenoiser(NoiseSchedule.from_scheduler(stock), 0.3, 0.5)
    z = noise(4, *SHAPE)
    origin = find_origin(stock, prior)
    start = start_scheduler(stock, origin.timestep, 4)
    x = prior(z) * start.scale(prior.alpha, prior.sigma)
    generator = torch.Generator().manual_seed(0)
    expected = x
    for i, t in enumerate(start.timesteps):
        out = network(start.model_input(expected, i), t, return_dict=False)[0]
        expected = start.step(out, i, expected, generator)
    begun = start_at(stock, prior)
    begun.set_timesteps(4)
    torch.testing.assert_close(begun.start(z), x, rtol=1e-6, atol=0)
    assert torch.equal(run(begun, network, begun.start(z)), expected)
    assert float(begun.timesteps[0]) == pytest.approx(begun.start_timestep, rel=1e-6)
    assert begun.num_inference_steps == 4


def test_one_seed_is_one_image_under_three_scales(prior: GaussianPrior) -> None:
    # DPM-Solver++ of order 1, DDIM and Euler are one map in two scales; float32 leaves 1e-6 a step.
    network = ExactDenoiser(LINEAR, 0.3, 0.5)
    images = []
    for name in ("DPMSolverMultistepScheduler", "DDIMScheduler", "EulerDiscreteScheduler"):
        begun = start_at(make(name, solver_order=1, timestep_spacing="trailing"), prior)
        begun.set_timesteps(5)
        images.append(run(begun, network, begun.start(noise(4, *SHAPE))))
    for other in images[1:]:
        torch.testing.assert_close(other, images[0], rtol=0, atol=1e-5)


def test_scale_from_no_signal_at_all() -> None:
    # At exactly zero SNR the noise decides: Euler's σ there is 4096.
    stock = make("EulerDiscreteScheduler", rescale_betas_zero_snr=True)
    prior = IdentityPrior.build(SHAPE, NoiseSchedule.from_scheduler(stock), 999)
    z = noise(2, *SHAPE)
    torch.testing.assert_close(start_at(stock, prior).start(z), 4096 * z, rtol=1e-6, atol=0)
    torch.testing.assert_close(start_at(make("DDIMScheduler"), None).start(z), z, rtol=1e-6, atol=0)


def test_the_scale_does_not_wait_for_timesteps_and_is_not_in_init_noise_sigma(prior: GaussianPrior) -> None:
    for name in supported_schedulers():
        begun = start_at(make(name), prior)
        before = begun.start(noise(2, *SHAPE))
        assert begun.init_noise_sigma == 1.0
        begun.set_timesteps(3)
        assert begun.init_noise_sigma == 1.0
        assert torch.equal(begun.start(noise(2, *SHAPE)), before)


def test_own_timesteps_and_grids_from_the_top(prior: GaussianPrior) -> None:
    begun = start_at(make("DDIMScheduler"), prior)
    begun.set_timesteps(timesteps=torch.tensor([500, 200, 10]))
    assert begun.timesteps.tolist() == [500, 200, 10]
    flow = start_at(make("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True), prior)
    for resolution in (0.5, 1.15):  # the network is told σ: t* is the same at every resolution
        flow.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=resolution)
        assert float(flow.timesteps[0]) == pytest.approx(flow.start_timestep, rel=1e-6)
        assert len(flow.timesteps) == 4
    with pytest.raises(ValueError, match="strength"):
        begun.set_timesteps(3, strength=0.5)


def test_steps_are_found_by_place(prior: GaussianPrior) -> None:
    network = ExactDenoiser(LINEAR, 0.3, 0.5)
    # Heun is told each timestep twice; a respaced DDIM differs inside.
    for name in ("HeunDiscreteScheduler", "DDIMScheduler"):
        begun = start_at(make(name), prior)
        begun.set_timesteps(3)
        begun.set_begin_index(0)
        x, first = begun.start(noise(2, *SHAPE)), None
        for place, t in enumerate(begun.timesteps):
            assert (begun.step_index or 0) == place
            x_in = begun.scale_model_input(x, t)
            x = begun.step(network(x_in, t, return_dict=False)[0], t, x, return_dict=False)[0]
            first = x if first is None else first
        begun.set_timesteps(3)  # a second run begins anew
        again = begun.start(noise(2, *SHAPE))
        x_in = begun.scale_model_input(again, begun.timesteps[0])
        out = network(x_in, begun.timesteps[0], return_dict=False)[0]
        assert torch.equal(begun.step(out, float(begun.timesteps[0]), again).prev_sample, first)
    fresh = start_at(make("DDIMScheduler"), prior)
    fresh.set_timesteps(3)
    with pytest.raises(ValueError, match="timestep must be one of the grid"):
        fresh.step(x, 123, x)
    with pytest.raises(ValueError, match="set_timesteps"):
        start_at(make("DDIMScheduler"), prior).step(x, 500, x)


# What pipelines ask ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", supported_schedulers())
def test_it_passes_for_its_stock_class(name: str, prior: GaussianPrior, tmp_path: Path) -> None:
    stock = make(name)
    before = copy.deepcopy(vars(stock))
    begun = start_at(stock, prior)
    begun.set_timesteps(3)
    assert isinstance(begun, type(stock))
    assert (type(begun).__name__, type(begun).__module__) == (type(stock).__name__, type(stock).__module__)
    assert begun.config == stock.config
    assert inspect.signature(begun.step) == inspect.signature(stock.step)
    shown = inspect.signature(begun.set_timesteps).parameters
    flow = name.startswith("Flow")
    assert ("sigmas" in shown, "timesteps" in shown) == (flow, True)
    begun.save_pretrained(tmp_path)
    loaded = type(stock).from_pretrained(tmp_path)
    assert type(loaded) is type(stock)
    assert {key: loaded.config[key] for key in stock.config if key[0] != "_"} == {
        key: value for key, value in stock.config.items() if key[0] != "_"
    }
    assert type(begun.from_config(begun.config)) is type(stock)
    assert vars(stock).keys() == before.keys()


def test_noise_is_added_at_the_timesteps_of_training(prior: GaussianPrior) -> None:
    x, e = noise(2, *SHAPE), noise(2, *SHAPE, seed=1)
    for name in ("DDIMScheduler", "DPMSolverMultistepScheduler"):
        begun = start_at(make(name), prior)
        begun.set_timesteps(4)
        t = begun.timesteps[1]
        expected = LINEAR.alpha(float(t)) * x + LINEAR.sigma(float(t)) * e
        torch.testing.assert_close(
            begun.add_noise(x, e, t.reshape(1).expand(2)), expected, rtol=1e-5, atol=1e-5
        )


def test_copies_share_the_prior_and_nothing_else(prior: GaussianPrior) -> None:
    begun = start_at(make("DPMSolverMultistepScheduler"), prior)
    begun.set_timesteps(4)
    other = copy.deepcopy(begun)
    assert other.prior is prior
    other.set_timesteps(2)
    assert (len(begun.timesteps), len(other.timesteps)) == (4, 2)
    network = ExactDenoiser(LINEAR, 0.3, 0.5)
    z = noise(2, *SHAPE)
    run(other, network, other.start(z))
    assert begun.step_index is None
    again = pickle.loads(pickle.dumps(begun))
    again.set_timesteps(4)
    assert torch.equal(run(again, network, again.start(z)), run(begun, network, begun.start(z)))


def test_a_second_start_at_begins_from_the_stock_scheduler(prior: GaussianPrior) -> None:
    stock = make("DDIMScheduler")
    twice = start_at(start_at(stock, prior), prior.at(300))
    assert twice.start_timestep == 300
    assert type(twice).__mro__[2] is type(stock)


# What is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_that_the_prior_did_not_make_are_refused(prior: GaussianPrior, dtype: torch.dtype) -> None:
    begun = start_at(make("DDIMScheduler"), prior)
    begun.set_timesteps(3)
    z = noise(8, *SHAPE).to(dtype)
    t = begun.timesteps[0]
    with pytest.raises(ValueError, match="white noise"):
        begun.step(z, t, z)  # nothing was started
    x = begun.start(z)
    assert x.dtype == dtype
    for foreign in (z, noise(8, *SHAPE, seed=3).to(dtype) * x.float().std()):
        begun.set_timesteps(3)
        with pytest.raises(ValueError, match="white noise"):
            begun.step(foreign, t, foreign)
    packed = x.reshape(8, 2, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(8, 4, 8)
    for own in (x, packed, torch.cat([x, x]), x.float(), x.to(torch.bfloat16)):
        begun.set_timesteps(3)
        begun.step(own, t, own)
    unchecked = start_at(make("DDIMScheduler"), prior, check=False)
    unchecked.set_timesteps(3)
    unchecked.step(z, t, z)


def test_sampling_that_begins_behind_t_is_refused(prior: GaussianPrior) -> None:
    # Image-to-image pipelines slice the timesteps and noise an image: no latents of the prior's.
    begun = start_at(make("DPMSolverMultistepScheduler"), prior)
    begun.set_timesteps(4)
    begun.set_begin_index(2)
    x = begun.start(noise(2, *SHAPE))
    with pytest.raises(ValueError, match="image-to-image"):
        begun.step(x, begun.timesteps[2], x)


def test_schedulers_that_cannot_start_at_t_are_refused_before_any_work(prior: GaussianPrior) -> None:
    with pytest.raises(ValueError, match="scheduler must be"):
        start_at(make("CMStochasticIterativeScheduler"), prior)
    narrow = IdentityPrior.build(SHAPE, NoiseSchedule.edm(0.002, 900.0), 1.7)
    with pytest.raises(ValueError, match="log_snr must be in"):
        start_at(make("DDIMScheduler"), narrow)


@pytest.mark.parametrize(
    "grid",
    [
        [],
        [500, 500],
        [100, 500],
        [900, 300],
        [400, 300],
        [500, math.nan],
        [500, -3],
        [500, 250.5],
        5,
        "500",
        [True],
    ],
)
@pytest.mark.parametrize("refuses", [start_at, attach])
def test_a_wrong_grid_is_refused_where_it_is_given(prior: GaussianPrior, refuses: Any, grid: Any) -> None:
    # (To `start_at` a scheduler, to `attach` a pipeline.)
    ddim = make("DDIMScheduler")
    what = ddim if refuses is start_at else diffusers.DDPMPipeline(pixel_unet(), ddim)
    with pytest.raises(ValueError, match=r"^timesteps must be"):
        refuses(what, prior, timesteps=grid)
    assert refuses is start_at or type(what.scheduler) is type(ddim)


# Labels and further noise ------------------------------------------------------------------------------------


def test_labels_reach_the_prior() -> None:
    data, labels = 0.3 * noise(60, *SHAPE, seed=5), torch.arange(60) % 3
    prior = GaussianPrior.fit(data, LINEAR, 500, labels=labels, value_range=None)
    begun = start_at(make("DDIMScheduler"), prior)
    z, asked = noise(3, *SHAPE), torch.tensor([2, 0, 1])
    torch.testing.assert_close(begun.start(z, asked), prior(z, labels=asked))
    with pytest.raises(ValueError, match="labels must be given"):
        begun.start(z)


def test_fresh_noise_follows_from_the_seed_noise_row_by_row() -> None:
    data = 0.3 * noise(20, *SHAPE, seed=5)
    prior = SemiDiscretePrior.fit(data, LINEAR, 500, value_range=None, tol=0.2).with_options(noise="fresh")
    begun = start_at(make("DDIMScheduler"), prior)
    z = noise(400, *SHAPE)
    x = begun.start(z)
    assert torch.equal(begun.start(z[7:9]), x[7:9])
    given = noise(400, *SHAPE, seed=9)
    assert torch.equal(begun.start(z, fresh=given), prior(z, fresh=given))
    atoms = prior.alpha * data[prior.source(z)]
    left = ((x - atoms) / prior.sigma).double()
    # 12,800 draws of N(0, 1), uncorrelated with the seed noise: standard errors 0.009, 0.0063 and 0.009.
    assert abs(float(left.mean())) < 0.04
    assert abs(float(left.std()) - 1) < 0.025
    assert abs(float((left * z).mean())) < 0.04


def test_a_pipeline_of_our_own_steps_in_continuous_time() -> None:
    """Würstchen's timesteps have an end that is no step."""
    scheduler = diffusers.DDPMWuerstchenScheduler()
    prior = IdentityPrior.build((1, 8, 8), NoiseSchedule.from_scheduler(scheduler), 0.5)
    pipe: Any = OTPriorPipeline(pixel_unet(), scheduler, prior)
    assert pipe(batch_size=1, num_inference_steps=3, output_type="pt").nfe == 3


@pytest.mark.parametrize("what", [None, torch.nn.Linear(2, 2)])
def test_what_is_no_scheduler(what: Any) -> None:
    with pytest.raises(ValueError, match="scheduler must be one of diffusers"):
        OTPriorPipeline(pixel_unet(), what)
    with pytest.raises(ValueError, match="skip_prk_steps"):
        start_at(diffusers.PNDMScheduler(), None)
