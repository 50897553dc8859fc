"""`otprior fit`: fit a prior to a noise schedule and images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.draw import draw_images
from otprior.cli.fit_prior import (
    Kind,
    check_source,
    fit_prior,
    given_options,
    read_images,
    read_weights,
    save,
    start_timestep,
    summary,
)
from otprior.cli.inputs import (
    BUNDLED,
    check_model,
    load_model,
    load_schedule,
    names_schedule,
    require_path,
    set_up_torch,
)
from otprior.cli.options import (
    Debug,
    Device,
    Overwrite,
    Threads,
    ValueRangeText,
    Verbose,
    parse_rank,
    parse_value_range,
)
from otprior.cli.processes import (
    check_alone,
    check_work_dir,
    drop_states,
    several_processes,
)
from otprior.cli.session import session, stdout
from otprior.cli.tune_search import (
    Material,
    search_by_default,
    search_table,
    take_settings,
    write_search,
)
from otprior.utils.files import check_output_dir
from otprior.utils.validation import require

EXAMPLES = (
    "otprior fit bundled bundled --out prior",
    "otprior fit path/to/ddpm path/to/images --timestep 400 --conditional --out prior",
    "otprior fit bundled bundled --auto 5 --out prior",
    "torchrun --nproc-per-node 2 -m otprior fit path/to/model latents.npy --value-range none --out prior",
    "otprior fit bundled --from-model 10000 --out prior",
    "otprior fit bundled bundled --prior mixture --out prior",
)


class Noise(StrEnum):
    """Where the noise of a semidiscrete start comes from."""

    coupled = "coupled"
    fresh = "fresh"
    frozen = "frozen"


class Precision(StrEnum):
    """Of the solver's products."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


_SEMIDISCRETE, _MIXTURE = "Semidiscrete prior", "Mixture prior"
_SOLVED, _RANKED = "Semidiscrete or mixture prior", "Gaussian, mixture or semidiscrete prior"


def fit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A diffusers folder with unet and scheduler, or 'bundled'; or a schedule alone: a "
            "scheduler_config.json, its folder, or a well-known name, as for audit.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="PRIOR", help="The folder to write.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A folder of images, a .npz, .npy or .safetensors file, or 'bundled'.",
            show_default=False,
        ),
    ] = None,
    prior: Annotated[Kind, typer.Option(help="What to fit.")] = Kind.semidiscrete,
    timestep: Annotated[
        float | None,
        typer.Option(
            help="t*, where sampling will start; can be changed later. By default a log-SNR of −2.47, timestep 500 of "
            "DDPM's linear betas (−1.43 for a mixture, timestep 400).",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="t*, noise and smoothing as `otprior tune` chose them.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --settings: which of them, if they are for several numbers.", show_default=False
        ),
    ] = None,
    auto: Annotated[
        int | None,
        typer.Option(
            "--auto",
            min=1,
            metavar="STEPS",
            help="Choose them for so many steps, as `otprior tune` does.",
            show_default=False,
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="With --auto: images to judge by.", show_default=False),
    ] = None,
    extractor: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="With --auto: the feature extractor.", show_default=False),
    ] = None,
    from_model: Annotated[
        int | None,
        typer.Option(
            "--from-model",
            min=2,
            metavar="N",
            help="Fit to N images that the model draws itself, instead of DATA. PRIOR.drawn keeps them.",
            show_default=False,
        ),
    ] = None,
    model_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --from-model: evaluations an image, 50 by default.", show_default=False
        ),
    ] = None,
    null_label: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With --from-model or --auto: the network's label for no class; by default the model's.",
            show_default=False,
        ),
    ] = None,
    conditional: Annotated[
        bool, typer.Option("--conditional", "--labels", help="One map for each of the data's class labels.")
    ] = False,
    noise: Annotated[
        Noise | None,
        typer.Option(
            help="Of a start: the seed's own (coupled, the default), drawn anew, or (semidiscrete) one an atom.",
            rich_help_panel=_SOLVED,
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
            rich_help_panel=_SOLVED,
        ),
    ] = None,
    max_draws: Annotated[
        int | None, typer.Option(min=1, help="When to give up, for each map.", rich_help_panel=_SOLVED)
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
        typer.Option("--keep-unconverged", help="Save even if tol is not reached.", rich_help_panel=_SOLVED),
    ] = False,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Of the products with the atoms; bfloat16 scores again in float64 what it cannot tell apart. "
            "auto, the default, takes what is fast here.",
            rich_help_panel=_SEMIDISCRETE,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from PRIOR.work, where a solve that takes minutes keeps its state.",
            rich_help_panel=_SEMIDISCRETE,
        ),
    ] = False,
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            help="Principal axes to keep (mixture: of a cluster, 10 by default): how many, or (semidiscrete) a share "
            "of the variance, as 0.95.",
            rich_help_panel=_RANKED,
        ),
    ] = None,
    components: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Clusters, of each class if --conditional; by default one for every ten images.",
            rich_help_panel=_MIXTURE,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Fit on so many of the images, drawn at random by --seed; with --auto, by seed 0."
        ),
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
    Several processes share a long solve: torchrun --nproc-per-node 2 -m otprior fit ...
    """
    with session(verbose, debug, out):
        check_output_dir(out, overwrite, (model, data, settings, weights, validation, extractor))
        work = out.with_name(f"{out.name}.work")
        check_work_dir(work, resume, overwrite)
        schedule_only = names_schedule(model)
        if not schedule_only:
            check_model(model)
        for option, count in (("--from-model", from_model), ("--auto", auto)):
            rule = "left out where MODEL is a schedule: there is no network"
            require(count is None or not schedule_only, option, rule, count)
        check_source(data, from_model)
        if weights is not None:
            require_path("weights", weights)
            require(limit is None, "--weights", "left out with --limit", f"--limit {limit}")
        without_auto = {"--validation": validation, "--extractor": extractor} if auto is None else {}
        for option, value in without_auto.items():
            require(value is None, option, "left out without --auto", value)
        require(steps is None or settings is not None, "--steps", "left out without --settings", steps)
        kept = data is not None and data != BUNDLED and prior in (Kind.semidiscrete, Kind.mixture)
        rule = "left out unless a prior that records it is fitted to images of your own"
        require(license is None or kept, "--license", rule, license)
        ranged = value_range == "auto" or from_model is None
        require(ranged, "--value-range", "left out with --from-model", value_range)
        needless = model_steps is not None and from_model is None
        require(not needless, "--model-steps", "left out without --from-model", model_steps)
        needless = null_label is not None and from_model is None and auto is None
        require(not needless, "--null-label", "left out without --from-model or --auto", null_label)
        own = {
            "conditional": conditional or None,
            "noise": None if noise is None else noise.value,
            "correlation": correlation,
            "smoothing": smoothing,
            "tol": tol,
            "max_draws": max_draws,
            "weights": None if weights is None else str(weights),
            "keep_unconverged": keep_unconverged or None,
            "rank": None if rank is None else parse_rank(rank, prior is Kind.semidiscrete),
            "precision": None if precision is None else precision.value,
            "components": components,
            "resume": resume or None,
        }
        pixels = parse_value_range(value_range)
        if auto is not None:
            free = {
                "--timestep": timestep,
                "--settings": settings,
                "--from-model": from_model,
                "--license": license,
                "--seed": seed or None,
                "--device": None if device == "cpu" else device,
            }
            free |= {f"--{name}": value for name, value in own.items() if name != "tol"}
            given = {name: value for name, value in free.items() if value is not None}
            rule = "left out with --auto, which chooses or has no use for it"
            require(not given, ", ".join(given), rule, ", ".join(map(str, given.values())))
            check_alone("--auto", "in one process; it starts others itself")
            reach = 0.05 if tol is None else tol
            material = Material(model, str(data), validation, extractor, null_label, pixels, limit, reach)
            found = search_by_default(material, auto, prior.value, out, threads)
            chosen = {"model": model, "data": data, "auto": auto}
            save(found.prior, out, overwrite, chosen, lambda folder: write_search(folder, found))
            stdout().print(search_table(found, out))
            return
        if settings is not None:
            timestep = take_settings(settings, steps, prior.value, timestep, own)
        options = given_options(prior, own)
        where = set_up_torch(threads, device)
        pipe = None if schedule_only else load_model(model, null_label=null_label)
        scheduler = load_schedule(model) if pipe is None else pipe.scheduler
        t = start_timestep(prior, scheduler, timestep)
        if from_model is not None:
            drawn = out.with_name(f"{out.name}.drawn")
            images = draw_images(model, pipe, from_model, model_steps or 50, conditional, drawn)
        else:
            images = read_images(str(data), pipe, pixels, conditional, license)
        del pipe  # only its schedule is needed on
        if weights is not None:
            options["weights"] = read_weights(weights)
        if limit is not None and limit < len(images):
            images = images.sample(limit, seed)
        recorded = {
            "model": model,
            "data": data,
            "from_model": from_model,
            "images": len(images),
            "seed": seed,
        }
        if not resume:
            drop_states(work)
        with several_processes(work) as ranks:
            fitted = fit_prior(prior, images, scheduler, t, seed, where, options, work, ranks)
            if ranks.first:
                save(fitted, out, overwrite, recorded | own)
                drop_states(work)
                stdout().print(summary(fitted, len(images), out))
