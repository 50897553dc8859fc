"""Reports: what a run measured, as JSON, as a table on a terminal, as plots and as one page to read.

A `SamplingReport` is a record; everything here is a function of it and of a few images. Quality is never shown without
copying. Reports of audits are in `otprior.report.audit`.
"""

from __future__ import annotations

from typing import Any

from otprior.report.images import ReportImages, contact_sheet, image_grid
from otprior.report.record import Curves, Report
from otprior.report.sampling_page import write_report
from otprior.report.sampling_report import Gate, ReportRow, ReportTable, SamplingReport

__all__ = [
    "Curves",
    "Gate",
    "ReportImages",
    "ReportRow",
    "ReportTable",
    "SamplingReport",
    "contact_sheet",
    "image_grid",
    "report_schema",
    "write_report",
]


def report_schema(kind: type[Report] = SamplingReport) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of report.json.

    Arguments:
        kind: The record of the report: `SamplingReport`, or that of another command.

    Examples:
        >>> report_schema()["title"]
        'SamplingReport'
    """
    return kind.model_json_schema(by_alias=True)
