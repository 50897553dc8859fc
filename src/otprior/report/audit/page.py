"""An audit's tables, its page, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from otprior.report.audit.plots import error_against_time, spectrum_left
from otprior.report.audit.record import Audit, AuditReport, AuditRow, ErrorRow
from otprior.report.audit.text import audit_headline, audit_summary, error_text
from otprior.report.folder import write_folder
from otprior.report.page import Block, Page, Section, Text, Tile, how_it_was_made, how_to_read, plot
from otprior.report.record import Limits
from otprior.report.tables import Cell, Table, build_table

# Bounds in words, by their names in a report.
_BOUNDS = {
    "gelbrich": "Gelbrich: from means and covariances",
    "marginals": "exact marginals along principal axes, added",
    "dual": "a quadratic pair of Kantorovich's dual, on other draws than chose it",
    "nearest start": "distance to the nearest of the frozen starts",
    "shared noise": "coupling that shares the noise",
    "cells": "coupling by halving data and noise together",
    "given coupling": "the coupling that was given",
    "flow": "coupling by the data's own probability flow",
    "chain": "chain over smoothing, noise and cell masses",
    "independent atoms": "coupling with independent atoms",
    "exact law": "the starts have the law of p_t",
    "by class": "root of the weighted mean of squares over classes",
    "none": "nothing is known",
    "no upper bound known": "no upper bound is known",
}

_READING = (
    ("t*", "The timestep at which sampling begins. T is the noisiest, where it begins without a prior."),
    (
        "signal scale or α",
        "What the clean image is multiplied by in a noised latent, α x + σ ε; σ is the scale of the noise. The log-SNR "
        "is log α²/σ².",
    ),
    ("gaussian prior", "White noise, shifted and stretched to the data's mean and covariance at t*."),
    (
        "W2",
        "The distance of optimal transport between two laws of latents: the least root mean square distance over which "
        "one could be moved into the other. Pixels are in [-1, 1], so noise in d dimensions has length about √d.",
    ),
    (
        "interval",
        "The error is not computed but enclosed: lower end – upper end, and below it their ratio, unless the lower end "
        "is 0. An end without a level holds for certain; the others hold with 95 % confidence.",
    ),
    (
        "p_t of the data, of the population",
        "The given images, each blurred by noise, are one law; what they were drawn from is another. A prior can fit "
        "the first and miss the second.",
    ),
    (
        "cost in samples",
        "A latent of the data and the start that is coupled with it go through the same sampler; the root mean square "
        "distance of where they end bounds W2 between the two laws of samples from above.",
    ),
    (
        "estimated bound",
        "The analytic bound of what a prior's error and a score's error can become. Two of its terms can only be "
        "sampled, so that it is no bound; it stands here to be compared with the cost that was measured.",
    ),
)


def write_audit(directory: str | Path, report: AuditReport) -> dict[str, Path]:
    """Writes report.html, plots and, last, report.json into a folder; returns them by name.

    Examples:
        >>> audit = run_audit(AuditRequest(scheduler=scheduler, name="mine", shape=(1, 28, 28)))
        >>> sorted(write_audit("audit", AuditReport(audit=audit)))
        ['report.html', 'report.json']
    """
    contents = {"report.html": audit_page(report)}
    if report.audit.errors_by_start("data"):
        contents["error.png"] = error_against_time(report.audit)
        contents["spectrum.png"] = spectrum_left(report.audit)
    return write_folder(directory, report, contents)


def audit_page(report: AuditReport) -> bytes:
    """The file report.html."""
    audit = report.audit
    sections = [
        _end(audit),
        _errors(audit),
        Section("Classes", _classes(audit)),
        _costs(audit),
        _more(audit),
        how_to_read(_READING),
        how_it_was_made(report),
    ]
    page = Page("audit", audit_headline(audit), _tiles(audit), audit_summary(audit), sections)
    return page.render(report)


def error_tables(audit: Audit) -> list[Table]:
    """The errors at every timestep, for the data and for the population, readable at 100 columns."""
    titles = {
        "data": "W2 between p_t of the given data and the starts",
        "population": "W2 between p_t of the population and the starts, each end with 95 % confidence",
    }
    groups = {title: audit.errors_by_start(target) for target, title in titles.items()}
    return [_error_table(rows, title) for title, rows in groups.items() if rows]


def _error_table(groups: Sequence[Sequence[ErrorRow]], title: str = "") -> Table:
    lines = [
        [f"{row.timestep:g}", f"{row.alpha:.3f}", *(_error_cell(rows[index]) for rows in groups)]
        for index, row in enumerate(groups[0])
    ]
    return build_table(("t*", "α", *(rows[0].title for rows in groups)), lines, title=title)


def _error_cell(row: ErrorRow) -> Cell:
    ratio = () if row.ratio is None else (f"×{row.ratio:.3g}",)
    reason = "; ".join(_BOUNDS.get(by, by) for by in (row.lower_by, row.upper_by))
    return Cell(error_text(row), ratio, reason=reason)


def _tiles(audit: Audit) -> list[Tile]:
    end = audit.terminal
    tiles = [Tile(f"{end.leak:.2g}", "of the signal's scale is left at T", f"T = {end.timestep:g}")]
    if audit.data is not None:
        name, note = "standard deviations of brightness", "by which latents at T are off white noise"
        tiles.append(Tile(f"{audit.data.brightness_shift:.2g}", name, note))
    elif end.constant_shift is not None:
        note = "off, for a constant image of value 1"
        tiles.append(Tile(f"{end.constant_shift:.2g}", "standard deviations", note))
    for row in audit.costs[:2]:
        name = f"at most, in samples, from {row.title}"
        tiles.append(Tile(f"{row.cost:.3g}", name, f"t* = {row.timestep:g}"))
    return tiles


def _end(audit: Audit) -> Section:
    end, data = audit.terminal, audit.data
    shown = {
        "scheduler": end.scheduler,
        "process": end.kind,
        "predicts": end.prediction,
        "T": end.timestep,
        "α": end.alpha,
        "σ": end.sigma,
        "log-SNR": end.log_snr,
        "signal left, α/√(α² + σ²)": end.leak,
        "the scheduler itself begins at": end.first_timestep,
        "signal left there": end.first_leak,
    }
    if data is not None:
        shown |= {
            "images": data.images,
            "brightness shift (σ)": data.brightness_shift,
            "from image to image (σ)": data.brightness_spread,
            "shift of the mean (σ)": data.mean_shift,
            "bits about the image": data.bits,
        }
    blocks: list[Block] = [build_table(("at the end", ""), shown.items(), look="gates")]
    if data is not None and audit.errors_by_start("data"):
        caption = "Where the signal's power lies below that of the noise, white noise passes for the latents."
        blocks.append(plot(partial(spectrum_left, audit), caption))
    return Section("Where the process ends", blocks)


def _errors(audit: Audit) -> Section:
    groups, population = audit.errors_by_start("data"), audit.errors_by_start("population")
    blocks: list[Block] = []
    if groups:
        caption = (
            "The error of each start for p_t of the given data lies in its band. Logarithmic; what lies below the "
            "lower edge is drawn on it."
        )
        blocks += [plot(partial(error_against_time, audit), caption), _error_table(groups)]
    if population:
        blocks += [Text("For the population, from held-out data", "heading"), _error_table(population)]
    return Section("How wrong each start is", blocks)


def _classes(audit: Audit) -> list[Block]:
    blocks: list[Block] = []
    if audit.data is not None and audit.data.classes:
        lines = [(each.name or str(each.label), each.images, each.shift) for each in audit.data.classes]
        blocks.append(build_table(("class", "images", "shift at T (σ)"), lines, look="gates"))
    whole = audit.errors_by_start("data", "all classes")
    if whole:
        note = (
            "Errors class by class, put together: √Σ w W2². Guidance 1; with any other there is no "
            "law that a start could be held against."
        )
        blocks += [Text(note, "note"), _error_table(whole)]
    return blocks


def _costs(audit: Audit) -> Section:
    columns = (
        "start",
        "t*",
        "NFE",
        "moves a sample by at most",
        "its 95% interval",
        "starts apart",
        "K steps cost",
    )
    lines = [
        (
            row.title,
            f"{row.timestep:g}",
            row.nfe,
            row.cost,
            _limits(row.cost_interval),
            row.start_gap,
            f"{row.stepping:.3g} {_limits(row.stepping_interval)}",
        )
        for row in audit.costs
    ]
    if not lines:
        return Section("What it costs in samples", [])
    first = audit.costs[0]
    note = (
        f"Root mean square over {first.pairs} pairs; K steps against {first.fine_nfe}. Fresh and frozen "
        "starts have no part in this: their noise is not the seed's."
    )
    return Section("What it costs in samples", [build_table(columns, lines)], note)


def _more(audit: Audit) -> Section:
    blocks: list[Block] = []
    checks = {
        "√d · sliced": "sliced",
        "sliced floor": "sliced_floor",
        "max-sliced": "max_sliced",
        "max-sliced floor": "max_sliced_floor",
        "discrete": "discrete",
        "discrete floor": "discrete_floor",
        "as theory predicts": "consistent",
    }
    if audit.checks:
        blocks += [Text("Cross-checks on samples", "heading"), _simple(audit.checks, checks)]
    if audit.stability:
        columns = (
            "error of the potential (τ)",
            "largest",
            "seeds that change cell",
            "starts move by",
            "bound",
        )
        lines = [(row.size, row.largest, row.changed, row.gap, row.bound) for row in audit.stability]
        heading = "Stability of the semi-discrete start"
        blocks += [Text(heading, "heading"), build_table(columns, lines)]
    terms = {
        "log₁₀ I(t*)": "log10_growth_interval",
        "log₁₀ score term": "log10_score_term_interval",
        "log₁₀ prior term": "log10_prior_term_interval",
        "log₁₀ estimated bound": "log10_total_interval",
    }
    if audit.bounds:
        blocks += [Text("Estimated bound", "heading"), _simple(audit.bounds, terms)]
    return Section("More", blocks)


def _simple(rows: Sequence[AuditRow], columns: dict[str, str]) -> Table:
    lines = []
    for row in rows:
        values = [getattr(row, key) for key in columns.values()]
        lines.append([row.title, *(_limits(v) if isinstance(v, tuple) else v for v in values)])
    return build_table(("start", *columns), lines)


def _limits(limits: Limits) -> str:
    return "[" + ", ".join("−∞" if end is None else f"{end:.3g}" for end in limits) + "]"
