"""Stock pipelines on tiny random networks of the real classes, and what a loop by hand has to know of each."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from PIL import Image
from torch import Tensor, nn

STEPS = 3
BLOCKS = {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
CROSS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
}
PLAIN = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
VP = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vp_schedulers() -> list[Any]:
    """Of first order, at equal steps: one map in two scales."""
    return [
        diffusers.DDIMScheduler(**VP, clip_sample=False),
        diffusers.EulerDiscreteScheduler(**VP, timestep_spacing="trailing"),
        diffusers.DPMSolverMultistepScheduler(**VP, solver_order=1, timestep_spacing="trailing"),
    ]


def flow_schedulers(**config: Any) -> list[Any]:
    return [
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **config),
        diffusers.DPMSolverMultistepScheduler(**FLOW, solver_order=1),
        diffusers.UniPCMultistepScheduler(**FLOW, solver_order=1, disable_corrector=[0, 1, 2]),
    ]


def two_shifts() -> list[Any]:
    return [diffusers.FlowMatchEulerDiscreteScheduler(shift=shift) for shift in (3.0, 1.0)]


def edm_schedulers() -> list[Any]:
    return [diffusers.EDMEulerScheduler(), diffusers.EDMDPMSolverMultistepScheduler(solver_order=1)]


@dataclass(frozen=True)
class Family:
    """A family of pipelines.

    Attributes:
        build: Makes the pipeline around a scheduler.
        schedulers: Those it is tried with.
        shape: Of its latents, unpacked.
        call: Arguments of a call, without seed and steps.
        guided: Arguments that turn guidance on, and its scale.
        combine: (answers of one step's calls, scale, batch) -> the guided answer.
        pack: From (B, *shape) to what the network is given.
        told: From the scheduler's timestep to what the network is told.
        batch: Images of a call.
        steps: Name of the argument for K.
        seed: Name of the argument for seed noise; None if there is none.
        raw: More arguments: no decoding, where the pipeline can leave it out.
    """

    build: Callable[[Any], Any]
    schedulers: Callable[[], list[Any]]
    shape: tuple[int, ...]
    call: dict[str, Any]
    guided: tuple[dict[str, Any], float] = field(default_factory=lambda: ({}, 1.0))
    combine: Callable[[list[Tensor], float, int], Tensor] | None = None
    pack: Callable[[Tensor], Tensor] = lambda x: x
    told: Callable[[float], float] = lambda t: t
    batch: int = 2
    steps: str = "num_inference_steps"
    seed: str | None = "latents"
    raw: dict[str, Any] = field(default_factory=lambda: {"output_type": "latent"})


def network(cls: str, **config: Any) -> nn.Module:
    torch.manual_seed(0)
    made = getattr(diffusers, cls)(**config).eval()
    # Tables that a fresh network leaves at zero would make conditions vanish.
    for name, parameter in made.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return made


@functools.cache
def unet(cls: str = "UNet2DModel", **more: Any) -> nn.Module:
    channels = {"sample_size": 8, "in_channels": 4, "out_channels": 4}
    return network(cls, **{**channels, **BLOCKS, **(PLAIN if cls == "UNet2DModel" else CROSS), **more})


def pixel_unet() -> nn.Module:
    return unet(in_channels=1, out_channels=1)


@functools.cache
def autoencoder(**config: Any) -> nn.Module:
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    return network(
        "AutoencoderKL", latent_channels=4, block_out_channels=(8,), norm_num_groups=4, **blocks, **config
    )


@functools.cache
def vqvae() -> nn.Module:
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    return network("VQModel", latent_channels=4, block_out_channels=(8,), norm_num_groups=4, **blocks)


# Guidance, as each family has it -----------------------------------------------------------------------------


def null_first(answers: list[Tensor], scale: float, batch: int) -> Tensor:
    null, told = answers[0].float().chunk(2)
    return null + scale * (told - null)


def null_second(answers: list[Tensor], scale: float, batch: int) -> Tensor:
    told, null = answers[0].float().chunk(2)
    return null + scale * (told - null)


def two_calls(answers: list[Tensor], scale: float, batch: int) -> Tensor:
    told, null = (each.float() for each in answers)
    return null + scale * (told - null)


def two_calls_of_one_norm(answers: list[Tensor], scale: float, batch: int) -> Tensor:
    guided = two_calls(answers, scale, batch)
    return guided * (answers[0].norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))


# Families ----------------------------------------------------------------------------------------------------


def embeds(length: int = 5, width: int = 16, prompts: int = 1) -> dict[str, Tensor]:
    return {
        "prompt_embeds": normal(prompts, length, width, seed=1),
        "negative_prompt_embeds": normal(prompts, length, width, seed=2),
    }


def masked(prompts: int = 1, **more: Any) -> dict[str, Any]:
    masks = ("prompt_attention_mask", "negative_prompt_attention_mask")
    given = {name: torch.ones(prompts, 5) for name in masks}
    return {**embeds(prompts=prompts), **given, "negative_prompt": None, **more}


def patches(x: Tensor) -> Tensor:
    """Two by two, into channels: (B, C, H, W) -> (B, HW/4, 4C)."""
    b, c, h, w = x.shape
    tiles = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(b, h * w // 4, c * 4)


def _ddpm(scheduler: Any) -> Any:
    return diffusers.DDPMPipeline(pixel_unet(), scheduler)


def _ddim(scheduler: Any) -> Any:
    pipe = diffusers.DDIMPipeline(pixel_unet(), scheduler)
    pipe.scheduler = scheduler  # (It makes a DDIM scheduler of any.)
    return pipe


def _dit(scheduler: Any) -> Any:
    net = dit_network()
    return diffusers.DiTPipeline(net, autoencoder(), scheduler)


@functools.cache
def dit_network(num_embeds_ada_norm: int = 1000) -> nn.Module:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "patch_size": 2}
    kind: dict[str, Any] = {"norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate"}
    kind |= {"num_embeds_ada_norm": num_embeds_ada_norm}
    more = {"attention_bias": True, "norm_elementwise_affine": False, "sample_size": 8}
    return network("DiTTransformer2DModel", in_channels=4, out_channels=8, **sizes, **kind, **more)


def _sd(scheduler: Any, **parts: Any) -> Any:
    given = {"vae": None, "text_encoder": None, "tokenizer": None, "safety_checker": None, **parts}
    rest = {"feature_extractor": None, "requires_safety_checker": False}
    return diffusers.StableDiffusionPipeline(
        unet=unet("UNet2DConditionModel"), scheduler=scheduler, **given, **rest
    )


def _sdxl(scheduler: Any) -> Any:
    net = unet(
        "UNet2DConditionModel",
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )
    parts = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return diffusers.StableDiffusionXLPipeline(unet=net, scheduler=scheduler, add_watermarker=False, **parts)


@functools.cache
def _sd3_network() -> nn.Module:
    sizes = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "sample_size": 8}
    told = {"joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 16}
    return network("SD3Transformer2DModel", patch_size=1, in_channels=4, out_channels=4, **sizes, **told)


def _sd3(scheduler: Any) -> Any:
    parts = dict.fromkeys(
        ("vae", *(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")))
    )
    return diffusers.StableDiffusion3Pipeline(transformer=_sd3_network(), scheduler=scheduler, **parts)


@functools.cache
def _flux_network() -> nn.Module:
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    told = {"joint_attention_dim": 16, "pooled_projection_dim": 16, "axes_dims_rope": [4, 4, 8]}
    return network("FluxTransformer2DModel", in_channels=16, guidance_embeds=True, **sizes, **told)


def _flux(scheduler: Any) -> Any:
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return diffusers.FluxPipeline(transformer=_flux_network(), scheduler=scheduler, **parts)


def dynamic_flux() -> list[Any]:
    return [
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
    ]


@functools.cache
def _qwen_network() -> nn.Module:
    sizes = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "patch_size": 2}
    told = {"joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)}
    return network("QwenImageTransformer2DModel", in_channels=16, out_channels=4, **sizes, **told)


def _qwen(scheduler: Any) -> Any:
    return diffusers.QwenImagePipeline(
        scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=_qwen_network()
    )


@functools.cache
def _pixart_network() -> nn.Module:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 8}
    told = {"cross_attention_dim": 16, "caption_channels": 16, "use_additional_conditions": False}
    return network("PixArtTransformer2DModel", in_channels=4, out_channels=8, **sizes, **told)


def _pixart(scheduler: Any) -> Any:
    return diffusers.PixArtSigmaPipeline(None, None, None, _pixart_network(), scheduler)


@functools.cache
def _sana_network() -> nn.Module:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 8}
    told = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16}
    return network(
        "SanaTransformer2DModel", in_channels=4, out_channels=4, caption_channels=16, **sizes, **told
    )


def _sana(scheduler: Any) -> Any:
    return diffusers.SanaPipeline(None, None, None, _sana_network(), scheduler)


@functools.cache
def _wan_network() -> nn.Module:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "ffn_dim": 32}
    told = {"text_dim": 16, "freq_dim": 16, "patch_size": (1, 2, 2), "rope_max_seq_len": 32}
    return network("WanTransformer3DModel", in_channels=4, out_channels=4, **sizes, **told)


def _wan(scheduler: Any) -> Any:
    return diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=_wan_network()
    )


@functools.cache
def _cogvideox_network() -> nn.Module:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "patch_size": 2}
    told = {"time_embed_dim": 2, "text_embed_dim": 16, "max_text_seq_length": 5}
    film = {"sample_width": 4, "sample_height": 4, "sample_frames": 9, "temporal_compression_ratio": 4}
    return network("CogVideoXTransformer3DModel", in_channels=4, out_channels=4, **sizes, **told, **film)


def _cogvideox(scheduler: Any) -> Any:
    return diffusers.CogVideoXPipeline(None, None, None, _cogvideox_network(), scheduler)


def cogvideox_schedulers() -> list[Any]:
    return [
        diffusers.CogVideoXDDIMScheduler(clip_sample=False),
        diffusers.DPMSolverMultistepScheduler(**VP, solver_order=1, timestep_spacing="trailing"),
    ]


@functools.cache
def _auraflow_network() -> nn.Module:
    sizes = {
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
    }
    told = {"joint_attention_dim": 16, "caption_projection_dim": 16, "pos_embed_max_size": 32}
    return network(
        "AuraFlowTransformer2DModel", sample_size=8, in_channels=4, out_channels=4, **sizes, **told
    )


def _auraflow(scheduler: Any) -> Any:
    return diffusers.AuraFlowPipeline(None, None, None, _auraflow_network(), scheduler)


@functools.cache
def _ltx_network() -> nn.Module:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "cross_attention_dim": 16}
    return network("LTXVideoTransformer3DModel", in_channels=4, out_channels=4, caption_channels=16, **sizes)


def _ltx(scheduler: Any) -> Any:
    return diffusers.LTXPipeline(
        scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=_ltx_network()
    )


@functools.cache
def _audio_parts() -> tuple[nn.Module, nn.Module, nn.Module]:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    sizes = {"sample_size": 12, "num_layers": 1, "attention_head_dim": 8, "num_key_value_attention_heads": 2}
    told = {"cross_attention_dim": 16, "cross_attention_input_dim": 16, "global_states_input_dim": 32}
    net = network(
        "StableAudioDiTModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        time_proj_dim=8,
        **sizes,
        **told,
    )
    vae = network(
        "AutoencoderOobleck", encoder_hidden_size=4, downsampling_ratios=[1, 2], decoder_channels=4,
        decoder_input_channels=4, audio_channels=2, channel_multiples=[2, 4], sampling_rate=24,
    )  # fmt: skip
    torch.manual_seed(0)
    return net, vae, StableAudioProjectionModel(16, 16, 0, 32).eval()


def _stable_audio(scheduler: Any) -> Any:
    net, vae, projection = _audio_parts()
    return diffusers.StableAudioPipeline(vae, None, projection, None, net, scheduler)


class Mel:
    """Stands for the spectrograms of AudioDiffusion, which need librosa."""

    def image_to_audio(self, image: Image.Image) -> Any:
        import numpy as np

        return np.zeros(4)

    def get_sample_rate(self) -> int:
        return 4


def _audio_diffusion(scheduler: Any) -> Any:
    from diffusers.pipelines.deprecated.audio_diffusion.pipeline_audio_diffusion import AudioDiffusionPipeline

    return AudioDiffusionPipeline(None, pixel_unet(), Mel(), scheduler)


def _kandinsky(scheduler: Any) -> Any:
    net = unet(
        "UNet2DConditionModel",
        out_channels=8,
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
    )
    from diffusers import KandinskyV22Pipeline

    return KandinskyV22Pipeline(net, scheduler, vqvae())


def _ldm(scheduler: Any) -> Any:
    return diffusers.LDMPipeline(vqvae(), unet(), scheduler)


def families() -> dict[str, Family]:
    """The rows of docs/support.md that start."""
    video = {"height": 32, "width": 32, "num_frames": 17, **embeds(prompts=1)}
    sized = {"height": 64, "width": 64}
    drawn: Any = {"raw": {"output_type": "np"}, "seed": None}
    return {
        "DDPM": Family(_ddpm, vp_schedulers, (1, 8, 8), {"batch_size": 2}, **drawn),
        "EDM": Family(_ddpm, edm_schedulers, (1, 8, 8), {"batch_size": 2}, **drawn),
        "DDIM": Family(_ddim, lambda: vp_schedulers()[:1], (1, 8, 8), {"batch_size": 2}, **drawn),
        "LDM": Family(_ldm, vp_schedulers, (4, 8, 8), {"batch_size": 2}, **drawn),
        "AudioDiffusion": Family(
            _audio_diffusion, vp_schedulers, (1, 8, 8), {"batch_size": 2}, steps="steps", seed="noise", raw={}
        ),
        "DiT": Family(
            # (Its step is given what the network was given, so schedulers that scale that are wrong in stock, too.)
            _dit, lambda: vp_schedulers()[::2], (4, 8, 8), {"class_labels": [3, 5], "guidance_scale": 1.0},
            ({"guidance_scale": 4.0}, 4.0), null_second,
            raw={"output_type": "np"}, seed=None,
        ),
        "StableDiffusion": Family(
            _sd, vp_schedulers, (4, 8, 8), {**embeds(), "guidance_scale": 1.0, "num_images_per_prompt": 2, **sized},
            ({"guidance_scale": 5.0}, 5.0), null_first,
        ),
        "StableDiffusionXL": Family(
            _sdxl, vp_schedulers, (4, 8, 8),
            {**embeds(), "pooled_prompt_embeds": normal(1, 16, seed=3), "num_images_per_prompt": 2,
             "negative_pooled_prompt_embeds": normal(1, 16, seed=4), "guidance_scale": 1.0, **sized},
            ({"guidance_scale": 5.0}, 5.0), null_first,
        ),
        "StableDiffusion3": Family(
            _sd3, two_shifts, (4, 8, 8),
            {**embeds(prompts=2), "pooled_prompt_embeds": normal(2, 16, seed=3),
             "negative_pooled_prompt_embeds": normal(2, 16, seed=4), "guidance_scale": 1.0, **sized},
            ({"guidance_scale": 5.0}, 5.0), null_first,
        ),
        "Flux": Family(
            _flux, dynamic_flux, (4, 8, 8),
            {"prompt_embeds": normal(1, 5, 16, seed=1), "pooled_prompt_embeds": normal(1, 16, seed=3),
             "num_images_per_prompt": 2, **sized},
            ({"true_cfg_scale": 3.0, "negative_prompt_embeds": normal(1, 5, 16, seed=2),
              "negative_pooled_prompt_embeds": normal(1, 16, seed=4)}, 3.0),
            two_calls, pack=patches, told=lambda t: t / 1000,
        ),
        "QwenImage": Family(
            _qwen, dynamic_flux, (4, 8, 8),
            {"prompt_embeds": normal(1, 5, 16, seed=1), "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
             "num_images_per_prompt": 2, "true_cfg_scale": 1.0, **sized},
            ({"true_cfg_scale": 3.0, "negative_prompt_embeds": normal(1, 5, 16, seed=2),
              "negative_prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long)}, 3.0),
            two_calls_of_one_norm, pack=patches, told=lambda t: t / 1000,
        ),
        "PixArtSigma": Family(
            _pixart, vp_schedulers, (4, 8, 8),
            masked(num_images_per_prompt=2, guidance_scale=1.0, use_resolution_binning=False, **sized),
            ({"guidance_scale": 5.0}, 5.0), null_first,
        ),
        "Sana": Family(
            _sana, flow_schedulers, (4, 8, 8),
            masked(num_images_per_prompt=2, guidance_scale=1.0, use_resolution_binning=False, height=256, width=256),
            ({"guidance_scale": 5.0}, 5.0), null_first,
        ),
        "Wan": Family(
            _wan, flow_schedulers, (4, 5, 4, 4), {**video, "guidance_scale": 1.0, "num_videos_per_prompt": 2},
            ({"guidance_scale": 5.0}, 5.0), two_calls,
        ),
        "CogVideoX": Family(
            _cogvideox, cogvideox_schedulers, (4, 3, 4, 4),
            {**embeds(prompts=2), "height": 32, "width": 32, "num_frames": 9, "guidance_scale": 1.0},
            ({"guidance_scale": 5.0}, 5.0), null_first, pack=lambda x: x.transpose(1, 2),
        ),
        "AuraFlow": Family(
            _auraflow, two_shifts, (4, 8, 8),
            masked(num_images_per_prompt=2, guidance_scale=1.0, **sized),
            ({"guidance_scale": 5.0}, 5.0), null_first, told=lambda t: t / 1000,
        ),
        "LTX": Family(
            _ltx, dynamic_flux, (4, 3, 4, 4),
            masked(2, height=128, width=128, num_frames=17, guidance_scale=1.0),
            ({"guidance_scale": 5.0}, 5.0), null_first, pack=lambda x: x.flatten(2).transpose(1, 2),
        ),
        "StableAudio": Family(
            _stable_audio, edm_schedulers, (4, 12),
            {**embeds(), "audio_end_in_s": 0.5, "guidance_scale": 1.0, "num_waveforms_per_prompt": 2,
             "attention_mask": torch.ones(1, 5), "negative_attention_mask": torch.ones(1, 5)},
            ({"guidance_scale": 5.0}, 5.0), null_first,
        ),
        "KandinskyV22": Family(
            _kandinsky, lambda: vp_schedulers()[::2], (4, 8, 8),
            {"image_embeds": normal(2, 16, seed=1), "negative_image_embeds": normal(2, 16, seed=2),
             "guidance_scale": 1.0, "height": 8, "width": 8},
            ({"guidance_scale": 5.0}, 5.0), null_first,
        ),
    }  # fmt: skip


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def build(name: str, scheduler: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quiet(families()[name].build(scheduler))


def text_to_image() -> Any:
    """A whole StableDiffusionPipeline, with text encoder and tokenizer: images 3 x 16 x 16, latents 4 x 8 x 8."""
    import string

    import transformers

    letters = [*string.ascii_lowercase, *(each + "</w>" for each in string.ascii_lowercase)]
    vocab = {each: k for k, each in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(vocab_size=54, max_position_embeddings=16, **sizes, **ends)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    widths = {"latent_channels": 4, "block_out_channels": (8, 8), "norm_num_groups": 4}
    return _sd(
        vp_schedulers()[1],
        vae=network("AutoencoderKL", **widths, **kinds, scaling_factor=0.5, shift_factor=0.1),
        text_encoder=transformers.CLIPTextModel(config).eval(),
        tokenizer=transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16),
    )


def _t5() -> tuple[Any, Any]:
    import string

    import transformers

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    encoder = transformers.T5EncoderModel(transformers.T5Config(vocab_size=32, **sizes)).eval()
    vocab = [
        (each, -float(k))
        for k, each in enumerate(["<pad>", "</s>", "<unk>", "\u2581", *string.ascii_lowercase])
    ]
    return encoder, transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=16)


def text_to_film() -> Any:
    """A whole LTXPipeline: films 3 x 5 x 32 x 32, latents 4 x 2 x 8 x 8."""
    encoder, tokenizer = _t5()
    scaled = (True, True, False, False)
    vae = network(
        "AutoencoderKLLTXVideo", latent_channels=4, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, spatio_temporal_scaling=scaled,
        decoder_spatio_temporal_scaling=scaled, decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4, patch_size=1, patch_size_t=1, scaling_factor=0.5,
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return quiet(diffusers.LTXPipeline(scheduler, vae, encoder, tokenizer, _ltx_network()))


def wan_autoencoder() -> nn.Module:
    levels = {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}
    return network("AutoencoderKLWan", base_dim=8, z_dim=4, dim_mult=[1] * 4, num_res_blocks=1, **levels)


def flow_map() -> Any:
    """A whole AnyFlowPipeline: films of images 3 x 32 x 32, latents 4 x F x 4 x 4."""
    encoder, tokenizer = _t5()
    net = network(
        "AnyFlowTransformer3DModel", num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=16, freq_dim=16, ffn_dim=24, num_layers=1,
    )  # fmt: skip
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=5.0)
    return quiet(diffusers.AnyFlowPipeline(tokenizer, encoder, net, wan_autoencoder(), scheduler))


def exploding_flow(filter_of_films: Any) -> Any:
    """A whole Cosmos2TextToImagePipeline: images 3 x 32 x 32, latents 4 x 1 x 4 x 4."""
    encoder, tokenizer = _t5()
    net = network(
        "CosmosTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16,
        num_layers=1, text_embed_dim=16, adaln_lora_dim=4, max_size=(4, 16, 16), extra_pos_embed_type=None,
        concat_padding_mask=False,
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    parts = (encoder, tokenizer, net, wan_autoencoder(), scheduler, filter_of_films)
    return quiet(diffusers.Cosmos2TextToImagePipeline(*parts))


def text_to_sound() -> Any:
    """A whole StableAudioPipeline: sounds of half a second at a rate of 24, latents 4 x 12."""
    net, vae, projection = _audio_parts()
    encoder, tokenizer = _t5()
    return quiet(
        diffusers.StableAudioPipeline(vae, encoder, projection, tokenizer, net, diffusers.EDMEulerScheduler())
    )
