"""`otprior tune`: choose prior, t*, noise, scheduler and grid on validation images."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprior.cli.inputs import set_up_torch
from otprior.cli.options import (
    Convert,
    Crop,
    DataArgument,
    Debug,
    Device,
    Extractor,
    Guidance,
    ModelArgument,
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
from otprior.cli.session import fail, session, stdout
from otprior.cli.studies import Compile, Workers, default_workers, follow, work_folder
from otprior.cli.user_inputs import Limit, NetworkPrecision, Tolerance, UserInputs, split_name
from otprior.utils.files import output_dir, output_file, write_json

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
    null_label: NullLabel = None,
    prompt: Prompt = None,
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
    its figures, and a picture of the search. DIR.work keeps what was sampled: an interrupted search goes on from there.
    """
    with session(verbose, debug):
        with output_dir(out, overwrite, (model, data, validation, extractor)) as folder:
            pixels = parse_value_range(value_range)
            inputs = UserInputs(
                model, data, extractor, null_label, pixels, limit, tol, precision,
                parse_pictures(resize, crop, convert), tuple(prompt or ()), guidance_scale, device, variant,
            )  # fmt: skip
            inputs.check(validation=validation)
            on = set_up_torch(None, device)
            count = workers or default_workers(on)
            split = split_name(validation, "validation")
            with work_folder(out) as work, progress_bar("loading") as bar:
                priors = [name.strip() for name in prior.split(",")]
                options = {"steps": steps, "priors": priors, "margin": copy_margin, "minutes": minutes}
                options |= {"workers": count, "listen": follow(bar)}
                search = _search(inputs, split, samples, work, copy_limit, compiled, options)
                _write(folder, search, Path(split).name, work)
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


def _write(folder: Path, search: Search, chosen_on: str, work: Path) -> None:
    """Writes trials.json and tuning.png; settings.json and the prior, if something was chosen."""
    from otprior.experiments.priors import prior_of
    from otprior.experiments.search_plot import search_curve
    from otprior.sampling.settings import write_settings

    trials = _trials(search)
    best, chosen = search.best, None
    if best is not None:
        start = best.start
        chosen = next(t for t in trials if t["row"] == start.to_json() and t["samples"] == best.samples)
        facts = {"figures": {key: value for key, value in chosen.items() if key != "row"}}
        command = shlex.join(["otprior", *sys.argv[1:]])
        starts = {f"{start.prior}_{start.steps}": start}
        write_settings(folder / "settings.json", starts, chosen_on, command, **facts)
        prior = prior_of(work / "priors", start)
        assert prior is not None
        prior.save_pretrained(folder / "prior")
    own = {} if search.own_sampler is None else {"own_sampler": search.own_sampler.to_json()}
    write_json(folder / "trials.json", {"limit": asdict(search.limit), "trials": trials} | own)
    with output_file(folder / "tuning.png") as temporary:
        temporary.write_bytes(search_curve(trials, chosen, search.limit.rate + search.limit.margin))


def _trials(search: Search) -> list[dict[str, Any]]:
    done: dict[Any, int] = {}
    entries = []
    for trial in search.trials:
        new = max(0, trial.samples - done.get(trial.start, 0))
        done[trial.start] = max(trial.samples, done.get(trial.start, 0))
        figures = ("fid", "fid_interval", "kid", "copy_rate", "copy_rate_interval", "source_rate", "recall")
        entries.append(
            {
                "label": trial.start.label,
                "start_timestep": trial.start.start_timestep,
                "samples": trial.samples,
                **{name: getattr(trial.figures, name) for name in figures},
                "allowed": search.limit.allows(trial.copy_rate, trial.samples),
                "evaluations": new * trial.start.evaluations,
                "row": trial.start.to_json(),
            }
        )
    return entries


def _edges(search: Search) -> list[str]:
    """What is said if the chosen t* is the lowest or the highest that was tried of its kind of prior."""
    assert search.best is not None
    start = search.best.start
    tried = sorted({each.start.start_timestep for each in search.trials if each.start.prior == start.prior})
    ends = {tried[0]: "lowest", tried[-1]: "highest"} if len(tried) > 1 else {}
    if start.start_timestep not in ends:
        return []
    end = ends[start.start_timestep]
    beyond = {"lowest": "lower", "highest": "higher"}[end]
    return [
        f"t* = {start.start_timestep:g} is the {end} that was tried: a {beyond} one may be better. "
        "`otprior compare` takes starts at any t*."
    ]


def _table(search: Search, chosen_on: str, out: Path) -> Table:
    """What was chosen, and what it rests on."""
    from rich.table import Table

    best, starts = search.best, {trial.start for trial in search.trials}
    rows = [
        ("tried", f"{len(starts)} starts, {search.evaluations:,} evaluations"),
        ("copying", f"at most {search.limit.rate:.4f}, by {search.limit.margin:g} at the upper 95 % limit"),
    ]
    if best is not None:
        rows += [
            ("chosen", best.start.label),
            ("FID", f"{best.fid:.2f} against {chosen_on} images, on {best.samples:,} seeds"),
            ("copies", f"{best.copy_rate:.4f}"),
        ]
        rows += [("edge", text) for text in _edges(search)]
    if search.own_sampler is not None:
        rows.append(("network", search.own_sampler.words))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in [*rows, ("written to", str(out))]:
        table.add_row(*row)
    return table
