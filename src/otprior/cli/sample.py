"""`otprior sample`: make images of seeds, in few network evaluations."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.inputs import check_model, check_prior, load_model, load_prior, require_path, set_up_torch
from otprior.cli.options import (
    BatchSize,
    Debug,
    Device,
    ModelArgument,
    NullLabel,
    Out,
    Overwrite,
    Scheduler,
    Spacing,
    Threads,
    Verbose,
    format_seeds,
    parse_labels,
    parse_seeds,
)
from otprior.cli.progress import progress_bar
from otprior.cli.report_parts import empty_report
from otprior.cli.session import say, session
from otprior.utils.files import output_dir, write_json
from otprior.utils.validation import require

if TYPE_CHECKING:
    from torch import Tensor

    from otprior.sampling import StartSpec
    from otprior.sampling.plan import SamplingPlan

EXAMPLES = (
    "otprior sample bundled --prior prior --seeds 0-99 --steps 5 --out samples --grid",
    "otprior sample bundled --prior tuned/prior --settings tuned/settings.json --out samples",
    "otprior sample bundled --prior prior --codes codes/codes.safetensors --out again",
    "otprior sample path/to/ddpm --prior none --scheduler unipc --steps 20 --out samples",
)

# Images of the contact sheet; more would be too small to see.
GRID_IMAGES = 100
DEFAULT_STEPS = 5


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
        help="A prior's folder; none starts from white noise at T.",
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
        metavar="LABELS",
        help="3 for all images, or a list such as 0-9: seed s gets entry s modulo its length.",
    ),
]
Guidance = Annotated[
    float,
    typer.Option(
        "--guidance-scale",
        min=0,
        help="Scale of classifier-free guidance; other than 1 it doubles the network evaluations.",
    ),
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
    class_labels: ClassLabels = None,
    guidance_scale: Guidance = 1.0,
    null_label: NullLabel = None,
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

    DIR gets the images, starts.npz (seeds, labels, and the training image behind each start) and report.json.
    """
    inputs = (model, prior, settings, codes)
    with session(verbose, debug, out), output_dir(out, overwrite, inputs) as folder:
        _check_paths(model, prior, settings, codes)
        numbers = parse_seeds("0-9" if seeds is None else seeds)
        cycle = None if class_labels is None else parse_labels(class_labels)
        require(not as_float or format is Format.npz, "--float", "given with --format npz", format.value)
        chosen = None if settings is None else _chosen(settings, steps, timestep, spacing)
        if chosen is not None:
            timestep = float(chosen.start_timestep) if timestep is None else timestep
            steps, scheduler = chosen.steps, scheduler or chosen.scheduler
            spacing = spacing or chosen.spacing
        where = set_up_torch(threads, device)
        pipe = _load(model, prior, timestep, scheduler, spacing, null_label).to(where, _dtype(dtype))
        if chosen is not None:
            _set_options(pipe, chosen)
        drawn = numbers if codes is None or seeds is not None else None
        chosen_grid = () if chosen is None else chosen.grid
        count = steps or DEFAULT_STEPS
        plan = _plan(pipe, drawn, codes, cycle, count, spacing, guidance_scale, batch_size, chosen_grid)
        _check_channels(pipe, drawn=grid or not as_float)
        facts = {"model": model, "prior": prior, "steps": plan.steps, "dtype": dtype.value}
        facts |= {"pixels": "float32" if as_float else "uint8", "class labels": class_labels}
        facts["codes"] = None if codes is None else codes.name
        nfe, seconds = _write_images(pipe, plan, folder, format is Format.png, as_float, grid)
        write_json(folder / "report.json", _report(pipe, plan, spacing, nfe, seconds, facts))
    count = len(plan.seeds)
    say(
        f"{count:,} image{'s' * (count != 1)} in {out}: {nfe} network evaluations each, "
        f"{count / seconds:.3g} images a second"
    )


def _check_paths(model: str, prior: str | None, settings: Path | None, codes: Path | None) -> None:
    check_model(model)
    if prior not in (None, "none"):
        check_prior(str(prior))
    if settings is not None:
        require_path("--settings", settings)
        require(prior != "none", "--settings", "left out with --prior none", settings)
    if codes is not None:
        require_path("codes", codes, "`otprior encode` makes them")


def _chosen(path: Path, steps: int | None, timestep: float | None, spacing: str | None) -> StartSpec:
    """The settings for so many steps, or the only ones; a fitted grid has a t* of its own."""
    from otprior.sampling.settings import read_settings, start_of_steps

    start = start_of_steps(read_settings(path), steps)
    plain = not start.sampler and not start.conditional and start.guidance == 1
    rule = (
        "for a start without labels, guidance and options of the scheduler: this command takes none of these"
    )
    require(plain, f"--settings {path}", rule, start.label or start.key)
    moved = bool(start.grid) and spacing is None and timestep not in (None, start.start_timestep)
    rule = f"{start.start_timestep:g}, from where the settings' grid was fitted, or given with --spacing"
    require(not moved, "--timestep", rule, timestep)
    return start


def _set_options(pipe: Any, chosen: StartSpec) -> None:
    """Gives the prior the options of the settings, which must be for its kind."""
    kind = pipe.prior.kind
    require(kind == chosen.prior, "--settings", f"for the prior at hand, {kind}", chosen.prior)
    pipe.prior = pipe.prior.derive(pipe.prior, pipe.prior.timestep, dict(chosen.options))


def _load(
    model: str,
    prior: str | None,
    timestep: float | None,
    scheduler: str | None,
    spacing: str | None,
    null_label: int | None,
) -> Any:
    """The pipeline, with its prior at the timestep where it shall start."""
    from otprior.sampling.schedulers.names import GRID_SPACINGS
    from otprior.sampling.start_spec import FITTED

    stock = None if spacing in (FITTED, *GRID_SPACINGS) else spacing
    pipe: Any = load_model(model, scheduler, stock, null_label)
    if prior is None:
        hint = "`otprior fit` makes one; none starts from white noise at T"
        require(pipe.prior is not None, "--prior", "given: the model's folder holds none", "nothing", hint)
    else:
        pipe.prior = None if prior == "none" else load_prior(prior)
    if timestep is not None:
        require(pipe.prior is not None, "--timestep", "left out without a prior", f"{timestep:g}")
        pipe.prior = pipe.prior.at(int(timestep) if timestep.is_integer() else timestep)
    return pipe


def _dtype(dtype: Dtype) -> Any:
    import torch

    return getattr(torch, dtype.value)


def _plan(
    pipe: Any,
    numbers: list[int] | None,
    codes: Path | None,
    cycle: list[int] | None,
    steps: int,
    spacing: str | None,
    guidance_scale: float,
    batch_size: int,
    fitted: tuple[float, ...],
) -> SamplingPlan:
    """What is sampled, checked against network, prior and scheduler; `numbers` None stands for all codes."""
    from otprior.diffusion.codes import Codes
    from otprior.diffusion.grids import timestep_grid
    from otprior.sampling.plan import SamplingPlan, seed_noise_of_codes
    from otprior.sampling.schedulers import find_origin
    from otprior.sampling.schedulers.names import GRID_SPACINGS
    from otprior.sampling.schedulers.support import find_support
    from otprior.sampling.start_spec import FITTED

    find_support(pipe.scheduler)
    origin = find_origin(pipe.scheduler, pipe.prior)
    grid = list(fitted) if spacing == FITTED else None
    if spacing in GRID_SPACINGS:
        grid = list(timestep_grid(origin.schedule, origin.timestep, steps, GRID_SPACINGS[spacing]))
    latents, labels = None, None
    if codes is not None:
        found = Codes.load(codes)
        numbers, latents, labels = seed_noise_of_codes(found, pipe, numbers, f"codes {codes}")
    assert numbers is not None
    if cycle is not None:
        labels = [cycle[seed % len(cycle)] for seed in numbers]
    plan = SamplingPlan(numbers, labels, steps, grid, guidance_scale, batch_size, latents)
    plan.check_labels(pipe)
    return plan


def _check_channels(pipe: Any, drawn: bool) -> None:
    from otprior.sampling.plan import image_channels

    channels = image_channels(pipe)
    hint = "Latents are kept by --format npz --float, without --grid"
    require(not drawn or channels in (None, 1, 3), "the network's images", "grey or RGB", channels, hint)


def _write_images(
    pipe: Any, plan: SamplingPlan, folder: Path, png: bool, as_float: bool, sheet: bool
) -> tuple[int, float]:
    """Samples all images into `folder`; network evaluations an image, and seconds of sampling."""
    import torch

    from otprior.data.samples import SampleWriter, diverged
    from otprior.report import contact_sheet
    from otprior.sampling.plan import image_channels, sample_batches

    writer = SampleWriter(folder, plan.seeds, png, as_float)
    shown: list[Tensor] = []
    nfe, seconds, total = 0, 0.0, len(plan.seeds)
    # (What the autoencoder has not decoded is in no known range.)
    latents, wrong = as_float and (pipe.vae is not None or image_channels(pipe) not in (1, 3)), None
    with progress_bar("sampling") as bar:

        def listen(done: float) -> None:
            bar.update(done, total, f"{int(done):,} of {total:,} images")

        for batch in sample_batches(pipe, plan, decode=not as_float, listen=listen):
            seconds += batch.seconds
            wrong = wrong or (None if latents else diverged(batch.images))
            nfe = batch.nfe
            writer.add(batch.images, batch.sources)
            if sheet and sum(map(len, shown)) < GRID_IMAGES:
                shown.append(batch.images)
    writer.finish(plan.labels)
    if wrong is not None:
        hint = "the sampler seems to have diverged; try more steps, another --scheduler or --spacing"
        logging.getLogger(__name__).warning("%s: %s", wrong, hint)
    if shown:
        images = torch.cat(shown)[:GRID_IMAGES]
        scale = max(1, 56 // max(images.shape[2:]))
        contact_sheet(images, scale=scale).save(folder / "grid.png")
    return nfe, seconds


def _report(
    pipe: Any, plan: SamplingPlan, spacing: str | None, nfe: int, seconds: float, settings: dict[str, Any]
) -> dict[str, Any]:
    from otprior.sampling.schedulers import find_origin

    facts = getattr(pipe.prior, "facts", {})
    origin = find_origin(pipe.scheduler, pipe.prior).timestep
    start = {"prior": "none", "start_timestep": origin} if pipe.prior is None else pipe.prior.report_facts()
    row = start | {
        "scheduler": type(pipe.scheduler).__name__,
        "spacing": spacing,
        "guidance": plan.guidance_scale,
        "nfe": nfe,
        "samples": len(plan.seeds),
        "seeds": format_seeds(plan.seeds),
        "seconds_per_image": seconds / len(plan.seeds),
        "fid": None,
        "copy_rate": None,
    }
    report = empty_report(settings | {"atoms_sha256": facts.get("sha256")})
    ot = None if pipe.prior is None else pipe.prior.transport_facts()
    return report.replace(ot=ot, rows=[row]).to_json()
