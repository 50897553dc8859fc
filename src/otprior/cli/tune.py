"""`otprior tune`: choose prior, t*, noise, scheduler and grid on validation images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.inputs import BUNDLED, set_up_torch
from otprior.cli.options import (
    Convert,
    Crop,
    DataArgument,
    Debug,
    Device,
    Extractor,
    Guidance,
    ModelArgument,
    NegativePrompt,
    NullLabel,
    Out,
    Overwrite,
    Prompt,
    Resize,
    ValueRangeText,
    Variant,
    Verbose,
    parse_pictures,
    parse_value_range,
)
from otprior.cli.prior_options import prior_names
from otprior.cli.progress import progress_bar
from otprior.cli.report_parts import provenance
from otprior.cli.session import fail, session, stdout
from otprior.cli.studies import Compile, Workers, default_workers, follow, work_folder
from otprior.cli.user_inputs import Conditional, Limit, NetworkPrecision, Tolerance, UserInputs, split_name
from otprior.utils.files import output_dir

if TYPE_CHECKING:
    from rich.table import Table

    from otprior.experiments.search import Search

# As `otprior.experiments.search.PRIORS`, which help need not import.
SEARCHED = "gaussian,mixture,semidiscrete"
EXAMPLES = (
    "otprior tune bundled bundled --steps 5 --out tuned",
    "otprior tune path/to/ddpm path/to/train.npz --validation path/to/val.npz --extractor path/to/classifier "
    "--steps 5 --out tuned",
)

Steps = Annotated[int, typer.Option("--steps", min=1, help="Steps of the sampler.")]
Validation = Annotated[
    str | None,
    typer.Option(
        "--validation",
        metavar="DATA",
        help="Real images that are neither atoms nor kept for final figures.",
        show_default="the bundled ones",
    ),
]
PriorNames = Annotated[
    str, typer.Option("--prior", metavar="NAME,...", help=f"The kinds of prior to try, of {prior_names()}.")
]
LimitOfCopies = Annotated[
    float | None,
    typer.Option(
        "--copy-limit",
        min=0,
        max=1,
        help="Share of samples that may count as copies.",
        show_default="that of the validation images",
    ),
]
Margin = Annotated[
    float,
    typer.Option(
        "--copy-margin", min=0, max=1, help="By how much the upper 95 % limit of the difference may exceed 0."
    ),
]
Samples = Annotated[
    int, typer.Option("--samples", min=12, help="Seeds that the last candidates are judged on.")
]
Minutes = Annotated[
    float,
    typer.Option(
        "--minutes", min=0.01, help="Begin nothing new after so long, and choose from what is known."
    ),
]


def tune(
    model: ModelArgument,
    data: DataArgument,
    out: Out,
    steps: Steps = 5,
    validation: Validation = None,
    extractor: Extractor = None,
    prior: PriorNames = SEARCHED,
    copy_limit: LimitOfCopies = None,
    copy_margin: Margin = 0.01,
    samples: Samples = 2000,
    limit: Limit = None,
    tol: Tolerance = 0.05,
    precision: NetworkPrecision = "float32",
    minutes: Minutes = 20,
    conditional: Conditional = False,
    null_label: NullLabel = None,
    prompt: Prompt = None,
    negative_prompt: NegativePrompt = None,
    guidance_scale: Guidance = None,
    resize: Resize = None,
    crop: Crop = None,
    convert: Convert = None,
    value_range: ValueRangeText = "auto",
    variant: Variant = None,
    device: Device = "cpu",
    workers: Workers = None,
    compiled: Compile = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Find the start of best quality in so many steps that does not copy more than real images seem to.

    Says also how far the network's own sampler is from real images, and what that means for the choice of a start.

    DIR gets settings.json (for `otprior fit` and `otprior sample`), the prior at these settings, every candidate with
    its figures, and a page on the search. DIR.work keeps what was sampled: an interrupted search goes on from there.
    """
    with session(verbose, debug):
        with output_dir(out, overwrite, (model, data, validation, extractor)) as folder:
            inputs = UserInputs(
                model, data, extractor, null_label, parse_value_range(value_range), limit, tol, precision,
                parse_pictures(resize, crop, convert), tuple(prompt or ()), negative_prompt, guidance_scale, device,
                variant, conditional,
            )  # fmt: skip
            inputs.check(validation=validation)
            count = workers or default_workers(set_up_torch(None, device))
            split = split_name(validation, "validation")
            with work_folder(out) as work, progress_bar("loading") as bar:
                priors = [name.strip() for name in prior.split(",")]
                options: dict[str, Any] = {"steps": steps, "priors": priors, "margin": copy_margin}
                run = options | {"minutes": minutes, "workers": count, "listen": follow(bar)}
                search = _search(inputs, split, samples, work, copy_limit, compiled, run)
                options |= {"validation": Path(split).name, "samples": samples}
                _write(folder, search, work, inputs, options)
        stdout().print(_table(search, Path(split).name, out))
        if search.best is None:
            hint = "a larger --copy-margin or --samples may find one, or more images"
            raise fail(f"no start keeps the copying limit; {out} has what was tried; {hint}", 1)


def _search(
    inputs: UserInputs,
    split: str,
    samples: int,
    work: Path,
    copy_limit: float | None,
    compiled: bool,
    options: dict[str, Any],
) -> Search:
    """Searches in a work folder, from which an interrupted search goes on; see `otprior.experiments.search`."""
    from otprior.experiments.gates import CopyLimit
    from otprior.experiments.processes import kept_processes
    from otprior.experiments.search import tune as search
    from otprior.sampling.start_spec import StartSpec

    # (The search has starts of its own.)
    comparison = inputs.comparison("tune", (StartSpec("none", 0, 1),), samples, split, split)
    limit = None if copy_limit is None else CopyLimit(copy_limit, None, options["margin"])
    with kept_processes(options["workers"], compiled=compiled):
        return search(comparison, work, limit=limit, **options)


def _write(folder: Path, search: Search, work: Path, inputs: UserInputs, asked: dict[str, Any]) -> None:
    """Writes what a search leaves to read; settings.json and the prior, if something was chosen."""
    from otprior.experiments.priors import prior_of
    from otprior.experiments.search_report import trial_json, write_search
    from otprior.report.record import Report
    from otprior.sampling.settings import write_settings

    own: dict[str, Any] = {"model": inputs.model, "data": inputs.data, "conditional": inputs.conditional}
    own["extractor"] = inputs.extractor or BUNDLED
    report, chosen_on = Report.build(**provenance(own | asked)), asked["validation"]
    best = search.best
    if best is not None:
        start = best.start
        chosen = trial_json(search, best)
        facts = {"figures": {key: value for key, value in chosen.items() if key != "row"}}
        starts = {f"{start.prior}_{start.steps}": start}
        write_settings(folder / "settings.json", starts, chosen_on, str(report.command), **facts)
        prior = prior_of(work / "priors", start)
        assert prior is not None
        prior.save_pretrained(folder / "prior")
    write_search(folder, search, chosen_on, report)


def _table(search: Search, chosen_on: str, out: Path) -> Table:
    """What was chosen, and what it rests on."""
    from rich.table import Table

    from otprior.experiments.search_report import edges, told

    best, starts = search.best, {trial.start for trial in search.trials}
    rows = [
        ("tried", f"{len(starts)} starts{told(search)}, {search.evaluations:,} evaluations"),
        ("copying", f"at most {search.limit.rate:.4f}, by {search.limit.margin:g} at the upper 95 % limit"),
    ]
    if best is not None:
        rows += [
            ("chosen", best.start.label),
            ("FID", f"{best.fid:.2f} against {chosen_on} images, on {best.samples:,} seeds"),
            ("copies", f"{best.copy_rate:.4f}"),
        ]
        rows += [("edge", text) for text in edges(search)]
    if search.own_sampler is not None:
        rows.append(("network", search.own_sampler.words))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in [*rows, ("written to", str(out))]:
        table.add_row(*row)
    return table
