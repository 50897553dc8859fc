"""`otprior compare`: bundled studies at full size, resumable."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.options import Overwrite
from otprior.cli.progress import progress_bar
from otprior.cli.session import Debug, Verbose, session, stdout
from otprior.cli.studies import Workers, default_workers, follow, print_report
from otprior.files import check_output_dir, output_dir

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = (
    "otprior compare --preset headline --out headline",
    "otprior compare --preset headline --samples 500 --seed-sets 3 --out rehearsal",
)


class Preset(StrEnum):
    """The studies there are."""

    headline = "headline"


class Precision(StrEnum):
    """What the network computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def compare(
    preset: Annotated[
        Preset, typer.Option(help="headline: the coupled start against the best of N(0, I).")
    ] = (Preset.headline),
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")] = Path("compare-report"),
    samples: Annotated[int, typer.Option(min=12, help="Images of a row in one set of seeds.")] = 4000,
    seed_sets: Annotated[int, typer.Option(min=2, help="Sets of seeds; intervals are over them.")] = 5,
    precision: Annotated[
        Precision, typer.Option(help="Of the network. bfloat16 is several times faster where the CPU has it.")
    ] = Precision.float32,
    workers: Workers = None,
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
        with progress_bar("loading") as bar:
            from otprior.compare import headline_gates, run_study
            from otprior.presets import PRESETS, settings_rows
            from otprior.report import write_report

            started = time.perf_counter()
            study = PRESETS[preset.value](samples, seed_sets, precision.value)
            result = run_study(study, work, workers=workers or default_workers(), listen=follow(bar))
            report = result.report
            report["gates"] = headline_gates(result, settings_rows())
            report["command"] = ["otprior", *sys.argv[1:]]
            report["timings"] = {"seconds_of_the_last_run": time.perf_counter() - started}
            with output_dir(out, overwrite) as folder:
                write_report(folder, report, result.images)
        print_report(stdout(), report, out)
