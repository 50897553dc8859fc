"""Stock pipelines of several stages, with images held in the latents, noise at its own scale, or other forms."""

from __future__ import annotations

import copy
import math
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import build, dynamic_flux, masked, network, normal, quiet, unet, vqvae, wan_autoencoder
from torch import Tensor

from otprior import attach
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior, IdentityPrior

STEPS = 3
# A float32 loop of three steps; of the largest entry.
TOLERANCE = 2e-5


def gaussian(shape: tuple[int, ...], scheduler: Any, timestep: float) -> GaussianPrior:
    data = 0.4 + 0.5 * normal(40, *shape, seed=11)
    return GaussianPrior.fit(data, NoiseSchedule.from_scheduler(scheduler), timestep, value_range=None)


def recorded(net: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What a network is told from now on; the list fills."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    net.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    return calls


def apart(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).detach().abs().max() / expected.detach().abs().max())


class Nothing:
    """Stands for an encoder of prompts, and for a filter of films."""

    dtype = torch.float32

    def to(self, device: Any) -> Nothing:
        return self


# Stable Cascade, and what unCLIP makes of prompts ----------------------------------------------------------------


def cascade() -> Any:
    net = network(
        "StableCascadeUNet", conditioning_dim=16, block_out_channels=(16, 16), num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1), clip_image_in_channels=8,
        clip_text_in_channels=16, clip_text_pooled_in_channels=16, switch_level=(False,), dropout=(0.0, 0.0),
        in_channels=4, out_channels=4,
    )  # fmt: skip
    return quiet(
        diffusers.StableCascadePriorPipeline(None, Nothing(), net, diffusers.DDPMWuerstchenScheduler())
    )


def test_the_steps_of_stable_cascade_by_hand() -> None:
    pipe = cascade()
    prior, z, ends = (
        gaussian((4, 2, 2), pipe.scheduler, 0.6),
        normal(2, 4, 2, 2, seed=7),
        [0.6, 0.4, 0.2, 0.0],
    )
    kept = [float(pipe.scheduler._alpha_cumprod(torch.tensor([t]), "cpu")) for t in ends]
    net = pipe.prior
    calls = recorded(net)
    told = {f"prompt_embeds{more}": normal(2, *n, 16, seed=3) for more, n in (("", (5,)), ("_pooled", (1,)))}
    out = attach(pipe, prior)(
        **told, num_inference_steps=STEPS, guidance_scale=1.0, height=64, width=64, latents=z.clone(),
        generator=torch.Generator().manual_seed(5), output_type="pt",
    ).image_embeddings  # fmt: skip
    x, seed = prior(z), torch.Generator().manual_seed(5)
    assert [float(kwargs["timestep_ratio"][0]) for _, kwargs in calls] == pytest.approx(ends[:-1])
    for step, (_, kwargs) in enumerate(list(calls)):
        with torch.no_grad():
            noise = net(**{**kwargs, "sample": x})[0]
        now, then = kept[step], kept[step + 1]
        share = now / then
        x = (x - (1 - share) / math.sqrt(1 - now) * noise) / math.sqrt(share)
        fresh = torch.randn(x.shape, generator=seed)
        if step < STEPS - 1:
            x = x + math.sqrt((1 - share) * (1 - then) / (1 - now)) * fresh
    # (ᾱ is cut off at 0.9999, and the prior's comes from a table: 3e-7.)
    assert apart(out, x) < TOLERANCE


def embedder() -> Any:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
    net = network("PriorTransformer", embedding_dim=12, num_embeddings=5, additional_embeddings=4, **sizes)
    scheduler = diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0)
    pipe = quiet(diffusers.KandinskyPriorPipeline(net, None, None, None, scheduler, None))
    told = normal(2, 12, seed=1), normal(2, 5, 12, seed=2), torch.ones(2, 5, dtype=torch.bool)
    pipe._encode_prompt = lambda *args: told
    pipe.get_zero_embed = lambda count, device: torch.zeros(count, 12)
    return pipe


def test_the_steps_of_unclip_by_hand() -> None:
    """Latents are image embeddings (d,), and the pipeline says where a step leads to."""
    pipe = embedder()
    prior, z, kept = (
        gaussian((12,), pipe.scheduler, 600),
        normal(2, 12, seed=7),
        pipe.scheduler.alphas_cumprod,
    )
    net, grid = pipe.prior, [600, 300, 0, -1]
    calls = recorded(net)
    out = attach(pipe, prior)(
        ["a", "b"], num_inference_steps=STEPS, guidance_scale=1.0, latents=z.clone(),
        generator=torch.Generator().manual_seed(5),
    ).image_embeds  # fmt: skip
    x, seed = prior(z), torch.Generator().manual_seed(5)
    assert [int(kwargs["timestep"]) for _, kwargs in calls] == grid[:-1]
    for step, (_, kwargs) in enumerate(list(calls)):
        with torch.no_grad():
            clean = net(x, **kwargs).predicted_image_embedding.clamp(-5, 5)
        now, then = float(kept[grid[step]]), 1.0 if step == STEPS - 1 else float(kept[grid[step + 1]])
        share = now / then
        x = (math.sqrt(then) * (1 - share) * clean + math.sqrt(share) * (1 - then) * x) / (1 - now)
        if step < STEPS - 1:
            deviation = math.sqrt((1 - then) / (1 - now) * (1 - share))
            x = x + deviation * torch.randn(x.shape, generator=seed)
    # (1 − ᾱ_0 is 4e-5, which float32 has to three digits.)
    assert apart(out, net.post_process_latents(x)) < 1e-3


def test_a_stage_with_a_scheduler_of_its_own_is_left_alone() -> None:
    names = ("prior_tokenizer", "prior_text_encoder", "prior", "image_normalizer", "image_noising_scheduler")
    parts: dict[str, Any] = dict.fromkeys((*names, "tokenizer", "text_encoder", "unet", "vae"))
    first, second = diffusers.DDPMScheduler(), diffusers.DDIMScheduler()
    pipe = diffusers.StableUnCLIPPipeline(**parts, prior_scheduler=first, scheduler=second)
    attach(pipe, gaussian((4, 8, 8), second, 500))
    z, told = normal(2, 12), (torch.float32, "cpu", None)
    assert torch.equal(pipe.prepare_latents((2, 12), *told, z, first), z)
    z = normal(2, 4, 8, 8)
    x = pipe.prepare_latents((2, 4, 8, 8), *told, z, pipe.scheduler)
    assert torch.equal(x, pipe.scheduler.start(z))


# Cosmos ----------------------------------------------------------------------------------------------------------


def cosmos_network(in_channels: int = 4) -> Any:
    return network(
        "CosmosTransformer3DModel", in_channels=in_channels, out_channels=4, num_attention_heads=2,
        attention_head_dim=16, num_layers=1, text_embed_dim=16, adaln_lora_dim=4, max_size=(4, 16, 16),
        extra_pos_embed_type=None, concat_padding_mask=False,
    )  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_noise_at_the_largest_sigma_by_hand(scale: float) -> None:
    """Cosmos multiplies its noise by the largest σ, and steps twice: once to guide, and back."""
    net = cosmos_network()
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5)
    pipe = quiet(diffusers.CosmosTextToWorldPipeline(None, None, net, None, scheduler, Nothing()))
    prior, z = gaussian((4, 2, 4, 4), scheduler, math.log(2.0) / 4), normal(1, 4, 2, 4, 4, seed=7)
    calls = recorded(net)
    embeds = {f"{name}prompt_embeds": normal(1, 5, 16, seed=k) for k, name in enumerate(("", "negative_"))}
    out = attach(pipe, prior)(
        **embeds, height=32, width=32, num_frames=9, num_inference_steps=STEPS, guidance_scale=scale,
        latents=z.clone(), output_type="latent",
    ).frames  # fmt: skip
    x = prior(z)
    ends = [2.0 ** (1 / 7), 0.002 ** (1 / 7)]
    sigmas = [(ends[0] + k / (STEPS - 1) * (ends[1] - ends[0])) ** 7 for k in range(STEPS)] + [0.0]
    each = len(calls) // STEPS
    for k, told in enumerate([calls[each * k : each * (k + 1)] for k in range(STEPS)]):
        s = sigmas[k]
        assert float(told[0][1]["timestep"]) == pytest.approx(math.log(s) / 4, abs=1e-5)
        root = math.sqrt(s**2 + 0.25)
        with torch.no_grad():
            outs = [net(**{**kwargs, "hidden_states": x / root})[0] for _, kwargs in told]
        clean = [0.25 / root**2 * x + s * 0.5 / root * each for each in outs]
        guided = clean[0] + (scale * (clean[0] - clean[1]) if scale > 1 else 0)
        x = guided + sigmas[k + 1] / s * (x - guided)
    assert apart(out, x) < TOLERANCE


@pytest.mark.parametrize(("scale", "films"), [(1.0, False), (4.0, False), (1.0, True), (4.0, True)])
def test_a_flow_scheduler_of_an_exploding_process_by_hand(scale: float, films: bool) -> None:
    """Cosmos 2 steps from σ up to 80 by Euler's rule, and preconditions its network as a flow of time σ/(1 + σ).

    Its films have a first frame, which stands for the network's answer there.
    """
    net = cosmos_network(in_channels=4 + films)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    vae = wan_autoencoder() if films else None
    kind = diffusers.Cosmos2VideoToWorldPipeline if films else diffusers.Cosmos2TextToImagePipeline
    pipe = quiet(kind(None, None, net, vae, scheduler, Nothing()))
    prior = gaussian((4, 1 + films, 4, 4), pipe.scheduler, math.log(2.0) / 4)
    calls, seed = recorded(net), torch.Generator().manual_seed(7)
    embeds = {f"{name}prompt_embeds": normal(1, 5, 16, seed=k) for k, name in enumerate(("", "negative_"))}
    call = {**embeds, "height": 32, "width": 32, "num_inference_steps": STEPS, "output_type": "latent"}
    first = normal(1, 3, 32, 32, seed=3).tanh()
    told = {"image": first, "num_frames": 5} if films else {}
    generator = torch.Generator().manual_seed(7)
    out = attach(pipe, prior)(**call, **told, guidance_scale=scale, generator=generator)[0]
    held = torch.zeros(1, 4, 0, 4, 4)
    if films:
        with torch.no_grad():
            drawn = vae.encode(first[:, :, None].repeat(1, 1, 5, 1, 1)).latent_dist.sample(seed)
        held = (drawn[:, :, :1] - 0.1) / 2
    x = prior(torch.randn(1, *prior.shape, generator=seed))
    place = held.shape[2]
    ends = [2.0 ** (1 / 7), 0.002 ** (1 / 7)]
    sigmas = [(ends[0] + k / STEPS * (ends[1] - ends[0])) ** 7 for k in range(STEPS + 1)]
    each = len(calls) // STEPS
    for k, asked in enumerate([calls[each * k : each * (k + 1)] for k in range(STEPS)]):
        time = sigmas[k] / (1 + sigmas[k])
        assert float(asked[0][1]["timestep"].flatten()[place]) == pytest.approx(time, abs=1e-5)
        given = torch.cat([held, (x * (1 - time))[:, :, place:]], dim=2)
        with torch.no_grad():
            outs = [net(**{**kwargs, "hidden_states": given})[0] for _, kwargs in asked]
        clean = [torch.cat([held, (x * (1 - time) - time * each)[:, :, place:]], dim=2) for each in outs]
        guided = clean[0] + (scale * (clean[0] - clean[1]) if scale > 1 else 0)
        x = guided + sigmas[k + 1] / sigmas[k] * (x - guided)
    assert apart(out, x if films else x[:, :, 0]) < TOLERANCE
    # One of the same process that takes another kind of answer:
    pipe.scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80)
    with pytest.raises(ValueError, match="'velocity'"):
        pipe(**call, **told)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_flow_map_is_told_both_ends_of_each_step(scale: float) -> None:
    net = network(
        "AnyFlowTransformer3DModel", num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=16, freq_dim=16, ffn_dim=24, num_layers=1,
    )  # fmt: skip
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=5.0)
    pipe = quiet(diffusers.AnyFlowPipeline(None, None, net, None, scheduler))
    prior, z = gaussian((4, 2, 4, 4), scheduler, 800.0), normal(1, 4, 2, 4, 4, seed=7)
    calls = recorded(net)
    embeds = {f"{name}prompt_embeds": normal(1, 5, 16, seed=k) for k, name in enumerate(("", "negative_"))}
    if scale == 1:
        del embeds["negative_prompt_embeds"]
    out = attach(pipe, prior)(
        **embeds, height=32, width=32, num_frames=5, num_inference_steps=STEPS, guidance_scale=scale,
        latents=z.clone(), output_type="latent",
    ).frames  # fmt: skip
    x = prior(z).transpose(1, 2)
    first = 0.8 / (5 - 4 * 0.8)  # before the shift
    sigmas = [5 * u / (1 + 4 * u) for u in (first * k / STEPS for k in range(STEPS, -1, -1))]
    for k, (_, kwargs) in enumerate(list(calls)):
        told = [float(kwargs[name].flatten()[0]) for name in ("timestep", "r_timestep")]
        assert told == pytest.approx([1000 * sigmas[k], 1000 * sigmas[k + 1]], abs=1e-3)
        rows = len(kwargs["hidden_states"])
        with torch.no_grad():
            answer = net(**{**kwargs, "hidden_states": x.repeat(rows, 1, 1, 1, 1)})[0]
        velocity = answer[:1] + scale * (answer[1:] - answer[:1]) if rows == 2 else answer
        x = x - (sigmas[k] - sigmas[k + 1]) * velocity
    assert apart(out, x.transpose(1, 2)) < TOLERANCE


# Films from a first frame ----------------------------------------------------------------------------------------


def film_maker() -> Any:
    """An LTXImageToVideoPipeline: latents 4 x 3 x 8 x 8 of films 3 x 9 x 32 x 32."""
    scaled = (True, True, False, False)
    vae = network(
        "AutoencoderKLLTXVideo", latent_channels=4, block_out_channels=(8,) * 4, layers_per_block=(1,) * 5,
        decoder_block_out_channels=(8,) * 4, decoder_layers_per_block=(1,) * 5, spatio_temporal_scaling=scaled,
        decoder_spatio_temporal_scaling=scaled, decoder_inject_noise=(False,) * 5, patch_size=1, patch_size_t=1,
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4,
    )  # fmt: skip
    net = copy.deepcopy(build("LTX", dynamic_flux()[0]).transformer)
    parts = {"scheduler": dynamic_flux()[0], "text_encoder": None, "tokenizer": None}
    return quiet(diffusers.LTXImageToVideoPipeline(vae=vae, transformer=net, **parts))


def unpacked(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(len(x), 4, 3, 8, 8)


def packed(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


FILM = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": STEPS, "output_type": "latent"}


def test_a_film_from_its_first_frame_by_hand() -> None:
    """The frame stays as it is, although the autoencoder draws it from a law; the others start from the prior."""
    pipe = film_maker()
    prior = IdentityPrior.build((4, 3, 8, 8), NoiseSchedule.flow(1000), 700.0)
    image, seed = normal(2, 3, 32, 32).tanh(), torch.Generator().manual_seed(7)
    net, vae = pipe.transformer, pipe.vae
    calls = recorded(net)
    call = masked(2, image=image, guidance_scale=1.0, **FILM)
    out = attach(pipe, prior)(**call, generator=torch.Generator().manual_seed(7)).frames
    with torch.no_grad():
        drawn = [vae.encode(each[None, :, None]).latent_dist.sample(seed) for each in image]
    frame, z = torch.cat(drawn), torch.randn(2, 4, 3, 8, 8, generator=seed)
    # (White noise at t*, entry by entry: what z is in the first frame does not matter.)
    x = torch.cat([frame, prior(z)[:, :, 1:]], dim=2)
    e = math.exp(0.5 + (1.15 - 0.5) * (192 - 256) / (4096 - 256))
    top = 0.7 / (e - (e - 1) * 0.7)
    us = [top * (STEPS - k) / STEPS for k in range(STEPS)]
    sigmas = [e * u / (1 + (e - 1) * u) for u in us] + [0.0]
    for k, (_, kwargs) in enumerate(list(calls)):
        assert float(kwargs["timestep"].max()) == pytest.approx(1000 * sigmas[k], rel=1e-5)
        with torch.no_grad():
            speed = unpacked(net(**{**kwargs, "hidden_states": packed(x)})[0])
        x = torch.cat([frame, x[:, :, 1:] + (sigmas[k + 1] - sigmas[k]) * speed[:, :, 1:]], dim=2)
    assert apart(unpacked(out), x) < TOLERANCE


def test_what_a_prior_puts_beside_a_frame() -> None:
    """Frames of a prior that are nearly equal: without the one that is held, they follow their own law."""
    pipe = film_maker()
    frames = normal(60, 4, 1, 8, 8, seed=11) + 0.1 * normal(60, 4, 3, 8, 8, seed=12)
    prior = GaussianPrior.fit(frames, NoiseSchedule.flow(1000), 300.0, value_range=None)
    attach(pipe, prior)
    told = 25, 4, 32, 32, 9, torch.float32, "cpu", torch.Generator().manual_seed(0)
    x = unpacked(pipe.prepare_latents(normal(25, 3, 32, 32).tanh(), *told)[0])
    first, second, third = (x[:, :, k].flatten() for k in range(3))
    # α² (1 + 0.01) + σ² = 0.58 and α² = 0.49, of 6,400 entries: standard errors 0.02, and of a prior of 60 films, 0.1.
    assert float(second.var()) == pytest.approx(0.58, abs=0.15)
    assert float((second * third).mean() - second.mean() * third.mean()) == pytest.approx(0.49, abs=0.15)
    assert abs(float((first * third).mean() - first.mean() * third.mean())) < 0.05


def test_seed_latents_beside_a_held_frame_are_refused() -> None:
    pipe = film_maker()
    attach(pipe, IdentityPrior.build((4, 3, 8, 8), NoiseSchedule.flow(1000), 700.0))
    with pytest.raises(ValueError, match="latents must be None"):
        pipe.prepare_latents(
            normal(1, 3, 32, 32).tanh(), 1, 4, 32, 32, 9, torch.float32, "cpu", None, normal(1, 192, 4)
        )


def test_a_mixture_of_image_and_noise_is_refused() -> None:
    first = film_maker()
    # (It brings timesteps of its own, from the top.)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    parts = {"scheduler": scheduler, "text_encoder": None, "tokenizer": None}
    pipe = quiet(diffusers.LTXConditionPipeline(vae=first.vae, transformer=first.transformer, **parts))
    attach(pipe, IdentityPrior.build((4, 3, 8, 8), NoiseSchedule.flow(1000), 700.0))
    call = masked(1, image=normal(1, 3, 32, 32).tanh(), guidance_scale=1.0, **FILM)
    seed = torch.Generator().manual_seed(0)
    assert bool(pipe(**call, generator=seed, image_cond_noise_scale=0.0).frames.isfinite().all())
    with pytest.raises(ValueError, match="white noise"):
        pipe(**call, generator=seed, strength=0.5)


# Other forms of latents, grids and networks' inputs --------------------------------------------------------------


def test_a_network_that_is_told_the_time_before_the_shift() -> None:
    """CogView4 brings a grid of timesteps and one of σ from the top, and shifts the latter alone."""
    net = network(
        "CogView4Transformer2DModel", in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, text_embed_dim=16, time_embed_dim=8, condition_dim=4, rope_axes_dim=(16, 16),
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    pipe = quiet(diffusers.CogView4Pipeline(None, None, None, net, scheduler))
    prior, z = gaussian((4, 8, 8), scheduler, 700.0), normal(1, 4, 8, 8, seed=7)
    calls = recorded(net)
    call = {"prompt_embeds": normal(1, 16, 16, seed=1), "height": 64, "width": 64, "guidance_scale": 1.0}
    out = attach(pipe, prior)(
        **call, num_inference_steps=STEPS, latents=z.clone(), output_type="latent"
    ).images
    # The shift of 16 tokens.
    e = 0.5 + 1.15 * (16 / 256) ** 0.5
    top, x = 0.7 / (e - (e - 1) * 0.7), prior(z)
    # (Its own grid is of whole numbers: 1000, 500, 1.)
    us = [top * u / 1000 for u in (1000, 500, 1)]
    sigmas = [e * u / (1 + (e - 1) * u) for u in us] + [0.0]
    for k, (_, kwargs) in enumerate(list(calls)):
        assert float(kwargs["timestep"]) == pytest.approx(1000 * us[k], rel=1e-5)
        with torch.no_grad():
            x = x + (sigmas[k + 1] - sigmas[k]) * net(**{**kwargs, "hidden_states": x})[0]
    assert apart(out, x) < TOLERANCE


@pytest.mark.parametrize("beside", [False, True])
def test_channels_that_come_last(beside: bool) -> None:
    """Kandinsky 5 has frames first and channels last, and may have a frame to begin with and a mask beside them."""
    net = network(
        "Kandinsky5Transformer3DModel", in_visual_dim=4, in_text_dim=16, in_text_dim2=16, time_dim=8,
        out_visual_dim=4, model_dim=32, ff_dim=32, num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 6, 6),
        visual_cond=beside,
    )  # fmt: skip
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = quiet(diffusers.Kandinsky5T2VPipeline(transformer=net, scheduler=scheduler, **parts))
    prior, z = gaussian((4, 3, 4, 4), scheduler, 700.0), normal(1, 3, 4, 4, 4, seed=7)
    attach(pipe, prior)
    told = 1, 4, 4 * pipe.vae_scale_factor_spatial, 4 * pipe.vae_scale_factor_spatial, 9, torch.float32, "cpu"
    x = pipe.prepare_latents(*told, torch.Generator().manual_seed(7))
    torch.testing.assert_close(x[..., :4], prior(z.movedim(-1, 1)).movedim(1, -1))
    assert x.shape[-1] == (9 if beside else 4)
    assert not bool(x[..., 4:].any())


def test_an_image_to_enlarge_comes_as_further_channels() -> None:
    net = copy.deepcopy(unet(in_channels=8, out_channels=4))
    pipe = quiet(
        diffusers.LDMSuperResolutionPipeline(vqvae(), net, diffusers.DDIMScheduler(clip_sample=False))
    )
    prior = gaussian((4, 8, 8), pipe.scheduler, 500)
    calls = recorded(net)
    image = normal(1, 4, 8, 8).tanh()
    seed = torch.Generator().manual_seed(7)
    attach(pipe, prior)(image, num_inference_steps=1, generator=seed, output_type="np")
    expected = prior(normal(1, 4, 8, 8, seed=7))
    torch.testing.assert_close(calls[0][0][0], torch.cat([expected, image], dim=1))
