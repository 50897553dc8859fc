"""Reports: what a run measured, as JSON, as a terminal table, as plots and as one page to read.

A report is a plain dictionary in the form of `report/schemas/report.schema.json`; everything here is a function of
it and of a few images. Quality is never shown without copying.
"""

from __future__ import annotations

from otprior.report.html import page
from otprior.report.images import ReportImages, contact_sheet, image_grid
from otprior.report.plots import (
    DARK,
    LIGHT,
    Theme,
    quality_against_copying,
    quality_against_nfe,
)
from otprior.report.schema import (
    FORMAT_VERSION,
    report_reference,
    report_row,
    report_schema,
    validate_report,
)
from otprior.report.summary import headline, summary
from otprior.report.terminal import further_tables, table
from otprior.report.writer import write_report

__all__ = [
    "DARK",
    "FORMAT_VERSION",
    "LIGHT",
    "ReportImages",
    "Theme",
    "contact_sheet",
    "further_tables",
    "headline",
    "image_grid",
    "page",
    "quality_against_copying",
    "quality_against_nfe",
    "report_reference",
    "report_row",
    "report_schema",
    "summary",
    "table",
    "validate_report",
    "write_report",
]
