"""The pipeline: against closed forms with an exact network, and for what it promises about seeds, batches, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from exact_denoiser import ExactDenoiser
from torch import Tensor

from otprior.diffusion.grids import timestep_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import (
    GaussianPrior,
    IdentityPrior,
    RandomAtomPrior,
    SemiDiscretePrior,
    find_prior,
    prior_kinds,
)
from otprior.sampling import OTPriorPipeline, seeds_to_generators, start_at
from otprior.sampling.folders import network_sha256

LINEAR = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
SHAPE = (1, 8, 8)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quiet(pipe: OTPriorPipeline) -> OTPriorPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def exact(
    scheduler: Any, prior: Any = None, mean: Any = 0.3, classes: int | None = None, **more: Any
) -> OTPriorPipeline:
    network = ExactDenoiser(NoiseSchedule.from_scheduler(scheduler), mean, 0.5, SHAPE, classes)
    return quiet(OTPriorPipeline(network, scheduler, prior, **more))


def unet(classes: int | None = None, seed: int = 0) -> diffusers.UNet2DModel:
    torch.manual_seed(seed)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    ).eval()


@pytest.fixture(scope="module")
def atoms() -> Tensor:
    return noise(20, *SHAPE, seed=3).tanh()


def semidiscrete(atoms: Tensor, labels: Tensor | None = None, **more: Any) -> SemiDiscretePrior:
    generator = torch.Generator().manual_seed(0)
    return SemiDiscretePrior.fit(atoms, LINEAR, 500, labels, tol=0.2, generator=generator, **more)


# Truth ------------------------------------------------------------------------------------------------------


def test_one_prior_under_three_samplers_is_one_image() -> None:
    # DPM-Solver++ of order 1, DDIM and Euler are one map in two scales; float32 leaves 1e-6 a step.
    prior = IdentityPrior.build(SHAPE, LINEAR, 499)
    z = noise(8, *SHAPE)
    first, *others = (
        exact(scheduler, prior)(8, latents=z, output_type="latent").images
        for scheduler in (
            diffusers.DPMSolverMultistepScheduler(solver_order=1, timestep_spacing="trailing"),
            diffusers.DDIMScheduler(clip_sample=False),
            diffusers.EulerDiscreteScheduler(timestep_spacing="trailing"),
        )
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DPMSolverMultistepScheduler(),
        diffusers.HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02),
        diffusers.EDMEulerScheduler(sigma_max=700.0),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
@pytest.mark.parametrize("timestep", [500, None])
def test_the_probability_flow_is_followed_in_every_family(scheduler: Any, timestep: int | None) -> None:
    # A VP prior (or white noise at T) under networks of other processes: brought to their time and scale.
    prior = None if timestep is None else IdentityPrior.build(SHAPE, LINEAR, timestep)
    pipe = exact(scheduler, prior)
    z = noise(8, *SHAPE)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    t = schedule.timestep_range[1] if timestep is None else schedule.timestep(LINEAR.log_snr(timestep))
    expected = pipe.unet.flow_to_clean(
        schedule.prior_scale(t) * z.double(), schedule.alpha(t), schedule.sigma(t)
    )
    if timestep is not None and schedule.kind != "vp":
        start = z.double() * schedule.alpha(t) / LINEAR.alpha(timestep)
        expected = pipe.unet.flow_to_clean(start, schedule.alpha(t), schedule.sigma(t))
    spacing = "time" if timestep is None and schedule.kind == "flow" else "karras"
    errors = []
    for steps in (100, 200):
        grid = timestep_grid(schedule, t, steps, spacing)
        images = pipe(8, latents=z, timesteps=grid, output_type="latent").images
        errors.append(float((images - expected).abs().max()))
    # At least first order in the number of steps, until float32 and integer timesteps end it.
    assert errors[0] < 0.1
    assert errors[1] < max(0.6 * errors[0], 2e-3)


def test_gaussian_prior_on_gaussian_data_gives_the_data_back() -> None:
    # T(z) is exactly p_t* of N(μ, s²), and the flow takes it to μ + s z: the image has the seed's own z.
    data = (0.1 + 0.2 * noise(4000, *SHAPE, seed=5)).clamp(-1, 1)
    prior = GaussianPrior.fit(data, LINEAR, 500)
    network = ExactDenoiser(LINEAR, 0.1, 0.2, SHAPE)
    pipe = quiet(OTPriorPipeline(network, diffusers.DPMSolverMultistepScheduler(), prior))
    z = noise(16, *SHAPE)
    images = pipe(16, num_inference_steps=60, latents=z, output_type="latent").images
    # The fitted moments of 4,000 images err by 0.2/√4000 in the mean, by as much times √64 in all directions.
    assert float((images - (0.1 + 0.2 * z)).square().mean().sqrt()) < 0.03


def test_guidance_is_linear_in_the_networks_output() -> None:
    # With equal spreads the exact noise prediction is affine in μ, so guidance moves the mean to μ_0 + w (μ_c − μ_0).
    means = torch.tensor([-0.4, 0.4, 0.1], dtype=torch.float64)
    scheduler = diffusers.DPMSolverMultistepScheduler()
    prior = IdentityPrior.build(SHAPE, LINEAR, 500)
    z = noise(4, *SHAPE)
    guided = exact(scheduler, prior, means, 3, null_class_label=2)
    out = guided(4, class_labels=[0, 1, 0, 1], guidance_scale=2.0, latents=z, output_type="latent")
    assert out.nfe == 10
    for row, label in enumerate((0, 1, 0, 1)):
        moved = float(means[2] + 2.0 * (means[label] - means[2]))
        plain = exact(scheduler, prior, moved)
        expected = plain(1, latents=z[row : row + 1], output_type="latent").images[0]
        torch.testing.assert_close(out.images[row], expected, rtol=0, atol=1e-5)
    plain = guided(4, class_labels=1, latents=z, output_type="latent")
    assert plain.nfe == 5
    expected = exact(scheduler, prior, 0.4)(4, latents=z, output_type="latent").images
    torch.testing.assert_close(plain.images, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("scheduler", "nfe"),
    [
        (diffusers.DPMSolverMultistepScheduler(), 5),
        (diffusers.HeunDiscreteScheduler(), 9),
        (diffusers.UniPCMultistepScheduler(), 5),
        (diffusers.PNDMScheduler(skip_prk_steps=True), 6),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_nfe_is_counted_at_the_network(scheduler: Any, nfe: int) -> None:
    pipe = exact(scheduler, IdentityPrior.build(SHAPE, LINEAR, 500))
    assert pipe(3, generator=seeds_to_generators(range(3)), output_type="pt").nfe == nfe
    assert len(pipe.unet.calls) == nfe
    assert {rows for _, rows in pipe.unet.calls} == {3}
    assert not pipe.unet._forward_pre_hooks


# Seeds and batches ------------------------------------------------------------------------------------------

STOCHASTIC = {
    "ddpm": diffusers.DDPMScheduler(),
    "sde": diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "sde single": diffusers.DPMSolverSinglestepScheduler(
        algorithm_type="sde-dpmsolver++", lower_order_final=True
    ),
    "ancestral": diffusers.EulerAncestralDiscreteScheduler(),
    "kdpm2 ancestral": diffusers.KDPM2AncestralDiscreteScheduler(),
    "sa": diffusers.SASolverScheduler(),
}


@pytest.mark.parametrize("name", ["deterministic", *STOCHASTIC])
def test_an_image_depends_on_its_seed_alone(name: str, atoms: Tensor) -> None:
    scheduler = STOCHASTIC.get(name, diffusers.DPMSolverMultistepScheduler())
    noise_kind = "coupled" if name == "deterministic" else "fresh"
    pipe = quiet(OTPriorPipeline(unet(), scheduler, semidiscrete(atoms, noise=noise_kind)))

    def run(batch: int) -> Tensor:
        pieces = range(0, 64, batch)
        outs = [
            pipe(
                min(batch, 64 - i),
                generator=seeds_to_generators(range(i, min(i + batch, 64))),
                output_type="latent",
            )
            for i in pieces
        ]
        return torch.cat([out.images for out in outs])

    whole = run(64)
    assert float((run(7) - whole).abs().max()) < 1e-4
    alone = pipe(1, generator=torch.Generator().manual_seed(41), output_type="latent").images
    assert float((alone - whole[41]).abs().max()) < 1e-4


def test_threads_do_not_matter(atoms: Tensor) -> None:
    pipe = quiet(OTPriorPipeline(unet(), diffusers.DPMSolverMultistepScheduler(), semidiscrete(atoms)))
    before = torch.get_num_threads()
    images = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            images.append(pipe(4, generator=seeds_to_generators(range(4)), output_type="latent").images)
    finally:
        torch.set_num_threads(before)
    assert float((images[0] - images[1]).abs().max()) < 1e-4


def test_latents_are_the_seed_noise(atoms: Tensor) -> None:
    pipe = quiet(OTPriorPipeline(unet(), diffusers.EulerDiscreteScheduler(), semidiscrete(atoms)))
    drawn = pipe(3, generator=seeds_to_generators([4, 5, 6]), output_type="latent")
    z = torch.stack([noise(*SHAPE, seed=seed) for seed in (4, 5, 6)])
    given = pipe(3, latents=z, output_type="latent")
    assert torch.equal(drawn.images, given.images)
    assert torch.equal(drawn.sources, pipe.prior.source(z))


def test_fresh_noise_is_drawn_second(atoms: Tensor) -> None:
    prior = semidiscrete(atoms, noise="fresh")
    pipe = quiet(OTPriorPipeline(unet(), diffusers.DPMSolverMultistepScheduler(), prior))
    drawn = pipe(1, generator=seeds_to_generators([9]), output_type="latent").images
    generator = torch.Generator().manual_seed(9)
    z = torch.randn(1, *SHAPE, generator=generator)
    again = pipe(1, latents=z, generator=generator, output_type="latent").images
    assert torch.equal(drawn, again)


def test_one_generator_serves_all_in_turn() -> None:
    pipe = exact(diffusers.DPMSolverMultistepScheduler())
    whole = pipe(5, generator=torch.Generator().manual_seed(0), output_type="latent").images
    generator = torch.Generator().manual_seed(0)
    parts = [pipe(n, generator=generator, output_type="latent").images for n in (2, 3)]
    assert torch.equal(torch.cat(parts), whole)


def test_half_precision_network_keeps_its_type_and_the_prior_its_own(atoms: Tensor) -> None:
    network = unet().bfloat16()
    base = diffusers.DDPMPipeline(network, diffusers.DDPMScheduler())
    pipe = quiet(OTPriorPipeline.from_pipe(base, prior=semidiscrete(atoms)))
    assert pipe.unet is network
    assert pipe.dtype == torch.bfloat16
    assert pipe(2, output_type="latent").images.dtype == torch.bfloat16
    pipe.to(torch.float32)
    assert pipe.dtype == torch.float32
    assert pipe.prior.atoms.dtype == torch.float32


# Outputs, labels, pieces ------------------------------------------------------------------------------------


def test_outputs() -> None:
    pipe = exact(diffusers.DPMSolverMultistepScheduler())
    seeds = seeds_to_generators([1, 2])
    pil = pipe(2, generator=seeds).images
    assert [(image.size, image.mode) for image in pil] == [((8, 8), "L")] * 2
    array = pipe(2, generator=seeds_to_generators([1, 2]), output_type="np").images
    assert array.shape == (2, 8, 8, 1)
    tensor = pipe(2, generator=seeds_to_generators([1, 2]), output_type="pt").images
    latent = pipe(2, generator=seeds_to_generators([1, 2]), output_type="latent", return_dict=False)[0]
    assert torch.equal(tensor, (latent / 2 + 0.5).clamp(0, 1))
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(np.asarray(pil[0]), (array[0, :, :, 0] * 255).round().astype("uint8"))


def test_a_callback_is_given_what_it_asks_for() -> None:
    seen: list[dict[str, Any]] = []
    pipe = quiet(OTPriorPipeline(unet(), diffusers.DDIMScheduler()))
    given = {"callback_on_step_end": lambda *args: seen.append(args[3]), "num_inference_steps": 1}
    pipe(1, **given, callback_on_step_end_tensor_inputs=[])
    pipe(1, **given, callback_on_step_end_tensor_inputs=["latents"])
    assert [list(state) for state in seen] == [[], ["latents"]]
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs must be one of 'latents'"):
        pipe(1, **given, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_callback_sees_each_step_and_may_replace_latents() -> None:
    pipe = exact(diffusers.DDIMScheduler(clip_sample=False), IdentityPrior.build(SHAPE, LINEAR, 500))
    seen = []

    def callback(_: Any, step: int, t: Tensor, state: dict[str, Any]) -> dict[str, Any] | None:
        seen.append((step, int(t)))
        return {"latents": torch.zeros_like(state["latents"])} if step == 2 else None

    out = pipe(2, num_inference_steps=3, callback_on_step_end=callback, output_type="latent")
    assert seen == [(0, 500), (1, 333), (2, 166)]
    assert float(out.images.abs().max()) == 0


def test_own_timesteps_reach_the_network() -> None:
    pipe = exact(diffusers.UniPCMultistepScheduler(), IdentityPrior.build(SHAPE, LINEAR, 500))
    assert pipe(1, timesteps=[500, 306, 117], output_type="pt").nfe == 3
    assert [t for t, _ in pipe.unet.calls] == [500, 306, 117]
    with pytest.raises(ValueError, match="start_timestep = 500"):
        pipe(1, timesteps=[400, 200])


def test_labels_go_to_network_and_prior(atoms: Tensor) -> None:
    labels = torch.arange(20) % 2
    prior = semidiscrete(atoms, labels)
    scheduler = diffusers.DPMSolverMultistepScheduler()
    pipe = quiet(OTPriorPipeline(unet(3), scheduler, prior, null_class_label=2))
    out = pipe(
        4, class_labels=torch.tensor([0, 1, 0, 1]), generator=seeds_to_generators(range(4)), output_type="pt"
    )
    assert torch.equal(labels[out.sources], torch.tensor([0, 1, 0, 1]))
    for wrong, message in (
        (2, "of the prior"),
        (3, r"class_labels must be in \[0, 2\]"),
        (None, "fitted by class"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(1, class_labels=wrong)
    plain = quiet(OTPriorPipeline(unet(), scheduler, prior))
    assert plain(1, class_labels=1, output_type="pt").images.shape == (1, *SHAPE)


def test_null_label_rules() -> None:
    scheduler, identity = diffusers.DPMSolverMultistepScheduler(), IdentityPrior.build(SHAPE, LINEAR, 500)
    z = noise(2, *SHAPE)
    known = quiet(OTPriorPipeline(unet(3), scheduler, identity, null_class_label=2))
    unlabelled = known(2, latents=z, output_type="latent").images
    labelled = known(2, class_labels=2, latents=z, output_type="latent").images
    assert torch.equal(unlabelled, labelled)
    unknown = quiet(OTPriorPipeline(unet(3), scheduler, identity))
    assert torch.equal(unknown(2, class_labels=2, latents=z, output_type="latent").images, labelled)
    with pytest.raises(ValueError, match="no null_class_label"):
        unknown(2)
    with pytest.raises(ValueError, match="without null_class_label"):
        unknown(2, class_labels=1, guidance_scale=2.0)
    with pytest.raises(ValueError, match="guidance_scale must be 1 unless"):
        known(2, guidance_scale=2.0)
    with pytest.raises(ValueError, match="neither network nor prior knows classes"):
        quiet(OTPriorPipeline(unet(), scheduler, identity))(2, class_labels=1)
    with pytest.raises(ValueError, match=r"null_class_label must be an integer in \[0, 2\]"):
        OTPriorPipeline(unet(3), scheduler, identity, null_class_label=3)
    with pytest.raises(ValueError, match="without classes"):
        OTPriorPipeline(unet(), scheduler, identity, null_class_label=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be an integer"),
        ({"batch_size": 0}, "batch_size"),
        ({"output_type": "jpg"}, "output_type"),
        ({"batch_size": 2, "generator": seeds_to_generators([1])}, "one for each of the 2 images"),
        ({"generator": 7}, "torch.Generator"),
        ({"latents": torch.zeros(1, 1, 9, 9)}, "latents must be of shape"),
        ({"latents": torch.full((1, *SHAPE), float("nan"))}, "latents must be finite"),
        ({"timesteps": [500, 600]}, "strictly decreasing"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], message: str) -> None:
    pipe = exact(diffusers.DPMSolverMultistepScheduler(), IdentityPrior.build(SHAPE, LINEAR, 500))
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


def test_a_prior_of_another_size_is_refused() -> None:
    small = IdentityPrior.build((1, 4, 4), LINEAR, 500)
    pipe = exact(diffusers.DPMSolverMultistepScheduler())
    with pytest.raises(ValueError, match=r"of shape \(1, 8, 8\); got \(1, 4, 4\)"):
        OTPriorPipeline(pipe.unet, pipe.scheduler, small)
    with pytest.raises(ValueError, match="prior must be"):
        pipe.prior = small


def test_components_of_another_kind_are_refused(tmp_path: Path) -> None:
    """Such as a prior's folder: its name is not loaded."""
    network, scheduler = unet(), diffusers.DDIMScheduler()
    for prior in (str(tmp_path), network):
        with pytest.raises(ValueError, match="prior must be a Prior, or None"):
            OTPriorPipeline(network, scheduler, prior)
        with pytest.raises(ValueError, match="prior must be a Prior, or None"):
            OTPriorPipeline(network, scheduler).prior = prior
        with pytest.raises(ValueError, match="prior must be a Prior, or None"):
            start_at(scheduler, prior)
        with pytest.raises(ValueError, match="scheduler must be one of diffusers"):
            OTPriorPipeline(network, prior)


def test_a_scheduler_that_cannot_start_is_named() -> None:
    pipe = exact(diffusers.DDIMScheduler(), IdentityPrior.build(SHAPE, LINEAR, 500))
    pipe.scheduler = diffusers.DDIMInverseScheduler()
    with pytest.raises(ValueError, match=r"got DDIMInverseScheduler\. Use DPMSolverMultistepScheduler"):
        pipe(1)


def test_from_pipe_replaces_ancestral_ddpm_only() -> None:
    network = unet(3)
    for scheduler, expected in (
        (diffusers.DDPMScheduler(beta_schedule="scaled_linear"), "DPMSolverMultistepScheduler"),
        (diffusers.DDIMScheduler(), "DDIMScheduler"),
    ):
        pipe = OTPriorPipeline.from_pipe(diffusers.DDPMPipeline(network, scheduler), null_class_label=2)
        assert type(pipe.scheduler).__name__ == expected
        assert torch.equal(pipe.scheduler.alphas_cumprod, scheduler.alphas_cumprod)
        assert pipe.config.null_class_label == 2
    chosen = OTPriorPipeline.from_pipe(pipe, scheduler=diffusers.DDPMScheduler())
    assert type(chosen.scheduler).__name__ == "DDPMScheduler"
    assert chosen.config.null_class_label == 2
    with pytest.raises(ValueError, match="component 'unet'"):
        OTPriorPipeline.from_pipe(diffusers.DiTPipeline(unet(), None, diffusers.DDIMScheduler()))


# Files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, atoms: Tensor) -> tuple[Path, Tensor]:
    folder = tmp_path_factory.mktemp("pipeline")
    pipe = quiet(
        OTPriorPipeline(unet(3), diffusers.UniPCMultistepScheduler(), semidiscrete(atoms), null_class_label=2)
    )
    pipe.save_pretrained(folder)
    return folder, pipe(4, generator=seeds_to_generators(range(4)), output_type="latent").images


def test_a_saved_pipeline_reloads_in_a_fresh_process(saved: tuple[Path, Tensor], tmp_path: Path) -> None:
    folder, images = saved
    code = (
        "import sys, torch\n"
        "from otprior import OTPriorPipeline\n"
        "from otprior.sampling import seeds_to_generators\n"
        "pipe = OTPriorPipeline.from_pretrained(sys.argv[1])\n"
        "out = pipe(4, generator=seeds_to_generators(range(4)), output_type='latent')\n"
        "torch.save((out.images, out.sources, type(pipe.prior).__name__, pipe.config.null_class_label), sys.argv[2])\n"
    )
    target = tmp_path / "images.pt"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", code, str(folder), str(target)], check=True, cwd=tmp_path, env=environment
    )
    again, sources, prior, null = torch.load(target)
    assert float((again - images).abs().max()) < 1e-5
    assert (prior, null) == ("SemiDiscretePrior", 2)
    assert sources.shape == (4,)


def test_the_index_leaves_the_kind_of_prior_to_its_own_folder(saved: tuple[Path, Tensor]) -> None:
    index = json.loads((saved[0] / "model_index.json").read_text())
    assert "prior" not in index
    assert (saved[0] / "prior" / "config.json").is_file()
    assert index["null_class_label"] == 2


def test_networks_that_diffusers_would_leave_out_are_not_saved(tmp_path: Path) -> None:
    pipe = quiet(OTPriorPipeline(torch.nn.Identity(), diffusers.DDIMScheduler()))
    with pytest.raises(ValueError, match="unet must be a ModelMixin"):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_prior_assigned_later_is_saved(tmp_path: Path, atoms: Tensor) -> None:
    pipe = quiet(OTPriorPipeline(unet(), diffusers.DPMSolverMultistepScheduler()))
    pipe.prior = GaussianPrior.fit(atoms, LINEAR, 500)
    pipe.save_pretrained(tmp_path)
    assert type(OTPriorPipeline.from_pretrained(tmp_path).prior).__name__ == "GaussianPrior"


class OwnPrior(IdentityPrior):
    """A prior from outside of the package."""


LOADABLE = [kind for kind in prior_kinds() if find_prior(kind).loadable]


@pytest.mark.parametrize("kind", LOADABLE)
def test_a_pipeline_is_saved_with_any_kind_of_prior(kind: str, tmp_path: Path, atoms: Tensor) -> None:
    found, coupled = find_prior(kind), semidiscrete(atoms)
    if issubclass(found, IdentityPrior):
        prior = found.build(SHAPE, LINEAR, 500)
    elif issubclass(found, RandomAtomPrior):
        prior = found.of(coupled, 500)
    else:
        prior = found.fit(atoms, LINEAR)
    quiet(OTPriorPipeline(unet(), diffusers.DDIMScheduler(), prior)).save_pretrained(tmp_path)
    again = quiet(OTPriorPipeline.from_pretrained(tmp_path))
    assert type(again.prior) is found
    assert again(2, output_type="latent").images.shape == (2, *SHAPE)


# An autoencoder ----------------------------------------------------------------------------------------------


def autoencoder() -> diffusers.AutoencoderKL:
    """Of images of twice the size, in RGB, with one channel of latents."""
    torch.manual_seed(1)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (4, 4), "norm_num_groups": 2, "latent_channels": SHAPE[0]}
    return diffusers.AutoencoderKL(**kinds, **sizes, scaling_factor=0.5, shift_factor=0.1).eval()


def test_latents_are_decoded_by_the_models_own_autoencoder(tmp_path: Path) -> None:
    vae = autoencoder()
    pipe = quiet(OTPriorPipeline(unet(), diffusers.DDIMScheduler(), vae=vae))
    pipe.save_pretrained(tmp_path)
    again = quiet(OTPriorPipeline.from_pretrained(tmp_path))
    given = {"generator": seeds_to_generators(range(2)), "num_inference_steps": 2}
    latents = again(2, **given, output_type="latent").images
    given["generator"] = seeds_to_generators(range(2))
    images = again(2, **given, output_type="pt").images
    assert images.shape == (2, 3, 2 * SHAPE[1], 2 * SHAPE[2])
    with torch.no_grad():
        expected = vae.decode(latents / 0.5 + 0.1).sample
    assert torch.allclose(images, (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)  # rounding in another batch
    assert OTPriorPipeline.from_pipe(again).vae is again.vae


def test_a_latent_pipeline_of_diffusers_keeps_its_autoencoder(tmp_path: Path) -> None:
    kinds = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vqvae = diffusers.VQModel(**kinds, block_out_channels=(4,), norm_num_groups=2, latent_channels=SHAPE[0])
    diffusers.LDMPipeline(vqvae, unet(), diffusers.DDIMScheduler()).save_pretrained(tmp_path / "ldm")
    pipe = quiet(OTPriorPipeline.from_pretrained(tmp_path / "ldm"))
    assert pipe(1, num_inference_steps=2, output_type="pt").images.shape[1] == 3
    pipe.save_pretrained(tmp_path / "saved")
    assert isinstance(OTPriorPipeline.from_pretrained(tmp_path / "saved").vae, diffusers.VQModel)
    assert (
        OTPriorPipeline.from_pipe(diffusers.LDMPipeline(vqvae, unet(), diffusers.DDIMScheduler())).vae
        is vqvae
    )


def test_networks_that_want_a_prompt_are_refused_with_a_way_out(tmp_path: Path) -> None:
    network = diffusers.UNet2DConditionModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(4,), norm_num_groups=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), mid_block_type=None, cross_attention_dim=8,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"which also takes encoder_hidden_states\. Use its own pipeline"):
        OTPriorPipeline(network, diffusers.DDIMScheduler())
    (tmp_path / "model_index.json").write_text('{"transformer": ["diffusers", "DiTTransformer2DModel"]}')
    with pytest.raises(ValueError, match="with components unet and scheduler; got one with transformer"):
        OTPriorPipeline.from_pretrained(tmp_path)


def test_any_pipeline_folder_with_a_unet_will_do(tmp_path: Path) -> None:
    diffusers.DDPMPipeline(unet(3), diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    prior = IdentityPrior.build(SHAPE, LINEAR, 500)
    pipe = quiet(OTPriorPipeline.from_pretrained(tmp_path, prior=prior, null_class_label=2))
    assert pipe(2, output_type="pt").nfe == 5
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    without = OTPriorPipeline(pipe.unet, pipe.scheduler)
    without.save_pretrained(tmp_path / "without")
    assert OTPriorPipeline.from_pretrained(tmp_path / "without").prior is None


def test_a_folder_without_subfolders_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    # The layout of the first repositories of diffusers: network, scheduler and index beside each other.
    network = unet()
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    for part in ("unet", "scheduler"):
        for path in (tmp_path / part).iterdir():
            path.rename(tmp_path / path.name)
        (tmp_path / part).rmdir()
    pipe = quiet(OTPriorPipeline.from_pretrained(tmp_path, prior=IdentityPrior.build(SHAPE, LINEAR, 500)))
    assert torch.equal(pipe.unet.state_dict()["conv_in.weight"], network.state_dict()["conv_in.weight"])
    assert pipe(2, output_type="pt").nfe == 5
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    before = network_sha256(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-100])
    assert network_sha256(tmp_path) != before
    with pytest.raises(ValueError, match="damaged or truncated"):
        OTPriorPipeline.from_pretrained(tmp_path)
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"save_pretrained\(\.\.\.\) writes \.safetensors"):
        OTPriorPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("path", ["/no/such/folder", "./no/such", "nothing", "a/b/c"])
def test_a_missing_path_is_refused_without_the_network(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(FileNotFoundError, match="no pipeline folder"):
        OTPriorPipeline.from_pretrained(path)


def test_old_names_of_attention_are_known_and_other_files_fill_no_gap(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    quiet(OTPriorPipeline(network, diffusers.DDIMScheduler())).save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    new = load_file(weights)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in new.items():
        for now, then in names.items():
            key = key.replace(f".{now}.", f".{then}.")
        old[key] = value
    assert set(old) != set(new)
    save_file(old, weights, metadata={"format": "pt"})
    loaded: Any = OTPriorPipeline.from_pretrained(tmp_path / "model")
    assert all(torch.equal(value, new[key]) for key, value in loaded.unet.state_dict().items())
    # A file that diffusers does not read holds what is missing.
    save_file(new, weights.with_name("diffusion_pytorch_model.fp16.safetensors"), metadata={"format": "pt"})
    save_file({key: new[key] for key in sorted(new)[1:]}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 missing"):
        OTPriorPipeline.from_pretrained(tmp_path / "model")


def test_damaged_folders(saved: tuple[Path, Tensor], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def copy(name: str) -> Path:
        quiet(OTPriorPipeline(unet(), diffusers.DDIMScheduler())).save_pretrained(tmp_path / name)
        return tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors"

    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no model_index\.json"):
        OTPriorPipeline.from_pretrained(tmp_path / "empty")
    weights = copy("truncated")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or truncated"):
        OTPriorPipeline.from_pretrained(tmp_path / "truncated")
    weights = copy("missing")
    tensors = load_file(weights)
    tensors.pop("conv_in.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing, such as \['conv_in.weight'\]"):
        OTPriorPipeline.from_pretrained(tmp_path / "missing")
    weights = copy("pickled")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match="pickled weights are not loaded"):
        OTPriorPipeline.from_pretrained(tmp_path / "pickled")
