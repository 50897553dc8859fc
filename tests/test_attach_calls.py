"""What an attached pipeline keeps through the uses that users make of pipelines, and what is refused, with words."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from test_attach import Run, apart, fitted, seed_noise
from tiny_pipelines import FLOW, STEPS, VP, autoencoder, build, families, normal, quiet, unet, vp_schedulers
from torch import Tensor

import otprior
from otprior import OTPriorPipeline, attach, detach, start_at
from otprior.data import encode_images
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior, IdentityPrior, Prior, SemiDiscretePrior
from otprior.sampling.layouts import find_layout

FAMILIES = families()
SD = FAMILIES["StableDiffusion"]
SCHEDULE = NoiseSchedule.from_scheduler(diffusers.DDIMScheduler(**VP))


def sd(scheduler: Any = None) -> Any:
    return build("StableDiffusion", scheduler or diffusers.DDIMScheduler(**VP, clip_sample=False))


def sample(pipe: Any, **more: Any) -> Tensor:
    seed, _ = seed_noise("StableDiffusion")
    return pipe(**{**SD.call, **SD.raw, **seed, "num_inference_steps": STEPS, **more})[0]


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return sample(attach(sd(), fitted("StableDiffusion")))


# Every use of a pipeline -------------------------------------------------------------------------------------


def test_callbacks_see_every_step_and_may_change_it(expected: Tensor) -> None:
    pipe, seen = attach(sd(), fitted("StableDiffusion")), []

    def after(_: Any, step: int, t: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, int(t)))
        return {"latents": 2 * values["latents"]} if step == 1 else {}

    changed = sample(pipe, callback_on_step_end=after)
    assert seen == [(0, 500), (1, 333), (2, 166)]
    assert apart(changed, expected) > 0.1


def test_offload_hooks(expected: Tensor) -> None:
    from accelerate import cpu_offload

    pipe = sd()
    pipe.unet = copy.deepcopy(pipe.unet)
    cpu_offload(pipe.unet, torch.device("cpu"))
    assert torch.equal(sample(attach(pipe, fitted("StableDiffusion"))), expected)
    # In pipelines whose network sees z first, too.
    pixel = build("DDPM", vp_schedulers()[0])
    pixel.unet = copy.deepcopy(pixel.unet)
    seed, _ = seed_noise("DDPM")
    plain = Run("DDPM", attach(build("DDPM", vp_schedulers()[0]), fitted("DDPM")), **seed).latents
    cpu_offload(pixel.unet, torch.device("cpu"))
    seed, _ = seed_noise("DDPM")
    assert torch.equal(Run("DDPM", attach(pixel, fitted("DDPM")), **seed).latents, plain)


@pytest.mark.parametrize("name", ["StableDiffusion", "DDPM", "Wan"])
def test_deep_copies_are_attached_on_their_own(name: str) -> None:
    pipe = attach(build(name, FAMILIES[name].schedulers()[0]), fitted(name))
    first = Run(name, pipe, **seed_noise(name)[0]).latents
    other = copy.deepcopy(pipe)
    assert other.scheduler is not pipe.scheduler
    assert other.scheduler.prior is fitted(name)
    assert torch.equal(Run(name, other, **seed_noise(name)[0]).latents, first)
    detach(other)
    assert torch.equal(Run(name, pipe, **seed_noise(name)[0]).latents, first)


def test_saved_and_loaded_it_is_a_stock_folder(tmp_path: Path, expected: Tensor) -> None:
    pipe = attach(sd(), fitted("StableDiffusion"))
    pipe.save_pretrained(tmp_path)
    pipe.scheduler.prior.save_pretrained(tmp_path / "prior")  # beside the components, and none of them
    left_out = ("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    loaded = quiet(diffusers.DiffusionPipeline.from_pretrained(tmp_path, **dict.fromkeys(left_out)))
    assert type(loaded) is diffusers.StableDiffusionPipeline
    assert type(loaded.scheduler) is diffusers.DDIMScheduler
    attach(loaded, Prior.from_pretrained(tmp_path, subfolder="prior"))
    assert torch.equal(sample(loaded), expected)


def test_a_scheduler_that_is_assigned_later_starts_at_t_too(expected: Tensor) -> None:
    pipe = attach(sd(), fitted("StableDiffusion"))
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    assert apart(sample(pipe), expected) < 2e-5
    pipe.scheduler = pipe.scheduler.__class__.from_config(pipe.scheduler.config)
    assert apart(sample(pipe), expected) < 2e-5
    assert type(detach(pipe).scheduler) is diffusers.EulerDiscreteScheduler


def test_the_explicit_form(expected: Tensor) -> None:
    pipe = sd()
    pipe.scheduler = start_at(pipe.scheduler, fitted("StableDiffusion"))
    _, z = seed_noise("StableDiffusion")
    assert torch.equal(sample(pipe, latents=pipe.scheduler.start(z)), expected)
    with pytest.raises(ValueError, match="white noise"):
        sample(pipe)


def test_own_timesteps_where_the_class_takes_none() -> None:
    pipe = attach(sd(), fitted("StableDiffusion"))
    run = Run("StableDiffusion", pipe, timesteps=[500, 250, 40], **seed_noise("StableDiffusion")[0])
    told = [args[1] if len(args) > 1 else kwargs["timestep"] for args, kwargs in run.calls]
    assert [int(t) for t in told] == [500, 250, 40]


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("HeunDiscreteScheduler", 2 * STEPS - 1),
        ("UniPCMultistepScheduler", STEPS),
        ("PNDMScheduler", STEPS + 1),
        ("LCMScheduler", STEPS),
        ("EulerAncestralDiscreteScheduler", STEPS),
        ("KDPM2DiscreteScheduler", 2 * STEPS - 1),
        ("SASolverScheduler", STEPS),
    ],
)
def test_k_steps_are_k_steps_from_t_by_every_scheduler(name: str, calls: int) -> None:
    more = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    pipe = attach(sd(getattr(diffusers, name)(**VP, **more)), fitted("StableDiffusion"))
    run = Run("StableDiffusion", pipe, generator=torch.Generator().manual_seed(0))
    assert len(run.calls) == calls
    assert bool(run.latents.isfinite().all())


def test_it_is_what_the_library_s_own_pipeline_samples() -> None:
    seed, z = seed_noise("DDIM")
    scheduler = vp_schedulers()[0]
    run = Run("DDIM", attach(build("DDIM", scheduler), fitted("DDIM")), **seed)
    own = quiet(OTPriorPipeline(unet(in_channels=1, out_channels=1), scheduler, fitted("DDIM")))
    images = own(2, num_inference_steps=STEPS, latents=z, output_type="latent").images
    assert torch.equal(run.latents, images)


# Labels and prompts ------------------------------------------------------------------------------------------


def by_class(name: str, classes: int = 8) -> GaussianPrior:
    family = FAMILIES[name]
    labels = torch.arange(5 * classes) % classes
    data = 0.3 * normal(5 * classes, *family.shape, seed=2) + labels.reshape(-1, *[1] * len(family.shape)) / 4
    schedule = NoiseSchedule.from_scheduler(family.schedulers()[0])
    return GaussianPrior.fit(data, schedule, 500, labels=labels, value_range=None)


@pytest.mark.parametrize("guided", [False, True])
def test_class_labels_reach_a_prior_by_class(guided: bool) -> None:
    prior = by_class("DiT")
    pipe = attach(build("DiT", vp_schedulers()[0]), prior)
    starts = []
    stock = pipe.scheduler.start
    pipe.scheduler.start = lambda *args: starts.append(stock(*args)) or starts[-1]
    seed, z = seed_noise("DiT")
    Run("DiT", pipe, guided, **seed)
    start = prior(z, labels=torch.tensor([3, 5]))
    torch.testing.assert_close(starts[0][:2], start)
    if guided:  # the doubled rows start where the first ones do
        assert torch.equal(starts[0][2:], starts[0][:2])


def test_a_condition_chooses_the_label_of_a_prompt() -> None:
    prior, seen = by_class("StableDiffusion"), []

    def condition(call: dict[str, Any]) -> Any:
        seen.append(call)
        return None if call["guidance_rescale"] else [4, 6]

    pipe = attach(sd(), prior, condition=condition)
    prompts = {
        "prompt_embeds": normal(2, 5, 16, seed=1),
        "negative_prompt_embeds": normal(2, 5, 16, seed=2),
        "latents": normal(4, 4, 8, 8, seed=3),
    }
    ours = sample(pipe, **prompts)
    assert seen[0]["height"] == 64
    explicit = sd()
    explicit.scheduler = start_at(explicit.scheduler, prior)
    x = explicit.scheduler.start(prompts["latents"], torch.tensor([4, 4, 6, 6]))  # two images a prompt
    assert torch.equal(sample(explicit, **{**prompts, "latents": x}), ours)
    # None: that call starts at T, as without a prior; the next one at t* again.
    without = sample(pipe, guidance_rescale=0.5, **prompts)
    assert torch.equal(without, sample(sd(), guidance_rescale=0.5, **prompts))
    assert torch.equal(sample(pipe, **prompts), ours)


def test_labels_that_are_missing_or_too_many() -> None:
    with pytest.raises(ValueError, match="condition must be given"):
        attach(sd(), by_class("StableDiffusion"))
    pipe = attach(sd(), by_class("StableDiffusion"), condition=lambda call: [1, 2, 3])
    with pytest.raises(ValueError, match="a divisor of the 2 rows"):
        sample(pipe)
    pipe = attach(sd(), by_class("StableDiffusion"), condition=lambda call: 11)
    with pytest.raises(ValueError, match="labels must be in"):
        sample(pipe)


def test_a_prior_without_labels_on_a_network_with_prompts_is_worth_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="otprior"):
        attach(build("DDPM", vp_schedulers()[0]), fitted("DDPM"))
        attach(sd(), fitted("StableDiffusion"), condition=lambda call: 0)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="otprior"):
        attach(sd(), fitted("StableDiffusion"))
        attach(build("DiT", vp_schedulers()[0]), fitted("DiT"))
    assert len(caplog.records) == 2


@pytest.mark.parametrize("name", ["StableDiffusion", "DDPM", "DiT"])
def test_fresh_noise_follows_from_the_seed(name: str) -> None:
    family = FAMILIES[name]
    data = normal(20, *family.shape, seed=2)
    prior = SemiDiscretePrior.fit(data, SCHEDULE, 500, value_range=None, tol=0.3).with_options(noise="fresh")
    pipe = attach(build(name, vp_schedulers()[0]), prior)
    first = Run(name, pipe, bool(family.guided[0]), **seed_noise(name)[0])
    again = Run(name, pipe, bool(family.guided[0]), **seed_noise(name)[0])
    assert torch.equal(first.latents, again.latents)
    other = Run(name, pipe, bool(family.guided[0]), **seed_noise(name, seed=8)[0])
    assert not torch.allclose(first.latents, other.latents)


# Refused, with words -----------------------------------------------------------------------------------------


def test_image_to_image_is_refused() -> None:
    text = sd()
    image = diffusers.StableDiffusionImg2ImgPipeline(
        vae=autoencoder(), text_encoder=None, tokenizer=None, unet=text.unet, scheduler=text.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="noises an image"):
        attach(image, fitted("StableDiffusion"))
    assert type(image) is diffusers.StableDiffusionImg2ImgPipeline
    # Inpainting is white noise at strength 1 only.
    paint = quiet(
        diffusers.StableDiffusionInpaintPipeline(
            vae=autoencoder(), text_encoder=None, tokenizer=None, unet=text.unet, scheduler=text.scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )
    )  # fmt: skip
    attach(paint, fitted("StableDiffusion"))
    call = {
        **SD.call,
        "image": normal(1, 3, 8, 8).tanh(),
        "mask_image": torch.ones(1, 1, 8, 8),
        "height": 8,
        "width": 8,
    }
    call |= {"num_images_per_prompt": 1, "num_inference_steps": 4, "output_type": "latent"}
    assert bool(paint(**call, strength=1.0)[0].isfinite().all())
    with pytest.raises(ValueError, match="strength must be 1"):
        paint(**call, strength=0.5)


def test_flow_inpainting_of_a_whole_image_is_text_to_image() -> None:
    """At strength 1; where the mask keeps the image, its noise is the pipeline's own."""
    flux, parts = FAMILIES["Flux"], {"vae": autoencoder(shift_factor=0.1)}
    parts |= dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    parts["transformer"] = build("Flux", flux.schedulers()[0]).transformer
    call = {**flux.call, "height": 8, "width": 8, "num_inference_steps": STEPS, "output_type": "latent"}
    call["guidance_scale"] = 3.5
    whole, painted = (
        quiet(attach(cls(scheduler=flux.schedulers()[0], **parts), fitted("Flux")))
        for cls in (diffusers.FluxPipeline, diffusers.FluxInpaintPipeline)
    )
    image = {"image": normal(1, 4, 8, 8), "masked_image_latents": normal(1, 3, 8, 8)}
    mask = torch.ones(1, 1, 8, 8)

    def seed() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    expected = whole(**call, generator=seed())[0]
    got = painted(**call, **image, mask_image=mask, strength=1.0, generator=seed())[0]
    assert apart(got, expected) < 2e-5
    mask[..., :4] = 0
    half = painted(**call, **image, mask_image=mask, strength=1.0, generator=seed())[0]
    kept = painted._pack_latents(normal(1, 4, 8, 8), 1, 4, 8, 8)
    columns = torch.arange(16).reshape(4, 4)[:, :2].flatten()
    assert apart(half[0, columns], kept[0, columns]) < 2e-5
    assert apart(half, expected) > 0.1
    with pytest.raises(ValueError, match="strength must be 1"):
        painted(**call, **image, mask_image=mask, generator=seed())


KIN = [
    ("StableDiffusion", "StableDiffusionPAGPipeline", {"pag_scale": 0.0}),
    ("StableDiffusion", "StableDiffusionSAGPipeline", {"sag_scale": 0.0}),
    ("StableDiffusionXL", "StableDiffusionXLPAGPipeline", {"pag_scale": 0.0}),
    ("StableDiffusion3", "StableDiffusion3PAGPipeline", {"pag_scale": 0.0}),
    ("Sana", "SanaPAGPipeline", {"pag_scale": 0.0}),
    ("PixArtSigma", "PixArtSigmaPAGPipeline", {"pag_scale": 0.0}),
    ("PixArtSigma", "PixArtAlphaPipeline", {}),
]


@pytest.mark.parametrize(("name", "kin", "more"), KIN, ids=[kin for _, kin, _ in KIN])
def test_close_kin_end_where_their_family_does(name: str, kin: str, more: dict[str, Any]) -> None:
    """Where what they add is left out, they are the pipeline that a loop by hand decides on."""
    family = FAMILIES[name]
    first = build(name, family.schedulers()[0])
    cls = getattr(diffusers, kin)
    asked = set(inspect.signature(cls.__init__).parameters) - {"self"}
    parts = {part: getattr(first, part, None) for part in asked if part in first.components}
    parts |= {"requires_safety_checker": False} if "requires_safety_checker" in asked else {}
    other = quiet(cls(**parts))
    shared = {
        key: family.call[key] for key in family.call if key in inspect.signature(cls.__call__).parameters
    }
    call = {**shared, "num_inference_steps": STEPS, "output_type": "latent"}
    z = normal(family.batch, *family.shape, seed=7)
    ours, theirs = (
        attach(pipe, fitted(name))(**call, **further, latents=z.clone())[0]
        for pipe, further in ((first, {}), (other, more))
    )
    assert apart(theirs, ours) < 2e-5


def test_a_pipeline_made_from_an_attached_one_does_not_start_from_white_noise_at_t() -> None:
    pipe = attach(sd(), fitted("StableDiffusion"))
    sample(pipe)
    other = quiet(diffusers.StableDiffusionPipeline.from_pipe(pipe))
    assert type(other) is diffusers.StableDiffusionPipeline
    with pytest.raises(ValueError, match="white noise"):
        sample(other)
    assert bool(sample(attach(other, fitted("StableDiffusion"))).isfinite().all())


def test_a_refused_attach_leaves_the_pipeline_as_it_was() -> None:
    prior = fitted("StableDiffusion")
    pipe = attach(sd(), prior)
    first = sample(pipe)
    refused: list[tuple[str, tuple[Any, Any], dict[str, Any]]] = [
        ("pipe .*scheduler", (None, prior), {}),
        ("prior", (pipe, "a prior"), {}),
        ("condition", (pipe, prior), {"condition": 3}),
        ("layout", (pipe, prior), {"layout": abs}),
    ]
    for name, given, named in refused:
        with pytest.raises(ValueError, match=name):
            attach(*given, **named)
    assert torch.equal(sample(pipe), first)
    assert type(detach(pipe)) is diffusers.StableDiffusionPipeline


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("latents", {"latents": normal(1, 4, 8, 8)}),  # one, of one prompt times two images
        ("latents", {"latents": normal(2, 4, 8, 8).numpy()}),
        ("generator", {"latents": None, "generator": 0}),
    ],
)
def test_mistakes_in_a_call_are_named(name: str, told: dict[str, Any]) -> None:
    pipe = attach(sd(), fitted("StableDiffusion"))
    with pytest.raises(ValueError, match=f"^{name} must be"):
        sample(pipe, **told)


def test_no_steps_are_refused_before_a_pipeline_divides_by_them() -> None:
    pipe = attach(build("Flux", FAMILIES["Flux"].schedulers()[0]), fitted("Flux"))
    with pytest.raises(ValueError, match="num_inference_steps must be"):
        pipe(**FAMILIES["Flux"].call, num_inference_steps=0)


@pytest.mark.parametrize("name", ["DDPM", "DiT"])
def test_generators_are_as_many_as_images(name: str) -> None:
    family = FAMILIES[name]
    pipe = attach(build(name, family.schedulers()[0]), fitted(name))
    with pytest.raises(ValueError, match="generator must be"):
        pipe(**family.call, num_inference_steps=STEPS, generator=[torch.Generator()])


def test_a_start_is_no_seed() -> None:
    """Both forms at once would start from T(T(z))."""
    pipe, (seed, _) = attach(sd(), fitted("StableDiffusion")), seed_noise("StableDiffusion")
    with pytest.raises(ValueError, match="latents must be seed noise"):
        sample(pipe, latents=pipe.scheduler.start(seed["latents"]))
    # White noise is its own start at every timestep, however often.
    white = attach(sd(), IdentityPrior.build((4, 8, 8), SCHEDULE, 500))
    assert torch.equal(sample(white), sample(white))


def test_seed_noise_of_another_precision_is_the_same_seed(expected: Tensor) -> None:
    (seed, _), pipe = seed_noise("StableDiffusion"), attach(sd(), fitted("StableDiffusion"))
    assert torch.equal(sample(pipe, latents=seed["latents"].double()), expected)


def test_pickled_it_stays_attached(expected: Tensor) -> None:
    pipe = pickle.loads(pickle.dumps(attach(sd(), fitted("StableDiffusion"))))
    assert torch.equal(sample(pipe), expected)
    assert type(detach(pipe)) is diffusers.StableDiffusionPipeline


def test_latents_of_another_size_are_refused() -> None:
    pipe = attach(sd(), fitted("StableDiffusion"))
    with pytest.raises(ValueError, match=r"\(4, 8, 8\).*Fit it to latents of this height"):
        sample(pipe, height=128, latents=None)
    with pytest.raises(ValueError, match="root mean square"):
        sample(pipe, latents=30 * normal(2, 4, 8, 8))


def test_packing_is_asked_of_the_pipeline_and_never_guessed() -> None:
    flux = build("Flux", FAMILIES["Flux"].schedulers()[0])
    # (16, 4, 4) has as many entries as (4, 8, 8), and its rows would be another image.
    other = IdentityPrior.build((16, 4, 4), NoiseSchedule.flow(1000), 700.0)
    attach(flux, other)
    with pytest.raises(ValueError, match="layout="):
        Run("Flux", flux, **seed_noise("Flux")[0])
    given = attach(flux, other, layout=(lambda x: x.reshape(-1, 16, 4, 4), lambda x: x.reshape(-1, 16, 16)))
    run = Run("Flux", given, **seed_noise("Flux")[0])
    assert bool(run.latents.isfinite().all())


def test_a_film_of_one_frame_is_packed_as_films_are() -> None:
    unpack, pack = find_layout(build("LTX", FAMILIES["LTX"].schedulers()[0]), (4, 1, 4, 4), (16, 4))
    x = normal(2, 4, 1, 4, 4)
    assert torch.equal(pack(x), x.flatten(2).transpose(1, 2))
    assert torch.equal(unpack(pack(x)), x)


def test_from_images_to_an_image() -> None:
    # Latents by the pipeline's own autoencoder, a prior of them, samples from it.
    images = normal(12, 3, 8, 8).tanh()
    pipe = sd()
    pipe.register_modules(
        vae=autoencoder()
    )  # (It does not shrink, but the pipeline divides sizes by 8 as without.)
    prior = GaussianPrior.fit(encode_images(pipe.vae, images), pipe.scheduler, timestep=500)
    assert prior.shape == (4, 8, 8)
    call = {**SD.call, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    out = attach(pipe, prior)(**call, output_type="np")
    assert out.images.shape == (2, 8, 8, 3)


def test_an_autoencoder_of_films_gives_images_one_frame() -> None:
    qwen = build("QwenImage", FAMILIES["QwenImage"].schedulers()[0])
    seed, _ = seed_noise("QwenImage")
    plain = Run("QwenImage", attach(qwen, fitted("QwenImage")), **seed).latents
    config = {name: value for name, value in fitted("QwenImage").config.items() if name[0] != "_"}
    film = GaussianPrior(**{**config, "shape": [4, 1, 8, 8]})
    film.load_state_dict(fitted("QwenImage").state_dict())
    assert torch.equal(Run("QwenImage", attach(qwen, film), **seed).latents, plain)


def test_what_cannot_be_attached() -> None:
    pipe = sd()
    with pytest.raises(ValueError, match="prior must be a Prior"):
        attach(pipe, None)
    pipe.scheduler = diffusers.IPNDMScheduler()
    with pytest.raises(ValueError, match="scheduler must be"):
        attach(pipe, fitted("StableDiffusion"))
    assert type(pipe) is diffusers.StableDiffusionPipeline
    assert type(pipe.scheduler) is diffusers.IPNDMScheduler
    assert detach(pipe) is pipe
    own = OTPriorPipeline(unet(in_channels=1, out_channels=1), diffusers.DDIMScheduler())
    with pytest.raises(ValueError, match=r"pipe\.prior = prior"):
        attach(own, fitted("DDIM"))
    with pytest.raises(ValueError, match=r"pipe\.prior = prior"):
        own.scheduler = start_at(own.scheduler, fitted("DDIM"))


def test_signatures_and_names_are_the_stock_ones() -> None:
    stock = diffusers.StableDiffusionPipeline
    pipe = attach(sd(), fitted("StableDiffusion"))
    assert inspect.signature(pipe.__call__) == inspect.signature(stock.__call__).replace(
        parameters=list(inspect.signature(stock.__call__).parameters.values())[1:]
    )
    assert set(pipe.components) == set(sd().components)
    assert {"attach", "detach", "start_at"} <= set(otprior.__all__)


def test_flow_solvers_of_higher_order_run_from_t() -> None:
    # (Of first order they are the loops above.)
    for scheduler in (
        diffusers.DPMSolverMultistepScheduler(**FLOW),
        diffusers.UniPCMultistepScheduler(**FLOW),
        diffusers.FlowMatchLCMScheduler(shift=3.0),
    ):
        pipe = attach(build("Sana", scheduler), fitted("Sana"))
        run = Run("Sana", pipe, generator=torch.Generator().manual_seed(0))
        assert len(run.calls) == STEPS
        assert bool(run.latents.isfinite().all())
