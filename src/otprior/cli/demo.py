"""`otprior demo`: do the main job on the bundled data, and report how good it is."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.inputs import set_up_torch
from otprior.cli.options import Debug, Overwrite, Verbose
from otprior.cli.progress import progress_bar
from otprior.cli.session import session
from otprior.cli.studies import StudyDevice, Workers, default_workers, follow, print_report
from otprior.utils.files import output_dir

EXAMPLES = ("otprior demo --out demo-report", "otprior demo --quick --out rehearsal")


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")] = Path("demo-report"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A rehearsal in under a minute; its figures mean nothing.")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(
            min=12, help="Images of a start in each set of seeds.", show_default="250, 50 with --quick"
        ),
    ] = None,
    device: StudyDevice = "cpu",
    workers: Workers = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Turn a bundled diffusion model into a sampler of 3 to 5 network evaluations, and report how good it is.

    Fits a gaussian, a mixture and a semidiscrete prior by class to 10,000 training images, samples the same seeds from
    them and from white noise, and writes tables, plots, images and one page to read: DIR/report.html.
    """
    with session(verbose, debug, out), output_dir(out, overwrite) as folder, progress_bar("loading") as bar:
        from otprior.experiments.chosen import demo as demo_study
        from otprior.experiments.priors import prior_of
        from otprior.experiments.run import run_comparison
        from otprior.report import write_report

        started = time.perf_counter()
        on = set_up_torch(None, device)
        study = replace(demo_study(quick, samples), device=device)
        work = folder / "work"
        result = run_comparison(study, work, workers=workers or default_workers(on), listen=follow(bar))
        timings = {"total_seconds": time.perf_counter() - started}
        report = result.report.replace(command=["otprior", *sys.argv[1:]], timings=timings)
        bar.update(0, None, description="writing the report")
        write_report(folder, report, result.images)
        # What was fitted is the user's to go on with: `otprior sample bundled-by-class --prior DIR/prior`.
        prior = prior_of(work / "priors", study.starts[0])
        assert prior is not None
        prior.save_pretrained(folder / "prior")
        shutil.rmtree(work)
    print_report(report, out)
