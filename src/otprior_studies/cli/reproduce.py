"""`otprior reproduce`: repeat what the papers did."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.options import Debug, Overwrite, Verbose
from otprior.cli.session import say, session
from otprior.cli.studies import Compile, StudyDevice, Workers, print_reports, run_study
from otprior.utils.files import output_dir

EXAMPLES = (
    "otprior reproduce dpm-ot --out dpm-ot",
    "otprior reproduce dpm-ot --fast --set threshold=0.5 --out rehearsal",
    "otprior reproduce prior-mismatch --out prior-mismatch",
    "otprior reproduce from-scratch --out mnist",
    "otprior reproduce --list",
)


def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Which one; --list says which there are.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder to write; by default named as the study is.", show_default=False
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=12, help="Images of a start.", show_default=False)
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="A rehearsal in a few minutes; its figures mean nothing.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting; --list names them. May be given more than once."
        ),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="List studies and their settings, and run none.")
    ] = False,
    device: StudyDevice = "cpu",
    workers: Workers = None,
    compiled: Compile = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Do again what a paper did, with its weaknesses shown: docs/papers.md says how each differs from the paper.

    Pieces are kept in DIR.work: an interrupted run continues from there when it is started again. Delete that
    folder when you are done.
    """
    with session(verbose, debug):
        from otprior.experiments.study import find_study, read_pairs, study_names

        if list_only:
            for each in study_names() if name is None else (name,):
                _describe(each)
            return
        if name is None:
            raise ValueError(f"name a study: {', '.join(study_names())}")
        study, pairs = find_study(name, "NAME"), read_pairs(settings or ())
        out = Path(name) if out is None else out
        with output_dir(out, overwrite, filter(None, pairs.values())) as folder:
            reports = run_study(
                study, folder, out, size="fast" if fast else "usual", samples=samples, settings=pairs,
                workers=workers, compiled=compiled, device=device,
            )  # fmt: skip
    print_reports(reports, out)


def _describe(name: str) -> None:
    """Prints what a study is about, what it does, how long that takes, and its settings."""
    from otprior.experiments.study import find_study

    study = find_study(name, "NAME")
    lines = [f"{name}: {study.title}", f"  {study.summary}", f"  {study.minutes}"]
    lines += [f"  --set {entry.name}={entry.default}" for entry in fields(study.settings)]
    say(*lines)
