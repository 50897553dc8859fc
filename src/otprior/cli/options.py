"""Options that several commands have, each declared once, and the values that are written in them as text.

Where a default depends on the model or on other options, `show_default` says what it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from otprior.utils.validation import invalid, require

MOST_SEEDS = MOST_CLASSES = 1_000_000
LARGEST_SEED = 2**63 - 1

# What is given, and what is written.
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A diffusers folder, 'owner/name' of the Hugging Face hub, 'bundled' or 'bundled-by-class'.",
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        "--variant", metavar="NAME", help="Which weights of the model, where there are several: fp16."
    ),
]
Height = Annotated[
    int | None,
    typer.Option(
        "--height",
        min=1,
        metavar="PIXELS",
        help="Of images; needs a pipeline that can choose.",
        show_default="the model's",
    ),
]
Width = Annotated[
    int | None,
    typer.Option(
        "--width",
        min=1,
        metavar="PIXELS",
        help="Of images; needs a pipeline that can choose.",
        show_default="the model's",
    ),
]
DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Images: a folder, a .zip, .tar, .parquet, .npz, .npy or .safetensors file, or 'bundled'.",
    ),
]
OptionalData = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Images: a folder, a .zip, .tar, .parquet, .npz, .npy or .safetensors file, or 'bundled'.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier run wrote to --out.")]
Extractor = Annotated[
    str | None,
    typer.Option(
        "--extractor",
        metavar="NAME",
        help="The feature extractor: a classifier's folder, a Hugging Face vision folder (DINOv2), a TorchScript file, "
        "package.module:factory, or inception (torch-fidelity).",
        show_default="the bundled one, for 1 x 28 x 28",
    ),
]
ValueRangeText = Annotated[
    str,
    typer.Option(
        "--value-range",
        metavar="RANGE",
        help="Range of floating-point pixels: LOW,HIGH such as 0,1; none for latents; auto takes [-1, 1] and "
        "refuses what looks like [0, 1].",
    ),
]

# What is done to pictures.
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="SIZE",
        help="Shorter side of pictures in pixels, or HxW; none takes only pictures of the right size.",
        show_default="the model's, for larger pictures",
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="SIZE",
        help="Square to cut from the centre of pictures, or HxW.",
        show_default="the model's, for larger pictures",
    ),
]
Convert = Annotated[
    str | None,
    typer.Option(
        "--convert",
        metavar="RGB|L",
        help="Colours of pictures; transparent ones are laid on white.",
        show_default="as they are; RGB for grey ones where the model has it",
    ),
]

# The network and its sampler.
NullLabel = Annotated[
    int | None,
    typer.Option(
        "--null-label",
        min=0,
        max=MOST_CLASSES,
        help="The network's label for no class.",
        show_default="the model's",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="NAME",
        help="dpm++2m, unipc, deis, ddim, euler, heun, or a diffusers class.",
        show_default="the model's; dpm++2m for ancestral DDPM",
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        "--spacing",
        metavar="NAME",
        help="Timesteps as in diffusers: trailing, linspace, karras, exponential, beta, lu; or made for few steps: "
        "grid:log_snr, grid:time, grid:karras.",
        show_default="the scheduler's",
    ),
]

Prompt = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="What images shall show; given several times, seed s gets number s modulo their number.",
    ),
]
NegativePrompt = Annotated[
    str | None, typer.Option("--negative-prompt", metavar="TEXT", help="What images shall not show.")
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        min=0,
        max=1000,
        help="Scale of classifier-free guidance; other than 1 it doubles the network evaluations.",
        show_default="1, or that of the pipeline with prompts",
    ),
]

# How the work is done.
Seed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of every random draw.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, max=MOST_SEEDS, help="Images at a time.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="Where to compute: cpu, cuda, cuda:1.")]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=1024, help="Threads of the CPU.", show_default="torch's own"),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what is done.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]


def parse_seeds(text: str) -> list[int]:
    """Seeds of "0-999", "3,5,9" or "7,10-20", ascending; each may stand once."""
    seeds = sorted(_parse_numbers("--seeds", text))
    require(len(seeds) <= MOST_SEEDS, "--seeds", f"at most {MOST_SEEDS:,}", f"{len(seeds):,}")
    require(seeds[-1] <= LARGEST_SEED, "--seeds", "below 2^63", seeds[-1])
    twice = [a for a, b in pairwise(seeds) if a == b]
    require(not twice, "--seeds", "different", f"{twice[0] if twice else ''} more than once")
    return seeds


def format_seeds(seeds: Sequence[int]) -> str:
    """Ascending seeds as `parse_seeds` reads them."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and parts[-1][1] == seed - 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def parse_labels(text: str, option: str = "--class-labels") -> list[int]:
    """Class labels of "3", "0-9" or "0,0,1", in the order given; `option` is what an error calls them."""
    return _parse_numbers(option, text)


def parse_value_range(text: str) -> tuple[float, float] | str | None:
    """The `value_range` of `otprior.data.images.check_images`: "auto", "none" (as None), or "LOW,HIGH"."""
    if text in ("auto", "none"):
        return "auto" if text == "auto" else None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise invalid("--value-range", "auto, none, or LOW,HIGH such as 0,1", text) from None
    require(low < high, "--value-range", "LOW,HIGH with LOW < HIGH", text)
    return low, high


def parse_pictures(resize: str | None, crop: str | None, convert: str | None) -> dict[str, Any]:
    """What is done to pictures, as `otprior.data.open_images` takes it."""
    options = {
        "resize": None if resize == "none" else _parse_size("--resize", resize),
        "crop": _parse_size("--crop", crop),
        "convert": convert.upper() if convert is not None else None,
    }
    require(options["convert"] in (None, "RGB", "L"), "--convert", "RGB or L", convert)
    return options | {"adapt": resize != "none"}


def parse_reading(
    value_range: str, resize: str | None, crop: str | None, convert: str | None, rule: str | None = None
) -> dict[str, Any]:
    """How images are read, as `otprior.cli.inputs.open_data` takes it; `rule` is why pictures are left as they are."""
    for option, value in (("--resize", resize), ("--crop", crop), ("--convert", convert)):
        require(rule is None or value is None, option, str(rule), value)
    return {"value_range": parse_value_range(value_range), "pictures": parse_pictures(resize, crop, convert)}


def _parse_size(option: str, text: str | None) -> int | tuple[int, int] | None:
    """ "64", or "64x48" for a height and a width."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if match is None or int(match[1]) < 1 or int(match[2] or 1) < 1:
        raise invalid(option, "pixels such as 64, or a height and width such as 64x48", text)
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def _parse_numbers(name: str, text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise invalid(name, "whole numbers and ranges such as 7 or 3,5,9 or 0-999", repr(text))
        first, last = int(match[1]), int(match[2] or match[1])
        require(first <= last, name, "ranges from a lower to a higher number", part.strip())
        require(last - first < MOST_SEEDS, name, f"ranges of at most {MOST_SEEDS:,} numbers", part.strip())
        numbers += range(first, last + 1)
    return numbers
