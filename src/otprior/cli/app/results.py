"""What `otprior app` shows and hands out: results as HTML, every word escaped; files are links that hold them."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from otprior.cli.app.work import Result
from otprior.report.audit.page import error_tables
from otprior.report.audit.plots import error_against_time
from otprior.report.audit.record import Audit
from otprior.report.images import data_uri
from otprior.report.page import plot, read_template
from otprior.report.tables import number


@cache
def _macros() -> Any:
    small = partial(data_uri, largest=192)
    return read_template("otprior.cli.app", "results.html", data_uri=small, number=number).module


def images_html(results: Sequence[Result]) -> str:
    """A table of starts by seeds, with the nearest training images."""
    return str(_macros().images(results))


def error_html(audit: Audit) -> str:
    """The plot of the prior error along t*, and its table."""
    caption = "The prior error W2 of each start against t*, for the law of the data: the truth lies within the band."
    drawn = plot(lambda style: error_against_time(audit, style), caption)
    (table,) = error_tables(audit)
    return str(_macros().error(drawn, table))


def files_html(results: Sequence[Result]) -> str:
    """Links to the settings of each start and to all images, and the commands that make the same ones."""
    folder = results[0].folder.parent
    together = folder / "images"
    for result in results:
        shutil.copytree(result.folder, together / result.folder.name)
    archive = Path(shutil.make_archive(str(together), "zip", together))
    paths = [*(result.settings for result in results if result.settings is not None), archive]
    links = [(path.name, base64.b64encode(path.read_bytes()).decode("ascii")) for path in paths]
    lines = dict.fromkeys(line for result in results for line in result.commands)
    return str(_macros().files(links, "\n".join(lines)))
