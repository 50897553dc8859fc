"""An audit as one page to read, on the template of the sampling report, and its files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from otprior.report.audit.plots import error_against_time, spectrum_left
from otprior.report.audit.text import (
    BOUNDS,
    audit_headline,
    audit_summary,
    error_text,
    rows_of,
    start_name,
)
from otprior.report.folder import write_folder
from otprior.report.html import figure, fill, tile
from otprior.report.html_tables import (
    made_with,
    number,
    reading_list,
    section,
    table,
)
from otprior.report.schema import validate_report

Row = dict[str, Any]

_READING = (
    (
        "W2",
        "The distance of optimal transport between two laws of latents: the least root mean square distance over which "
        "one could be moved into the other. Pixels are in [-1, 1], so noise in d dimensions has length about √d.",
    ),
    (
        "interval",
        "The error is not computed but enclosed: lower end – upper end, and below it their ratio. An end without a "
        "level holds for certain; the others hold with 95 % confidence.",
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


def audit_page(report: Row) -> str:
    """The whole page of an audit's report."""
    parts = (
        _end(report),
        _errors(report),
        _classes(report),
        _costs(report),
        _more(report),
        reading_list(_READING),
        made_with(report),
    )
    sentences = audit_summary(report)
    return fill(report, "audit", audit_headline(report), _tiles(report), sentences, parts)


def write_audit(directory: str | Path, report: Row) -> dict[str, Path]:
    """Writes report.html, plots and, last, report.json into a folder.

    Raises:
        ValueError: If the report breaks its schema; nothing is written then.
    """
    validate_report(report)
    contents = {"report.html": audit_page(report).encode("utf-8")}
    if rows_of(report, "data"):
        contents["error.png"] = error_against_time(report)
        contents["spectrum.png"] = spectrum_left(report)
    return write_folder(directory, report, contents)


def _tiles(report: Row) -> str:
    audit = report["audit"]
    end = audit["terminal"]
    tiles = [
        tile(f"{end['leak']:.2g}", "of the signal's scale is left at T", f"T = {end['timestep']:g}"),
    ]
    data = audit["data"]
    if data is not None:
        shift = f"{data['brightness_shift']:.2g}"
        tiles.append(
            tile(shift, "standard deviations of brightness", "by which latents at T are off white noise")
        )
    elif end["constant_shift"] is not None:
        tiles.append(
            tile(
                f"{end['constant_shift']:.2g}", "standard deviations", "off, for a constant image of value 1"
            )
        )
    for row in audit["costs"][:2]:
        tiles.append(
            tile(
                f"{row['cost']:.3g}",
                f"at most, in samples, from {start_name(row)}",
                f"t* = {row['timestep']:g}",
            )
        )
    return '<ul class="figures">\n' + "\n".join(tiles) + "\n</ul>"


def _end(report: Row) -> str:
    audit = report["audit"]
    end = audit["terminal"]
    shown = {
        "scheduler": end["scheduler"],
        "process": end["kind"],
        "predicts": end["prediction"],
        "T": end["timestep"],
        "α": end["alpha"],
        "σ": end["sigma"],
        "log-SNR": end["log_snr"],
        "signal left, α/√(α² + σ²)": end["leak"],
        "begins by itself at": end["first_timestep"],
        "signal left there": end["first_leak"],
    }
    data = audit["data"]
    if data is not None:
        shown |= {
            "images": data["images"],
            "brightness shift (σ)": data["brightness_shift"],
            "from image to image (σ)": data["brightness_spread"],
            "shift of the mean (σ)": data["mean_shift"],
            "bits about the image": data["bits"],
        }
    lines = [
        f'<tr><th scope="row">{escape(name)}</th><td>{number(value)}</td></tr>'
        for name, value in shown.items()
    ]
    content = table("gates", '<th scope="col">at the end</th><th scope="col"></th>', lines)
    if data is not None and rows_of(report, "data"):
        caption = "Where the signal's power lies below that of the noise, white noise passes for the latents."
        content += "\n" + figure(partial(spectrum_left, report), caption)
    return section("Where the process ends", content)


def _errors(report: Row) -> str:
    groups = rows_of(report, "data")
    if not groups:
        return ""
    content = figure(
        partial(error_against_time, report),
        "The error of each start for p_t of the given data lies in its band. Logarithmic; what lies below the "
        "lower edge is drawn on it.",
    )
    content += "\n" + _error_table(groups)
    population = rows_of(report, "population")
    if population:
        content += "\n<h3>For the population, from held-out data</h3>\n" + _error_table(population)
    return section("How wrong each start is", content)


def _error_table(groups: Sequence[Sequence[Row]]) -> str:
    heads = '<th scope="col">t*</th><th scope="col">α</th>'
    heads += "".join(f'<th scope="col">{escape(start_name(rows[0]))}</th>' for rows in groups)
    lines = []
    for index, row in enumerate(groups[0]):
        cells = [f'<th scope="row">{row["timestep"]:g}</th>', f"<td>{row['alpha']:.3f}</td>"]
        cells += [_interval_cell(rows[index]) for rows in groups]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return table("wide", heads, lines)


def _interval_cell(row: Row) -> str:
    ratio = "×∞" if row["ratio"] is None else f"×{row['ratio']:.3g}"
    why = f"{BOUNDS.get(row['lower_by'], row['lower_by'])}; {BOUNDS.get(row['upper_by'], row['upper_by'])}"
    return f'<td title="{escape(why)}">{escape(error_text(row))}<small>{ratio}</small></td>'


def _classes(report: Row) -> str:
    data = report["audit"]["data"]
    content = ""
    if data is not None and data["classes"]:
        heads = "".join(f'<th scope="col">{name}</th>' for name in ("class", "images", "shift at T (σ)"))
        lines = [
            f'<tr><th scope="row">{escape(each["name"] or str(each["label"]))}</th><td>{number(each["images"])}</td>'
            f"<td>{number(each['shift'])}</td></tr>"
            for each in data["classes"]
        ]
        content = table("gates", heads, lines)
    whole = rows_of(report, "data", "all classes")
    if whole:
        content += (
            '\n<p class="note">Errors class by class, put together: √Σ w W2². Guidance 1; with any other there is no '
            "law that a start could be held against.</p>\n" + _error_table(whole)
        )
    return section("Classes", content) if content else ""


def _costs(report: Row) -> str:
    costs = report["audit"]["costs"]
    if not costs:
        return ""
    names = (
        "start",
        "t*",
        "NFE",
        "moves a sample by at most",
        "its 95% interval",
        "starts apart",
        "K steps cost",
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = [
        f'<tr><th scope="row">{escape(start_name(row))}</th>'
        + _cells(
            f"{row['timestep']:g}",
            row["nfe"],
            row["cost"],
            _ends(row["cost_interval"]),
            row["start_gap"],
            f"{row['stepping']:.3g} {_ends(row['stepping_interval'])}",
        )
        + "</tr>"
        for row in costs
    ]
    note = (
        f"Root mean square over {costs[0]['pairs']} pairs; K steps against {costs[0]['fine_nfe']}. Fresh and frozen "
        "starts have no part in this: their noise is not the seed's."
    )
    return section("What it costs in samples", table("wide", heads, lines), note)


def _more(report: Row) -> str:
    audit = report["audit"]
    parts = []
    names: tuple[str, ...]
    keys: tuple[str, ...]
    if audit["checks"]:
        names = (
            "start",
            "√d · sliced",
            "floor",
            "max-sliced",
            "floor",
            "discrete",
            "floor",
            "as theory has it",
        )
        keys = (
            "sliced",
            "sliced_floor",
            "max_sliced",
            "max_sliced_floor",
            "discrete",
            "discrete_floor",
            "consistent",
        )
        parts.append(_simple("Cross-checks on samples", names, keys, audit["checks"]))
    if audit["stability"]:
        names = (
            "start",
            "error of the potential (τ)",
            "largest",
            "seeds that change cell",
            "starts move by",
            "bound",
        )
        keys = ("size", "largest", "changed", "gap", "bound")
        rows = [
            row | dict.fromkeys(("name", "noise", "correlation", "smoothing")) | {"prior": "semidiscrete"}
            for row in audit["stability"]
        ]
        parts.append(_simple("Stability of the semi-discrete start", names, keys, rows))
    if audit["bounds"]:
        names = ("start", "log₁₀ I(t*)", "log₁₀ score term", "log₁₀ prior term", "log₁₀ estimated bound")
        heads = "".join(f'<th scope="col">{name}</th>' for name in names)
        keys = ("growth", "score_term", "prior_term", "total")
        lines = [
            f'<tr><th scope="row">{escape(start_name(row))}</th>'
            + _cells(*(_ends(row[f"log10_{key}_interval"]) for key in keys))
            + "</tr>"
            for row in audit["bounds"]
        ]
        parts.append("<h3>Estimated bound</h3>\n" + table("wide", heads, lines))
    return section("More", "\n".join(parts)) if parts else ""


def _simple(heading: str, names: Sequence[str], keys: Sequence[str], rows: Iterable[Row]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = [
        f'<tr><th scope="row">{escape(start_name(row))}</th>{_cells(*(row[key] for key in keys))}</tr>'
        for row in rows
    ]
    return f"<h3>{heading}</h3>\n" + table("wide", heads, lines)


def _cells(*values: Any) -> str:
    return "".join(f"<td>{escape(number(value))}</td>" for value in values)


def _ends(ends: Sequence[float | None]) -> str:
    return "[" + ", ".join("−∞" if end is None else f"{end:.3g}" for end in ends) + "]"
