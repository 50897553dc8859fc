"""What `otprior sample` does: loads the model and its start, and samples what is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from otprior.cli.inputs import check_model, check_prior, is_stock_model, load_model, load_prior, require_path
from otprior.cli.options import format_seeds, parse_labels, parse_seeds
from otprior.cli.progress import progress_bar
from otprior.cli.report_parts import empty_report
from otprior.utils.validation import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from otprior.sampling import StartSpec
    from otprior.sampling.plan import SampledBatch, SamplingPlan
    from otprior.sampling.schedulers.start import Origin

# Images of the contact sheet; more would be too small to see.
GRID_IMAGES = 100
DEFAULT_STEPS = 5


@dataclass(frozen=True)
class SampleRequest:
    """What `otprior sample` was given, by the names of its options."""

    model: str
    prior: str | None
    seeds: str | None
    codes: Path | None
    steps: int | None
    settings: Path | None
    scheduler: str | None
    spacing: str | None
    timestep: float | None
    prompt: list[str] | None
    negative_prompt: str | None
    class_labels: str | None
    guidance_scale: float | None
    null_label: int | None
    height: int | None
    width: int | None
    frames: int | None
    variant: str | None
    batch_size: int
    as_float: bool
    dtype: str

    def check(self) -> None:
        """Looks at the paths, and reads seeds and labels.

        Raises:
            FileNotFoundError: If nothing is at a path.
            ValueError: If seeds or labels are none.
        """
        check_model(self.model)
        if self.prior not in (None, "none"):
            check_prior(str(self.prior))
        if self.settings is not None:
            require_path("--settings", self.settings)
            require(self.prior != "none", "--settings", "left out with --prior none", self.settings)
        if self.codes is not None:
            require_path("codes", self.codes, "`otprior encode` makes them")
        self.labels(self.numbers())

    def numbers(self) -> list[int]:
        """The seeds that were named, or the usual ones."""
        return parse_seeds("0-9" if self.seeds is None else self.seeds)

    def labels(self, numbers: list[int]) -> list[int] | None:
        """The class label of each seed, if some were given."""
        if self.class_labels is None:
            return None
        cycle = parse_labels(self.class_labels)
        return [cycle[seed % len(cycle)] for seed in numbers]

    def recorded(self, steps: int) -> dict[str, Any]:
        """The settings that the report records."""
        facts = {"model": self.model, "prior": self.prior, "steps": steps, "dtype": self.dtype}
        facts |= {"pixels": "float32" if self.as_float else "uint8", "class labels": self.class_labels}
        facts["codes"] = None if self.codes is None else self.codes.name
        own: dict[str, Any] = {
            "prompt": "; ".join(self.prompt or ()) or None,
            "negative prompt": self.negative_prompt,
        }
        own |= {"height": self.height, "width": self.width, "frames": self.frames, "variant": self.variant}
        return facts | {name: value for name, value in own.items() if value is not None}


class Job(NamedTuple):
    """What is sampled, ready to begin.

    Attributes:
        seeds: One for each image.
        labels: Class labels, one for each image, or None.
        begin: Samples batch by batch; is given a listener, which is told how many images are done.
        prior: Where it starts, or None.
        scheduler: Of the model.
        steps, guidance, spacing: As they are reported.
        latents: Whether what comes is in no known range: latents.
        rate: Entries a second of sounds; None of images and films.
    """

    seeds: list[int]
    labels: list[int] | None
    begin: Callable[[Callable[[float], None]], Iterator[SampledBatch]]
    prior: Any
    scheduler: Any
    steps: int
    guidance: float | None
    spacing: str | None
    latents: bool
    rate: int | None = None


def find_job(request: SampleRequest, device: torch.device, drawn: bool) -> Job:
    """The job that was asked for, checked.

    Arguments:
        request: What was asked for.
        device: Where the network shall run.
        drawn: Whether images are to be written as pictures.
    """
    numbers = request.numbers()
    if is_stock_model(request.model):
        from otprior.cli.sample_stock import find_stock_job

        return find_stock_job(request, numbers, device)
    for option, value in (
        ("--prompt", request.prompt or None),
        ("--negative-prompt", request.negative_prompt),
        ("--height", request.height),
        ("--width", request.width),
        ("--frames", request.frames),
    ):
        require(value is None, option, "left out: the model's network takes none", value)
    return _own_job(request, numbers, device, drawn)


def _own_job(request: SampleRequest, numbers: list[int], device: torch.device, drawn: bool) -> Job:
    """Of a network that takes at most labels."""
    from otprior.sampling.plan import image_channels, sample_batches

    steps, timestep = request.steps, request.timestep
    scheduler, spacing = request.scheduler, request.spacing
    chosen = chosen_start(request)
    own_guidance = 1.0 if chosen is None else chosen.guidance
    guidance = own_guidance if request.guidance_scale is None else request.guidance_scale
    if chosen is not None:
        timestep = float(chosen.start_timestep) if timestep is None else timestep
        steps, scheduler, spacing = chosen.steps, scheduler or chosen.scheduler, spacing or chosen.spacing
    pipe = _load(request, timestep, scheduler, spacing).to(device, network_dtype(request.dtype))
    if chosen is not None:
        pipe.prior = with_options(pipe.prior, chosen)
    fitted = () if chosen is None else chosen.grid
    plan = _plan(pipe, request, numbers, steps or DEFAULT_STEPS, spacing, fitted, guidance)
    _check_channels(pipe, drawn=drawn)
    decoded = not request.as_float
    return Job(
        plan.seeds,
        plan.labels,
        lambda listen: sample_batches(pipe, plan, decode=decoded, listen=listen),
        pipe.prior,
        pipe.scheduler,
        plan.steps,
        plan.guidance_scale,
        spacing,
        not decoded and (pipe.vae is not None or image_channels(pipe) not in (1, 3)),
    )


def chosen_start(request: SampleRequest) -> StartSpec | None:
    """The --settings for so many steps, or the only ones; a fitted grid has a t* of its own."""
    from otprior.sampling.settings import read_settings, start_of_steps

    if request.settings is None:
        return None
    start = start_of_steps(read_settings(request.settings), request.steps)
    rule = "for a start without options of the scheduler: this command takes none"
    require(not start.sampler, f"--settings {request.settings}", rule, start.label or start.key)
    kept = request.timestep in (None, start.start_timestep) or request.spacing is not None
    rule = f"{start.start_timestep:g}, from where the settings' grid was fitted, or given with --spacing"
    require(kept or not start.grid, "--timestep", rule, request.timestep)
    return start


def with_options(prior: Any, chosen: StartSpec) -> Any:
    """The prior with the options of the settings, which must be for its kind."""
    require(prior.kind == chosen.prior, "--settings", f"for the prior at hand, {prior.kind}", chosen.prior)
    return prior.derive(prior, prior.timestep, dict(chosen.options))


def own_grid(spacing: str | None, origin: Origin, steps: int, fitted: Sequence[float]) -> list[float] | None:
    """The timesteps of a spacing that is none of the stock ones, from where sampling starts; None for those."""
    from otprior.diffusion.grids import timestep_grid
    from otprior.sampling.schedulers.names import GRID_SPACINGS
    from otprior.sampling.start_spec import FITTED

    if spacing in GRID_SPACINGS:
        return list(timestep_grid(origin.schedule, origin.timestep, steps, GRID_SPACINGS[spacing]))
    return list(fitted) if spacing == FITTED else None


def stock_spacing(spacing: str | None) -> str | None:
    """A spacing, if it is one of the stock ones."""
    from otprior.sampling.schedulers.names import GRID_SPACINGS
    from otprior.sampling.start_spec import FITTED

    return None if spacing in (FITTED, *GRID_SPACINGS) else spacing


def _load(request: SampleRequest, timestep: float | None, scheduler: str | None, spacing: str | None) -> Any:
    """The pipeline, with its prior at the timestep where it shall start."""
    stock = stock_spacing(spacing)
    pipe: Any = load_model(request.model, scheduler, stock, request.null_label, request.variant)
    if request.prior is None:
        hint = "`otprior fit` makes one; none starts from white noise at T"
        require(pipe.prior is not None, "--prior", "given: the model's folder holds none", "nothing", hint)
    else:
        pipe.prior = None if request.prior == "none" else load_prior(request.prior)
    if timestep is not None:
        require(pipe.prior is not None, "--timestep", "left out without a prior", f"{timestep:g}")
        pipe.prior = pipe.prior.at(int(timestep) if timestep.is_integer() else timestep)
    return pipe


def network_dtype(name: str) -> Any:
    """The type of that name."""
    import torch

    return getattr(torch, name)


def _plan(
    pipe: Any,
    request: SampleRequest,
    drawn: list[int],
    steps: int,
    spacing: str | None,
    fitted: tuple[float, ...],
    guidance: float,
) -> SamplingPlan:
    """What is sampled, checked against network, prior and scheduler; codes stand for all seeds, but for given ones."""
    from otprior.diffusion.codes import Codes
    from otprior.sampling.plan import SamplingPlan, seed_noise_of_codes
    from otprior.sampling.schedulers.start import find_origin
    from otprior.sampling.schedulers.support import find_support

    find_support(pipe.scheduler)
    grid = own_grid(spacing, find_origin(pipe.scheduler, pipe.prior), steps, fitted)
    numbers, labels, latents = drawn, request.labels(drawn), None
    if request.codes is not None:
        found = Codes.load(request.codes)
        wanted = None if request.seeds is None else drawn
        numbers, latents, labels = seed_noise_of_codes(found, pipe, wanted, f"codes {request.codes}")
        labels = request.labels(numbers) or labels
    plan = SamplingPlan(numbers, labels, steps, grid, guidance, request.batch_size, latents)
    plan.check_labels(pipe)
    return plan


def _check_channels(pipe: Any, drawn: bool) -> None:
    from otprior.sampling.plan import image_channels

    channels = image_channels(pipe)
    hint = "Latents are kept by --format npz --float, without --grid"
    require(not drawn or channels in (None, 1, 3), "the network's images", "grey or RGB", channels, hint)


def write_images(job: Job, folder: Path, png: bool, as_float: bool, sheet: bool) -> tuple[int, float]:
    """Samples all images into `folder`; network evaluations an image, and seconds of sampling."""
    import torch

    from otprior.data.samples import SampleWriter, diverged
    from otprior.report import contact_sheet

    require(job.rate is None or not sheet, "--grid", "left out: sounds cannot be drawn", "given")
    writer = SampleWriter(folder, job.seeds, png, as_float, job.rate)
    shown: list[Tensor] = []
    nfe, seconds, total, wrong = 0, 0.0, len(job.seeds), None
    with progress_bar("sampling") as bar:

        def listen(done: float) -> None:
            bar.update(done, total, f"{int(done):,} of {total:,} images")

        for batch in job.begin(listen):
            seconds += batch.seconds
            wrong = wrong or (None if job.latents or job.rate is not None else diverged(batch.images))
            nfe = batch.nfe
            writer.add(batch.images, batch.sources)
            if sheet and sum(map(len, shown)) < GRID_IMAGES:
                # (Of films the first frames.)
                shown.append(batch.images[:, 0] if batch.images.ndim == 5 else batch.images)
    writer.finish(job.labels)
    if wrong is not None:
        hint = "the sampler seems to have diverged; try more steps, another --scheduler or --spacing"
        logging.getLogger(__name__).warning("%s: %s", wrong, hint)
    if shown:
        images = torch.cat(shown)[:GRID_IMAGES]
        scale = max(1, 56 // max(images.shape[2:]))
        contact_sheet(images, scale=scale).save(folder / "grid.png")
    return nfe, seconds


def report(job: Job, recorded: dict[str, Any], nfe: int, seconds: float) -> dict[str, Any]:
    """The report.json of what was sampled."""
    from otprior.sampling.schedulers.start import find_origin
    from otprior.sampling.schedulers.start_at import stock_scheduler

    facts = getattr(job.prior, "facts", {})
    origin = find_origin(stock_scheduler(job.scheduler), job.prior).timestep
    start = {"prior": "none", "start_timestep": origin} if job.prior is None else job.prior.report_facts()
    row = start | {
        "scheduler": type(job.scheduler).__name__,
        "spacing": job.spacing,
        "guidance": job.guidance,
        "nfe": nfe,
        "samples": len(job.seeds),
        "seeds": format_seeds(job.seeds),
        "seconds_per_image": seconds / len(job.seeds),
        "fid": None,
        "copy_rate": None,
    }
    found = empty_report(recorded | {"atoms_sha256": facts.get("sha256")})
    ot = None if job.prior is None else job.prior.transport_facts()
    return found.replace(ot=ot, rows=[row]).to_json()
