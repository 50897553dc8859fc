"""A report as one page to read: no scripts, nothing fetched, light or dark as the reader has it.

Every word that comes from outside is escaped. The order is: what was found, the images, the plots, all
figures with their intervals, how to read them, and what is needed to get them again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from importlib import resources
from string import Template
from typing import Any

from otprior.report.curves import curve_plot
from otprior.report.html_tables import (
    all_figures,
    further_tables,
    gates,
    made_with,
    reading,
    section,
)
from otprior.report.images import ReportImages, data_uri
from otprior.report.plots import (
    DARK,
    LIGHT,
    Theme,
    has_copying,
    has_quality,
    quality_against_copying,
    quality_against_nfe,
)
from otprior.report.rows import (
    METRICS,
    copies_more,
    quality,
    real_copy_rate,
    start_label,
)
from otprior.report.summary import find, headline, summary

# Widths of a plot in inches.
_PHONE, _DESKTOP = 4.4, 7.6
_METRIC = {metric.key: metric for metric in METRICS}


def page(report: dict[str, Any], images: Sequence[ReportImages] = ()) -> str:
    """The whole page.

    Arguments:
        report: A sampling report that `validate_report` accepts.
        images: Rows of the image grid, in the order to be shown; none leaves the section out.
    """
    parts = (
        _grid(images),
        _plots(report),
        all_figures(report),
        further_tables(report),
        _curves(report),
        gates(report),
        reading(report),
        made_with(report),
    )
    return fill(report, "sampling report", headline(report), _key_figures(report), summary(report), parts)


def fill(
    report: dict[str, Any],
    kicker: str,
    title: str,
    figures: str,
    sentences: Sequence[str],
    parts: Sequence[str],
) -> str:
    """The page's template with its content: `figures` and `parts` are HTML, the other words are escaped."""
    template = resources.files("otprior.report").joinpath("page.html").read_text(encoding="utf-8")
    made = (report.get("environment") or {}).get("otprior")
    return Template(template).substitute(
        kicker=escape(kicker),
        title=prose(title),
        figures=figures,
        summary="\n".join(f"<p>{prose(sentence)}</p>" for sentence in sentences),
        body="\n".join(part for part in parts if part),
        footer=escape(f"Written by otprior {made or ''}".strip())
        + ". The same figures, for programs, are in <code>report.json</code>.",
    )


def prose(text: str) -> str:
    """Escaped, with N(0, I) and intervals kept on one line."""
    return re.sub(r"([(\[][^\s()\[\]]+,) ([^\s()\[\]]+[)\]])", "\\1\u00a0\\2", escape(text))


def _key_figures(report: dict[str, Any]) -> str:
    """Up to four large figures about the start that the summary puts first."""
    found = find(report)
    best = found.best
    if best is None:
        return ""
    fid, share = _METRIC["fid"], _METRIC["copy_rate"]
    value, ends = quality(report, best)
    above = report["reference"]["fid_floor"] is not None or best.get("excess_fid") is not None
    notes = [f"95%: {fid.interval_text(ends)}"] if ends else []
    notes += [f"FID {fid.text(best['fid'])}"] if above else []
    tiles = [
        tile(str(best["nfe"]), "network evaluations an image", f"starting from {start_label(best)}"),
        tile(fid.text(value), "FID above held-out real images" if above else "FID", " · ".join(notes)),
        tile(
            share.text(best["copy_rate"]),
            "of samples count as copies",
            f"held-out real images: {share.text(real_copy_rate(report, best))}",
            warn=bool(copies_more(report, best)),
        ),
    ]
    if found.matches is not None:
        behind = [row["nfe"] for row in found.short if row["nfe"] < found.matches["nfe"]]
        beside = f"with {max(behind)} it falls short" if behind else ""
        tiles.append(tile(str(found.matches["nfe"]), "evaluations from N(0, I) to reach that FID", beside))
    elif found.short:
        most = max(row["nfe"] for row in report["rows"] if row["prior"] == "none" and row["nfe"] is not None)
        tiles.append(
            tile(f"> {most}", "evaluations from N(0, I) to reach that FID", "none measured here does")
        )
    return '<ul class="figures">\n' + "\n".join(tiles) + "\n</ul>"


def tile(number: str, name: str, beside: str = "", warn: bool = False) -> str:
    """A large figure with its name."""
    opening = '<li class="warn">' if warn else "<li>"
    return (
        f'{opening}<b>{escape(number)}</b><span class="name">{prose(name)}</span>'
        f'<span class="beside">{escape(beside)}</span></li>'
    )


def _grid(images: Sequence[ReportImages]) -> str:
    if not images:
        return ""
    parts = []
    seeds = images[0].seeds
    if seeds is not None:
        cells = "".join(f"<span>{seed}</span>" for seed in seeds)
        strip = f'<div class="strip" style="--n:{len(seeds)}">{cells}</div>'
        parts.append(f'<div class="seeds"><span>seed</span>{strip}</div>')
    for row in images:
        pairs = "".join(_pair(row, index) for index in range(len(row.images)))
        note = f"<span>{escape(row.note)}</span>" if row.note else ""
        below = '<span class="below">nearest training image</span>' if row.nearest is not None else ""
        parts.append(
            f'<div class="start"><div class="who"><div><b>{escape(row.label)}</b>{note}</div>{below}</div>'
            f'<div class="strip" style="--n:{len(row.images)}">{pairs}</div></div>'
        )
    introduction = "The same seeds in every row."
    if any(row.nearest is not None for row in images):
        introduction += " Below each sample stands the training image nearest to it."
    if any(row.copied is not None for row in images):
        introduction += " A frame marks a sample that counts as a copy."
    return section("The images", f'<div class="card starts">\n{"".join(parts)}\n</div>', introduction)


def _pair(row: ReportImages, index: int) -> str:
    name = row.label if row.seeds is None else f"{row.label}, seed {row.seeds[index]}"
    # Few pixels are shown as they are; many are better smoothed by the browser.
    small = ' class="small"' if max(row.images.shape[2:]) <= 64 else ""
    content = f'<img{small} src="{data_uri(row.images[index])}" alt="{escape(name)}">'
    if row.nearest is not None:
        content += f'<img{small} src="{data_uri(row.nearest[index])}" alt="its nearest training image">'
    copied = row.copied is not None and bool(row.copied[index])
    return f'<div class="pair{" copied" if copied else ""}">{content}</div>'


def _plots(report: dict[str, Any]) -> str:
    if not has_quality(report):
        return ""
    figures = [
        figure(
            partial(quality_against_nfe, report),
            "Above: FID over that of held-out real images, lower is better; bars are 95% intervals, an arrow "
            "on the lower edge is a value at or below the floor. Below: the share of samples that count "
            "as copies; the dashed line is that of held-out real images, the band its 95% interval.",
        )
    ]
    if has_copying(report):
        figures.append(
            figure(
                partial(quality_against_copying, report),
                "The same rows, quality against copying. Compare starts that copy equally: a row further "
                "right may owe its FID to training images handed back.",
            )
        )
    return section("Quality, its price and copying", "\n".join(figures))


def _curves(report: dict[str, Any]) -> str:
    """Plots of figures that are no row's."""
    parts = []
    for curves in report.get("curves") or []:
        address = base64.b64encode(curve_plot(curves, "svg")).decode("ascii")
        picture = f'<img src="data:image/svg+xml;base64,{address}" alt="{escape(curves["title"])}">'
        parts.append(f'<figure><div class="card plot">{picture}</div></figure>')
    return section("Further plots", "\n".join(parts)) if parts else ""


def figure(draw: Callable[[Theme, str, float], bytes], caption: str) -> str:
    """A plot in four versions, light and dark, for a phone and for a desktop: `draw` gets theme, "svg" and inches."""

    def drawn(theme: Theme, width: float) -> str:
        svg = draw(theme, "svg", width)
        return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")

    dark = "(prefers-color-scheme: dark)"
    sources = (
        (drawn(DARK, _PHONE), f"screen and (max-width: 640px) and {dark}"),
        (drawn(LIGHT, _PHONE), "screen and (max-width: 640px)"),
        (drawn(DARK, _DESKTOP), f"screen and {dark}"),
    )
    return (
        '<figure><div class="card plot"><picture>'
        + "".join(f'<source srcset="{address}" media="{when}">' for address, when in sources)
        + f'<img src="{drawn(LIGHT, _DESKTOP)}" alt="{escape(caption)}"></picture></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
