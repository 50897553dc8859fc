"""What `otprior fit` does: reads what it is given, fits a prior, saves it, says what came out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprior.cli.inputs import (
    BUNDLED,
    check_data,
    check_model,
    explained,
    find_model,
    is_stock_model,
    load_model,
    load_schedule,
    names_schedule,
    open_data,
    require_path,
    set_up_torch,
)
from otprior.cli.prior_options import find_fittable, read_options
from otprior.cli.processes import check_work_dir, drop_states, several_processes
from otprior.cli.progress import Bar, progress_bar
from otprior.cli.report_parts import empty_report
from otprior.cli.session import fail
from otprior.utils.files import write_json
from otprior.utils.validation import invalid, require

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from otprior.data import ImageSet, ImageStream
    from otprior.priors import Prior
    from otprior.sampling.stock import LatentSpace
    from otprior.transport.distributed import Processes
    from otprior.transport.solution import Progress


@dataclass(frozen=True)
class FitRequest:
    """What `otprior fit` was given, by the names of its options.

    Attributes:
        given: Options of the prior, as text.
        pixels: The range of floating-point pixels.
        pictures: What is done to pictures; see `parse_pictures`.
    """

    model: str
    data: str
    out: Path
    prior: str
    given: Mapping[str, str | bool]
    timestep: float | None
    settings: Path | None
    steps: int | None
    conditional: bool
    resume: bool
    limit: int | None
    pixels: Any
    license: str | None
    seed: int
    overwrite: bool
    pictures: Mapping[str, Any]
    height: int | None = None
    width: int | None = None
    variant: str | None = None

    @property
    def work(self) -> Path:
        """Where a long solve keeps its state."""
        return self.out.with_name(f"{self.out.name}.work")

    def check(self) -> None:
        """Looks at the paths, and at options that go together.

        Raises:
            FileNotFoundError: If nothing is at a path.
            FileExistsError: If the state of an unfinished solve is in the way.
            ValueError: If an option is given without the one that it belongs to.
        """
        check_work_dir(self.work, self.resume, self.overwrite)
        if not names_schedule(self.model):
            check_model(self.model)
        check_data(self.data)
        if self.settings is not None:
            require_path("--settings", self.settings)
        has_settings = self.steps is None or self.settings is not None
        require(has_settings, "--steps", "left out without --settings", self.steps)
        own = self.license is None or self.data != BUNDLED
        require(own, "--license", "left out with bundled images, whose licence is known", self.license)

    def recorded(self, images: int) -> dict[str, Any]:
        """The settings that the report records."""
        facts = {"model": self.model, "data": self.data, "images": images, "seed": self.seed}
        pictures = {name: value for name, value in self.pictures.items() if value not in (None, True)}
        conditional = {"conditional": True} if self.conditional else {}
        sizes = {"height": self.height, "width": self.width, "variant": self.variant}
        pictures |= {name: value for name, value in sizes.items() if value is not None}
        return facts | pictures | conditional | dict(self.given)


def fit_prior(
    request: FitRequest, folder: Path | None, threads: int | None, device: str
) -> tuple[Prior, int]:
    """The prior, and to how many images it was fitted; `folder` takes both, in the process that writes."""
    kind = _kind(request)
    options, timestep = _options(kind, request)
    where = set_up_torch(threads, device)
    space = _latent_space(request)
    scheduler, classes = space.scheduler, space.classes
    _, timestep = kind.read_start(scheduler, timestep)
    images = _open_images(request, space, where)
    if request.conditional or not kind.streams or hasattr(images, "images"):
        images = _read_images(request, images, classes, where)
    if not request.resume:
        drop_states(request.work)
    with several_processes(request.work) as processes:
        fitted = _fit(kind, images, scheduler, timestep, options, request, processes)
    if folder is not None:
        _save(fitted, request, len(images), folder)
    return fitted, len(images)


def _kind(request: FitRequest) -> type[Prior]:
    """The kind of prior, if it has a use for everything that was given."""
    kind = find_fittable(request.prior)
    needless = {
        "--conditional": request.conditional and not kind.fit_takes("labels"),
        "--resume": request.resume and not kind.fit_takes("checkpoints"),
        "--license": request.license is not None and not kind.records_source,
    }
    for option, is_needless in needless.items():
        require(not is_needless, option, "left out: such a prior has no use for it", f"--prior {kind.kind}")
    return kind


def _options(kind: type[Prior], request: FitRequest) -> tuple[dict[str, Any], float | None]:
    """The prior's options and t*: what is given goes before a settings file."""
    options, timestep = read_options(kind, dict(request.given)), request.timestep
    if request.settings is not None:
        from otprior.sampling.settings import read_settings, start_of_steps

        start = start_of_steps(read_settings(request.settings), request.steps)
        rule = f"for a {kind.kind} prior"
        require(start.prior == kind.kind, f"--settings {request.settings}", rule, start.prior)
        rule = "given: the settings are those of a prior by class"
        by_class = start.conditional and kind.fit_takes("labels")
        require(request.conditional or not by_class, "--conditional", rule, "nothing")
        options = dict(start.options) | options
        kind.Options.make(options)
        timestep = float(start.start_timestep) if timestep is None else timestep
    whole = timestep is not None and float(timestep).is_integer()
    return options, int(timestep) if whole and timestep is not None else timestep


def _latent_space(request: FitRequest) -> LatentSpace:
    """What is to be known of the model, or of a schedule alone."""
    from otprior.data.latents import takes_films
    from otprior.sampling.inputs import latent_shape, num_classes, real_classes
    from otprior.sampling.stock import STOCK_PARTS, LatentSpace, stock_latents

    model, sizes = request.model, {"--height": request.height, "--width": request.width}
    schedule = names_schedule(model)
    if not schedule and is_stock_model(model):
        folder = find_model(model, parts=STOCK_PARTS)
        with explained(model):
            space = stock_latents(folder, request.height, request.width, request.variant)
        coder = space.autoencoder
        sounds = coder is not None and all(each.ndim < 4 for each in coder.parameters())
        rule = "none: sounds are not read here, but their latents (N, C, L), by the model's autoencoder"
        require(not sounds or request.pixels is None, "--value-range", rule, request.pixels)
        films = coder is not None and takes_films(coder)
        known = coder is None or space.shape is not None or films or request.pixels is None
        rule = "given: the model's folder does not tell the size of its images"
        require(known, "--height and --width", rule, "nothing")
        return space
    for option, value in sizes.items():
        require(value is None, option, "left out: the model's own size is the only one", value)
    if schedule:
        require(request.variant is None, "--variant", "left out with a schedule", request.variant)
        return LatentSpace(load_schedule(model), None, None, None)
    pipe: Any = load_model(model, variant=request.variant)
    classes = real_classes(num_classes(pipe.unet), pipe.config.null_class_label)
    return LatentSpace(pipe.scheduler, pipe.vae, latent_shape(pipe.unet), classes)


def read_fitted_images(request: FitRequest, device: torch.device) -> tuple[Any, ImageSet]:
    """The model's scheduler, and the images that a prior of this request is fitted to, in memory."""
    space = _latent_space(request)
    return space.scheduler, _read_images(request, _open_images(request, space, device), space.classes, device)


def _open_images(request: FitRequest, space: LatentSpace, device: torch.device) -> ImageSet | ImageStream:
    """The images, checked against the model if there is one; by its autoencoder, if it is one of latents."""
    images = open_data(
        request.data,
        space.shape,
        request.pixels,
        request.license,
        pictures=request.pictures,
        autoencoder=None if space.autoencoder is None else space.autoencoder.to(device),
    )
    if request.limit is not None and request.limit < len(images):
        return images.sample(request.limit, request.seed)
    return images


def _read_images(
    request: FitRequest, images: ImageSet | ImageStream, classes: int | None, device: torch.device
) -> ImageSet:
    """The images in memory, with labels only if these are wanted."""
    from otprior.data import ImageStream
    from otprior.data.images import check_labels

    found = images.read() if isinstance(images, ImageStream) else images
    found = replace(found, images=found.images.to(device))
    if not request.conditional:
        return replace(found, labels=None)
    data = request.data
    if found.labels is None:
        hint = "Put each class's images into a folder of its own, or an array 'labels' into the file"
        raise invalid("data", "labelled with --conditional", f"{data}, which has no labels", hint)
    check_labels(found.labels, len(found), classes, f"labels of {data}")
    return found


def _fit(
    kind: type[Prior],
    images: ImageSet | ImageStream,
    scheduler: Any,
    timestep: float,
    options: dict[str, Any],
    request: FitRequest,
    processes: Processes,
) -> Prior:
    import torch

    from otprior.transport.solution import ConvergenceError

    maps = 1 if images.labels is None else len(images.labels.unique())
    with progress_bar(f"fitting the {kind.kind} prior") as bar:
        context = {
            "generator": torch.Generator().manual_seed(request.seed),
            "progress": _listener(bar, maps) if processes.first else None,
            "checkpoints": request.work,
            "processes": processes,
        }
        try:
            return kind.fit_with(images, scheduler, timestep, options, **context)
        except ConvergenceError as error:
            raise fail(str(error), 1) from None


def _listener(bar: Bar, maps: int) -> Callable[[Progress], None]:
    """Shows draws and χ²; a conditional prior's maps are solved one after another."""
    current, last = 0, 0

    def listen(progress: Progress) -> None:
        nonlocal current, last
        if current == 0 or progress.draws < last:
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


def _save(prior: Prior, request: FitRequest, images: int, folder: Path) -> None:
    """Writes the prior and a report.json into the folder."""
    report = empty_report(request.recorded(images)).replace(ot=prior.transport_facts())
    library = logging.getLogger("otprior.priors")
    level = library.level
    # Its warning about sharing would name the temporary folder; the summary says it.
    library.setLevel(logging.ERROR)
    try:
        prior.save_pretrained(folder)
        write_json(folder / "report.json", report.to_json())
    finally:
        library.setLevel(level)


def summary(prior: Prior, images: int, out: Path) -> Table:
    """What came out, as the command prints it."""
    from rich.table import Table

    rows = [
        ("prior", prior.describe(prior.report_facts())),
        ("start", f"t* = {prior.timestep:g} (α = {prior.alpha:.3f}, σ = {prior.sigma:.3f})"),
        ("images", f"{images:,} of {' x '.join(map(str, prior.shape))}, dimension {prior.dim:,}"),
    ]
    if prior.num_classes is not None:
        rows.append(("classes", f"{prior.num_classes}"))
    rows += prior.summary()
    if prior.holds_images:
        rows.append(("note", "it holds the images themselves: see its README.md before you share it"))
    rows.append(("written to", str(out)))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table
