"""What the tests of the command line share: a runner, a tiny model, folders that must stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from typer.testing import CliRunner, Result

from otprior.cli import program
from otprior.utils.files import WRITTEN

__all__ = [
    "SIZE",
    "assert_refused",
    "run",
    "tree",
    "write_images",
    "write_model",
    "write_tame_model",
    "written",
]

SIZE = 8


def run(*arguments: object, threads: int = 1) -> Result:
    """Runs a command in this process."""
    words = [str(argument) for argument in arguments]
    if words[0] in ("fit", "sample", "evaluate"):
        words += ["--threads", str(threads)]
    return CliRunner().invoke(program, words)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def written(folder: Path) -> dict[str, bytes | None]:
    """The same of an output folder, without the list of what was written, which says so itself."""
    return {name: content for name, content in tree(folder).items() if name != WRITTEN}


def assert_refused(result: Result, *parts: str, code: int = 2) -> None:
    """That a command ended with one readable line that has these parts, and no traceback."""
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0], lines[0]
    assert "Traceback" not in result.output


def write_model(folder: Path, classes: int | None = 3) -> Path:
    """A diffusers folder of an untrained network for 1 x 8 x 8 images; of so many labels the next is no class."""
    from diffusers import DDPMScheduler, UNet2DModel

    from otprior.sampling import OTPriorPipeline

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=None if classes is None else classes + 1,
        add_attention=False,
    )
    OTPriorPipeline(unet, DDPMScheduler(), null_class_label=classes).save_pretrained(folder)
    return folder


def write_tame_model(folder: Path) -> Path:
    """The same with its answers turned down: untrained, they are too wild for any solver of its flow."""
    from safetensors.torch import load_file, save_file

    write_model(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    for name in ("conv_out.weight", "conv_out.bias"):
        tensors[name] *= 0.05
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def write_images(path: Path, count: int = 40, size: int = SIZE, **replaced: object) -> Path:
    """An .npz of float images in [-1, 1] with labels 0, 1, 2."""
    generator = np.random.default_rng(0)
    # A few directions carry all the variance, as in pictures: transport to these takes some solving.
    rows = np.tanh(generator.normal(size=(count, 4)) @ generator.normal(size=(4, size * size)))
    arrays: dict[str, object] = {
        "images": rows.reshape(count, 1, size, size).astype(np.float32),
        "labels": np.arange(count) % 3,
    }
    np.savez(path, **(arrays | replaced))  # type: ignore[arg-type]
    return path
