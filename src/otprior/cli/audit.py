"""`otprior audit`: measure how wrong a start is, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from otprior.cli.inputs import (
    BUNDLED,
    check_data,
    check_model_or_schedule,
    check_prior,
    explained,
    find_model,
    is_named,
    is_stock_model,
    load_data,
    load_model,
    load_prior,
    load_schedule,
    set_up_torch,
)
from otprior.cli.options import (
    Convert,
    Crop,
    Debug,
    Device,
    NullLabel,
    Overwrite,
    Resize,
    Scheduler,
    Seed,
    Threads,
    ValueRangeText,
    Variant,
    Verbose,
    parse_reading,
)
from otprior.cli.progress import Bar, progress_bar
from otprior.cli.session import say, session, stdout
from otprior.utils.files import output_dir
from otprior.utils.validation import invalid, require

if TYPE_CHECKING:
    from otprior.data.images import ImageSet
    from otprior.error.audit import AuditRequest
    from otprior.report.audit import AuditReport
    from otprior.sampling import OTPriorPipeline

EXAMPLES = (
    "otprior audit sdxl",
    "otprior audit bundled bundled --held-out bundled --out audit",
    "otprior audit path/to/ddpm path/to/images --prior prior --timesteps 300,500,999 --out audit",
)

_SAMPLES, _DATA = "Cost in samples", "Data"


class _Subject(NamedTuple):
    """What is audited: a scheduler, perhaps with its network."""

    name: str
    scheduler: Any
    shape: tuple[int, int, int] | None
    pipe: OTPriorPipeline | None
    autoencoder: Any = None


Subject = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A diffusers folder, 'owner/name' of the hub, a scheduler_config.json, 'bundled', 'bundled-by-class', or "
        "a schedule: ddpm-linear, cosine, stable-diffusion, sdxl, zero-snr, edm, flow-shift-3.",
    ),
]
AuditData = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Images like those it was trained on: a folder, a .npz, .npy or .safetensors file, or 'bundled'. "
        "Without them only the schedule is audited.",
    ),
]
ReportFolder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Write report.html, plots and report.json here.")
]
Priors = Annotated[
    list[Path] | None,
    typer.Option(
        "--prior",
        metavar="PRIOR",
        help="A prior's folder, or 'owner/name' of the hub, audited as well; may be given several times.",
    ),
]
Times = Annotated[
    str | None,
    typer.Option(
        "--timesteps", metavar="T,T,...", help="t* to look at.", show_default="ten, the last of them T"
    ),
]
Draws = Annotated[
    int,
    typer.Option("--draws", min=0, help="Latents that the data's flow is followed from; 0 leaves it out."),
]
HeldOut = Annotated[
    str | None,
    typer.Option(
        "--held-out",
        metavar="DATA",
        help="Images that nothing was fitted on: adds the error for the population.",
        rich_help_panel=_DATA,
    ),
]
Conditional = Annotated[
    bool, typer.Option("--conditional", "--labels", help="Errors class by class, too.", rich_help_panel=_DATA)
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=2, help="So many of the images, drawn at random by --seed.", rich_help_panel=_DATA
    ),
]
CostAt = Annotated[
    str | None,
    typer.Option(
        "--cost-at",
        metavar="T,T,...",
        help="t* of the cost in samples; none for no cost.",
        rich_help_panel=_SAMPLES,
        show_default="the one in the middle, one at three quarters, and T",
    ),
]
Steps = Annotated[
    int, typer.Option("--steps", min=1, help="Network evaluations of a sample.", rich_help_panel=_SAMPLES)
]
FineSteps = Annotated[
    int,
    typer.Option(
        "--fine-steps",
        min=1,
        help="Network evaluations of the finer grid that they are compared with.",
        rich_help_panel=_SAMPLES,
    ),
]
Pairs = Annotated[
    int, typer.Option("--pairs", min=2, help="Pairs of samples; at most --draws.", rich_help_panel=_SAMPLES)
]
EstimatedBound = Annotated[
    bool,
    typer.Option("--estimated-bound", help="Estimate the analytic bound, too.", rich_help_panel=_SAMPLES),
]


def audit(
    model: Subject,
    data: AuditData = None,
    out: ReportFolder = None,
    prior: Priors = None,
    timesteps: Times = None,
    held_out: HeldOut = None,
    conditional: Conditional = False,
    limit: Limit = None,
    resize: Resize = None,
    crop: Crop = None,
    convert: Convert = None,
    value_range: ValueRangeText = "auto",
    draws: Draws = 64,
    cost_at: CostAt = None,
    steps: Steps = 5,
    fine_steps: FineSteps = 24,
    pairs: Pairs = 24,
    scheduler: Scheduler = None,
    null_label: NullLabel = None,
    variant: Variant = None,
    estimated_bound: EstimatedBound = False,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Audit where sampling begins: what is left of the signal at T, how wrong each start is, and what it costs.

    With a model and data, the error of N(0, I), of a gaussian prior and of fitted priors is enclosed at every t*, and
    measured in samples. With a scheduler alone, what it leaves at its end.
    """
    inputs = (model, data, held_out, *(prior or ()))
    writing = nullcontext() if out is None else output_dir(out, overwrite, inputs)
    with session(verbose, debug, out), writing as folder:
        _check_paths(model, data, held_out, prior or [])
        times = None if timesteps is None else _parse_times("--timesteps", timesteps)
        cost_times = _cost_times(cost_at)
        rule = "left out without DATA" if data is None else None
        reading = parse_reading(value_range, resize, crop, convert, rule)
        started = time.perf_counter()
        where = set_up_torch(threads, device)
        with progress_bar("loading") as bar:
            subject = _subject(model, scheduler, null_label, variant)
            if subject.pipe is not None:
                subject.pipe.unet.to(where)
            images, others = _images((data, held_out), subject, reading, limit, seed)
            request = _request(
                subject, images, others, times, cost_times,
                priors=_named(prior or []), steps=steps, fine_steps=max(fine_steps, steps), draws=draws,
                pairs=max(2, min(pairs, draws)), conditional=conditional, estimated_bound=estimated_bound, seed=seed,
            )  # fmt: skip
            settings = {"model": model, "data": data, "held_out": held_out, "seed": seed}
            report = _report(request, bar, settings, started, folder)
    _print(report, out)


def _check_paths(model: str, data: str | None, held_out: str | None, priors: list[Path]) -> None:
    check_model_or_schedule(model)
    for name, what in ((data, "data"), (held_out, "--held-out")):
        if name is not None:
            check_data(name, what)
    for path in priors:
        check_prior(path)


def _named(paths: list[Path]) -> dict[str, Any]:
    """Priors by the names of their folders, or by their whole paths where these are the same."""
    short = [path.name for path in paths]
    return {
        path.name if short.count(path.name) == 1 else str(path): load_prior(path)
        for path in dict.fromkeys(paths)
    }


def _cost_times(text: str | None) -> list[float] | None:
    if text == "none":
        return []
    return None if text is None else _parse_times("--cost-at", text)


def _parse_times(option: str, text: str) -> list[float]:
    try:
        times = [float(part) for part in text.split(",")]
    except ValueError:
        raise invalid(option, "timesteps such as 300,500,999", repr(text)) from None
    require(len(set(times)) == len(times), option, "different timesteps", text)
    return times


def _subject(name: str, scheduler: str | None, null_label: int | None, variant: str | None) -> _Subject:
    from otprior.diffusion.known_schedules import known_names, known_schedule
    from otprior.error.sampling_cost import is_stochastic
    from otprior.sampling.folders import own_scheduler
    from otprior.sampling.inputs import latent_shape
    from otprior.sampling.schedulers.names import named_scheduler
    from otprior.sampling.stock import STOCK_PARTS, stock_latents

    model = is_named(name) or (Path(name) / "model_index.json").is_file()
    if model and not is_stock_model(name):
        folder = find_model(name, variant)
        try:
            pipe: Any = load_model(name, scheduler, None, null_label, variant)
        except ValueError as error:
            raise ValueError(f"{error}. To audit its schedule alone, name {folder / 'scheduler'}") from error
        if scheduler is None and is_stochastic(pipe.scheduler):
            # Pairs of samples are to differ by their starts alone.
            pipe.scheduler = named_scheduler("dpmsolver", pipe.scheduler)
        title = "bundled model" if name == BUNDLED else Path(name).name
        return _Subject(title, own_scheduler(folder), latent_shape(pipe.unet), pipe, pipe.vae)
    for option, value in (("--scheduler", scheduler), ("--null-label", null_label)):
        rule = "left out unless a model is audited whose network is told at most a class"
        require(value is None, option, rule, value)
    if model:
        # (Without its network, which would have to be told a prompt: no cost in samples.)
        folder = find_model(name, parts=STOCK_PARTS)
        with explained(name):
            space = stock_latents(folder, variant=variant)
        return _Subject(Path(name).name, space.scheduler, space.shape, None, space.autoencoder)
    require(variant is None, "--variant", "left out with a schedule", variant)
    if name in known_names():
        known = known_schedule(name)
        return _Subject(known.title, known.scheduler, known.shape, None)
    return _Subject(Path(name).name, load_schedule(name), None, None)


def _images(
    names: tuple[str | None, str | None],
    subject: _Subject,
    reading: Mapping[str, Any],
    limit: int | None,
    seed: int,
) -> tuple[ImageSet | None, ImageSet | None]:
    """The data, so many of them, and held-out images, which stand for the population: none of the data."""
    from otprior.experiments.inputs import check_unseen

    data, held_out = (
        None if name is None else _load(name, subject, reading, split)
        for name, split in zip(names, ("atoms", "held_out"))
    )
    if data is not None and limit is not None and limit < len(data):
        data = data.sample(limit, seed)
    if data is not None and held_out is not None:
        check_unseen("--held-out", held_out, data)
    return data, held_out


def _load(name: str, subject: _Subject, reading: Mapping[str, Any], split: str) -> ImageSet:
    """Images of the network's size, or latents of them."""
    coder = subject.autoencoder
    rule = "latents, with --value-range none: the model's folder does not tell the size of its images"
    known = subject.shape is not None or reading["value_range"] is None
    require(coder is None or known, "data", rule, name)
    # (A well-known schedule says what its samples are usually like; data of another size are no mistake.)
    shape = subject.shape if subject.pipe is not None or coder is not None else None
    return load_data(name, shape, bundled_split=split, autoencoder=coder, **reading)


def _request(
    subject: _Subject,
    images: ImageSet | None,
    held_out: ImageSet | None,
    times: list[float] | None,
    cost_times: list[float] | None,
    **options: Any,
) -> AuditRequest:
    from otprior.diffusion.schedule import NoiseSchedule
    from otprior.error.audit import AuditRequest, default_timesteps
    from otprior.sampling.inputs import takes_labels

    schedule = NoiseSchedule.from_scheduler(subject.scheduler)
    wanted = times if times is not None else default_timesteps(schedule)
    label = sampler = unet = None
    if subject.pipe is not None:
        pipe: Any = subject.pipe
        unet, sampler = pipe.unet, pipe.scheduler
        if takes_labels(unet):
            label = pipe.config.null_class_label
            if label is None:
                rule = "given: the network takes class labels, and the pipeline does not say which means none"
                raise invalid("--null-label", rule, None)
    with_cost = unet is not None and images is not None and options["draws"] > 0
    if cost_times is None:
        inner = [t for t in wanted if schedule.alpha(float(t)) > 0]
        # (A later one and T, too: the decision holds starts on the way against the usual one.)
        end = schedule.timestep_range[1]
        last = [end] if schedule.alpha(float(end)) > 0 else []
        places = [(len(inner) - 1) // 2, 3 * (len(inner) - 1) // 4]
        cost_times = [*(inner[place] for place in places), *last] if with_cost and inner else []
        cost_times = list(dict.fromkeys(map(float, cost_times)))
    require(
        with_cost or not cost_times, "--cost-at", "left out without a network, data and draws", cost_times
    )
    every = sorted({*wanted, *cost_times})
    return AuditRequest(
        scheduler=subject.scheduler,
        name=subject.name,
        shape=None if images is not None and subject.pipe is None else subject.shape,
        unet=unet if with_cost else None,
        sampler=sampler,
        network_label=label,
        data=images,
        held_out=held_out,
        timesteps=tuple(every),
        cost_timesteps=tuple(cost_times),
        **options,
    )


def _report(
    request: AuditRequest, bar: Bar, settings: dict[str, Any], started: float, folder: Path | None
) -> AuditReport:
    """The report; written to the folder, if one is given."""
    from otprior.cli.report_parts import provenance
    from otprior.error.audit import run_audit
    from otprior.report.audit import AuditReport, write_audit

    def listen(stage: str, done: int, total: int) -> None:
        bar.update(done, total or None, "", stage)

    found = run_audit(request, listen)
    timings = {"seconds": time.perf_counter() - started}
    report = AuditReport.from_json({"audit": found, "timings": timings} | provenance(settings))
    if folder is not None:
        write_audit(folder, report)
    return report


def _print(report: AuditReport, out: Path | None) -> None:
    from otprior.report.audit.page import error_tables
    from otprior.report.audit.text import audit_headline, audit_summary

    console = stdout()
    console.print(audit_headline(report.audit), style="bold", soft_wrap=True)
    say(*audit_summary(report.audit))
    for table in error_tables(report.audit):
        console.print(table.for_terminal())
    if out is not None:
        say(f"report: {out / 'report.html'}")
