"""`otprior verify`: test what the papers claim."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otprior.cli.options import Debug, Overwrite, Seed, Threads, Verbose
from otprior.cli.progress import progress_bar
from otprior.cli.report_parts import provenance
from otprior.cli.session import say, session, stdout
from otprior.cli.studies import StudyDevice
from otprior.utils.files import output_dir

if TYPE_CHECKING:
    from otprior_studies.claims.record import ClaimsReport

EXAMPLES = (
    "otprior verify --fast",
    "otprior verify --only brenier --only codes-jacobian --out claims",
    "otprior verify --fast --json",
)


def verify(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A claim, or the beginning of several; may be given more than once."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Fewer draws: all claims within three minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of the table.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="List the claims, and run none.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write report.json, a page and plots there.")
    ] = None,
    seed: Seed = 0,
    device: StudyDevice = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Test the papers' claims: statistic, interval, power and verdict of each.

    A verdict is one of "holds", "holds within error", "does not hold", "not distinguishable"; docs/claims.md explains
    each claim. The command succeeds whatever the verdicts are.
    """
    writing = nullcontext() if out is None or list_only else output_dir(out, overwrite)
    with session(verbose, debug, out), writing as folder:
        from otprior.cli.inputs import set_up_torch
        from otprior_studies.claims.claim import Effort
        from otprior_studies.claims.page import write_claims_report
        from otprior_studies.claims.record import ClaimsReport
        from otprior_studies.claims.registry import all_claims, find_claims, run_claims

        chosen = find_claims(only) if only else all_claims()
        if list_only:
            say(*(f"{claim.id}: {claim.statement} ({claim.paper})" for claim in chosen))
            return
        set_up_torch(threads, device)
        with progress_bar("claims") as bar:
            results = run_claims(
                chosen,
                Effort(fast, seed, device),
                lambda done, claim: bar.update(done, len(chosen), claim.id),
            )
        report = ClaimsReport.from_json(
            {
                "claims": [result.row() for result in results],
                "details": {result.claim.id: result.details() for result in results},
            }
            | provenance({"fast": fast, "seed": seed, "device": device})
        )
        if folder is not None:
            write_claims_report(folder, report)
    if as_json:
        say(json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(report, [f"{result.claim.id}: {result.finding.why}" for result in results], out)


def _print(report: ClaimsReport, reasons: Sequence[str], out: Path | None) -> None:
    from otprior_studies.claims.page import claims_table, counts

    stdout().print(claims_table(report).for_terminal())
    say(*reasons, counts(report))
    if out is not None:
        say(f"report: {out / 'report.html'}")
