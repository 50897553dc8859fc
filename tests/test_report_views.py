"""What a person sees of a report: the terminal's table, plots, image grids and the page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import matplotlib
import pytest
import torch
from PIL import Image
from report_example import bare_report, example_images, example_json, example_report
from rich.console import Console

from otprior.report import ReportImages, SamplingReport, contact_sheet, image_grid
from otprior.report.images import data_uri
from otprior.report.page import Terms
from otprior.report.plots import family_looks, quality_against_copying, quality_against_nfe
from otprior.report.sampling_page import sampling_page
from otprior.report.sampling_tables import short_table
from otprior.report.summary import headline, summary
from otprior.report.theme import DARK, LIGHT, Style

_HOSTILE = '<script>alert(1)</script> & "quoted" [red]markup[/red]'


def _printed(report: SamplingReport) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(short_table(report).for_terminal())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _page(report: SamplingReport, images: Sequence[ReportImages] = ()) -> str:
    return sampling_page(report, images).decode("utf-8")


def _style() -> dict[str, Any]:
    # Looking at the backend is what chooses it.
    return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}


@pytest.fixture(scope="module")
def example_page() -> str:
    return _page(example_report(), example_images(5))


def test_the_table_fits_100_columns_and_is_clean_when_piped() -> None:
    text = _printed(example_report())
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    assert "…" not in text
    assert "fashion-mnist-28 classifier" in text
    labels = [
        "held-out real images",
        "full sampler",
        "coupled",
        "gaussian",
        "frozen (DPM-OT",
        "random training",
    ]
    places = [text.index(label) for label in labels]
    assert places == sorted(places)
    for shown in ("123", "13.2%", "[10.2, 16.2]", "85.0%"):
        assert shown in text


def test_labels_are_printed_as_they_are() -> None:
    assert "[red]mark[/red]" in _printed(bare_report({"label": "[red]mark[/red]", "nfe": 5}))


@pytest.mark.parametrize("draw", [quality_against_nfe, quality_against_copying])
def test_plots_are_images_and_change_no_global_style(draw: Any) -> None:
    before = _style()
    png = draw(example_report())
    assert Image.open(io.BytesIO(png)).size[0] == pytest.approx(1520, abs=2)
    assert png == draw(example_report())
    assert b"<svg" in draw(example_report(), Style(DARK, "svg"))
    assert _style() == before


@pytest.mark.parametrize("draw", [quality_against_nfe, quality_against_copying])
def test_plots_take_what_has_no_logarithm_no_interval_or_no_limit(draw: Any) -> None:
    report = example_json()
    rows = report["rows"]
    rows[0].update(excess_fid=-0.3, excess_fid_interval=[-0.5, -0.1])
    rows[1].update(excess_fid_interval=None, copy_rate_interval=None)
    rows[2].update(excess_fid_interval=[None, 60.0], copy_rate_interval=[0.0, None])
    rows[3].update(copy_rate=1.0, copy_rate_interval=[0.98, 1.0])
    for count in (5, 1):
        assert draw(SamplingReport.from_json(report | {"rows": rows[:count]})).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="rows must be"):
        draw(SamplingReport.from_json(report | {"rows": []}))


def test_kinds_of_start_differ_without_their_colour() -> None:
    looks = family_looks(example_report().rows, LIGHT).values()
    assert len({look.marker for look in looks}) == len(looks) == 6
    assert len({str(look.line) for look in list(looks)[1:]}) == 5


def test_a_contact_sheet_holds_every_image_where_it_belongs() -> None:
    levels = torch.linspace(-1, 1, 7)
    images = levels[:, None, None, None].expand(7, 1, 3, 4)
    sheet = contact_sheet(images, columns=3, gap=2, scale=2)
    assert sheet.size == (3 * 8 + 2 * 2, 3 * 6 + 2 * 2)
    for index, level in enumerate(levels):
        corner = (index % 3 * 10, index // 3 * 8)
        expected = round((float(level) + 1) * 127.5)
        assert abs(sheet.getpixel(corner) - expected) <= 1
    # What is left of the last line stays white.
    assert sheet.getpixel((27, 21)) == 255


def test_a_contact_sheet_keeps_colour_and_refuses_what_is_no_image() -> None:
    colour = torch.tensor([1.0, -1.0, 0.0])[None, :, None, None].expand(1, 3, 2, 2)
    assert contact_sheet(colour).getpixel((0, 0)) in [(255, 0, 127), (255, 0, 128)]
    for bad, words in [
        (torch.zeros(0, 1, 2, 2), "n >= 1"),
        (torch.zeros(2, 4, 2, 2), "C = 1 or 3"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "float"),
        (torch.full((1, 1, 2, 2), torch.nan), "finite"),
    ]:
        with pytest.raises(ValueError, match=words):
            contact_sheet(bad)
    with pytest.raises(ValueError, match="columns must be"):
        contact_sheet(colour, columns=0)


@pytest.mark.parametrize("colour", [False, True])
def test_the_image_grid_shows_samples_above_their_neighbours(colour: bool) -> None:
    rows = example_images(4, colour)
    grid = Image.open(io.BytesIO(image_grid(rows, tile=28)))
    assert grid.width == 2 * 20 + 210 + 4 * 32 - 4
    # First sample and its neighbour, pixel by pixel: 28 x 28 at scale 1.
    for top, images in ((44, rows[0].images), (44 + 32, rows[0].nearest)):
        assert images is not None
        tile = grid.crop((230, top, 258, top + 28)).convert("RGB")
        first = Image.open(io.BytesIO(base64.b64decode(data_uri(images[0]).partition(",")[2])))
        assert tile.tobytes() == first.convert("RGB").tobytes()


def test_images_of_a_row_must_fit_together() -> None:
    images = torch.zeros(3, 1, 4, 4)
    with pytest.raises(ValueError, match="nearest must be of shape"):
        ReportImages("a", images, torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="copied must be of length 3"):
        ReportImages("a", images, copied=torch.zeros(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="float"):
        ReportImages("a", torch.zeros(3, 4, 4))


def test_large_images_are_reduced_on_the_page() -> None:
    data = base64.b64decode(data_uri(torch.zeros(3, 256, 128)).partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (48, 96)


class _Page(HTMLParser):
    """Checks that tags close in order, and collects tags, addresses and text."""

    _VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.places: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset")]
        self.links += [value or "" for name, value in attrs if name == "href"]
        self.places += [value or "" for name, value in attrs if name == "id"]
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def _read(html: str) -> _Page:
    parser = _Page()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    # A no-break space reads as a space.
    parser.text = re.sub(r"\s+", " ", parser.text)
    return parser


def test_the_page_is_whole_and_needs_nothing_from_outside(example_page: str) -> None:
    found = _read(example_page)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert found.addresses
    assert all(address.startswith("data:image/") for address in found.addresses)
    assert "@import" not in example_page
    assert "url(" not in example_page


def test_words_lead_to_their_explanation_on_the_same_page(example_page: str) -> None:
    found = _read(example_page)
    assert len(set(found.places)) == len(found.places)
    assert {f"#{place}" for place in found.places} >= set(found.links)
    lead = example_page.partition('class="lead"')[2].partition("</header>")[0]
    for word, place in [
        ("network evaluations", "nfe-or-network-evaluations"),
        ("floor", "floor"),
        ("copies", "copies"),
    ]:
        assert lead.count(f'href="#word-{place}">{word}</a>') == 1
    # A word that the page does not explain is no link, nor is a part of one.
    terms = Terms(["FID", "start or beginning", "N(0, I) at T"])
    shown = terms.linked(["FIDELITY & a beginning, N(0, I) at T", "two starts, one FID, another FID"])
    assert re.sub(r"<[^>]+>", "", shown[0]) == "FIDELITY &amp; a beginning, N(0,\u00a0I) at T"
    assert [re.findall(r">([^<]+)</a>", text) for text in shown] == [
        ["beginning", "N(0,\u00a0I) at T"],
        ["FID"],
    ]
    assert Terms([]).linked(["a < b"]) == ["a &lt; b"]
    assert "</a>" not in terms.heading("FID × 2")


def test_a_page_opens_with_what_was_found_before_any_figure_or_table(example_page: str) -> None:
    found = _read(example_page)
    order = [found.tags.index(tag) for tag in ("h1", "ul", "section", "table", "dl")]
    assert order == sorted(order)
    assert found.text.index(headline(example_report())) < found.text.index(summary(example_report())[0])


def _colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z]+): (#[0-9a-f]{3,6})", block))


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_words_can_be_read_in_light_in_dark_and_on_paper(example_page: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", example_page, re.DOTALL)
    light, dark, paper = map(_colours, blocks)
    assert light.keys() == dark.keys() >= paper.keys()
    # WCAG 2.1, success criterion 1.4.3: the lighter over the darker, at least 4.5.
    for colours in (light, dark, light | paper):
        for ink in ("ink", "muted", "accent", "warn", "good", "open"):
            for ground in ("paper", "card", "tint"):
                pair = sorted(_luminance(colours[name]) + 0.05 for name in (ink, ground))
                assert pair[1] / pair[0] >= 4.5, (ink, ground, colours[ink], colours[ground])


def test_the_page_holds_every_sentence_figure_and_setting() -> None:
    report = example_report()
    text = _read(_page(report, example_images(5))).text
    for sentence in summary(report):
        assert sentence in text
    for shown in (
        "[121, 125]",
        "13.2% ↑",
        "10,000",
        "DPM++2M, UniPC, DEIS",
        "otprior demo --out 'demo report'",
        "2.13.0",
    ):
        assert shown in text
    assert text.count("not reached") == 1
    assert text.index("The images") < text.index("All figures") < text.index("How to read it")


def test_everything_from_outside_is_escaped() -> None:
    report = example_json()
    for row in report["rows"]:
        row.update(label=_HOSTILE, scheduler=_HOSTILE, spacing=_HOSTILE, note=_HOSTILE)
    report["features"]["name"] = _HOSTILE
    report["reference"]["label"] = _HOSTILE
    report["settings"] = {_HOSTILE: {_HOSTILE: [_HOSTILE]}}
    report["environment"] = {"otprior": _HOSTILE}
    report["command"] = _HOSTILE
    report["gates"][0]["statement"] = _HOSTILE
    report["ot"]["outcome"] = _HOSTILE
    images = [ReportImages(_HOSTILE, row.images, row.nearest, note=_HOSTILE) for row in example_images(2)]
    html = _page(SamplingReport.from_json(report), images)
    assert "<script>alert" not in html
    assert "script" not in _read(html).tags
    assert html.count("&lt;script&gt;") > 30


@pytest.mark.parametrize("row", [{}, {"nfe": 5}, {"nfe": 5, "fid": 3.0, "prior": "gaussian"}])
def test_a_page_of_little_leaves_out_what_it_lacks(row: dict[str, Any]) -> None:
    found = _read(_page(bare_report(row)))
    assert "How it was made" not in found.text
    assert "The images" not in found.text
    assert ("img" in found.tags) == ("fid" in row)
    _read(_page(bare_report()))
