"""What `otprior tune` and `otprior fit --auto` share: the search, its files, and its table."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otprior.cli.inputs import BUNDLED, check_data, require_path, set_up_torch
from otprior.cli.progress import progress_bar
from otprior.cli.session import fail
from otprior.cli.studies import default_workers, follow
from otprior.utils.files import output_file, write_json
from otprior.utils.validation import require

if TYPE_CHECKING:
    from rich.table import Table

    from otprior.experiments.comparison import Comparison
    from otprior.experiments.search import Search
    from otprior.experiments.study import Listener
    from otprior.priors import Prior


@dataclass(frozen=True)
class Material:
    """What a search works with, as a command was given it.

    Attributes:
        model: A diffusers folder, or "bundled".
        data: Images to fit to, or "bundled".
        validation: Real images to judge by; None for the bundled ones.
        extractor: Folder of the feature extractor; None for the bundled one.
        null_label: The network's label for no class.
        value_range: Of floating-point pixels.
        limit: How many of the images to fit to; None for all.
        tol: Of the transport.
    """

    model: str
    data: str
    validation: str | None = None
    extractor: Path | None = None
    null_label: int | None = None
    value_range: Any = "auto"
    limit: int | None = None
    tol: float = 0.05


@dataclass(frozen=True)
class Tuned:
    """A search, the prior at the settings that it chose (None if it chose none), and what it was judged on."""

    search: Search
    prior: Prior | None
    chosen_on: str


def check_material(data: str, validation: str | None, extractor: Path | None) -> None:
    """Looks at the paths; refuses a search among a user's images that would be judged by the bundled ones."""
    if validation is not None:
        check_data(validation, "--validation")
    if extractor is not None:
        require_path("--extractor", extractor)
    rule = f"given unless the data are {BUNDLED}: real images that are no atoms"
    require(data == BUNDLED or validation is not None, "--validation", rule, "nothing")


def search_with(
    material: Material,
    work: Path,
    *,
    steps: int,
    prior: str,
    workers: int,
    listen: Listener,
    copy_limit: float | None = None,
    copy_margin: float = 0.01,
    samples: int = 2000,
    precision: str = "float32",
    minutes: float = 20,
    compiled: bool = False,
) -> Tuned:
    """Searches in a work folder, from which an interrupted search goes on; see `otprior.experiments.search`."""
    from otprior.experiments.gates import CopyLimit
    from otprior.experiments.processes import kept_processes
    from otprior.experiments.search import tune

    study = _study(material, samples, precision)
    with kept_processes(workers, compiled=compiled):
        search = tune(
            study,
            work,
            steps=steps,
            prior=prior,
            limit=None if copy_limit is None else CopyLimit(copy_limit, None, copy_margin),
            margin=copy_margin,
            minutes=minutes,
            workers=workers,
            listen=listen,
        )
    chosen_on = "validation" if material.validation is None else Path(material.validation).name
    return Tuned(search, _prior(search, work), chosen_on)


def search_by_default(material: Material, steps: int, prior: str, out: Path, threads: int | None) -> Tuned:
    """The search of `otprior fit --auto`: that of `otprior tune` at its defaults; ends the command if it finds none."""
    check_material(material.data, material.validation, material.extractor)
    set_up_torch(threads, "cpu")
    work = out.with_name(f"{out.name}.search")
    with progress_bar("loading") as bar:
        found = search_with(
            material, work, steps=steps, prior=prior, workers=default_workers(), listen=follow(bar)
        )
    refuse_empty(found, work)
    return found


def take_settings(
    path: Path, steps: int | None, prior: str, timestep: float | None, own: dict[str, Any]
) -> float:
    """t* of a settings file, unless one is given; the file's other values go into `own` where nothing was given."""
    from otprior.sampling.settings import read_settings, row_of_steps

    row = row_of_steps(read_settings(path), steps)
    require(row.prior == prior, f"--settings {path}", f"for a {prior} prior", row.prior)
    if prior == "semidiscrete":
        for name in ("noise", "correlation", "smoothing"):
            own[name] = getattr(row, name) if own[name] is None else own[name]
    return float(row.start_timestep) if timestep is None else timestep


def _study(material: Material, samples: int, precision: str) -> Comparison:
    from otprior.experiments.comparison import Comparison
    from otprior.sampling.start_spec import StartSpec

    null, rule = material.null_label, f"left out for the model '{BUNDLED}', whose label is known"
    require(material.model != BUNDLED or null is None, "--null-label", rule, null)
    own = material.data != BUNDLED
    split = "validation" if material.validation in (None, BUNDLED) else str(material.validation)
    return Comparison(
        "tune",
        # (The search has rows of its own.)
        (StartSpec("none", 0, 1),),
        samples,
        split=split,
        real_split=split,
        atoms=material.limit,
        atoms_from=material.data if own else "atoms",
        tol=material.tol,
        precision=precision,
        model=material.model,
        null_class_label=material.null_label,
        extractor=BUNDLED if material.extractor is None else str(material.extractor),
        value_range=material.value_range,
    )


def _prior(search: Search, work: Path) -> Prior | None:
    """The chosen start's prior, from those that were fitted for the search."""
    from otprior.experiments.priors import prior_of

    return None if search.best is None else prior_of(work / "priors", search.best.row)


def write_search(folder: Path, found: Tuned) -> None:
    """Writes settings.json (if something was chosen), trials.json and tuning.png."""
    from otprior.experiments.search_plot import search_curve
    from otprior.sampling.settings import write_settings

    search = found.search
    trials = _trials(search)
    best = search.best
    chosen = None
    if best is not None:
        chosen = next(t for t in trials if t["row"] == best.row.to_json() and t["samples"] == best.samples)
        facts = {"figures": {key: value for key, value in chosen.items() if key != "row"}}
        rows = {f"{best.row.prior}_{best.row.steps}": best.row}
        command = shlex.join(["otprior", *sys.argv[1:]])
        write_settings(folder / "settings.json", rows, found.chosen_on, command, **facts)
    write_json(folder / "trials.json", {"limit": asdict(search.limit), "trials": trials})
    with output_file(folder / "tuning.png") as temporary:
        temporary.write_bytes(search_curve(trials, chosen, search.limit.rate + search.limit.margin))


def _trials(search: Search) -> list[dict[str, Any]]:
    done: dict[Any, int] = {}
    entries = []
    for trial in search.trials:
        new = max(0, trial.samples - done.get(trial.row, 0))
        done[trial.row] = max(trial.samples, done.get(trial.row, 0))
        figures = ("fid", "fid_interval", "kid", "copy_rate", "copy_rate_interval", "source_rate", "recall")
        entries.append(
            {
                "label": trial.row.label,
                "start_timestep": trial.row.start_timestep,
                "samples": trial.samples,
                **{name: getattr(trial.figures, name) for name in figures},
                "allowed": search.limit.allows(trial.copy_rate, trial.samples),
                "evaluations": new * trial.row.evaluations,
                "row": trial.row.to_json(),
            }
        )
    return entries


def search_table(found: Tuned, out: Path) -> Table:
    """What was chosen, and what it rests on."""
    search, best = found.search, found.search.best
    rows = [
        (
            "tried",
            f"{len({trial.row for trial in search.trials})} starts, {search.evaluations:,} evaluations",
        ),
        ("copying", f"at most {search.limit.rate:.4f}, by {search.limit.margin:g} at the upper 95 % limit"),
    ]
    if best is not None:
        rows += [
            ("chosen", best.row.label),
            ("FID", f"{best.fid:.2f} against {found.chosen_on} images, on {best.samples:,} seeds"),
            ("copies", f"{best.copy_rate:.4f}"),
        ]
    rows.append(("written to", str(out)))
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def refuse_empty(found: Tuned, out: Path) -> None:
    """Ends the command with code 1 if no start passed."""
    if found.search.best is None:
        hint = "`otprior tune` with a larger --copy-margin or --samples may find one, or more images"
        raise fail(f"no start keeps the copying limit; {out} has what was tried. {hint}", 1)
