"""The files of a report in a folder: each appears whole, and report.json, which programs look for, comes last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from otprior.report.record import Report
from otprior.utils.files import output_file, write_json

_logger = logging.getLogger(__name__)


def write_folder(directory: str | Path, report: Report, contents: Mapping[str, bytes]) -> dict[str, Path]:
    """Writes a report and the files that go with it; returns them by name.

    Arguments:
        directory: Is made if it is not there; files of other names stay.
        report: What report.json holds.
        contents: The other files, by name, drawn already: so nothing is written if drawing fails.
    """
    directory = Path(directory)
    written = {}
    for name, content in contents.items():
        with output_file(directory / name) as temporary:
            temporary.write_bytes(content)
        written[name] = directory / name
    write_json(directory / "report.json", report.to_json())
    written["report.json"] = directory / "report.json"
    _logger.info("report written to %s: %s", directory, ", ".join(written))
    return written
