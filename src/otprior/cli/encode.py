"""`otprior encode`: turn images into latent codes, or codes into images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from otprior.cli.inputs import check_data, check_model, load_data, load_model, require_path, set_up_torch
from otprior.cli.options import (
    MOST_CLASSES,
    BatchSize,
    Convert,
    Crop,
    Debug,
    Device,
    ModelArgument,
    NullLabel,
    Out,
    Overwrite,
    Resize,
    Seed,
    Threads,
    ValueRangeText,
    Variant,
    Verbose,
    parse_reading,
)
from otprior.cli.progress import progress_bar
from otprior.cli.session import say, session
from otprior.utils.files import output_dir
from otprior.utils.validation import invalid, require

if TYPE_CHECKING:
    from torch import Tensor

    from otprior.data.images import ImageSet
    from otprior.sampling import OTPriorPipeline

EXAMPLES = (
    "otprior encode bundled bundled --limit 16 --grid --out codes",
    "otprior encode path/to/ddpm path/to/images --conditional --bits --out codes",
    "otprior encode path/to/ddpm codes/codes.safetensors --decode --class-label 3 --out images",
)


class Method(StrEnum):
    """Solvers of the probability flow."""

    ddim = "ddim"
    heun = "heun"
    rk4 = "rk4"
    dop853 = "dop853"
    dopri5 = "dopri5"
    dopri8 = "dopri8"


MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method",
        help="ddim inverts DDIM's steps, so that the round trip closes; heun and rk4 are of order 2 and 4; the others "
        "choose their steps.",
        show_default="ddim, or what the codes were made with",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", min=1, help="Steps of ddim, heun and rk4, and of --bits.", show_default="50"),
]
Iterations = Annotated[
    int | None,
    typer.Option(
        "--iterations",
        min=1,
        help="Most evaluations for a step of ddim's inversion; 1 is the usual inversion.",
        show_default="20",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tol", help="Tolerance of ddim's fixed point, and of adaptive methods.", show_default="1e-5"
    ),
]
Conditional = Annotated[
    bool, typer.Option("--conditional", "--labels", help="Give the network each image's class label.")
]
ClassLabel = Annotated[
    int | None,
    typer.Option(
        "--class-label",
        min=0,
        max=MOST_CLASSES,
        help="Give it this label for all images.",
        show_default="no class",
    ),
]
BitsFlag = Annotated[bool, typer.Option("--bits", help="Also bits per dimension, for 8-bit images.")]
Probes = Annotated[
    int | None,
    typer.Option(
        "--probes", min=2, max=1000, help="Random probes of --bits, for each image.", show_default="4"
    ),
]


ImagesOrCodes = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="Images (a folder, .npz, .npy, .safetensors, or 'bundled'); codes with --decode."
    ),
]
Grid = Annotated[bool, typer.Option("--grid", help="Write grid.png: image, code and image again.")]


def encode(
    model: ModelArgument,
    data: ImagesOrCodes,
    out: Out,
    decode: Annotated[bool, typer.Option("--decode", help="DATA are codes: make images of them.")] = False,
    method: MethodOption = None,
    steps: Steps = None,
    iterations: Iterations = None,
    tol: Tolerance = None,
    conditional: Conditional = False,
    class_label: ClassLabel = None,
    null_label: NullLabel = None,
    bits: BitsFlag = False,
    probes: Probes = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many images only.")] = None,
    batch_size: BatchSize = 64,
    grid: Grid = False,
    resize: Resize = None,
    crop: Crop = None,
    convert: Convert = None,
    value_range: ValueRangeText = "auto",
    variant: Variant = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Encode images to seed noise from which the network makes them again, and measure the round trip.

    DIR gets codes.safetensors with how it was made, and report.json; with --decode a file of images instead.
    """
    with session(verbose, debug, out), output_dir(out, overwrite, (model, data)) as folder:
        _check_paths(model, data, decode)
        _check_options(decode, bits, value_range, seed, probes, conditional and class_label is not None)
        rule = "left out with --decode" if decode else None
        reading = parse_reading(value_range, resize, crop, convert, rule)
        where = set_up_torch(threads, device)
        pipe: Any = load_model(model, null_label=null_label, variant=variant)
        pipe.unet.to(where).eval()
        own = {"method": method and method.value, "steps": steps, "iterations": iterations, "tol": tol}
        job = _Job(
            pipe=pipe,
            options={name: value for name, value in own.items() if value is not None},
            label=_Label(conditional, class_label),
            batch_size=batch_size,
            facts={"model": model, "data": data, "class label": class_label, "conditional": conditional},
            grid=grid,
        )
        if decode:
            lines = _decode(job, data, limit, folder, out)
        else:
            rates = (probes or 4, seed) if bits else None
            lines = _encode(job, _images(data, pipe, reading, limit), rates, folder, out)
    say(*lines)


def _check_paths(model: str, data: str, decode: bool) -> None:
    check_model(model)
    if decode:
        require_path("codes", data, "`otprior encode` makes them")
    else:
        check_data(data)


def _check_options(
    decode: bool, bits: bool, value_range: str, seed: int, probes: int | None, both_labels: bool
) -> None:
    require(not (decode and bits), "--bits", "left out with --decode", "both")
    require(not decode or value_range == "auto", "--value-range", "left out with --decode", value_range)
    require(bits or seed == 0, "--seed", "left out without --bits", seed)
    require(bits or probes is None, "--probes", "left out without --bits", probes)
    require(not both_labels, "--conditional", "left out with --class-label", "both")


def check_heeded(
    method: str, given: Mapping[str, Any], *, decoding: bool = False, also: Collection[str] = ()
) -> None:
    """Refuses settings of an `Encoder` that its method would ignore.

    Arguments:
        method: The method of encoding.
        given: The settings that were asked for.
        decoding: Whether codes are to be decoded.
        also: Settings that something else heeds.
    """
    from otprior.diffusion.codes import settings_of

    heeded = ("method", *settings_of(method, decoding), *also)
    what = f"{'decoding' if decoding else 'encoding'} by {method}, which does not heed it"
    for name in given:
        require(name in heeded, f"--{name}", f"left out with {what}", given[name])


class _Label(NamedTuple):
    """Which class labels the network is given: each image's, one for all, or none."""

    conditional: bool
    one: int | None


class _Job(NamedTuple):
    """What encoding and decoding have in common.

    Attributes:
        pipe: The network, where it shall run, and its scheduler.
        options: Settings of the `Encoder` that were given.
        label: Which class labels the network is given.
        batch_size: Images at a time.
        facts: For the report.
        grid: Whether to write a contact sheet.
    """

    pipe: Any
    options: dict[str, Any]
    label: _Label
    batch_size: int
    facts: dict[str, Any]
    grid: bool


def _encode(job: _Job, images: ImageSet, rates: tuple[int, int] | None, folder: Path, out: Path) -> list[str]:
    """Writes codes; returns what to print."""
    from otprior.cli.code_writer import Bits, CodeWriter
    from otprior.diffusion.codes import Encoder

    labels = _labels(job.pipe, images.labels, len(images), job.label, "the images")
    encoder = Encoder(**job.options)
    check_heeded(encoder.method, job.options, also=() if rates is None else ("steps",))
    bits = None if rates is None else Bits(encoder.steps, *rates)
    writer = CodeWriter(job.pipe, encoder, job.batch_size, job.facts)
    with progress_bar("encoding") as bar:
        return _sentences(writer.encode(images, labels, folder, job.grid, bar, bits), out)


def _decode(job: _Job, path: str, limit: int | None, folder: Path, out: Path) -> list[str]:
    """Writes images; returns what to print."""
    from dataclasses import replace

    from otprior.cli.code_writer import CodeWriter
    from otprior.diffusion.codes import Codes
    from otprior.sampling.inputs import latent_shape

    codes = Codes.load(path)
    latents = codes.codes[:limit]
    shape, got = latent_shape(job.pipe.unet), tuple(latents.shape[1:])
    require(shape in (None, got), f"codes {path}", f"of shape {shape}", got)
    # By default the network is given the labels of the encoding; and for no class, its own label of that.
    as_before = job.label.one is None and codes.labels is not None and not codes.of_no_class
    label = job.label._replace(conditional=job.label.conditional or as_before)
    known = None if codes.labels is None else codes.labels[:limit]
    labels = _labels(job.pipe, known, len(latents), label, "the codes")
    encoder = replace(codes.encoder, **job.options)
    check_heeded(encoder.method, job.options, decoding=True)
    writer = CodeWriter(job.pipe, encoder, job.batch_size, job.facts)
    with progress_bar("decoding") as bar:
        figures = writer.decode(latents, labels, folder, job.grid, bar)
    evaluations = figures["evaluations to decode"]
    return [f"{figures['images']:,} images in {out}: {evaluations} network evaluations each"]


def _images(data: str, pipe: OTPriorPipeline, reading: Mapping[str, Any], limit: int | None) -> ImageSet:
    from otprior.sampling.inputs import latent_shape

    shape = latent_shape(pipe.unet)
    images = load_data(data, shape, bundled_split="held_out", autoencoder=pipe.vae, **reading)
    return images if limit is None else images.select(slice(0, limit))


def _labels(pipe: Any, known: Tensor | None, count: int, label: _Label, whose: str) -> Tensor | None:
    """The network's class labels (N,): known ones, one for all, its label for no class; None if it takes none."""
    import torch

    from otprior.data.images import check_labels
    from otprior.sampling.inputs import num_classes, takes_labels

    if not takes_labels(pipe.unet):
        require(label.one is None, "--class-label", "left out: the network takes no labels", label.one)
        rule = f"without labels that count, those of {whose}: the network takes none"
        require(not label.conditional, "data", rule, "labels")
        return None
    classes = num_classes(pipe.unet)
    if label.conditional:
        if known is None:
            raise invalid("data", "labelled with --conditional", f"{whose}, which have no labels")
        return check_labels(known, count, classes, f"labels of {whose}")
    one = label.one if label.one is not None else pipe.config.null_class_label
    if one is None:
        hint = "Or pass --conditional or --class-label"
        raise invalid("--null-label", "given: the network takes labels", None, hint)
    return check_labels(torch.full((count,), one), count, classes, "--class-label")


def _sentences(figures: dict[str, Any], out: Path) -> list[str]:
    lines = [
        f"{figures['images']:,} codes in {out / 'codes.safetensors'}: {figures['evaluations to encode']} network "
        f"evaluations to encode, {figures['evaluations to decode']} to decode",
        f"round trip: {figures['round trip, mean error of a pixel']:.2e} a pixel on average, "
        f"{figures['round trip, largest error of a pixel']:.2e} at most, where black and white are 2 apart",
        f"an entry of a code has a mean square of {figures['mean square of an entry']:.3f}; that of N(0, I) is 1",
    ]
    if "bits per dimension" in figures:
        error = figures["bits per dimension, standard error"]
        beside = "" if error is None else f" ± {error:.3f}"
        lines.append(f"bits per dimension: {figures['bits per dimension']:.3f}{beside}")
    return lines
