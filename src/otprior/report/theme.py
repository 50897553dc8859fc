"""What plots share: colours, axes, legend and file.

Series differ by marker and line as well as by colour (Okabe & Ito's palette, 2008), so that a grey print and most
colour-blind readers lose nothing. No pyplot, no rcParams: nothing outside the figure changes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from otprior.utils.text import printable
from otprior.utils.validation import check_choice

# Characters of a name in a plot; more would leave the data no room.
_LONGEST, _LONGEST_IN_LEGEND = 100, 50
MARKERS = ("s", "D", "^", "X", "v", "P", "<", "*")
LINES: tuple[Any, ...] = (
    "-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)), (0, (8, 2)),
)  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """Colours of a plot: background, text, lines behind the data, N(0, I), and the series."""

    paper: str
    ink: str
    muted: str
    grid: str
    band: str
    plain: str
    starts: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#1d2129", "#5c6470", "#e3e5e8", "#f4f5f6", "#3b3f46",
    ("#0072b2", "#009e73", "#d55e00", "#a24b83", "#c98700", "#2f9bd6", "#7a5c00", "#6b6b6b"),
)  # fmt: skip
DARK = Theme(
    "#171a1f", "#e8eaed", "#a2a9b4", "#2e333b", "#1e2228", "#c9ced6",
    ("#56b4e9", "#2ec49a", "#ff8a3d", "#e59ac6", "#f0c14b", "#8fd0ff", "#d2b45c", "#b5b5b5"),
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How a plot is drawn.

    Attributes:
        theme: Colours.
        kind: "png" (200 dots an inch) or "svg".
        width: Inches; text keeps its size, so half of the default suits a phone.
    """

    theme: Theme = LIGHT
    kind: str = "png"
    width: float = 7.6

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("png", "svg"))

    def series(self, place: int, marker: bool = True) -> dict[str, Any]:
        """Colour, line and marker of the series at this place."""
        look = {
            "color": self.theme.starts[place % len(self.theme.starts)],
            "linestyle": LINES[place % len(LINES)],
            "linewidth": 1.4,
        }
        return look | ({"marker": MARKERS[place % len(MARKERS)], "markersize": 5} if marker else {})


PNG = Style()


def plain(text: str, longest: int = _LONGEST) -> str:
    """The text as matplotlib shows it unchanged: dollars are no formula, and a legend names what begins with "_"."""
    shown = printable(text.strip())
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return ("\u200b" if shown.startswith("_") else "") + shown.replace("$", r"\$")


def in_legend(name: str) -> str:
    """The name of a series, as a legend has room for it."""
    return plain(" ".join(name.split()), _LONGEST_IN_LEGEND)


class Canvas:
    """A figure with axes in the style of a report: light lines behind the data, no box.

    Arguments:
        style: How it is drawn.
        height: Inches.
        ratios: Relative heights of the axes, from top to bottom; they share the horizontal axis.
        lines: Where lines lie behind the data: "x", "y" or "both".
    """

    def __init__(
        self, style: Style, height: float, ratios: Sequence[int] = (1,), lines: Any = "both"
    ) -> None:
        self.style, self.theme = style, style.theme
        self.figure = Figure(figsize=(style.width, height), facecolor=style.theme.paper)
        grid = self.figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)
        self.axes: list[Axes] = list(grid[:, 0])
        for axis in self.axes:
            self._frame(axis, lines)

    def _frame(self, axis: Axes, lines: Any) -> None:
        axis.set_facecolor(self.theme.paper)
        axis.set_axisbelow(True)
        axis.grid(axis=lines, color=self.theme.grid, linewidth=0.8)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(self.theme.muted)
        axis.tick_params(colors=self.theme.muted, labelcolor=self.theme.ink, length=3, labelsize=9)

    def label(self, x: str = "", y: str = "") -> None:
        """Names the lowest horizontal axis and the uppermost vertical one."""
        if x:
            self.axes[-1].set_xlabel(plain(x), color=self.theme.ink)
        if y:
            self.axes[0].set_ylabel(plain(y), color=self.theme.ink)

    def legend(self, columns: int = 2, entries: dict[str, Any] | None = None) -> None:
        """A legend above the plot, of `entries` by name or of all that has a label, by `in_legend`."""
        if entries is None:
            pairs = (pair for axis in self.axes for pair in zip(*axis.get_legend_handles_labels()))
            entries = {name: handle for handle, name in pairs}
        else:
            entries = {in_legend(name): handle for name, handle in entries.items()}
        self.figure.legend(
            entries.values(), entries.keys(), loc="outside upper left", ncols=columns, fontsize=9, frameon=False,
            labelcolor=self.theme.ink, handlelength=2.6, columnspacing=1.4,
        )  # fmt: skip

    def file(self) -> bytes:
        """The figure's file, the same for equal figures."""
        self.figure.set_layout_engine("constrained")
        FigureCanvasAgg(self.figure)
        buffer = io.BytesIO()
        # A date would make equal reports differ.
        metadata = {"Date": None} if self.style.kind == "svg" else {}
        with warnings.catch_warnings():
            # (A name in another script is boxes here; the page has it in its tables.)
            warnings.filterwarnings("ignore", "Glyph .* missing")
            self.figure.savefig(
                buffer, format=self.style.kind, dpi=200, facecolor=self.theme.paper, metadata=metadata
            )
        return buffer.getvalue()
