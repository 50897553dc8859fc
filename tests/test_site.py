"""The documentation site: entries of public names, the gallery, and pages that are made of other files."""

from __future__ import annotations

import pkgutil
import re
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import otprior

ROOT = Path(__file__).parents[1]
REFERENCE = sorted((ROOT / "docs/reference").glob("*.md"))
ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def public_names() -> dict[str, Any]:
    """Every name in an `__all__` of the library's packages, but for the command line's."""
    packages = [otprior]
    packages += [
        import_module(found.name)
        for found in pkgutil.walk_packages(otprior.__path__, "otprior.")
        if found.ispkg and found.name != "otprior.cli"
    ]
    return {
        f"{package.__name__}.{name}": getattr(package, name)
        for package in packages
        for name in getattr(package, "__all__", ())
    }


def test_every_public_name_has_an_entry_and_an_example() -> None:
    pages = [path.read_text(encoding="utf-8") for path in REFERENCE]
    entries = [pkgutil.resolve_name(name) for page in pages for name in ENTRY.findall(page)]
    assert len({id(entry) for entry in entries}) == len(entries), "an entry stands twice"
    examples = "\n".join(code for page in pages for code in CODE.findall(page))
    missing = []
    for name, value in public_names().items():
        documented = name == "otprior.__version__" or any(entry is value for entry in entries)
        shown = re.search(rf"\b{name.rpartition('.')[2]}\b", examples)
        if not (documented and shown):
            missing.append(name)
    assert not missing


SITE = runpy.run_path(str(ROOT / "scripts/site_pages.py"))


def test_the_gallery_has_a_picture_and_words_for_every_script() -> None:
    examples = SITE["read_examples"]()
    assert len(examples) >= 12
    for example in examples:
        picture = ROOT / f"docs/images/gallery/{example.name}.png"
        assert picture.stat().st_size < 60_000
        assert len(example.picture) > 40
        page = example.page()
        assert page.startswith(f"# {example.title}\n")
        # All of the code stands on the page, in order.
        source = (ROOT / f"examples/plot_{example.name}.py").read_text(encoding="utf-8")
        code = [line for _, cell in example.cells for line in cell.splitlines() if line.strip()]
        lines = iter(source.splitlines())
        assert all(line in lines for line in code)
        assert all(f"```python\n{cell}\n```" in page for _, cell in example.cells if cell)
    for picture in (ROOT / "docs/images/gallery").iterdir():
        assert picture.stem in {example.name for example in examples}


@pytest.mark.parametrize(
    ("folder", "given", "expected"),
    [
        (".", "[a](docs/results.md#frontier)", "[a](results.md#frontier)"),
        (".", "[a](CONTRIBUTING.md)", "[a](contributing.md)"),
        (".", "![a](docs/images/frontier.png)", "![a](images/frontier.png)"),
        ("docs", "[a](../README.md#installing)", "[a](index.md#installing)"),
        ("docs", "[a](../src/otprior/cli)", "a"),
        ("docs", "[results.md](results.md)", "[results](results.md)"),
        ("docs/reference", "[a](../../CONTRIBUTING.md#style)", "[a](../contributing.md#style)"),
        ("docs", "[a](https://arxiv.org/abs/2307.11308)", "[a](https://arxiv.org/abs/2307.11308)"),
    ],
)
def test_links_lead_to_where_pages_stand_on_the_site(folder: str, given: str, expected: str) -> None:
    assert SITE["relink"](given, (ROOT / folder).resolve()) == expected


def test_every_page_stands_in_the_navigation() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ +- (?:\w+: )?(\S+\.md)$", settings, re.MULTILINE))
    made = {*SITE["PAGES"].values(), "reference/commands.md"}
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert listed == written | made


def test_the_site_loads_nothing_from_elsewhere() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in settings
    style = (ROOT / "docs/site.css").read_text(encoding="utf-8")
    assert "://" not in settings + style
