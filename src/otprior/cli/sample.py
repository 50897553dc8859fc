"""`otprior sample`: make images of seeds, in few network evaluations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.inputs import check_model, check_prior, load_model, load_prior, require_path, set_up_torch
from otprior.cli.options import (
    Debug,
    Device,
    ModelArgument,
    Overwrite,
    Threads,
    Verbose,
    format_seeds,
    parse_labels,
    parse_seeds,
)
from otprior.cli.progress import Bar, progress_bar
from otprior.cli.report_parts import empty_report, ot_part, start_part
from otprior.cli.session import session, stdout
from otprior.utils.files import check_output_dir, output_dir, write_json
from otprior.utils.validation import require

if TYPE_CHECKING:
    from torch import Tensor

    from otprior.sampling import OTPriorPipeline
    from otprior.sampling.start_spec import StartSpec

EXAMPLES = (
    "otprior sample bundled --prior prior --seeds 0-99 --steps 5 --out samples --grid",
    "otprior sample bundled --prior tuned/prior --settings tuned/settings.json --seeds 0-99 --out samples",
    "otprior sample bundled --prior prior --codes codes/codes.safetensors --steps 5 --out again",
    "otprior sample path/to/ddpm --prior none --scheduler unipc --steps 20 --seeds 0-999 --out samples",
)

# Images of the contact sheet; more would be too small to see.
GRID_IMAGES = 100


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


@dataclass(frozen=True)
class _Plan:
    """What is sampled, once all is known to fit together."""

    seeds: list[int]
    labels: list[int] | None
    steps: int
    timesteps: list[float] | None
    guidance_scale: float
    batch_size: int
    latents: Tensor | None = None


def sample(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.", show_default=False)],
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="PRIOR", help="A prior's folder; none starts from white noise at T.", show_default=False
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS",
            help="0-999, or 3,5,9, or 7: one image each; 0-9 by default, or all --codes.",
            show_default=False,
        ),
    ] = None,
    codes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from these codes of `otprior encode` instead of random seed noise, by any scheduler or prior; "
            "--seeds then counts them. (`otprior encode --decode` undoes the encoding itself.)",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the sampler; 5 by default.", show_default=False)
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start, steps, scheduler and spacing as `otprior tune` chose them; what else is given goes first.",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A diffusers scheduler: dpm++2m, unipc, deis, ddim, euler, heun, or a class name. "
            "By default the model's, but DPM++2M for ancestral DDPM.",
            show_default=False,
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of timesteps: trailing, linspace, karras, exponential, beta, lu as in diffusers; "
            "grid:log_snr, grid:time, grid:karras are grids made for few steps. By default the scheduler's.",
            show_default=False,
        ),
    ] = None,
    timestep: Annotated[
        float | None, typer.Option(help="Start at this t* instead of the prior's.", show_default=False)
    ] = None,
    class_labels: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="3 for all images, or a list such as 0-9: seed s gets entry s modulo its length.",
            show_default=False,
        ),
    ] = None,
    guidance_scale: Annotated[
        float,
        typer.Option(min=0, help="Of classifier-free guidance; other than 1 it doubles the evaluations."),
    ] = 1.0,
    null_label: Annotated[
        int | None,
        typer.Option(min=0, help="The label for no class; by default the model's.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; it does not change them.")] = 64,
    format: Annotated[Format, typer.Option(help="A file an image, or all in one.")] = Format.png,
    as_float: Annotated[
        bool,
        typer.Option("--float", help="With npz: float32 as the sampler ended, neither rounded nor clipped."),
    ] = False,
    grid: Annotated[bool, typer.Option("--grid", help="Write a contact sheet too, grid.png.")] = False,
    device: Device = "cpu",
    dtype: Annotated[Dtype, typer.Option(help="Of the network.")] = Dtype.float32,
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Sample images: seed i always gives image i, whatever the batch.

    DIR gets the images, starts.npz (seeds, labels, and the training image behind each start) and report.json.
    """
    with session(verbose, debug, out):
        check_output_dir(out, overwrite)
        check_model(model)
        if prior not in (None, "none"):
            check_prior(prior)
        if settings is not None:
            require_path("--settings", settings)
            require(prior != "none", "--settings", "left out with --prior none", settings)
        if codes is not None:
            require_path("codes", codes, "`otprior encode` makes them")
        numbers = parse_seeds("0-9" if seeds is None else seeds)
        cycle = None if class_labels is None else parse_labels(class_labels)
        require(not as_float or format is Format.npz, "--float", "given with --format npz", f"{format.value}")

        chosen = None if settings is None else _chosen(settings, steps)
        if chosen is not None:
            timestep = float(chosen.start_timestep) if timestep is None else timestep
            steps, scheduler = chosen.steps, scheduler or chosen.scheduler
            spacing = spacing or chosen.spacing
        steps = steps or 5
        pipe = _load(model, prior, timestep, scheduler, spacing, null_label, device, dtype, threads)
        if chosen is not None:
            _set_noise(pipe, chosen)
        start, timesteps = _grid(pipe, spacing, steps)
        latents, told = None, None
        if codes is not None:
            numbers, latents, told = _read_codes(codes, None if seeds is None else numbers, pipe)
        labels = told if cycle is None else [cycle[seed % len(cycle)] for seed in numbers]
        plan = _Plan(numbers, labels, steps, timesteps, guidance_scale, batch_size, latents)
        _check_labels(pipe, labels)
        channels = latent_channels(pipe)
        hint = "Latents are kept by --format npz --float, without --grid"
        drawn = grid or not as_float
        require(not drawn or channels in (None, 1, 3), "the network's images", "grey or RGB", channels, hint)
        facts = {
            "model": model,
            "prior": prior,
            "steps": steps,
            "dtype": dtype.value,
            "pixels": "float32" if as_float else "uint8",
            "class labels": class_labels,
            "codes": None if codes is None else codes.name,
        }
        with output_dir(out, overwrite) as folder:
            nfe, seconds = _run(pipe, plan, folder, format is Format.png, as_float, grid)
            report = _report(pipe, plan, start, spacing, nfe, seconds, facts)
            write_json(folder / "report.json", report)
        count = len(numbers)
        stdout().print(
            f"{count:,} image{'s' * (count != 1)} in {out}: {nfe} network evaluations each, "
            f"{count / seconds:.3g} images a second",
            soft_wrap=True,
            highlight=False,
        )


def _chosen(path: Path, steps: int | None) -> StartSpec:
    """The settings for so many steps, or the only ones."""
    from otprior.sampling.settings import read_settings, row_of_steps

    row = row_of_steps(read_settings(path), steps)
    plain = not row.sampler and not row.conditional and row.guidance == 1
    rule = (
        "of a start without labels, guidance and options of the scheduler: this command takes none from them"
    )
    require(plain, f"--settings {path}", rule, row.label or row.key)
    return row


def _set_noise(pipe: Any, chosen: StartSpec) -> None:
    """Gives the prior the noise and smoothing of the settings, which must be for its kind."""
    kind = start_part(pipe.prior, 0)["prior"]
    require(kind == chosen.prior, "--settings", f"for the prior at hand, {kind}", chosen.prior)
    if kind == "semidiscrete":
        options = {"noise": chosen.noise, "smoothing": chosen.smoothing, "correlation": chosen.correlation}
        pipe.prior = pipe.prior.with_options(**options)
    if kind == "mixture":
        pipe.prior = pipe.prior.with_options(noise=chosen.noise or "coupled")


def latent_channels(pipe: Any) -> int | None:
    """C of the images that are sampled, if anything tells it."""
    from otprior.sampling.inputs import latent_shape

    if pipe.vae is not None:
        return int(pipe.vae.config.out_channels)
    shape = latent_shape(pipe.unet) if pipe.prior is None else pipe.prior.shape
    return None if shape is None else shape[0]


def _load(
    model: str,
    prior: str | None,
    timestep: float | None,
    scheduler: str | None,
    spacing: str | None,
    null_label: int | None,
    device: str,
    dtype: Dtype,
    threads: int | None,
) -> OTPriorPipeline:
    """The pipeline, with its prior at the timestep where it shall start."""
    import torch

    from otprior.sampling.schedulers.names import GRID_SPACINGS

    where = set_up_torch(threads, device)
    stock = None if spacing in GRID_SPACINGS else spacing
    pipe: Any = load_model(model, scheduler, stock, null_label)
    if prior is None:
        hint = "`otprior fit` makes one; none starts from white noise at T"
        require(pipe.prior is not None, "--prior", "given: the model's folder holds none", "nothing", hint)
    else:
        pipe.prior = None if prior == "none" else load_prior(prior)
    if timestep is not None:
        require(pipe.prior is not None, "--timestep", "left out without a prior", f"{timestep:g}")
        pipe.prior = pipe.prior.at(int(timestep) if timestep.is_integer() else timestep)
    return pipe.to(where, getattr(torch, dtype.value))


def _grid(pipe: OTPriorPipeline, spacing: str | None, steps: int) -> tuple[float, list[float] | None]:
    """Where the sampler starts, in its own units, and its timesteps if the spacing is one of ours."""
    from otprior.diffusion.grids import timestep_grid
    from otprior.diffusion.schedule import NoiseSchedule
    from otprior.sampling.schedulers import matching_timestep
    from otprior.sampling.schedulers.names import GRID_SPACINGS
    from otprior.sampling.schedulers.support import find_support

    find_support(pipe.scheduler)
    schedule = NoiseSchedule.from_scheduler(pipe.scheduler)
    if pipe.prior is None:
        start = schedule.timestep_range[1]
    else:
        start = matching_timestep(schedule, pipe.prior.alpha, pipe.prior.sigma)
    if spacing not in GRID_SPACINGS:
        return start, None
    return start, list(timestep_grid(schedule, start, steps, GRID_SPACINGS[spacing]))


def _read_codes(
    path: Path, wanted: list[int] | None, pipe: Any
) -> tuple[list[int], Tensor, list[int] | None]:
    """Numbers of codes, the codes at unit scale, and what the network was told when they were encoded."""
    from otprior.diffusion.codes import Codes
    from otprior.sampling.inputs import latent_shape

    found = Codes.load(path)
    z = found.seed_noise()
    shape, got = latent_shape(pipe.unet), tuple(z.shape[1:])
    require(shape in (None, got), f"codes {path}", f"of shape {shape}", got)
    numbers = list(range(len(z))) if wanted is None else wanted
    rule = f"numbers of the {len(z):,} codes, from 0 on"
    require(numbers[-1] < len(z), "--seeds", rule, numbers[-1])
    # (Being told "no class" is what the pipeline does of itself; a prior by class would not know that label.)
    null = pipe.config.null_class_label
    if found.labels is None or found.of_no_class or set(found.labels.tolist()) == {null}:
        return numbers, z[numbers], None
    return numbers, z[numbers], found.labels[numbers].tolist()


def _check_labels(pipe: OTPriorPipeline, labels: list[int] | None) -> None:
    """That no label of a later batch will be refused: the pipeline checks one batch at a time."""
    from otprior.data.images import check_labels
    from otprior.sampling.inputs import num_classes

    if labels is not None:
        for count in (num_classes(pipe.unet), getattr(pipe.prior, "num_classes", None)):
            check_labels(labels, len(labels), count, "--class-labels")


def _run(pipe: Any, plan: _Plan, folder: Path, png: bool, as_float: bool, sheet: bool) -> tuple[int, float]:
    """Samples all images into `folder`; network evaluations an image, and seconds of sampling."""
    import torch

    from otprior.data.samples import SampleWriter
    from otprior.report import contact_sheet
    from otprior.sampling import seeds_to_generators
    from otprior.utils.random import stream_generator

    writer = SampleWriter(folder, plan.seeds, png, as_float)
    first: list[Tensor] = []
    nfe, seconds = 0, 0.0
    with progress_bar("sampling") as bar:
        for begin in range(0, len(plan.seeds), plan.batch_size):
            seeds = plan.seeds[begin : begin + plan.batch_size]
            labels = None if plan.labels is None else plan.labels[begin : begin + plan.batch_size]
            generators, latents = seeds_to_generators(seeds), None
            if plan.latents is not None:
                # Code k may be the very noise of seed k, of which a prior's fresh noise has to be independent.
                generators = [stream_generator(seed, "beside codes") for seed in seeds]
                latents = plan.latents[begin : begin + plan.batch_size]
            started = time.perf_counter()
            result = pipe(
                batch_size=len(seeds),
                class_labels=labels,
                num_inference_steps=plan.steps,
                timesteps=plan.timesteps,
                guidance_scale=plan.guidance_scale,
                generator=generators,
                latents=latents,
                output_type="latent",
                callback_on_step_end=_Listener(bar, plan, begin, len(seeds)),
            )
            # (On a GPU, the images are there when they have come over.)
            images = (result.images if as_float else pipe.decode(result.images)).float().cpu()
            seconds += time.perf_counter() - started
            nfe = result.nfe
            writer.add(images, result.sources)
            if sheet and begin < GRID_IMAGES:
                first.append(images)
    writer.finish(plan.labels)
    if first:
        images = torch.cat(first)[:GRID_IMAGES]
        scale = max(1, 56 // max(images.shape[2:]))
        contact_sheet(images, scale=scale).save(folder / "grid.png")
    return nfe, seconds


class _Listener:
    """Moves the bar after each step of a batch."""

    def __init__(self, bar: Bar, plan: _Plan, done: int, batch: int) -> None:
        self._bar, self._plan, self._done, self._batch = bar, plan, done, batch

    def __call__(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        # Heun calls 2K − 1 times in K steps.
        share = min((step + 1) / self._plan.steps, 1.0)
        done, total = self._done + self._batch * share, len(self._plan.seeds)
        self._bar.update(done, total, f"{int(done):,} of {total:,} images")
        return {}


def _report(
    pipe: Any,
    plan: _Plan,
    start: float,
    spacing: str | None,
    nfe: int,
    seconds: float,
    settings: dict[str, Any],
) -> dict[str, Any]:
    from otprior.report import report_row, validate_report

    facts = getattr(pipe.prior, "facts", {})
    row = report_row(
        **start_part(pipe.prior, start),
        scheduler=type(pipe.scheduler).__name__,
        spacing=spacing,
        guidance=plan.guidance_scale,
        nfe=nfe,
        samples=len(plan.seeds),
        seeds=format_seeds(plan.seeds),
        seconds_per_image=seconds / len(plan.seeds),
    )
    report = empty_report(settings | {"atoms_sha256": facts.get("sha256")})
    report |= {"ot": ot_part(pipe.prior), "rows": [row]}
    validate_report(report)
    return report
