"""What the commands share that run a study."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.progress import Bar, progress_bar
from otprior.cli.session import stdout
from otprior.utils.files import check_output_dir, output_dir

if TYPE_CHECKING:
    from rich.console import Console

    from otprior.experiments.study import Listener, Part, SizeName, StageProgress, Study
    from otprior.report import SamplingReport

Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that sample; by default one a CPU core, up to 8.", show_default=False
    ),
]

Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the network with torch.compile: takes a C++ compiler and a minute or two, then samples a "
        "quarter to a half faster on a CPU, in whole batches of 125.",
    ),
]

MOST_WORKERS = 8


def default_workers() -> int:
    """One process for each core that this one may use, up to 8: each holds a copy of network and atoms."""
    return min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        MOST_WORKERS,
    )


def follow(bar: Bar) -> Callable[[StageProgress], None]:
    """Shows a study's progress on a bar."""

    def listen(at: StageProgress) -> None:
        bar.update(at.done, at.total, at.note, at.stage)

    return listen


def print_report(console: Console, report: SamplingReport, out: Path) -> None:
    """Prints the tables, the headline, the gates if there are any, and where the page is."""
    from otprior.report.sampling_tables import further_tables, short_table
    from otprior.report.summary import headline

    for table in (short_table(report), *further_tables(report)):
        console.print(table.for_terminal())
    console.print(headline(report), soft_wrap=True, markup=False, highlight=False)
    for gate in report.gates or ():
        mark = "reached" if gate.reached else "NOT reached"
        upper = "unbounded" if gate.upper is None else f"{gate.upper:.4f}"
        value = "not known" if gate.statistic is None else f"{gate.statistic:.4f}"
        figures = f"{value}, upper 95 % limit {upper} (at most {gate.threshold})"
        line = f"{mark}: {gate.statement}: {figures}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {out / 'report.html'}", soft_wrap=True, markup=False, highlight=False)


def run_study(
    study: Study,
    out: Path,
    overwrite: bool = False,
    *,
    size: SizeName = "usual",
    samples: int | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    compiled: bool = False,
) -> None:
    """Runs a study in a work folder next to `out`, writes its reports there, and prints the main one.

    Arguments:
        study: The study.
        out: The folder to write.
        overwrite: Whether to replace it.
        size, samples, settings: As for `Study.request`.
        workers: Processes; by default `default_workers()`.
        compiled: Whether networks are compiled.
    """
    check_output_dir(out, overwrite)

    def work(folder: Path, count: int, listen: Listener) -> dict[str, Part]:
        return study.run(study.request(folder, size, samples, settings, count, listen))

    run_parts(work, out, overwrite, workers, compiled)


def run_parts(
    work: Callable[[Path, int, Listener], Mapping[str, Part]],
    out: Path,
    overwrite: bool = False,
    workers: int | None = None,
    compiled: bool = False,
) -> None:
    """Does work in a folder next to `out`, writes its reports there, and prints the main one.

    Arguments:
        work: Given the folder, the number of processes and a listener, returns the parts by name.
        out, overwrite, workers, compiled: As for `run_study`.
    """
    count = workers or default_workers()
    with progress_bar("loading") as bar:
        from otprior.experiments.processes import kept_processes

        started = time.perf_counter()
        with kept_processes(count, compiled=compiled):
            parts = work(out.with_name(out.name + ".work"), count, follow(bar))
    _write_parts(out, overwrite, parts, time.perf_counter() - started)


def _write_parts(out: Path, overwrite: bool, parts: Mapping[str, Part], seconds: float) -> None:
    """Writes each part into a folder of its name, with the command and its time; prints the main one."""
    from otprior.report import write_report

    made = {"command": ["otprior", *sys.argv[1:]], "timings": {"seconds_of_the_last_run": seconds}}
    reports = {name: part.report.replace(**made) for name, part in parts.items()}
    with output_dir(out, overwrite) as folder:
        for name, part in parts.items():
            write_report(folder / name, reports[name], part.images)
    print_report(stdout(), reports[""], out)
    others = ", ".join(str(out / name / "report.html") for name in parts if name)
    if others:
        stdout().print(f"and: {others}", soft_wrap=True, markup=False, highlight=False)
