"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A diffusers folder with unet and scheduler, or 'bundled'.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output folder that is not empty.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of the CPU; by default what torch finds.", show_default=False),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
ValueRangeText = Annotated[
    str,
    typer.Option(
        "--value-range",
        metavar="RANGE",
        help="Of floating-point pixels: LOW,HIGH such as 0,1; none for latents; "
        "auto takes [-1, 1] and refuses what looks like [0, 1].",
    ),
]
