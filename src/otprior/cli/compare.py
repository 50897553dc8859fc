"""`otprior compare`: compare starts on the same seeds."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.options import Debug, Out, Overwrite, Verbose
from otprior.cli.session import session
from otprior.cli.studies import Compile, Precision, Workers, run_study
from otprior.utils.files import check_output_dir
from otprior.utils.validation import require

EXAMPLES = (
    "otprior compare --preset headline --out headline",
    "otprior compare --preset headline --samples 500 --seed-sets 3 --out rehearsal",
    "otprior compare --preset baselines --out baselines",
)


Preset = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="headline: the coupled start against the best of N(0, I). baselines: against all that could explain it "
        "away. conditional: by class, with guidance. better-priors: experiments. frontier: every number of "
        "evaluations, and of atoms.",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=12,
        help="Images of a start in one set of seeds. Fewer than 250 are a rehearsal.",
        show_default="4,000 for the headline, else 2,000",
    ),
]
SeedSets = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Sets of seeds: with two or more, intervals are over them.",
        show_default="5 for the headline, else 1",
    ),
]
NetworkPrecision = Annotated[
    Precision | None,
    typer.Option(
        help="Precision of the network. bfloat16 is faster on a CPU that multiplies it in tiles (AMX).",
        show_default="float32 for the headline, else the faster one here",
    ),
]
Full = Annotated[
    bool, typer.Option("--full", help="5 sets of 4,000 in float32, and the parts that take hours.")
]
Training = Annotated[
    Path | None,
    typer.Option(metavar="DATA", help="60,000 training images, for the frontier's largest numbers of atoms."),
]


def compare(
    preset: Preset = "headline",
    out: Out = Path("compare-report"),
    samples: Samples = None,
    seed_sets: SeedSets = None,
    precision: NetworkPrecision = None,
    full: Full = False,
    training: Training = None,
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
    # (An interrupted run leaves its pieces, so `out` is not said to be all there is.)
    with session(verbose, debug):
        from otprior.experiments.study import find_study

        check_output_dir(out, overwrite, (training,))
        study = find_study(preset)
        options = {"seed_sets": seed_sets, "precision": precision and precision.value, "training": training}
        settings = {name: str(value) for name, value in options.items() if value is not None}
        known = {entry.name for entry in fields(study.settings)}
        for name in settings.keys() - known:
            rule = f"left out: {preset} has no such setting"
            require(False, f"--{name.replace('_', '-')}", rule, settings[name])
        run_study(
            study,
            out,
            overwrite,
            size="full" if full else "usual",
            samples=samples,
            settings=settings,
            workers=workers,
            compiled=compiled,
        )
