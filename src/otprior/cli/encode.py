"""`otprior encode`: turn images into latent codes, or codes into images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.inputs import check_data, check_model, load_data, load_model, require_path, set_up_torch
from otprior.cli.options import (
    Debug,
    Device,
    ModelArgument,
    Overwrite,
    Threads,
    ValueRangeText,
    Verbose,
    parse_value_range,
)
from otprior.cli.progress import progress_bar
from otprior.cli.session import session, stdout
from otprior.utils.files import check_output_dir, output_dir
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


def encode(
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Images (a folder, .npz, .npy, .safetensors, or 'bundled'); codes with --decode.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.", show_default=False)],
    decode: Annotated[bool, typer.Option("--decode", help="DATA are codes: make images of them.")] = False,
    method: Annotated[
        Method | None,
        typer.Option(
            help="ddim inverts DDIM's steps, so that the round trip closes; heun and rk4 are of order 2 "
            "and 4; the others choose their steps. ddim by default, or what the codes were made with.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Of ddim, heun and rk4 (and of --bits); 50 by default.", show_default=False),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most evaluations for a step of ddim's inversion, 20 by default; 1 is the usual inversion.",
            show_default=False,
        ),
    ] = None,
    tol: Annotated[
        float | None,
        typer.Option(
            help="Of ddim's fixed point, and of adaptive methods; 1e-5 by default.", show_default=False
        ),
    ] = None,
    conditional: Annotated[
        bool, typer.Option("--conditional", "--labels", help="Tell the network each image's class label.")
    ] = False,
    class_label: Annotated[
        int | None,
        typer.Option(min=0, help="Tell it this label for all images; otherwise none.", show_default=False),
    ] = None,
    null_label: Annotated[
        int | None,
        typer.Option(min=0, help="The label for no class; by default the model's.", show_default=False),
    ] = None,
    bits: Annotated[bool, typer.Option("--bits", help="Also bits per dimension, for 8-bit images.")] = False,
    probes: Annotated[
        int | None,
        typer.Option(
            min=2, help="Random probes of --bits, for each image; 4 by default.", show_default=False
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many images only.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    grid: Annotated[
        bool, typer.Option("--grid", help="Write grid.png: image, code and image again.")
    ] = False,
    value_range: ValueRangeText = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers of --bits.")] = 0,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Encode images to seed noise from which the network makes them again, and measure the round trip.

    DIR gets codes.safetensors with how it was made, and report.json; with --decode a file of images instead.
    """
    with session(verbose, debug, out):
        check_output_dir(out, overwrite)
        check_model(model)
        if decode:
            require_path("codes", data, "`otprior encode` makes them")
        else:
            check_data(data)
        require(not (decode and bits), "--bits", "left out with --decode", "both")
        require(not decode or value_range == "auto", "--value-range", "left out with --decode", value_range)
        require(bits or seed == 0, "--seed", "left out without --bits", seed)
        require(bits or probes is None, "--probes", "left out without --bits", probes)
        both = conditional and class_label is not None
        require(not both, "--conditional", "left out with --class-label", "both")
        pixels = parse_value_range(value_range)

        where = set_up_torch(threads, device)
        pipe: Any = load_model(model, null_label=null_label)
        pipe.unet.to(where).eval()
        own: dict[str, Any] = {
            "method": None if method is None else method.value,
            "steps": steps,
            "iterations": iterations,
            "tol": tol,
        }
        options = {name: value for name, value in own.items() if value is not None}
        told = _Told(conditional, class_label)
        facts = {"model": model, "data": data, "class label": class_label, "conditional": conditional}
        if decode:
            lines = _decode(pipe, data, told, options, limit, batch_size, facts, out, overwrite, grid)
        else:
            images = _images(data, pipe, pixels, limit)
            rates = (probes or 4, seed) if bits else None
            lines = _encode(pipe, images, told, options, rates, batch_size, facts, out, overwrite, grid)
        for line in lines:
            stdout().print(line, soft_wrap=True, markup=False, highlight=False)


@dataclass(frozen=True)
class _Told:
    """Which class labels the network is told: each image's, one for all, or none."""

    conditional: bool
    one: int | None


def _encode(
    pipe: Any,
    images: ImageSet,
    told: _Told,
    options: dict[str, Any],
    rates: tuple[int, int] | None,
    batch_size: int,
    facts: dict[str, Any],
    out: Path,
    overwrite: bool,
    grid: bool,
) -> list[str]:
    """Writes codes; returns what to print."""
    from otprior.cli.encode_images import Bits, Coder, check_heeded
    from otprior.diffusion.codes import Encoder

    labels = _labels(pipe, images.labels, len(images), told, "the images")
    encoder = Encoder(**options)
    check_heeded(encoder.method, options, also=() if rates is None else ("steps",))
    bits = None if rates is None else Bits(encoder.steps, *rates)
    coder = Coder(pipe, encoder, batch_size, facts)
    with output_dir(out, overwrite) as folder, progress_bar("encoding") as bar:
        return _sentences(coder.encode(images, labels, folder, grid, bar, bits), out)


def _decode(
    pipe: Any,
    path: str,
    told: _Told,
    options: dict[str, Any],
    limit: int | None,
    batch_size: int,
    facts: dict[str, Any],
    out: Path,
    overwrite: bool,
    grid: bool,
) -> list[str]:
    """Writes images; returns what to print."""
    from dataclasses import replace

    from otprior.cli.encode_images import Coder, check_heeded
    from otprior.diffusion.codes import Codes
    from otprior.sampling.inputs import latent_shape

    codes = Codes.load(path)
    latents = codes.codes[:limit]
    shape = latent_shape(pipe.unet)
    require(
        shape in (None, tuple(latents.shape[1:])),
        f"codes {path}",
        f"of shape {shape}",
        tuple(latents.shape[1:]),
    )
    # By default the network is told what it was told when these were encoded; of no class, in its own words.
    as_before = told.one is None and codes.labels is not None and not codes.of_no_class
    keeps = replace(told, conditional=told.conditional or as_before)
    known = None if codes.labels is None else codes.labels[:limit]
    labels = _labels(pipe, known, len(latents), keeps, "the codes")
    encoder = replace(codes.encoder, **options)
    check_heeded(encoder.method, options, decoding=True)
    coder = Coder(pipe, encoder, batch_size, facts)
    with output_dir(out, overwrite) as folder, progress_bar("decoding") as bar:
        figures = coder.decode(latents, labels, folder, grid, bar)
    return [
        f"{figures['images']:,} images in {out}: {figures['evaluations to decode']} network evaluations each"
    ]


def _images(data: str, pipe: OTPriorPipeline, pixels: Any, limit: int | None) -> ImageSet:
    from otprior.sampling.inputs import latent_shape

    images = load_data(data, latent_shape(pipe.unet), pixels, bundled_split="held_out")
    return images if limit is None else images.select(slice(0, limit))


def _labels(pipe: Any, known: Tensor | None, count: int, told: _Told, whose: str) -> Tensor | None:
    """What the network is told, (N,): known labels, one for all, its label for no class; None if it takes none."""
    import torch

    from otprior.data.images import check_labels
    from otprior.sampling.inputs import num_classes, takes_labels

    if not takes_labels(pipe.unet):
        require(told.one is None, "--class-label", "left out: the network takes no labels", told.one)
        rule = f"without labels that count, those of {whose}: the network takes none"
        require(not told.conditional, "data", rule, "labels to tell it")
        return None
    classes = num_classes(pipe.unet)
    if told.conditional:
        if known is None:
            raise invalid("data", "labelled with --conditional", f"{whose}, which have no labels")
        return check_labels(known, count, classes, f"labels of {whose}")
    label = told.one if told.one is not None else pipe.config.null_class_label
    if label is None:
        hint = "Or pass --conditional or --class-label"
        raise invalid("--null-label", "given: the network takes labels", None, hint)
    return check_labels(torch.full((count,), label), count, classes, "--class-label")


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
