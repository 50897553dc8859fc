"""Names from outside may hold anything: no output takes them for markup, a formula, or a terminal's codes."""

from __future__ import annotations

import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import run
from diffusers import DDPMScheduler
from report_example import example_images, example_json
from rich.table import Table

from otprior.cli.app.results import error_html, files_html, images_html
from otprior.cli.app.work import Result
from otprior.cli.console import PrintableConsole
from otprior.data import ImageSet
from otprior.error.audit import AuditRequest, run_audit
from otprior.priors import Prior, SemiDiscretePrior
from otprior.priors.card import model_card
from otprior.report import Curves, ReportImages, SamplingReport
from otprior.report.audit import AuditReport
from otprior.report.audit.page import audit_page
from otprior.report.curves import curve_plot
from otprior.report.images import image_grid
from otprior.report.sampling_page import write_report
from otprior.report.theme import PNG, Canvas
from otprior.utils.files import read_json, write_json
from otprior.utils.text import printable
from otprior_studies.claims.page import claims_page
from otprior_studies.claims.record import ClaimsReport
from otprior_studies.codes.page import codes_page
from otprior_studies.codes.record import CodesReport

RESULTS = Path(__file__).parents[1] / "results"
# Markup, quotes, Markdown, a formula of TeX that is none, a hidden legend, codes of a terminal, a turn of the
# reading direction, line ends, and a byte that is no UTF-8.
HOSTILE = "_<hostile hostile=1>\"' hostile=2'|`[red]*$\\foo{$ &lt;\x1b[31m\x9b\x00\u202e\u200f\u2029\r\nend gr\udcfcn"
SHOWN = (
    r"""_<hostile hostile=1>"' hostile=2'|`[red]*$\foo{$ &lt;\u001b[31m\u009b\u0000\u202e\u200f\u2029\u000d"""
)
CURVES = {
    "name": "c", "title": "t", "x": "x", "y": "y", "series": {HOSTILE: [[1, 2], [2, 3]]}, "log": "", "points": False,
}  # fmt: skip


def _poisoned(values: Any, read: Callable[[Any], Any], but: Sequence[str] = ()) -> Any:
    """The values with every text that may be any in place of its own.

    Arguments:
        values: Of a report.
        read: Raises where a text must be another.
        but: Names of texts that stay.
    """

    def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if isinstance(value, str):
            yield from [path] if path[-1] not in but else []
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from places(value[key], (*path, key))

    values = json.loads(json.dumps(values))
    for *parents, last in places(values):
        holder = values
        for key in parents:
            holder = holder[key]
        kept, holder[last] = holder[last], HOSTILE
        try:
            read(values)
        except ValueError:
            holder[last] = kept
    read(values)
    return values


def _check_page(page: bytes, least: int = 4) -> None:
    """No element or attribute comes of a name, nothing in it is unprintable, and names are there."""
    found: set[str] = set()
    words: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            found.update((tag, *(name for name, _ in attributes)))
            words.extend(value or "" for _, value in attributes)

        def handle_data(self, data: str) -> None:
            words.append(data)

    text = page.decode("utf-8")
    Reader().feed(text)
    assert not {name for name in found if "hostile" in name or "'" in name or '"' in name}
    assert "script" not in found
    assert printable(text) == text
    assert sum(SHOWN in word for word in words) >= least


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots without a file: drawing takes the time, and has tests of its own."""
    monkeypatch.setattr(Canvas, "file", lambda _: b"")


def _images() -> list[ReportImages]:
    return [ReportImages(HOSTILE, row.images, row.nearest, note=HOSTILE) for row in example_images(2)]


def _audit() -> Any:
    images = ImageSet(torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    audit = run_audit(AuditRequest(DDPMScheduler(), "name", data=images, timesteps=(500.0, 999.0), draws=4))
    values = audit.to_json()
    for row in values["errors"]:
        row["name"] = "mine"
    return {"audit": values, "settings": {"data": "name"}, "command": "otprior"}


def _claims() -> Any:
    claim = {
        "id": "some-claim", "paper": "a paper", "statement": "So it is.", "statistic": 0.5, "interval": [0.4, 0.6],
        "power": "rotation", "threshold": 1.0, "verdict": "holds",
    }  # fmt: skip
    curves = {
        "name": "c",
        "title": "t",
        "x": "x",
        "y": "y",
        "series": {HOSTILE: [[1, 2], [2, 3]]},
        "log": "",
        "points": False,
    }
    details = {"why": "It is.", "curves": [curves], "figures": {HOSTILE: HOSTILE}, "seconds": 1.0}
    return {
        "claims": [claim, claim | {"id": "other"}],
        "details": {HOSTILE: details, "other": details},
        "command": "c",
    }


@pytest.mark.usefixtures("undrawn")
def test_sampling_page(tmp_path: Path) -> None:
    values = example_json() | {"settings": {HOSTILE: {HOSTILE: [HOSTILE]}}, "command": ["otprior", HOSTILE]}
    values["rows"] = [values["rows"][0], values["rows"][2]]
    values["curves"] = [
        {
            "name": "c",
            "title": "t",
            "x": "x",
            "y": "y",
            "series": {HOSTILE: [[1, 2]]},
            "log": "",
            "points": True,
        }
    ]
    report = SamplingReport.from_json(_poisoned(values, SamplingReport.from_json, but=["name"]))
    report = report.replace(features=report.features.replace(name=HOSTILE))
    written = write_report(tmp_path, report, _images())
    _check_page(written["report.html"].read_bytes())
    assert SamplingReport.from_json(read_json(tmp_path / "report.json")) == report
    assert read_json(tmp_path / "report.json")["rows"][0]["label"] == HOSTILE.replace("\udcfc", r"\udcfc")


@pytest.mark.usefixtures("undrawn")
def test_audit_page() -> None:
    report = AuditReport.from_json(_poisoned(_audit(), AuditReport.from_json, but=["prior"]))
    _check_page(audit_page(report))
    _check_page(error_html(report.audit).encode(), least=1)


@pytest.mark.usefixtures("undrawn")
def test_codes_page() -> None:
    values = read_json(RESULTS / "codes" / "two-networks.json")
    values["settings"] = {HOSTILE: [HOSTILE, HOSTILE]}
    # (Maps are looked up by name.)
    report = CodesReport.from_json(_poisoned(values, CodesReport.from_json, but=["name"]))
    _check_page(codes_page(report, _images(), _images()))


@pytest.mark.usefixtures("undrawn")
def test_claims_page() -> None:
    report = ClaimsReport.from_json(_poisoned(_claims(), ClaimsReport.from_json))
    _check_page(claims_page(report))


def test_pages_of_the_app(tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 8, 8)
    result = Result(HOSTILE, [0, 1], images, 5, 0.1, None, tmp_path, None, (HOSTILE,), HOSTILE)
    _check_page(images_html([result]).encode(), least=2)
    (tmp_path / "results" / "start").mkdir(parents=True)
    named = tmp_path / '<hostile hostile=1>" hostile=2 \x1b.json'
    named.write_text("{}")
    result = replace(result, folder=tmp_path / "results" / "start", settings=named)
    _check_page(files_html([result]).encode(), least=1)


def test_plots_show_names_as_they_are() -> None:
    names = [HOSTILE, "$\\foo{$", "$x^$", "_hidden", "a long name " * 200]
    legends = []
    for name in names:
        canvas = Canvas(PNG, 4.2)
        canvas.label(name, name)
        canvas.legend(1, {name: canvas.axes[0].plot([1, 2])[0]})
        legends += [text.get_text() for text in canvas.figure.legends[0].get_texts()]
    assert len(legends) == len(names)  # none is hidden
    series = dict.fromkeys(names, ((1, 2), (2, 3)))
    curves = Curves.build(name="c", title=HOSTILE, x=HOSTILE, y=HOSTILE, series=series, log="", points=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert curve_plot(curves)
    assert image_grid([ReportImages(HOSTILE, torch.zeros(1, 1, 8, 8), note=HOSTILE)])


def test_terminals_get_no_codes_from_names() -> None:
    console = PrintableConsole(file=io.StringIO(), force_terminal=True, color_system="standard", width=400)
    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.print(table, markup=False)
    console.print(HOSTILE, markup=False)
    assert isinstance(console.file, io.StringIO)
    codes = re.compile(r"\x1b\[[0-9;]*m")  # rich's own
    text = codes.sub("", console.file.getvalue())
    assert printable(text) == text
    assert r"\u001b[31m" in text


def test_json_keeps_names_that_are_no_utf_8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {HOSTILE: HOSTILE})
    assert read_json(tmp_path / "a.json") == {HOSTILE: HOSTILE}


def test_cards_show_names_as_they_are(tmp_path: Path) -> None:
    images = ImageSet(torch.rand(3, 1, 4, 4) * 2 - 1, source=HOSTILE, license=HOSTILE)
    prior = SemiDiscretePrior.fit(images, DDPMScheduler(), 500, tol=2)
    prior.save_pretrained(tmp_path / "prior")
    assert Prior.from_pretrained(tmp_path / "prior").facts["source"] == HOSTILE
    for text in ((tmp_path / "prior" / "README.md").read_text(), model_card(prior, "me/mine", HOSTILE, None)):
        assert printable(text) == text
        unescaped = re.sub(r"\\[^\w\s]", "", text)
        assert "end gr" in unescaped
        assert not re.search(r"<hostile|\[red|\|`", unescaped)


def test_commands_take_names_that_are_no_utf_8(tmp_path: Path) -> None:
    """The work is done, and what is written names them."""
    strange = os.fsdecode(b"gr\xfcn $x^$ <b>\x1b[31m")
    chance = np.random.default_rng(0)
    files = {
        name: tmp_path / f"{strange}-{name}.npz" for name in ("samples", "atoms", "reference", "held-out")
    }
    for path in files.values():
        np.savez(path, images=chance.integers(0, 256, (30, 28, 28), dtype=np.uint8))
    out = tmp_path / f"{strange}-out"
    result = run(
        "evaluate", files["samples"], "--reference", files["reference"], "--atoms", files["atoms"],
        "--held-out", files["held-out"], "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert str(read_json(out / "report.json")["settings"]).count(r"gr\\udcfcn") >= 3
    _check_page((out / "report.html").read_bytes(), least=0)
