"""`otprior tune`: choose t*, noise, scheduler and grid on validation images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.inputs import check_data, check_model, set_up_torch
from otprior.cli.options import Debug, ModelArgument, Overwrite, ValueRangeText, Verbose, parse_value_range
from otprior.cli.progress import progress_bar
from otprior.cli.session import session, stdout
from otprior.cli.studies import (
    Compile,
    Precision,
    Workers,
    default_workers,
    follow,
)
from otprior.cli.tune_search import (
    Material,
    check_material,
    refuse_empty,
    search_table,
    search_with,
    write_search,
)
from otprior.utils.files import check_output_dir, output_dir

EXAMPLES = (
    "otprior tune bundled bundled --steps 5 --out tuned",
    "otprior tune path/to/ddpm path/to/train.npz --validation path/to/val.npz --extractor path/to/classifier "
    "--steps 5 --out tuned",
)


class Kind(StrEnum):
    """Priors whose start can be tuned."""

    semidiscrete = "semidiscrete"
    mixture = "mixture"
    gaussian = "gaussian"


def tune(
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Images to fit to: a folder, .npz, .npy or .safetensors file, or 'bundled'."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 5,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Real images that are neither atoms nor kept for final figures; the bundled ones by default.",
            show_default=False,
        ),
    ] = None,
    extractor: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The feature extractor; by default the bundled one.")
    ] = None,
    prior: Annotated[Kind, typer.Option(help="Whose start to tune.")] = Kind.semidiscrete,
    copy_limit: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of samples that may count as copies; by default that of the validation images.",
            show_default=False,
        ),
    ] = None,
    copy_margin: Annotated[
        float,
        typer.Option(min=0, max=1, help="By how much the upper 95 % limit of the difference may exceed 0."),
    ] = 0.01,
    samples: Annotated[
        int, typer.Option(min=12, help="Seeds that the last candidates are judged on.")
    ] = 2000,
    limit: Annotated[
        int | None,
        typer.Option(min=2, help="Fit to so many of the images, drawn by seed 0."),
    ] = None,
    tol: Annotated[float, typer.Option(help="Of the transport, as for fit.")] = 0.05,
    precision: Annotated[
        Precision,
        typer.Option(help="Of the network. bfloat16 is faster on a CPU that multiplies it in tiles (AMX)."),
    ] = Precision.float32,
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Begin nothing new after so long, and choose from what is known.")
    ] = 20,
    null_label: Annotated[
        int | None,
        typer.Option(min=0, help="The label for no class; by default the model's.", show_default=False),
    ] = None,
    value_range: ValueRangeText = "auto",
    workers: Workers = None,
    compiled: Compile = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Find the start of best quality in so many steps that does not copy more than real images seem to.

    DIR gets settings.json (for `otprior fit` and `otprior sample`), the prior at these settings, every candidate with
    its figures, and a picture of the search. DIR.work keeps what was sampled: an interrupted search goes on from there.
    """
    with session(verbose, debug):
        check_output_dir(out, overwrite, (model, data, validation, extractor))
        work = out.with_name(out.name + ".work")
        check_model(model)
        check_data(data)
        check_material(data, validation, extractor)
        pixels = parse_value_range(value_range)
        set_up_torch(None, "cpu")
        material = Material(model, data, validation, extractor, null_label, pixels, limit, tol)
        with progress_bar("loading") as bar:
            found = search_with(
                material,
                work,
                steps=steps,
                prior=prior.value,
                copy_limit=copy_limit,
                copy_margin=copy_margin,
                samples=samples,
                precision=precision.value,
                minutes=minutes,
                workers=workers or default_workers(),
                compiled=compiled,
                listen=follow(bar),
            )
            with output_dir(out, overwrite) as folder:
                write_search(folder, found)
                if found.prior is not None:
                    found.prior.save_pretrained(folder / "prior")
        stdout().print(search_table(found, out))
        refuse_empty(found, out)
