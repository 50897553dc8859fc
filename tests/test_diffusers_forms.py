"""The block for Modular Diffusers and the community pipeline: the same images as `attach`."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import build, families, normal, text_to_image, two_shifts

from otprior import attach, start_at
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior

EXAMPLES = Path(__file__).parents[1] / "examples"


def lines_of(example: str, **names: Any) -> list[str]:
    """The lines of code in an example's docstring, with names replaced."""
    text = ast.get_docstring(ast.parse((EXAMPLES / example).read_text(encoding="utf-8"))) or ""
    for name, path in names.items():
        text = text.replace(f'"owner/{name}"', repr(str(path)))
    return [
        line.strip() for line in text.replace('"examples', f'"{EXAMPLES}').splitlines() if line[:4] == "    "
    ]


@pytest.mark.parametrize("seeded", ["generator", "latents"])
def test_the_modular_block_starts_as_attach_does(seeded: str, tmp_path: Path) -> None:
    step = runpy.run_path(str(EXAMPLES / "modular_block.py"))["PriorStartStep"]
    scheduler, call = two_shifts()[0], families()["StableDiffusion3"].call
    schedule = NoiseSchedule.from_scheduler(scheduler)
    prior = GaussianPrior.fit(0.4 + 0.5 * normal(40, 4, 8, 8, seed=11), schedule, 700.0, value_range=None)
    stock = build("StableDiffusion3", scheduler)

    def seed() -> dict[str, object]:
        z = {"latents": normal(2, 4, 8, 8, seed=5)}
        return z if seeded == "latents" else {"generator": torch.Generator().manual_seed(3)}

    stock.save_pretrained(tmp_path / "sd3")
    expected = attach(stock, prior)(**call, **seed(), num_inference_steps=3, output_type="latent").images
    known = {
        "ModularPipeline": diffusers.ModularPipeline,
        "PriorStartStep": step,
        "start_at": start_at,
        "prior": prior,
    }
    begin, *rest = lines_of("modular_block.py", name=tmp_path / "sd3")
    exec(begin, known)
    # (The folder has neither text encoders nor an autoencoder.)
    for name in [each for each in known["blocks"].sub_blocks if each.startswith(("text_encoder", "decode"))]:
        known["blocks"].sub_blocks.pop(name)
    exec("\n".join(rest), known)
    pipe = known["pipe"]
    pipe.set_progress_bar_config(disable=True)
    told = {name: value for name, value in call.items() if "guidance" not in name and "negative" not in name}
    found = pipe(**told, **seed(), num_inference_steps=3, output="latents")
    # A float32 loop of three steps.
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def test_the_community_pipeline_starts_as_attach_does(tmp_path: Path) -> None:
    text_to_image().save_pretrained(tmp_path / "sd")
    known: dict[str, Any] = {"DiffusionPipeline": diffusers.DiffusionPipeline}
    exec("\n".join(lines_of("stable_diffusion_prior.py", sd=tmp_path / "sd")[:2]), known)
    pipe = known["pipe"]
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__name__ == "StableDiffusionPriorPipeline"
    prior = GaussianPrior.fit(normal(40, 4, 8, 8, seed=11), pipe.scheduler, 500, value_range=None)
    told = {"prompt": ["a cat", "a dog"], "num_inference_steps": 3, "output_type": "latent"}

    def seed() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    found = pipe(**told, generator=seed(), prior=prior).images
    plain = pipe(**told, generator=seed()).images
    stock = text_to_image()
    stock.set_progress_bar_config(disable=True)
    assert torch.equal(plain, stock(**told, generator=seed()).images)
    torch.testing.assert_close(found, attach(stock, prior)(**told, generator=seed()).images)
    assert not torch.allclose(found, plain)
