"""Latents by every kind of autoencoder, in the scale in which its pipeline decodes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    AutoencoderTiny,
    DDPMScheduler,
    VQModel,
)

from otprior import GaussianPrior, OTPriorPipeline, SemiDiscretePrior
from otprior.data import encode_images
from otprior.data.latents import decode, image_shape, latent_scale

SMALL = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}


def kl(**options: Any) -> AutoencoderKL:
    return AutoencoderKL(**SMALL, latent_channels=4, **options)


def vq() -> VQModel:
    return VQModel(**SMALL, latent_channels=3, num_vq_embeddings=16, scaling_factor=0.3)


def dc() -> AutoencoderDC:
    blocks = {"block_out_channels": (8, 16), "layers_per_block": (1, 1), "qkv_multiscales": ((), ())}
    both = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()}
    return AutoencoderDC(latent_channels=4, attention_head_dim=4, scaling_factor=0.41, **both)


def wan() -> AutoencoderKLWan:
    mean, std = [0.1, -0.2, 0.3, 0.4], [0.5, 1.5, 2.0, 0.7]
    options = {"dim_mult": [1, 1], "temperal_downsample": [False], "num_res_blocks": 1}
    return AutoencoderKLWan(base_dim=4, z_dim=4, latents_mean=mean, latents_std=std, **options)


def ltx() -> AutoencoderKLLTXVideo:
    channels, layers, steps = (8,) * 4, (1,) * 5, (True, True, False, False)
    module = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=channels,
        decoder_block_out_channels=channels,
        layers_per_block=layers,
        decoder_layers_per_block=layers,
        spatio_temporal_scaling=steps,
        decoder_spatio_temporal_scaling=steps,
        patch_size=1,
        scaling_factor=0.8,
    )
    module.latents_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.4]))
    module.latents_std.copy_(torch.tensor([0.5, 1.5, 2.0, 0.7]))
    return module


def raw(module: Any, images: torch.Tensor) -> torch.Tensor:
    found = module.encode(
        images if next(p for p in module.parameters() if p.ndim > 3).ndim == 4 else images[:, :, None]
    )
    if hasattr(found, "latent_dist"):
        return found.latent_dist.mode()
    return found.latents if hasattr(found, "latents") else found.latent


# What each pipeline of diffusers does to a latent before it decodes, undone.
SCALED: list[tuple[Callable[[], Any], Callable[[torch.Tensor], torch.Tensor]]] = [
    (lambda: kl(scaling_factor=0.18), lambda e: e * 0.18),  # Stable Diffusion
    (lambda: kl(scaling_factor=0.36, shift_factor=0.12), lambda e: (e - 0.12) * 0.36),  # SD3, Flux
    (
        lambda: kl(scaling_factor=0.5, latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0]),
        lambda e: (e - by_channel(0.1, 0.2, 0.3, 0.4)) * 0.5 / by_channel(1.0, 2.0, 3.0, 4.0),  # SDXL
    ),
    (vq, lambda e: e * 0.3),  # LDM
    (dc, lambda e: e * 0.41),  # Sana
    (lambda: AutoencoderTiny(latent_channels=4), lambda e: e),
    (
        wan,
        lambda e: (
            (e - by_channel(0.1, -0.2, 0.3, 0.4)[..., None]) / by_channel(0.5, 1.5, 2.0, 0.7)[..., None]
        ),
    ),
    (
        ltx,
        lambda e: (
            (e - by_channel(0.1, -0.2, 0.3, 0.4)[..., None]) * 0.8 / by_channel(0.5, 1.5, 2.0, 0.7)[..., None]
        ),
    ),
]


def by_channel(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)


@pytest.mark.parametrize(("make", "scaled"), SCALED)
def test_latents_are_scaled_as_the_pipeline_scales_them(
    make: Callable[[], Any], scaled: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    torch.manual_seed(0)
    module = make().eval()
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = scaled(raw(module, images))
    stream = encode_images(module, images, batch_size=2)
    found = torch.cat(list(stream))
    assert stream.count == 5
    # The rounding of float32 convolutions in batches of another size.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    shift, scale = latent_scale(module, found.ndim)
    with torch.no_grad():
        torch.testing.assert_close((found / scale + shift).float(), raw(module, images), rtol=1e-4, atol=1e-5)
    channels, height, width = image_shape(module, *found.shape[-2:])
    assert (channels, height, width) == (3, 64, 64)


def test_half_precision_is_left_where_the_config_forces_it() -> None:
    torch.manual_seed(0)
    module = kl(force_upcast=True).eval()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = torch.cat(list(encode_images(module, images)))
    found = torch.cat(list(encode_images(module.half(), images)))
    assert module.dtype == torch.float16
    # Weights have 11 bits.
    assert (found - expected).abs().max() < 0.01 * expected.abs().max()
    back = decode(module, found.half())
    assert module.dtype == torch.float16
    # The same numbers as by the same weights in float32: in half precision they would differ by 1e-3.
    torch.testing.assert_close(back, decode(module.float(), found.half()), rtol=1e-6, atol=1e-6)


def test_priors_are_fitted_to_a_stream_of_latents_with_its_labels() -> None:
    torch.manual_seed(0)
    module = kl().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 24, 3), dtype=np.uint8)
    data = list(zip(pixels, range(30)))
    stream = encode_images(module, data, resize=16, crop=16)
    images = stream.read()
    assert images.images.shape == (30, 4, 8, 8)
    assert images.labels is not None
    assert images.labels.tolist() == list(range(30))
    few = stream.sample(7, seed=3).read()
    # Batches differ, and with them the rounding of convolutions.
    torch.testing.assert_close(few.images, images.sample(7, seed=3).images, rtol=1e-4, atol=1e-5)
    streamed = GaussianPrior.fit(stream, DDPMScheduler(), 500)
    torch.testing.assert_close(streamed.means, GaussianPrior.fit(images, DDPMScheduler(), 500).means)
    assert SemiDiscretePrior.fit(stream, DDPMScheduler(), 500, tol=0.5).shape == (4, 8, 8)


def test_the_pipeline_decodes_in_the_same_scale() -> None:
    torch.manual_seed(0)
    module = kl(
        scaling_factor=0.5, latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0]
    ).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    pipe = OTPriorPipeline(torch.nn.Identity(), DDPMScheduler(), vae=module)
    latents = torch.cat(list(encode_images(module, images)))
    with torch.no_grad():
        expected = module.decode(raw(module, images)).sample
    torch.testing.assert_close(pipe.decode(latents), expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_autoencoder_is_refused() -> None:
    class Other(torch.nn.Module):
        config = type("Config", (), {})()

        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Conv2d(3, 3, 1)

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images

    with pytest.raises(ValueError, match="autoencoder must be"):
        list(encode_images(Other(), torch.rand(2, 3, 8, 8) * 2 - 1))
