"""What a search leaves to read: every trial as JSON, the picture of FID and copying against t*, and the page.

A trial in JSON is a dictionary with "label", "start_timestep", "samples", figures such as "fid" and "copy_rate",
"evaluations" (network evaluations of this trial that no earlier one had done), "allowed" (whether its copying passes
the rule on so many seeds) and "row" (the start).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from otprior.experiments.own_sampler import STEPS
from otprior.experiments.search import Search, Trial, on_most_seeds
from otprior.report import ReportRow
from otprior.report.metric import METRIC, Metric
from otprior.report.page import Page, Section, Tile, how_it_was_made, how_to_read, plot
from otprior.report.record import Report
from otprior.report.sampling_page import GENERAL, images_section, start_meanings
from otprior.report.tables import Cell, Line, Table, number
from otprior.report.theme import MARKERS, PNG, Canvas, Style
from otprior.utils.files import output_file, write_json
from otprior.utils.validation import require

_FIGURES = ("fid", "fid_interval", "kid", "copy_rate", "copy_rate_interval", "source_rate", "recall")
_SHOWN = ("fid", "copy_rate", "source_rate", "recall")
_FID, _SHARE = METRIC["fid"], METRIC["copy_rate"]


def write_search(folder: Path, search: Search, chosen_on: str, report: Report) -> None:
    """Writes report.html, tuning.png and trials.json.

    Arguments:
        folder: Where to.
        search: What was found.
        chosen_on: Name of the images that it was chosen on.
        report: How it was made.
    """
    draw = _curve(search)
    for name, content in (("report.html", search_page(search, chosen_on, report)), ("tuning.png", draw(PNG))):
        with output_file(folder / name) as temporary:
            temporary.write_bytes(content)
    own = {} if search.own_sampler is None else {"own_sampler": search.own_sampler.to_json()}
    write_json(folder / "trials.json", {"limit": asdict(search.limit), "trials": _trials(search)} | own)


def trial_json(search: Search, trial: Trial) -> dict[str, Any]:
    """A trial of a search, as the module says."""
    start = trial.start
    fewer = [
        other.samples for other in search.trials if other.start == start and other.samples < trial.samples
    ]
    return {
        "label": start.label,
        "start_timestep": start.start_timestep,
        "samples": trial.samples,
        **{name: getattr(trial.figures, name) for name in _with_classes(search, _FIGURES)},
        "allowed": search.limit.allows(trial.copy_rate, trial.samples),
        "evaluations": (trial.samples - max(fewer, default=0)) * start.evaluations,
        "row": start.to_json(),
    }


def _with_classes(search: Search, figures: tuple[str, ...]) -> tuple[str, ...]:
    """These figures, and class accuracy where it was measured."""
    measured = any(trial.figures.class_accuracy is not None for trial in search.trials)
    return (*figures, "class_accuracy") if measured else figures


def _shown(search: Search) -> list[Metric]:
    return [METRIC[key] for key in _with_classes(search, _SHOWN)]


def told(search: Search) -> str:
    """What the network is told of every start: " by class, guidance 2"."""
    start = search.trials[0].start
    parts = ["by class"] * start.conditional
    parts += [f"guidance {start.guidance:g}"] * (start.guidance != 1)
    return " " + ", ".join(parts) if parts else ""


def search_curve(
    trials: Sequence[dict[str, Any]], chosen: dict[str, Any] | None, limit: float, style: Style = PNG
) -> bytes:
    """FID and copying of every trial against t*.

    Arguments:
        trials: As the module says; at least one.
        chosen: The trial that was chosen, or None.
        limit: The copy rate that the rule allows, drawn as a line.
        style: How it is drawn.
    """
    require(len(trials) > 0, "trials", "at least one", 0)
    canvas, theme = Canvas(style, 6.0, (3, 2)), style.theme
    quality, copying = canvas.axes
    for place, size in enumerate(sorted({trial["samples"] for trial in trials})):
        colour, marker = theme.starts[place % len(theme.starts)], MARKERS[place % len(MARKERS)]
        for allowed in (True, False):
            some = [trial for trial in trials if trial["samples"] == size and trial["allowed"] is allowed]
            look: dict[str, Any] = {"marker": marker, "edgecolors": colour, "zorder": 3}
            look |= {"facecolors": colour if allowed else "none"}
            times = [trial["start_timestep"] for trial in some]
            label = f"{size:,} seeds" if allowed else None
            quality.scatter(times, [trial["fid"] for trial in some], label=label, **look)
            copying.scatter(times, [100 * trial["copy_rate"] for trial in some], **look)
    if chosen is not None:
        ring: dict[str, Any] = {"s": 220, "facecolors": "none", "edgecolors": theme.ink, "label": "chosen"}
        quality.scatter([chosen["start_timestep"]], [chosen["fid"]], **ring)
        copying.scatter([chosen["start_timestep"]], [100 * chosen["copy_rate"]], **ring)
    copying.axhline(100 * limit, color=theme.muted, linestyle="--", linewidth=1.0, label="copying limit")
    canvas.label("start timestep t*", "FID")
    copying.set_ylabel("copies, %", color=theme.ink)
    canvas.legend(4 if style.width > 6 else 2)
    return canvas.file()


def _curve(search: Search) -> Callable[[Style], bytes]:
    """Draws a search in a style."""
    limit, best = search.limit, search.best
    chosen = None if best is None else trial_json(search, best)
    return partial(search_curve, _trials(search), chosen, limit.rate + limit.margin)


def _trials(search: Search) -> list[dict[str, Any]]:
    return [trial_json(search, trial) for trial in search.trials]


def edges(search: Search) -> list[str]:
    """What is said if the chosen t* is the lowest or the highest that was tried of its kind of prior."""
    if search.best is None:
        return []
    start = search.best.start
    tried = sorted({each.start.start_timestep for each in search.trials if each.start.prior == start.prior})
    ends = {tried[0]: ("lowest", "lower"), tried[-1]: ("highest", "higher")} if len(tried) > 1 else {}
    if start.start_timestep not in ends:
        return []
    end, beyond = ends[start.start_timestep]
    return [
        f"t* = {start.start_timestep:g} is the {end} that was tried: a {beyond} one may be better. "
        "otprior compare takes starts at any t*."
    ]


def search_page(search: Search, chosen_on: str, report: Report) -> bytes:
    """The file report.html; its arguments are those of `write_search`."""
    best, own = search.best, search.own_sampler
    tried = on_most_seeds(search.trials)
    sentences = [
        "No start that was tried keeps the copying limit." if best is None else _choice(search, chosen_on),
        *([] if own is None else [own.words]),
        *edges(search),
        f"{len(tried)} starts{told(search)} were tried, with {search.evaluations:,} network evaluations.",
    ]
    caption = (
        "Every trial. A hollow mark copies too much to be allowed on so many seeds. Fewer seeds give a higher FID: "
        "compare marks of one kind."
    )
    note = "Each start on the most seeds that it was tried on; below a figure stands its 95% interval. "
    note += "FIDs on different numbers of seeds do not compare."
    words = [*GENERAL, *start_meanings([told(search), *(start.label for start in tried)])]
    words += [(metric.heading, metric.meaning) for metric in _shown(search)]
    sections = [
        images_section(() if own is None else own.images),
        Section("FID and copying by start timestep", [plot(_curve(search), caption)]),
        Section("What was tried", [_table(search)], note, "landscape"),
        how_to_read(words),
        how_it_was_made(report),
    ]
    title = "No start keeps the copying limit" if best is None else f"Chosen: {best.start.label}"
    return Page("search", title, _tiles(search), sentences, sections).render(report, "trials.json")


def _choice(search: Search, chosen_on: str) -> str:
    best, limit = search.best, search.limit
    assert best is not None
    fid = f"{_FID.text(best.fid)} {_FID.interval_text(best.figures.fid_interval)}".strip()
    return (
        f"Of the starts that keep the copying limit, this one has the lowest FID: {fid} against {chosen_on} images, on "
        f"{best.samples:,} seeds. {_SHARE.text(best.copy_rate)} of its samples count as copies; the rule is at most "
        f"{_SHARE.text(limit.rate)} and a margin of {_SHARE.text(limit.margin)}, at 95% confidence."
    )


def _tiles(search: Search) -> list[Tile]:
    best, own = search.best, search.own_sampler
    if best is None:
        return []
    allowed = f"allowed: {_SHARE.text(search.limit.rate)}, and {_SHARE.text(search.limit.margin)} more"
    tiles = [
        Tile(number(best.start.evaluations), "network evaluations an image"),
        Tile(_FID.text(best.fid), "FID", f"on {best.samples:,} seeds"),
        Tile(_SHARE.text(best.copy_rate), "of samples count as copies", allowed),
    ]
    if own is not None:
        seeds = f"on {own.figures.samples or 0:,} seeds"
        tiles.append(Tile(_FID.text(own.figures.fid), f"FID from N(0, I) with {STEPS} evaluations", seeds))
    return tiles


def _table(search: Search) -> Table:
    """The chosen start, the network's own sampler, and every other start, on most seeds and of lowest FID first."""
    best, own, shown = search.best, search.own_sampler, _shown(search)
    rest = sorted(on_most_seeds(search.trials).values(), key=lambda trial: (-trial.samples, trial.fid))
    lines = [] if best is None else [_line(best.figures, shown, "chosen", "floor")]
    lines += [] if own is None else [_line(own.figures, shown, "the network's own sampler", "")]
    for trial in rest:
        if best is None or trial.start != best.start:
            # (On fewer seeds the rule decides nothing yet.)
            failed = trial.samples == rest[0].samples and not search.limit.allows(
                trial.copy_rate, trial.samples
            )
            lines.append(_line(trial.figures, shown, "copies too much" if failed else "", ""))
    return Table(("start", "NFE", *(metric.heading for metric in shown), "seeds"), tuple(lines))


def _line(row: ReportRow, shown: list[Metric], note: str, kind: str) -> Line:
    cells = [Cell(row.label or "", (note,) if note else ()), Cell(number(row.nfe))]
    for metric in shown:
        limits = metric.interval_text(getattr(row, f"{metric.key}_interval", None))
        cells.append(Cell(metric.text(getattr(row, metric.key)), (limits,) if limits else ()))
    return Line((*cells, Cell(number(row.samples))), kind)
