"""Tables that are built once and shown on a page or on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from otprior.report.record import Limits

if TYPE_CHECKING:
    from rich.table import Table as RichTable

# What a cell says besides its text, and how a terminal shows that.
_STYLES = {"": "", "name": "bold", "good": "green", "bad": "bold red", "open": "yellow"}

# More columns than these stand close together on a terminal.
FEW_COLUMNS = 5


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: What it says.
        below: Smaller lines below that.
        style: "good", "bad" or "open" for a judgement, "name" for a bold name, "" for neither.
        reason: What a pointer on it shows; on a page only.
    """

    text: str
    below: tuple[str, ...] = ()
    style: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a table; `kind` is "floor" for what the others are held against, "rule" for one below a rule."""

    cells: tuple[Cell, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column holds names.

    Attributes:
        columns: The headings.
        lines: As many cells each.
        title, note: Words above and below it on a terminal; a page has them in the section's head.
        look: "wide" for figures that stay on one line, "gates" for text.
        first_width: Least and greatest width of the first column on a terminal, in characters.
    """

    block: ClassVar[str] = "table"

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    title: str = ""
    note: str = ""
    look: str = "wide"
    first_width: tuple[int | None, int | None] = (None, None)

    def for_terminal(self) -> RichTable:
        """The table for `rich`, which prints it as text."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            box=box.SIMPLE_HEAD,
            padding=(0, 0 if len(self.columns) > FEW_COLUMNS else 1),
            pad_edge=False,
            title=self.title or None,
            title_justify="left",
            caption=Text(self.note) if self.note else None,
            caption_justify="left",
            caption_style="dim",
        )
        for place, heading in enumerate(self.columns):
            low, high = (None, None) if place else self.first_width
            table.add_column(
                heading, justify="right" if place else "left", overflow="fold", min_width=low, max_width=high
            )
        for line in self.lines:
            if line.kind == "rule":
                table.add_section()
            table.add_row(*(_rich_cell(cell) for cell in line.cells))
            if line.kind == "floor":
                table.add_section()
        return table


def _rich_cell(cell: Cell) -> Any:
    from rich.text import Text

    text = Text(cell.text, style=_STYLES[cell.style])
    for below in cell.below:
        text.append(f"\n{below}", style="not bold dim")
    return text


def build_table(columns: Sequence[str], lines: Iterable[Sequence[Any]], **options: Any) -> Table:
    """A table of cells, or of values that `number` makes into cells."""
    cells = (
        tuple(value if isinstance(value, Cell) else Cell(number(value)) for value in line) for line in lines
    )
    return Table(tuple(columns), tuple(Line(line) for line in cells), **options)


def number(value: Any) -> str:
    """A value as a person reads it: thousands separated, four figures, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)


def limits_text(limits: Limits) -> str:
    """An interval as a person reads it; nothing where neither end is known."""
    low, high = limits
    if low is None:
        return "" if high is None else f"≤ {number(high)}"
    return f"≥ {number(low)}" if high is None else f"[{number(low)}, {number(high)}]"
