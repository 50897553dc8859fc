"""Pages of the documentation site that are made of other files: a hook of mkdocs, which `mkdocs.yml` names.

- The landing page is `README.md`; `CONTRIBUTING.md`, `CHANGELOG.md` and the licence stand beside it.
- A page of the gallery is a script `examples/plot_NAME.py`: its docstring, its cells, its picture and what it printed,
  which `scripts/build_gallery.py` keeps in `docs/images/gallery/`. Nothing is run here.
- The page of commands is what `otprior COMMAND --help` prints.

Links that lead out of `docs/` in the repository lead to these pages on the site; links to source files become names.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, PICTURES = ROOT / "examples", ROOT / "docs/images/gallery"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
AS_THEY_ARE = {"LICENSE": "LICENSE.txt", "CITATION.cff": "CITATION.cff"}
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
# The landing page stands alone: no navigation beside it.
FRONT = "---\nhide: [navigation, toc]\n---\n\n"
GALLERY = """# Gallery

This page shows what the package does in pictures. Each is made by one script, in less than a minute on one core.

"""


@dataclass(frozen=True)
class Example:
    """A script of the gallery.

    Attributes:
        name: Its name without `plot_` and the suffix.
        title: The first line of its docstring.
        text: The docstring's other paragraphs.
        picture: What the picture shows, from the paragraph that begins with "Picture:"; its alternative text.
        cells: Text and code of each cell, in order.
    """

    name: str
    title: str
    text: str
    picture: str
    cells: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path) -> Example:
        """Reads a script whose docstring is a title, an underline, paragraphs, and one on the picture."""
        source = path.read_text(encoding="utf-8")
        opening = ast.parse(source).body[0]
        title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
        text, _, picture = text.lstrip("=\n").partition("\n\nPicture:")
        if not picture:
            raise ValueError(
                f"the docstring of {path.name} must end with a paragraph that begins with 'Picture:'"
            )
        body = "\n".join(source.splitlines()[opening.end_lineno :])
        cells = [_split_cell(cell) for cell in re.split(r"^# %%.*\n", body, flags=re.MULTILINE)]
        return cls(path.stem.removeprefix("plot_"), title, text, " ".join(picture.split()), tuple(cells))

    def page(self) -> str:
        """The page in Markdown."""
        printed = PICTURES / f"{self.name}.txt"
        parts = [f"# {self.title}", self.text, f"![{self.picture}](../images/gallery/{self.name}.png)"]
        for text, code in self.cells:
            parts += [text, f"```python\n{code}\n```" if code else ""]
        if printed.exists() and (lines := printed.read_text(encoding="utf-8").strip()):
            parts.append(f"It prints:\n\n```text\n{lines}\n```")
        parts.append(f"Run it from a clone: `python examples/plot_{self.name}.py`.")
        return "\n\n".join(part for part in parts if part) + "\n"

    def thumbnail(self) -> str:
        """Its entry on the gallery's first page."""
        picture = f'<img src="../images/gallery/{self.name}.png" alt="{self.picture}" loading="lazy">'
        return f'<a href="{self.name}.html">{picture}<span>{self.title}</span></a>'


def _split_cell(cell: str) -> tuple[str, str]:
    """The comment that a cell begins with, as text, and its code."""
    lines = cell.strip("\n").splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:count])
    return text, "\n".join(lines[count:]).strip("\n")


def read_examples() -> list[Example]:
    """The scripts of the gallery, by title."""
    return sorted(map(Example.read, EXAMPLES.glob("plot_*.py")), key=lambda example: example.title)


def commands_page() -> str:
    """The help of every command."""
    from typer.testing import CliRunner

    from otprior.cli import program
    from otprior.cli.commands import Commands

    parts = ["# Commands", "This page shows what `otprior COMMAND --help` prints, for every command."]
    for name in Commands():
        done = CliRunner().invoke(program, [name, "--help"], prog_name="otprior", env={"COLUMNS": "100"})
        if done.exit_code:
            raise RuntimeError(f"otprior {name} --help failed: {done.output}")
        parts += [f"## {name}", f"```text\n{done.stdout.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def relink(text: str, folder: Path) -> str:
    """Links of a page in `folder` that lead out of `docs/`, led to where they stand on the site."""

    def lead(match: re.Match[str]) -> str:
        # ("results.md" is the name of a file; on the site it is a page.)
        shown, target, anchor = match[1].removesuffix(".md"), match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (folder / target).resolve()
        if not path.is_relative_to(ROOT):
            return match[0]
        name = str(path.relative_to(ROOT))
        if name in PAGES | AS_THEY_ARE:
            up = "../" * (len(folder.relative_to(ROOT).parts) - 1)
            return f"[{shown}]({up}{(PAGES | AS_THEY_ARE)[name]}{anchor})"
        if name.startswith("docs/"):
            return f"[{shown}]({target if folder != ROOT else name.removeprefix('docs/')}{anchor})"
        return shown

    return LINK.sub(lead, text)


def on_config(config: Any) -> Any:
    """Adds the gallery's pages to the navigation."""
    (gallery,) = (part["Gallery"] for part in config.nav if "Gallery" in part)
    gallery += [f"gallery/{example.name}.md" for example in read_examples()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages."""
    # (Not above: tests read the gallery where mkdocs is not installed.)
    from mkdocs.structure.files import File

    def add(name: str, content: str) -> None:
        files.append(File.generated(config, name, content=content))

    for source, page in PAGES.items():
        text = relink((ROOT / source).read_text(encoding="utf-8"), ROOT)
        add(page, (FRONT if page == "index.md" else "") + text)
    for source, name in AS_THEY_ARE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    examples = read_examples()
    thumbnails = "\n".join(example.thumbnail() for example in examples)
    add("gallery/index.md", f'{GALLERY}<div class="gallery">\n{thumbnails}\n</div>\n')
    for example in examples:
        add(f"gallery/{example.name}.md", example.page())
    add("reference/commands.md", commands_page())
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads links of the pages in `docs/` to where they stand on the site."""
    if page.file.abs_src_path is None:
        return markdown
    return relink(markdown, Path(page.file.abs_src_path).parent)
