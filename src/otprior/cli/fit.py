"""`otprior fit`: fit a prior to a noise schedule and images."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.fit_prior import FitRequest, fit_prior, summary
from otprior.cli.options import (
    Convert,
    Crop,
    DataArgument,
    Debug,
    Device,
    Height,
    Overwrite,
    Resize,
    Seed,
    Threads,
    ValueRangeText,
    Variant,
    Verbose,
    Width,
    parse_pictures,
    parse_value_range,
)
from otprior.cli.prior_options import DEFAULT, PriorCommand, given_options, prior_names
from otprior.cli.processes import drop_states, is_first
from otprior.cli.session import session, stdout
from otprior.utils.files import output_dir

EXAMPLES = (
    "otprior fit bundled bundled --out prior",
    "otprior fit path/to/ddpm path/to/images --timestep 400 --conditional --out prior",
    "otprior fit path/to/sd photographs --prior gaussian --out prior",
    "otprior fit bundled bundled --prior mixture --components 100 --out prior",
    "otprior fit --prior mixture --help",
    "torchrun --nproc-per-node 2 -m otprior fit path/to/model latents.npy --value-range none --out prior",
)

# It adds the options of the prior.
COMMAND = PriorCommand


ModelOrSchedule = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A diffusers folder, 'owner/name' of the Hugging Face hub, 'bundled' or 'bundled-by-class'; or a schedule "
        "alone: a scheduler_config.json, its folder, or a well-known name, as for audit.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="PRIOR", help="The folder to write.")]
PriorName = Annotated[
    str,
    typer.Option(
        "--prior",
        metavar="NAME",
        help=f"Kind of prior: {prior_names()}. `otprior fit --prior NAME --help` shows the options of one.",
    ),
]
Timestep = Annotated[
    float | None,
    typer.Option(
        "--timestep",
        help="t*, where sampling will start; it can be changed later.",
        show_default="where the prior is usually best",
    ),
]
Settings = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="t* and options as `otprior tune` chose them."),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", min=1, help="Which of the --settings, if they are for several numbers of steps."),
]
Conditional = Annotated[
    bool, typer.Option("--conditional", "--labels", help="Fit a map for each of the data's class labels.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from PRIOR.work, where a solve of minutes keeps its state.")
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Fit to so many of the images, drawn at random by --seed."),
]
License = Annotated[
    str | None, typer.Option("--license", help="Licence of the images, recorded in the prior.")
]


def fit(
    ctx: typer.Context,
    model: ModelOrSchedule,
    data: DataArgument,
    out: Out,
    prior: PriorName = DEFAULT,
    timestep: Timestep = None,
    settings: Settings = None,
    steps: Steps = None,
    conditional: Conditional = False,
    resume: Resume = False,
    limit: Limit = None,
    resize: Resize = None,
    crop: Crop = None,
    convert: Convert = None,
    height: Height = None,
    width: Width = None,
    variant: Variant = None,
    value_range: ValueRangeText = "auto",
    license: License = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Fit a prior: what sampling starts from at t*, instead of from white noise at T.

    The default, semidiscrete, solves the optimal transport from N(0, I) to the images, and stores them in PRIOR. DATA
    may be a folder of `otprior sample`, with its labels: images that the model drew. Several processes share a long
    solve: torchrun --nproc-per-node 2 -m otprior fit ...
    """
    first = is_first()
    writing = output_dir(out, overwrite, (model, data, settings)) if first else nullcontext()
    with session(verbose, debug, out), writing as folder:
        pixels, given = parse_value_range(value_range), given_options(ctx)
        request = FitRequest(
            model, data, out, prior, given, timestep, settings, steps, conditional, resume, limit, pixels,
            license, seed, overwrite, parse_pictures(resize, crop, convert), height, width, variant,
        )  # fmt: skip
        request.check()
        fitted = fit_prior(request, folder, threads, device)
    if first:
        drop_states(request.work)
        stdout().print(summary(*fitted, out))
