"""A sampling report as one page, and its files.

The order is: what was found, the images, the plots, all figures with their intervals, how to read them, and what is
needed to get them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from otprior.report.curves import curve_plot
from otprior.report.folder import write_folder
from otprior.report.images import ReportImages, image_grid
from otprior.report.metric import METRIC
from otprior.report.page import Block, ImageRows, Page, Section, Tile, how_it_was_made, how_to_read, plot
from otprior.report.plots import has_copying, has_quality, quality_against_copying, quality_against_nfe
from otprior.report.rows import (
    COPY_MARGIN,
    copies_more,
    evaluations,
    family,
    quality,
    real_copy_rate,
    start_detail,
    start_label,
)
from otprior.report.sampling_report import SamplingReport, Solve
from otprior.report.sampling_tables import full_table, further_tables, gate_table, shown_metrics
from otprior.report.summary import headline, key_rows, summary
from otprior.report.tables import limits_text, number

GENERAL = (
    (
        "start",
        "Where sampling begins. N(0, I) at T is the usual start from white noise. The others begin at an "
        "earlier time t*, from noise that a prior has mapped towards what the noised data look like there.",
    ),
    (
        "prior or t*",
        "A prior is a map from white noise to where sampling begins at the timestep t*; it is fitted to images, and "
        "the network stays as it is. T is the noisiest timestep.",
    ),
    (
        "NFE or network evaluations",
        "Number of network evaluations for one image: what a sample costs. Guidance takes two a step.",
    ),
    (
        "95% interval",
        "What other seeds would have given, in 95 of 100 cases; the reference images, the training images "
        "and the fitted prior are held fixed. Two overlapping intervals may be one value.",
    ),
    (
        "held-out real images",
        "Real images that neither the network nor the prior has seen, measured as if they were samples. No "
        "sampler can be expected to do better, nor to show fewer chance likenesses with training images.",
    ),
    ("floor", "The FID of as many held-out real images: what no sampler is expected to fall below."),
)
# How the starts are made, by a word of their names.
_STARTS = {
    "full sampler": "The ordinary sampler with many evaluations: what the network can do.",
    "identity": "White noise, begun at t* as if it were a noised image: wrong by design.",
    "gaussian": "The noise is shifted and stretched to the data's mean and covariance at t*. It stores no image.",
    "mixture": "Transport gives each noise a cluster of images; the noise is shifted and stretched to that. It stores "
    "no image.",
    "coupled": "Transport gives each noise a training image; the start is that image with the same noise on it.",
    "fresh": "The noise on the image is drawn anew, so that it does not depend on which image was chosen.",
    "whitened": "The noise that chose the image is on it, brought back to nearly N(0, I) within its cell.",
    "frozen": "Each training image has one noise, drawn once, as in DPM-OT: as many starts as images.",
    "random image": "A training image picked at random and noised afresh: the rival that needs no transport.",
    "by class": "Seeds ask for the classes in turn, as often as the data has them; a prior has a part for each class.",
}


def write_report(
    directory: str | Path, report: SamplingReport, images: Sequence[ReportImages] = ()
) -> dict[str, Path]:
    """Writes a report into a folder, which is made if it is not there; files of other names stay.

    Arguments:
        directory: The folder, such as the one that `otprior.utils.files.output_dir` yields.
        report: What report.json holds.
        images: Rows of the image grid, in the order to be shown; none leaves the grid out.

    Returns:
        What was written, by file name: report.html, quality.png and copying.png (where some row has an FID),
        images.png (where images were given), a plot for each of the report's curves, report.json.

    Examples:
        >>> features, reference = {"name": None, "dim": None}, {"n": None, "fid_floor": None, "copy_rate": None}
        >>> report = SamplingReport.from_json({"features": features, "reference": reference, "ot": None, "rows": []})
        >>> sorted(write_report("report", report))
        ['report.html', 'report.json']
    """
    contents = {"report.html": sampling_page(report, images)}
    if has_quality(report):
        contents["quality.png"] = quality_against_nfe(report)
    if has_copying(report):
        contents["copying.png"] = quality_against_copying(report)
    if images:
        contents["images.png"] = image_grid(images)
    for curves in report.curves or ():
        contents[f"{curves.name}.png"] = curve_plot(curves)
    return write_folder(directory, report, contents)


def sampling_page(report: SamplingReport, images: Sequence[ReportImages] = ()) -> bytes:
    """The file report.html.

    Arguments:
        report: What it shows.
        images: Rows of the image grid, in the order to be shown; none leaves the section out.
    """
    further = [Section(table.title, [table], table.note, "landscape") for table in further_tables(report)]
    curves = [plot(partial(curve_plot, each), each.title) for each in report.curves or ()]
    words = [
        *GENERAL,
        *start_meanings(f"{start_label(row)} {family(row)} {start_detail(row)}" for row in report.rows),
        *((metric.heading, metric.meaning) for metric in shown_metrics(report)),
    ]
    sections = [
        images_section(images),
        _plots(report),
        _all_figures(report),
        *further,
        Section("Further plots", curves, kind="plots"),
        Section("What was to be shown", [gate_table(report.gates)] if report.gates else []),
        how_to_read(words),
        how_it_was_made(report, {"Transport solve": None if report.ot is None else _solve(report.ot)}),
    ]
    page = Page("sampling report", headline(report), _tiles(report), summary(report), sections)
    return page.render(report)


def start_meanings(names: Iterable[str]) -> list[tuple[str, str]]:
    """How starts are made, for the kinds of start that these names hold."""
    every = " ".join(names).replace("random atom", "random image")
    return [(word, meaning) for word, meaning in _STARTS.items() if word in every]


def _tiles(report: SamplingReport) -> list[Tile]:
    """Up to four large figures about the start that the summary puts first."""
    found = key_rows(report)
    best = found.best
    if best is None:
        return []
    fid, share = METRIC["fid"], METRIC["copy_rate"]
    value, limits = quality(report, best)
    above = report.reference.fid_floor is not None or best.excess_fid is not None
    notes = [f"95%: {fid.interval_text(limits)}"] if limits else []
    notes += [f"FID {fid.text(best.fid)}"] if above else []
    tiles = [
        Tile(number(best.nfe), "network evaluations an image", f"starting from {start_label(best)}"),
        Tile(fid.text(value), "FID above held-out real images" if above else "FID", " · ".join(notes)),
        Tile(
            share.text(best.copy_rate),
            "of samples count as copies",
            f"held-out real images: {share.text(real_copy_rate(report, best))}",
            warn=bool(copies_more(report, best)),
        ),
    ]
    if found.matches is not None:
        fewer = [evaluations(row) for row in found.short if evaluations(row) < evaluations(found.matches)]
        note = f"with {max(fewer)} it falls short" if fewer else ""
        tiles.append(Tile(number(found.matches.nfe), "evaluations from N(0, I) to reach that FID", note))
    elif found.short:
        most = max(row.nfe for row in report.rows if row.prior == "none" and row.nfe is not None)
        tiles.append(
            Tile(f"> {most}", "evaluations from N(0, I) to reach that FID", "none measured here does")
        )
    return tiles


def images_section(images: Sequence[ReportImages]) -> Section:
    """The grid of images, the same seeds in every row."""
    note = "The same seeds in every row."
    if any(row.nearest is not None for row in images):
        note += " Below each sample stands the training image nearest to it."
    if any(row.copied is not None for row in images):
        note += " A frame marks a sample that counts as a copy."
    return Section("The images", [ImageRows(images)] if images else [], note)


def _plots(report: SamplingReport) -> Section:
    plots: list[Block] = []
    if has_quality(report):
        plots.append(
            plot(
                partial(quality_against_nfe, report),
                "Above: FID over that of held-out real images, lower is better; bars are 95% intervals, an arrow "
                "on the lower edge is a value at or below the floor. Below: the share of samples that count "
                "as copies; the dashed line is that of held-out real images, the band its 95% interval.",
            )
        )
    if has_copying(report):
        plots.append(
            plot(
                partial(quality_against_copying, report),
                "The same rows, quality against copying. Compare starts that copy equally: a row further "
                "right may owe its FID to training images handed back.",
            )
        )
    return Section("Quality, its price and copying", plots)


def _all_figures(report: SamplingReport) -> Section:
    note = "Below a figure stands its 95% interval where one was measured; a dash means not measured."
    if report.features.name:
        note += (
            " FID, KID, precision, recall, density and coverage are taken on the features of "
            f"{report.features.name}."
        )
    note += (
        f" An arrow marks a share of copies that is more than {100 * COPY_MARGIN:g} percentage point above "
        "that of held-out images."
    )
    return Section("All figures", [full_table(report)], note, "landscape")


def _solve(ot: Solve) -> dict[str, object]:
    """The solve in words: chi2 is the mean squared relative error of the cells' masses."""
    limits = limits_text(ot.chi2_interval or (None, None))
    shown = {
        "atoms": ot.atoms,
        "dimensions": ot.dim,
        "χ² of cell masses": None if ot.chi2 is None else f"{number(ot.chi2)} {limits}".strip(),
        "its upper 95% limit": ot.chi2_upper,
        "draws": ot.draws,
        "seconds": ot.seconds,
        "outcome": ot.outcome,
    }
    return {name: value for name, value in shown.items() if value is not None}
