"""Prints the size of both packages by folder: files, lines, functions, the longest of each, and public names.

    python scripts/package_size.py
    python scripts/package_size.py --check    # fails if a file or a function is too long

Lines are counted as they stand, docstrings and blank lines included; a function is counted without its decorators.
Public names are the distinct ones in `__all__` lists.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
PACKAGES = ("otprior", "otprior_studies")
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


@dataclass(frozen=True)
class Module:
    """A source file.

    Attributes:
        path: Path relative to `SOURCE`.
        lines: Number of lines.
        functions: Name and number of lines of each function and method, nested ones included.
        public: Names in `__all__`.
    """

    path: Path
    lines: int
    functions: tuple[tuple[str, int], ...]
    public: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The package and the folder below it, such as "otprior/priors"."""
        return "/".join(self.path.parts[:-1][:2])


def read_module(path: Path) -> Module:
    """Reads a source file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    functions = tuple(
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    public = re.search(r"^__all__ = ", text, re.MULTILINE) and import_module(_dotted(path)).__all__
    return Module(path.relative_to(SOURCE), len(text.splitlines()), functions, tuple(public or ()))


def _dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def read_packages() -> list[Module]:
    """Every module of both packages."""
    paths = (path for package in PACKAGES for path in sorted((SOURCE / package).rglob("*.py")))
    return [read_module(path) for path in paths]


def root_entries() -> list[str]:
    """Modules and folders at the library's root, but for `__init__.py` and `py.typed`."""
    left_out = {"__init__.py", "py.typed", "__pycache__"}
    return sorted(path.name for path in (SOURCE / PACKAGES[0]).iterdir() if path.name not in left_out)


def find_too_long(modules: list[Module]) -> Iterator[str]:
    """A line of text for each file and each function that is too long."""
    for module in modules:
        if module.lines > LONGEST_FILE:
            yield f"{module.path}: {module.lines} lines, at most {LONGEST_FILE}"
        for name, lines in module.functions:
            if lines > LONGEST_FUNCTION:
                yield f"{module.path}: {name} has {lines} lines, at most {LONGEST_FUNCTION}"


def table(modules: list[Module]) -> Iterator[str]:
    """The table, a row for each folder and one for each package."""
    heads = ("files", "lines", "functions", "longest file", "longest function", "public names")
    yield f"{'folder':28s}" + "".join(f"{head:>18s}" for head in heads)
    folders = sorted({module.folder for module in modules} | set(PACKAGES))
    for folder in folders:
        inside = [each for each in modules if each.folder == folder or folder == each.path.parts[0]]
        functions = [lines for each in inside for _, lines in each.functions]
        figures = (
            len(inside),
            sum(each.lines for each in inside),
            len(functions),
            max(each.lines for each in inside),
            max(functions, default=0),
            len({name for each in inside for name in each.public}),
        )
        yield f"{folder:28s}" + "".join(f"{figure:18,}" for figure in figures)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="fail if a file or a function is too long")
    arguments = parser.parse_args()
    modules = read_packages()
    print("\n".join(table(modules)))
    too_long = list(find_too_long(modules))
    if too_long:
        print("\n".join(["", "too long:", *too_long]))
    if arguments.check and too_long:
        sys.exit(1)


if __name__ == "__main__":
    main()
