"""What `otprior fit` does: reads what it is given, fits a prior, saves it, says what came out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprior.cli.inputs import check_data, load_data
from otprior.cli.progress import Bar, progress_bar
from otprior.cli.report_parts import empty_report, ot_part, start_part
from otprior.cli.session import fail
from otprior.utils.files import output_dir, write_json
from otprior.utils.validation import invalid, require

if TYPE_CHECKING:
    import torch
    from rich.table import Table
    from torch import Tensor

    from otprior.data.images import ImageSet
    from otprior.priors import Prior
    from otprior.sampling import OTPriorPipeline
    from otprior.transport.distributed import Processes
    from otprior.transport.solution import Progress


class Kind(StrEnum):
    """Priors that can be fitted."""

    semidiscrete = "semidiscrete"
    mixture = "mixture"
    gaussian = "gaussian"
    identity = "identity"


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
        "rank",
        "precision",
        "resume",
    },
    Kind.mixture: {"conditional", "noise", "components", "rank", "tol", "max_draws", "keep_unconverged"},
    Kind.gaussian: {"conditional", "rank"},
    Kind.identity: set(),
}


def check_source(data: str | None, from_model: int | None) -> None:
    """That images come from somewhere, and from one place."""
    rule = "given, or else --from-model"
    require((data is None) != (from_model is None), "DATA", rule, "both" if data is not None else "neither")
    if data is not None:
        check_data(data)


def given_options(kind: Kind, own: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, if the prior has a use for each of them."""
    given = {name: value for name, value in own.items() if value is not None}
    for name in given:
        takers = [each.value for each in Kind if name in _OWN_OPTIONS[each]]
        rule = f"left out unless --prior is {' or '.join(takers)}"
        require(kind in takers, f"--{name.replace('_', '-')}", rule, f"--prior {kind.value}")
    return given


def start_timestep(kind: Kind, scheduler: Any, timestep: float | None) -> float:
    """The t* that is asked for, as an integer if it is one; by default the prior's usual one."""
    from otprior.diffusion.schedule import NoiseSchedule
    from otprior.priors import (
        GaussianPrior,
        IdentityPrior,
        MixturePrior,
        SemiDiscretePrior,
    )

    schedule = NoiseSchedule.from_scheduler(scheduler)
    if timestep is None:
        classes: list[type[Prior]] = [SemiDiscretePrior, MixturePrior, GaussianPrior, IdentityPrior]
        return next(each for each in classes if each.kind == kind.value).usual_timestep(schedule)
    t = int(timestep) if timestep.is_integer() else timestep
    schedule.check_timestep(t)
    return t


def read_images(
    data: str, pipe: OTPriorPipeline | None, value_range: Any, conditional: bool, license: str | None
) -> ImageSet:
    """The images, checked against the network if there is one; with labels only if these are wanted."""
    from dataclasses import replace

    from otprior.data.images import check_labels
    from otprior.sampling.inputs import latent_shape, num_classes, real_classes

    images = load_data(data, None if pipe is None else latent_shape(pipe.unet), value_range, license)
    if not conditional:
        return replace(images, labels=None)
    if images.labels is None:
        hint = "Put each class's images into a folder of its own, or an array 'labels' into the file"
        raise invalid("data", "labelled with --conditional", f"{data}, which has no labels", hint)
    classes = None if pipe is None else real_classes(num_classes(pipe.unet), pipe.config.null_class_label)
    check_labels(images.labels, len(images), classes, f"labels of {data}")
    return images


def read_weights(path: Path) -> Tensor:
    from zipfile import BadZipFile

    import numpy as np
    import torch

    try:
        weights = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise ValueError(f"weights {path} are damaged or no .npy file: {error}") from error
    numbers = isinstance(weights, np.ndarray) and np.issubdtype(weights.dtype, np.number)
    require(numbers, f"weights {path}", "one array of numbers in a .npy file", type(weights).__name__)
    return torch.from_numpy(weights.astype(np.float64))


def fit_prior(
    kind: Kind,
    images: ImageSet,
    scheduler: Any,
    timestep: float,
    seed: int,
    device: torch.device,
    options: dict[str, Any],
    work: Path,
    ranks: Processes,
) -> Prior:
    from dataclasses import replace

    import torch

    from otprior.priors import (
        GaussianPrior,
        IdentityPrior,
        MixturePrior,
        SemiDiscretePrior,
    )
    from otprior.transport.solution import ConvergenceError

    # (Whether there are labels, and where to go on from, the images and the work folder say.)
    options = {name: value for name, value in options.items() if name not in ("conditional", "resume")}
    if kind is Kind.identity:
        c, h, w = images.images.shape[1:]
        return IdentityPrior.build((c, h, w), scheduler, timestep)
    images = replace(images, images=images.images.to(device))
    with progress_bar(f"fitting the {kind.value} prior") as bar:
        if kind is Kind.gaussian:
            return GaussianPrior.fit(images, scheduler, timestep, images.labels, **options)
        maps = 1 if images.labels is None else len(images.labels.unique())
        given = {
            "generator": torch.Generator().manual_seed(seed),
            "throw": not options.pop("keep_unconverged", False),
            "progress": _listener(bar, maps) if ranks.first else None,
        }
        try:
            if kind is Kind.mixture:
                return MixturePrior.fit(images, scheduler, timestep, images.labels, **given, **options)
            return SemiDiscretePrior.fit(
                images,
                scheduler,
                timestep,
                images.labels,
                **given,
                checkpoints=work,
                processes=ranks,
                **options,
            )
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


def save(
    prior: Any,
    out: Path,
    overwrite: bool,
    settings: dict[str, Any],
    extra: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Writes the prior's folder with a report.json in it, and what `extra` adds, whole or not at all."""
    report = empty_report(settings).replace(ot=ot_part(prior))
    library = logging.getLogger("otprior.priors")
    level = library.level
    # Its warning about sharing would name the temporary folder; the summary says it.
    library.setLevel(logging.ERROR)
    try:
        with output_dir(out, overwrite) as folder:
            prior.save_pretrained(folder)
            write_json(folder / "report.json", report.to_json())
            extra(folder)
    finally:
        library.setLevel(level)


def _projection_rows(prior: Prior, solve: dict[str, Any]) -> list[tuple[str, str]]:
    """What solving along few axes keeps and costs, if it was."""
    if solve["variance_kept"] is None:
        return []
    kept = f"{prior.config['rank']} of {prior.dim:,}, {solve['variance_kept']:.1%} of the variance"
    return [("axes", f"{kept}; W2² above the optimum by at most {solve['cost_excess_share']:.2%}")]


def summary(prior: Prior, images: int, out: Path) -> Table:
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
            ("components" if part["prior"] == "mixture" else "atoms", f"{solve['atoms']:,}"),
            ("χ²", f"{solve['chi2']:.4f}, upper 95 % limit {solve['chi2_upper']:.4f} ({solve['outcome']})"),
            ("draws", f"{solve['draws']:,} in {solve['seconds']:.1f} s"),
            *_projection_rows(prior, solve),
        ]
    if part["prior"] == "semidiscrete":
        rows.append(("note", "it holds the images themselves: see its README.md before you share it"))
    rows.append(("written to", str(out)))
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table
