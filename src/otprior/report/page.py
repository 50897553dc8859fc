"""Pages to read: no scripts, nothing fetched, light or dark as the reader has it, every word escaped.

A page is a head and sections; a section is a heading and blocks, each drawn by the macro of its name in page.html.
Words that the page explains ("How to read it") are links to their explanation: in its first sentences where they stand
first, and in tables' headings.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from markupsafe import Markup, escape

from otprior.report.images import ReportImages, data_uri
from otprior.report.record import Report
from otprior.report.tables import Table, number
from otprior.report.theme import DARK, LIGHT, Style
from otprior.utils.text import printable

if TYPE_CHECKING:
    from jinja2 import Template

# Widths of a plot in inches.
_PHONE, _DESKTOP = 4.4, 7.6


@dataclass(frozen=True)
class Tile:
    """A large figure with its name, a note below it, and whether it is a warning."""

    number: str
    name: str
    note: str = ""
    warn: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        address: A data: address.
        caption: Words below it, which also describe it.
        sources: Other versions of it: address, and the media query of the screens that take it.
        wide: Whether it keeps its size and scrolls.
    """

    block: ClassVar[str] = "picture"

    address: str
    caption: str
    sources: tuple[tuple[str, str], ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class ImageRows:
    """Rows of images, the same seeds in each."""

    block: ClassVar[str] = "images"

    rows: Sequence[ReportImages]


@dataclass(frozen=True)
class Words:
    """Words with their meanings."""

    block: ClassVar[str] = "words"

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FactCards:
    """Cards of names and values."""

    block: ClassVar[str] = "facts"

    cards: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Text:
    """Text: `kind` is "heading", "note", "plain", "command", "details", or a judgement ("good", "bad", "open")."""

    block: ClassVar[str] = "words_alone"

    text: str
    kind: str = "plain"


Block = Table | Picture | ImageRows | Words | FactCards | Text


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: Its heading.
        blocks: What it shows.
        note: Words below the heading.
        kind: "landscape" for wide tables, "claim" for a card, or "".
    """

    heading: str
    blocks: Sequence[Block]
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        kind: What it is, above the title.
        title: What was found, in a line.
        tiles: Key figures.
        sentences: What was found, in paragraphs.
        sections: The rest; empty ones are left out.
    """

    kind: str
    title: str
    tiles: Sequence[Tile]
    sentences: Sequence[str]
    sections: Sequence[Section]

    def render(self, report: Report, data: str = "report.json") -> bytes:
        """The file report.html, which also names the version that made the report, and the file of its figures."""
        made = (report.environment or {}).get("otprior")
        sections = [section for section in self.sections if section.blocks]
        blocks = [block for section in sections for block in section.blocks]
        terms = Terms([name for block in blocks if isinstance(block, Words) for name, _ in block.pairs])
        return (
            _template()
            .render(page=self, sections=sections, made=made, terms=terms, data=data)
            .encode("utf-8")
        )


class Terms:
    """The words that a page explains.

    Arguments:
        names: Each as it is explained; "a or b" is two words of one explanation.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._places: dict[str, str] = {}
        for name in names:
            self._places |= dict.fromkeys(name.split(" or "), _place(name))
        longest_first = sorted((str(escape(_prose(name))) for name in self._places), key=len, reverse=True)
        # (A plural is the word; a part of a word is not.)
        self._any = re.compile(rf"(?<![\w*])({'|'.join(map(re.escape, longest_first))})(s?)(?!\w)")

    def linked(self, texts: Sequence[str]) -> list[Markup]:
        """The texts, escaped, with each word a link where it first stands in them."""
        met: set[str] = set()

        def link(found: re.Match[str]) -> str:
            place = self._places[Markup(found[1]).unescape().replace("\u00a0", " ")]
            if place in met:
                return found[0]
            met.add(place)
            return _link(place, found[0])

        return [self._replace(link, text) for text in texts]

    def heading(self, text: str) -> Markup:
        """The text, escaped, as a link if it is such a word."""
        place = self._places.get(text)
        return escape(text) if place is None else Markup(_link(place, str(escape(text))))

    def _replace(self, link: Callable[[re.Match[str]], str], text: str) -> Markup:
        prose = str(escape(_prose(text)))
        return Markup(self._any.sub(link, prose) if self._places else prose)


def _link(place: str, text: str) -> str:
    return f'<a class="term" href="#{place}">{text}</a>'


def _place(name: str) -> str:
    """The address within a page of what explains a word."""
    return "word-" + re.sub(r"\W+", "-", name.lower()).strip("-")


@cache
def _template() -> Template:
    return read_template("otprior.report", "page.html", prose=_prose, data_uri=data_uri, place=_place)


def read_template(package: str, name: str, **filters: Callable[..., Any]) -> Template:
    """A template of HTML among a package's files, with these filters: values are made printable and escaped, and
    unknown names refused."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, finalize=_shown,
    )  # fmt: skip
    environment.filters |= filters
    return environment.get_template(name)


def _shown(value: Any) -> Any:
    return type(value)(printable(value)) if isinstance(value, str) else value


def _prose(text: str) -> str:
    """The text, with N(0, I), intervals and values such as t* = 500 kept on one line."""
    text = re.sub(r"(\S) = (?=[\d.])", "\\1\u00a0=\u00a0", text)
    return re.sub(r"([(\[][^\s()\[\]]+,) ([^\s()\[\]]+[)\]])", "\\1\u00a0\\2", text)


def plot(draw: Callable[[Style], bytes], caption: str) -> Picture:
    """A plot in four versions: light and dark, for a phone and for a desktop."""

    def address(theme: Any, width: float) -> str:
        return _address(draw(Style(theme, "svg", width)), "svg+xml")

    dark, phone = "(prefers-color-scheme: dark)", "screen and (max-width: 640px)"
    sources = (
        (address(DARK, _PHONE), f"{phone} and {dark}"),
        (address(LIGHT, _PHONE), phone),
        (address(DARK, _DESKTOP), f"screen and {dark}"),
    )
    return Picture(address(LIGHT, _DESKTOP), caption, sources)


def png(file: bytes, caption: str) -> Picture:
    """A PNG that keeps its size."""
    return Picture(_address(file, "png"), caption, wide=True)


def _address(file: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(file).decode("ascii")


def how_to_read(pairs: Iterable[tuple[str, str]]) -> Section:
    """The section on how to read a page: words with their meanings."""
    return Section("How to read it", [Words(tuple(pairs))])


def how_it_was_made(report: Report, further: Mapping[str, Mapping[str, Any] | None] | None = None) -> Section:
    """Settings, `further` facts by heading, times, versions and the command."""
    facts: dict[str, Any] = {"Settings": report.settings, **(further or {})}
    facts |= {"Seconds": report.timings, "Environment": report.environment}
    cards = tuple((heading, tuple(_flat(values))) for heading, values in facts.items() if values)
    blocks: list[Block] = [FactCards(cards)] if cards else []
    if report.command:
        typed = report.command if isinstance(report.command, str) else shlex.join(report.command)
        blocks.append(Text(typed, "command"))
    return Section("How it was made", blocks)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Names and values of a nested dictionary as text; a name holds those it lies under."""
    for name, value in values.items():
        place = f"{before}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place} · ")
        elif isinstance(value, list | tuple):
            yield place, ", ".join(number(item) for item in value)
        else:
            yield place, number(value)
