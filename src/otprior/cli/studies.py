"""What the commands share that run a study."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.inputs import set_up_torch
from otprior.cli.progress import Bar, progress_bar
from otprior.cli.session import say, stdout

if TYPE_CHECKING:
    import torch

    from otprior.experiments.study import Listener, Part, SizeName, StageProgress, Study
    from otprior.report import SamplingReport

    Reports = dict[str, SamplingReport]  # by the part's name; "" is the main one

Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        help="Processes that sample; by default one a CPU core, up to 8, or one on a GPU.",
        show_default=False,
    ),
]

StudyDevice = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where networks sample: cpu, cuda, cuda:1. The rest is done on the CPU.",
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


def default_workers(device: torch.device | None = None) -> int:
    """One process for each core that this one may use, up to 8: each holds a copy of network and atoms.

    On a device other than the CPU it is one, as they would take turns there.
    """
    if device is not None and device.type != "cpu":
        return 1
    return min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        MOST_WORKERS,
    )


@contextlib.contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """DIR.work, from which an interrupted run goes on.

    If a run is refused, what it began there is removed: a run of other settings could not use it, and would be
    refused for it.
    """
    work = out.with_name(out.name + ".work")
    begun_here = not work.exists()
    try:
        yield work
    except ValueError:
        if begun_here:
            shutil.rmtree(work, ignore_errors=True)
        raise


def follow(bar: Bar) -> Callable[[StageProgress], None]:
    """Shows a study's progress on a bar."""

    def listen(at: StageProgress) -> None:
        bar.update(at.done, at.total, at.note, at.stage)

    return listen


def print_report(report: SamplingReport, out: Path) -> None:
    """Prints the tables, the headline, the gates if there are any, and where the page is."""
    from otprior.report.sampling_tables import further_tables, short_table
    from otprior.report.summary import headline

    for table in (short_table(report), *further_tables(report)):
        stdout().print(table.for_terminal())
    say(headline(report))
    for gate in report.gates or ():
        mark = "reached" if gate.reached else "NOT reached"
        upper = "unbounded" if gate.upper is None else f"{gate.upper:.4f}"
        value = "not known" if gate.statistic is None else f"{gate.statistic:.4f}"
        figures = f"{value}, upper 95 % limit {upper} (at most {gate.threshold})"
        say(f"{mark}: {gate.statement}: {figures}")
    say(f"report: {out / 'report.html'}")


def run_study(
    study: Study,
    folder: Path,
    out: Path,
    *,
    size: SizeName = "usual",
    samples: int | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    compiled: bool = False,
    device: str = "cpu",
) -> Reports:
    """Runs a study in a work folder next to `out`, and writes its reports.

    Arguments:
        study: The study.
        folder: Takes the reports; see `otprior.utils.files.output_dir`.
        out: Where it will stand.
        size, samples, settings: As for `Study.request`.
        workers: Processes; by default `default_workers()`.
        compiled: Whether networks are compiled.
        device: Where networks sample.
    """

    def work(pieces: Path, count: int, listen: Listener) -> dict[str, Part]:
        return study.run(study.request(pieces, size, samples, settings, count, listen, device))

    return run_parts(work, folder, out, workers, compiled, device)


def run_parts(
    work: Callable[[Path, int, Listener], Mapping[str, Part]],
    folder: Path,
    out: Path,
    workers: int | None = None,
    compiled: bool = False,
    device: str = "cpu",
) -> Reports:
    """Does work in a folder next to `out`, and writes its reports, each into a folder of its name.

    Arguments:
        work: Given the folder, the number of processes and a listener, returns the parts by name.
        folder, out, workers, compiled, device: As for `run_study`.
    """
    on = set_up_torch(None, device)
    count = workers or default_workers(on)
    with progress_bar("loading") as bar:
        from otprior.experiments.processes import kept_processes
        from otprior.report import write_report

        started = time.perf_counter()
        with work_folder(out) as pieces, kept_processes(count, compiled=compiled):
            parts = work(pieces, count, follow(bar))
        timings = {"seconds_of_the_last_run": time.perf_counter() - started}
        made = {"command": ["otprior", *sys.argv[1:]], "timings": timings}
        reports = {name: part.report.replace(**made) for name, part in parts.items()}
        for name, part in parts.items():
            write_report(folder / name, reports[name], part.images)
    return reports


def print_reports(reports: Reports, out: Path) -> None:
    """Prints the main report of a study, and where the others are."""
    print_report(reports[""], out)
    others = ", ".join(str(out / name / "report.html") for name in reports if name)
    if others:
        say(f"and: {others}")
