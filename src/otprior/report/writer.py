"""Files of a report: report.json, report.html, and the plots and image grid beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otprior.report.curves import curve_plot
from otprior.report.folder import write_folder
from otprior.report.html import page
from otprior.report.images import ReportImages, image_grid
from otprior.report.plots import (
    has_copying,
    has_quality,
    quality_against_copying,
    quality_against_nfe,
)
from otprior.report.schema import validate_report


def write_report(
    directory: str | Path, report: dict[str, Any], images: Sequence[ReportImages] = ()
) -> dict[str, Path]:
    """Writes a report into a folder, which is made if it is not there; files of other names stay.

    Arguments:
        directory: The folder, such as the one that `otprior.utils.files.output_dir` yields.
        report: In the form of `report.schema.json`. With "claims" only report.json is written.
        images: Rows of the image grid, in the order to be shown; none leaves the grid out.

    Returns:
        What was written, by file name: report.html, quality.png and copying.png (where some row has an FID),
        images.png (where images were given), a plot for each of the report's curves, report.json.

    Raises:
        ValueError: If the report breaks the schema; nothing is written then.
    """
    validate_report(report)
    contents: dict[str, bytes] = {}
    if "claims" not in report:
        contents["report.html"] = page(report, images).encode("utf-8")
        if has_quality(report):
            contents["quality.png"] = quality_against_nfe(report)
        if has_copying(report):
            contents["copying.png"] = quality_against_copying(report)
        if images:
            contents["images.png"] = image_grid(images)
        for curves in report.get("curves") or []:
            contents[f"{curves['name']}.png"] = curve_plot(curves)
    return write_folder(directory, report, contents)
