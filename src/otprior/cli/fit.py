"""`otprior fit`: a prior from a model's noise schedule and images like those it was trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from otprior.cli.loading import check_data, check_model, load_data, load_model, set_up_torch
from otprior.cli.options import Device, ModelArgument, Overwrite, Threads, ValueRangeText
from otprior.cli.parsing import parse_value_range, require_path
from otprior.cli.progress import Bar, progress_bar
from otprior.cli.records import empty_report, ot_part, start_part
from otprior.cli.session import Debug, Verbose, fail, session, stdout
from otprior.files import check_output_dir, output_dir, write_json
from otprior.validation import invalid, require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from otprior.data import ImageSet
    from otprior.pipelines import OTPriorPipeline
    from otprior.priors import Prior
    from otprior.solver import Progress

__all__ = ["EXAMPLES", "fit"]

EXAMPLES = (
    "otprior fit bundled bundled --out prior",
    "otprior fit path/to/ddpm path/to/images --timestep 400 --conditional --out prior",
)


class Kind(StrEnum):
    """Priors that can be fitted."""

    semidiscrete = "semidiscrete"
    gaussian = "gaussian"
    identity = "identity"


class Noise(StrEnum):
    """Where the noise of a semidiscrete start comes from."""

    coupled = "coupled"
    fresh = "fresh"
    frozen = "frozen"


_SEMIDISCRETE, _GAUSSIAN = "Semidiscrete prior", "Gaussian prior"

# What each prior has a use for; any of the others is refused, since it would have no effect.
_OWN_OPTIONS: dict[Kind, set[str]] = {
    Kind.semidiscrete: {
        "conditional",
        "noise",
        "correlation",
        "smoothing",
        "tol",
        "max_draws",
        "weights",
        "keep_unconverged",
    },
    Kind.gaussian: {"conditional", "rank"},
    Kind.identity: set(),
}


def fit(
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder of images, a .npz, .npy or .safetensors file, or 'bundled'."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="PRIOR", help="The folder to write.", show_default=False)],
    prior: Annotated[Kind, typer.Option(help="What to fit.")] = Kind.semidiscrete,
    timestep: Annotated[
        float, typer.Option(help="t*, where sampling will start; can be changed later.")
    ] = 500,
    conditional: Annotated[
        bool, typer.Option("--conditional", "--labels", help="One map for each of the data's class labels.")
    ] = False,
    noise: Annotated[
        Noise | None,
        typer.Option(
            help="Of a start: the seed's own (coupled, the default), drawn anew, or one an atom.",
            rich_help_panel=_SEMIDISCRETE,
        ),
    ] = None,
    correlation: Annotated[
        float | None,
        typer.Option(
            metavar="RHO",
            help="Of coupled noise with the seed's; 1 by default.",
            rich_help_panel=_SEMIDISCRETE,
        ),
    ] = None,
    smoothing: Annotated[
        float | None,
        typer.Option(
            metavar="EPS",
            help="Softmax over atoms, in units of their natural scale; 0 by default.",
            rich_help_panel=_SEMIDISCRETE,
        ),
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(
            help="Upper 95 % limit of χ² of the cells' masses to reach; 0.05 by default.",
            rich_help_panel=_SEMIDISCRETE,
        ),
    ] = None,
    max_draws: Annotated[
        int | None, typer.Option(min=1, help="When to give up, for each map.", rich_help_panel=_SEMIDISCRETE)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The images' masses, .npy, of sum 1; equal by default.",
            rich_help_panel=_SEMIDISCRETE,
        ),
    ] = None,
    keep_unconverged: Annotated[
        bool,
        typer.Option(
            "--keep-unconverged", help="Save even if tol is not reached.", rich_help_panel=_SEMIDISCRETE
        ),
    ] = False,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Principal axes to keep.", rich_help_panel=_GAUSSIAN)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Fit on so many of the images, drawn at random by --seed.")
    ] = None,
    value_range: ValueRangeText = "auto",
    license: Annotated[str | None, typer.Option(help="The images' licence, recorded in the prior.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every random draw.")] = 0,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Fit a prior: what sampling starts from at t*, instead of from white noise at T.

    The default, semidiscrete, solves the optimal transport from N(0, I) to the images, and stores them in PRIOR.
    """
    with session(verbose, debug, out):
        check_output_dir(out, overwrite)
        check_model(model)
        check_data(data)
        if weights is not None:
            require_path("weights", weights)
            require(limit is None, "--weights", "left out with --limit", f"--limit {limit}")
        own = {
            "conditional": conditional or None,
            "noise": None if noise is None else noise.value,
            "correlation": correlation,
            "smoothing": smoothing,
            "tol": tol,
            "max_draws": max_draws,
            "weights": None if weights is None else str(weights),
            "keep_unconverged": keep_unconverged or None,
            "rank": rank,
        }
        options = _given(prior, own)
        pixels = parse_value_range(value_range)

        where = set_up_torch(threads, device)
        pipe = load_model(model)
        scheduler, t = pipe.scheduler, int(timestep) if timestep.is_integer() else timestep
        _check_timestep(scheduler, t)
        images = _read_images(data, pipe, pixels, conditional, license)
        del pipe  # only its schedule is needed on
        if weights is not None:
            options["weights"] = _read_weights(weights)
        if limit is not None and limit < len(images):
            images = images.select(_chosen(len(images), limit, seed))
        fitted = _fit(prior, images, scheduler, t, seed, where, options)
        _save(
            fitted, out, overwrite, {"model": model, "data": data, "images": len(images), "seed": seed, **own}
        )
        stdout().print(_summary(fitted, len(images), out))


def _given(kind: Kind, own: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, if the prior has a use for each of them."""
    given = {name: value for name, value in own.items() if value is not None}
    for name in given:
        takers = [each.value for each in Kind if name in _OWN_OPTIONS[each]]
        rule = f"left out unless --prior is {' or '.join(takers)}"
        require(kind in takers, f"--{name.replace('_', '-')}", rule, f"--prior {kind.value}")
    return given


def _check_timestep(scheduler: Any, timestep: float) -> None:
    from otprior.schedules import NoiseSchedule

    NoiseSchedule.from_scheduler(scheduler).check_timestep(timestep)


def _read_images(
    data: str, pipe: OTPriorPipeline, value_range: Any, conditional: bool, license: str | None
) -> ImageSet:
    """The images, checked against the network; with labels only if these are wanted."""
    from dataclasses import replace

    from otprior.data import check_labels
    from otprior.pipelines.inputs import latent_shape, num_classes

    images = load_data(data, latent_shape(pipe.unet), value_range, license)
    if not conditional:
        return replace(images, labels=None)
    if images.labels is None:
        hint = "Put each class's images into a folder of its own, or an array 'labels' into the file"
        raise invalid("data", "labelled with --conditional", f"{data}, which has no labels", hint)
    classes, null = num_classes(pipe.unet), pipe.config.null_class_label
    # The label for "no class" is usually the last one; no image has it.
    if classes is not None and null == classes - 1:
        classes -= 1
    check_labels(images.labels, len(images), classes, f"labels of {data}")
    return images


def _read_weights(path: Path) -> Tensor:
    import numpy as np
    import torch

    try:
        weights = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"weights {path} are damaged or no .npy file: {error}") from error
    numbers = isinstance(weights, np.ndarray) and np.issubdtype(weights.dtype, np.number)
    require(numbers, f"weights {path}", "one array of numbers in a .npy file", type(weights).__name__)
    return torch.from_numpy(weights.astype(np.float64))


def _chosen(count: int, limit: int, seed: int) -> Tensor:
    """Indices of `limit` of `count` images, ascending."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:limit].sort().values


def _fit(
    kind: Kind,
    images: ImageSet,
    scheduler: Any,
    timestep: float,
    seed: int,
    device: torch.device,
    options: dict[str, Any],
) -> Prior:
    from dataclasses import replace

    import torch

    from otprior.priors import GaussianPrior, IdentityPrior, SemiDiscretePrior
    from otprior.solver import ConvergenceError

    options = {name: value for name, value in options.items() if name != "conditional"}  # images have labels
    if kind is Kind.identity:
        c, h, w = images.images.shape[1:]
        return IdentityPrior.build((c, h, w), scheduler, timestep)
    images = replace(images, images=images.images.to(device))
    with progress_bar(f"fitting the {kind.value} prior") as bar:
        if kind is Kind.gaussian:
            return GaussianPrior.fit(images, scheduler, timestep, images.labels, **options)
        maps = 1 if images.labels is None else len(images.labels.unique())
        throw = not options.pop("keep_unconverged", False)
        try:
            return SemiDiscretePrior.fit(
                images,
                scheduler,
                timestep,
                images.labels,
                generator=torch.Generator().manual_seed(seed),
                throw=throw,
                progress=_listener(bar, maps),
                **options,
            )
        except ConvergenceError as error:
            raise fail(str(error), 1) from None


def _listener(bar: Bar, maps: int) -> Callable[[Progress], None]:
    """Shows draws and χ²; a conditional prior's maps are solved one after another."""
    current, last = 0, 0

    def listen(progress: Progress) -> None:
        nonlocal current, last
        if current == 0 or progress.draws <= last:
            current += 1
        last = progress.draws
        which = f", class {current} of {maps}" if maps > 1 else ""
        chi2 = "" if progress.chi2 is None else f", last χ² {progress.chi2.value:.3g}"
        bar.update(
            progress.draws,
            progress.expected_draws,
            f"{progress.draws:,} draws{chi2}",
            f"solving the transport{which}",
        )

    return listen


def _save(prior: Prior, out: Path, overwrite: bool, settings: dict[str, Any]) -> None:
    """Writes the prior's folder with a report.json in it, whole or not at all."""
    from otprior.report import validate_report

    report = empty_report(settings) | {"ot": ot_part(prior)}
    validate_report(report)
    library = logging.getLogger("otprior.priors")
    level = library.level
    # Its warning about sharing would name the temporary folder; the summary says it.
    library.setLevel(logging.ERROR)
    try:
        with output_dir(out, overwrite) as folder:
            prior.save_pretrained(folder)
            write_json(folder / "report.json", report)
    finally:
        library.setLevel(level)


def _summary(prior: Prior, images: int, out: Path) -> Table:
    part = start_part(prior, prior.timestep)
    rows = [
        ("prior", " ".join(filter(None, [part["prior"], part.get("noise")]))),
        ("start", f"t* = {prior.timestep:g} (α = {prior.alpha:.3f}, σ = {prior.sigma:.3f})"),
        ("images", f"{images:,} of {' x '.join(map(str, prior.shape))}, dimension {prior.dim:,}"),
    ]
    if prior.num_classes is not None:
        rows.append(("classes", f"{prior.num_classes}"))
    solve = ot_part(prior)
    if solve is not None:
        rows += [
            ("atoms", f"{solve['atoms']:,}"),
            ("χ²", f"{solve['chi2']:.4f}, upper 95 % limit {solve['chi2_upper']:.4f} ({solve['outcome']})"),
            ("draws", f"{solve['draws']:,} in {solve['seconds']:.1f} s"),
            ("note", "it holds the images themselves: see its README.md before you share it"),
        ]
    rows.append(("written to", str(out)))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table
