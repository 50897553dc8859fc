"""`otprior compare`: compare starts on the same seeds."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.inputs import require_path
from otprior.cli.options import Debug, Overwrite, Verbose
from otprior.cli.progress import progress_bar
from otprior.cli.session import session
from otprior.cli.studies import (
    Compile,
    Precision,
    Workers,
    default_workers,
    follow,
    write_parts,
)
from otprior.utils.files import check_output_dir
from otprior.utils.validation import require

EXAMPLES = (
    "otprior compare --preset headline --out headline",
    "otprior compare --preset headline --samples 500 --seed-sets 3 --out rehearsal",
    "otprior compare --preset baselines --out baselines",
)


class Preset(StrEnum):
    """The studies there are."""

    headline = "headline"
    baselines = "baselines"
    conditional = "conditional"
    better_priors = "better-priors"
    frontier = "frontier"


def compare(
    preset: Annotated[
        Preset,
        typer.Option(
            help="headline: the coupled start against the best of N(0, I). baselines: against all that could explain "
            "it away. conditional: by class, with guidance. better-priors: experiments. frontier: every number of "
            "evaluations, and of atoms."
        ),
    ] = Preset.headline,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")] = Path("compare-report"),
    samples: Annotated[
        int | None,
        typer.Option(
            min=12,
            help="Images of a row in one set of seeds; 4,000 for the headline, else 2,000. Fewer than 250 are a "
            "rehearsal.",
            show_default=False,
        ),
    ] = None,
    seed_sets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sets of seeds: with two or more, intervals are over them. 5 for the headline, else 1.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Of the network; float32 for the headline, else what is faster here: bfloat16 on a CPU that "
            "multiplies it in tiles (AMX), float32 on others.",
            show_default=False,
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="5 sets of 4,000 in float32, and the parts that take hours.")
    ] = False,
    training: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="60,000 training images, for the frontier's largest numbers of atoms.",
            show_default=False,
        ),
    ] = None,
    workers: Workers = None,
    compiled: Compile = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare starts on the same seeds: quality, copying and their intervals.

    Pieces are kept in DIR.work: a run that was interrupted goes on from there when it is started again. Delete that
    folder when you are done.
    """
    work = out.with_name(out.name + ".work")
    # (An interrupted run leaves its pieces, so `out` is not said to be all there is.)
    with session(verbose, debug):
        check_output_dir(out, overwrite)
        if training is not None:
            rule = "left out unless --preset is frontier"
            require(preset is Preset.frontier, "--training", rule, preset.value)
            require_path("--training", training)
        with progress_bar("loading") as bar:
            from importlib import import_module

            from otprior.experiments.processes import kept_processes

            comparisons = import_module("otprior_studies.comparisons")
            PRESETS, Stages = comparisons.PRESETS, comparisons.Stages

            started = time.perf_counter()
            study = PRESETS[preset.value]
            count = workers or default_workers()
            scale = study.scale(
                samples,
                seed_sets,
                precision.value if precision else None,
                full,
                workers=count,
                training="" if training is None else str(training),
            )
            with kept_processes(count, compiled=compiled):
                results = study.run(Stages(scale, work, follow(bar)))
        write_parts(out, overwrite, results, time.perf_counter() - started)
