"""`otprior reproduce`: repeat what the papers did."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from otprior.cli.options import Debug, Overwrite, Verbose
from otprior.cli.progress import progress_bar
from otprior.cli.session import session, stdout
from otprior.cli.studies import (
    Compile,
    Workers,
    default_workers,
    follow,
    write_parts,
)
from otprior.utils.files import check_output_dir

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
            metavar="DIR",
            help="The folder to write; by default named as the reproduction is.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=12, help="Images of a row.", show_default=False)] = None,
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
        bool, typer.Option("--list", help="List reproductions and their settings, and run none.")
    ] = False,
    workers: Workers = None,
    compiled: Compile = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Do again what a paper did, with its weaknesses shown: docs/papers.md says how each differs from the paper.

    Pieces are kept in DIR.work: a run that was interrupted goes on from there when it is started again. Delete that
    folder when you are done.
    """
    with session(verbose, debug):
        from otprior_studies.papers import find, names

        if list_only:
            for each in names() if name is None else (name,):
                _describe(each)
            return
        if name is None:
            raise ValueError(f"name a reproduction: {', '.join(names())}")
        out = Path(name) if out is None else out
        check_output_dir(out, overwrite)
        found = find(name)
        work = out.with_name(out.name + ".work")
        count = workers or default_workers()
        with progress_bar("loading") as bar:
            request = found.request(work, samples, fast, settings or (), workers=count, listen=follow(bar))
            from otprior.experiments.processes import kept_processes

            started = time.perf_counter()
            with kept_processes(count, compiled=compiled):
                parts = found.run(request)
        write_parts(out, overwrite, parts, time.perf_counter() - started)


def _describe(name: str) -> None:
    """A reproduction's paper, what it does, how long that takes, and its settings."""
    from rich.text import Text

    from otprior_studies.papers import find

    found = find(name)
    lines = [f"{name}: {found.paper}", f"  {found.summary}", f"  {found.minutes}"]
    lines += [f"  --set {entry.name}={entry.default}" for entry in fields(found.settings)]
    for line in lines:
        stdout().print(Text(line), soft_wrap=True)
