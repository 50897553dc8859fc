"""`otprior sample`: make images of seeds, in few network evaluations."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.inputs import set_up_torch
from otprior.cli.options import (
    BatchSize,
    Debug,
    Device,
    Guidance,
    Height,
    ModelArgument,
    NegativePrompt,
    NullLabel,
    Out,
    Overwrite,
    Prompt,
    Scheduler,
    Spacing,
    Threads,
    Variant,
    Verbose,
    Width,
)
from otprior.cli.sample_jobs import DEFAULT_STEPS, SampleRequest, find_job, report, write_images
from otprior.cli.session import say, session
from otprior.utils.files import output_dir, write_json
from otprior.utils.validation import require

EXAMPLES = (
    "otprior sample bundled --prior prior --seeds 0-99 --steps 5 --out samples --grid",
    "otprior sample bundled --prior tuned/prior --settings tuned/settings.json --out samples",
    "otprior sample bundled --prior prior --codes codes/codes.safetensors --out again",
    "otprior sample path/to/ddpm --prior none --scheduler unipc --steps 20 --out samples",
    "otprior sample path/to/sd --prior prior --prompt 'a cat' --steps 4 --seeds 0-7 --out images",
)


class Format(StrEnum):
    """How images are written."""

    png = "png"
    npz = "npz"


class Dtype(StrEnum):
    """Precision of the network; priors keep their own."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    float64 = "float64"


PriorFolder = Annotated[
    str | None,
    typer.Option(
        "--prior",
        metavar="PRIOR",
        help="A prior's folder, or 'owner/name' of the hub; none starts from white noise at T.",
        show_default="the model's",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="SEEDS", help="0-999, or 3,5,9, or 7: an image each.", show_default="0-9, or all codes"
    ),
]
CodesFile = Annotated[
    Path | None,
    typer.Option(
        "--codes",
        metavar="FILE",
        help="Start from these codes of `otprior encode` instead of random seed noise; --seeds then counts them. "
        "(`otprior encode --decode` undoes the encoding itself.)",
    ),
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Steps of the sampler.", show_default=str(DEFAULT_STEPS))
]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        metavar="FILE",
        help="Start, steps, scheduler and spacing as `otprior tune` chose them; explicit options override the file.",
    ),
]
Timestep = Annotated[
    float | None, typer.Option("--timestep", help="t*, where to start.", show_default="the prior's")
]
ClassLabels = Annotated[
    str | None,
    typer.Option(
        "--class-labels",
        "--label",
        metavar="LABELS",
        help="3 for all images, or a list such as 0-9: seed s gets entry s modulo its length.",
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, metavar="COUNT", help="Of films.", show_default="the prior's, or the model's"),
]
AsFloat = Annotated[
    bool, typer.Option("--float", help="With npz: float32 as the sampler ended, neither rounded nor clipped.")
]


def sample(
    model: ModelArgument,
    out: Out,
    prior: PriorFolder = None,
    seeds: Seeds = None,
    codes: CodesFile = None,
    steps: Steps = None,
    settings: SettingsFile = None,
    scheduler: Scheduler = None,
    spacing: Spacing = None,
    timestep: Timestep = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    class_labels: ClassLabels = None,
    guidance_scale: Guidance = None,
    null_label: NullLabel = None,
    height: Height = None,
    width: Width = None,
    frames: Frames = None,
    variant: Variant = None,
    batch_size: BatchSize = 64,
    format: Annotated[Format, typer.Option(help="A file for each image, or one for all.")] = Format.png,
    as_float: AsFloat = False,
    grid: Annotated[bool, typer.Option("--grid", help="Write a contact sheet too, grid.png.")] = False,
    device: Device = "cpu",
    dtype: Annotated[Dtype, typer.Option(help="Precision of the network.")] = Dtype.float32,
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Sample images: seed i always gives image i, whatever the batch.

    DIR gets the images (of films a folder of frames each, of sounds .wav files), starts.npz (seeds, labels, and the
    training image behind each start) and report.json.
    """
    request = SampleRequest(
        model, prior, seeds, codes, steps, settings, scheduler, spacing, timestep, prompt, negative_prompt,
        class_labels, guidance_scale, null_label, height, width, frames, variant, batch_size, as_float, dtype.value,
    )  # fmt: skip
    with session(verbose, debug, out), output_dir(out, overwrite, (model, prior, settings, codes)) as folder:
        request.check()
        require(not as_float or format is Format.npz, "--float", "given with --format npz", format.value)
        job = find_job(request, set_up_torch(threads, device), drawn=grid or not as_float)
        nfe, seconds = write_images(job, folder, format is Format.png, as_float, grid)
        write_json(folder / "report.json", report(job, request.recorded(job.steps), nfe, seconds))
    count = len(job.seeds)
    say(
        f"{count:,} image{'s' * (count != 1)} in {out}: {nfe} network evaluations each, "
        f"{count / seconds:.3g} images a second"
    )
