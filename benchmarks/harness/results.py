"""From runs to rows, and from rows to the files: CSV, JSON, Markdown, plot.

A row is a solver with settings on a set of atoms and one target: the median over its runs, where a run that did not get
there counts as longer than any. `efficiency` is (N/draws)/χ², the share of each draw that is used: frequencies of cells
among n draws are off by χ² = N/n, which is an efficiency of 1.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.tuning import describe
from otprior.utils.files import output_dir, write_json

VARIANTS = {
    "door": "",
    "auto": ", bfloat16 screen",
    "curve": ", steps alone",
    "tuned": ", tuned",
    "default": ", default",
}
STYLES = {"door": "o", "auto": "x", "curve": "-", "tuned": "-", "default": "--"}
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
LOWEST_SHOWN = 1e-3


@dataclass(frozen=True)
class Entry:
    """A solver as it was run on a set: for each target its runs (the same ones, unless it stops by itself)."""

    peer: str
    label: str
    variant: str
    settings: dict[str, Any]
    runs: dict[float, list[dict[str, Any]]]

    @property
    def title(self) -> str:
        """For tables."""
        return self.label + VARIANTS[self.variant]


@dataclass(frozen=True)
class SetResult:
    """All that was measured on a set; `ours` is the seconds per target that others are compared with."""

    name: str
    what: str
    atoms: int
    dim: int
    effective_dim: float  # (Σ λ)²/Σ λ² of the atoms' covariance
    entries: list[Entry]
    ours: dict[float, float]
    tuning: dict[str, list[dict[str, Any]]]
    notes: list[str]


def rows_of(result: SetResult, threads: int) -> list[dict[str, Any]]:
    """A row for each entry and target."""
    return [
        _row(result, entry, target, runs, threads)
        for entry in result.entries
        for target, runs in entry.runs.items()
    ]


def _row(
    result: SetResult, entry: Entry, target: float, runs: list[dict[str, Any]], threads: int
) -> dict[str, Any]:
    points = [run["reached"].get(str(target)) for run in runs]
    times = [math.inf if point is None else point["seconds"] for point in points]
    middle = median(times)
    reached = math.isfinite(middle)
    # With an even number of runs the median is between two; the run that stands for it is the nearest.
    index = min(range(len(runs)), key=lambda i: abs(times[i] - middle)) if reached else 0
    point = points[index] if reached else runs[index]["curve"][-1]
    # A run that did not get there took longer than it was given; so then did the median.
    given = [run["seconds"] if point is None else point["seconds"] for run, point in zip(runs, points)]
    seconds = middle if reached else median(given)
    chi2 = point["chi2"]
    return {
        "set": result.name,
        "atoms": result.atoms,
        "dim": result.dim,
        "effective_dim": result.effective_dim,
        "peer": entry.peer,
        "solver": entry.title,
        "settings": describe(entry.settings),
        "target": target,
        "reached": reached,
        "seconds": seconds,
        "times_ours": seconds / result.ours[target],
        "runs": len(runs),
        "seconds_of_runs": " ".join(f"{t:.4g}" for t in times),
        "draws": point["draws"],
        "chi2": chi2,
        "chi2_upper": point["upper"],
        "efficiency": result.atoms / point["draws"] / chi2 if chi2 and chi2 > 0 and point["draws"] else None,
        "solve_mib": max(run["solve_mib"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "cpu_seconds": point["cpu_seconds"],
        "cpu_share": median(run["cpu_seconds"] / (run["seconds"] * threads) for run in runs),
    }


def write(out: Path, results: list[SetResult], facts: dict[str, Any]) -> str:
    """Writes all files anew, and returns the Markdown table."""
    rows = [row for result in results for row in rows_of(result, facts["threads"])]
    text = "\n".join(_markdown(result, facts) for result in results)
    with output_dir(out, overwrite=True) as folder:
        _write_csv(folder / "results.csv", rows)
        _write_csv(folder / "curves.csv", [point for result in results for point in _curve_rows(result)])
        tuning = {result.name: result.tuning for result in results}
        write_json(folder / "results.json", {"facts": facts, "rows": rows, "tuning": tuning})
        (folder / "table.md").write_text(text, encoding="utf-8")
        _plot(folder / "solver.png", results)
    return text


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _curve_rows(result: SetResult) -> list[dict[str, Any]]:
    """Every measured checkpoint, each once."""
    rows = []
    for entry in result.entries:
        runs = [run for of_target in entry.runs.values() for run in of_target]
        for run in {json.dumps(run["job"], sort_keys=True): run for run in runs}.values():
            head = {"set": result.name, "solver": entry.title, "settings": describe(entry.settings)}
            rows += [head | {"seed": run["job"]["seed"]} | point for point in run["curve"]]
    return rows


def _markdown(result: SetResult, facts: dict[str, Any]) -> str:
    targets = list(result.ours)
    heads = [f"χ² ≤ {t:g}: seconds | × ours | draws | efficiency" for t in targets]
    lines = [
        f"### {result.name}",
        "",
        f"{result.what}: N = {result.atoms:,}, d = {result.dim} ({result.effective_dim:.1f} effective dimensions), "
        f"{facts['dtype']}, threads: {facts['threads']}.",
        "",
        f"| solver | {' | '.join(heads)} | memory, MiB | settings |",
        "|" + "---|" * (3 + 4 * len(targets)),
    ]
    for entry in result.entries:
        cells = [_cells(_row(result, entry, t, entry.runs[t], facts["threads"])) for t in targets]
        memory = max(run["solve_mib"] for runs in entry.runs.values() for run in runs)
        lines.append(
            f"| {entry.title} | {' | '.join(cells)} | {memory:.0f} | {describe(entry.settings) or 'none to set'} |"
        )
    return "\n".join([*lines, "", *result.notes, ""])


def _cells(row: dict[str, Any]) -> str:
    efficiency = "" if row["efficiency"] is None else f"{row['efficiency']:.2f}"
    if row["reached"]:
        return f"{row['seconds']:.3g} | {row['times_ours']:.1f} | {row['draws']:,} | {efficiency}"
    came_to = "diverged" if row["chi2"] is None else f"χ² {row['chi2']:.2g}"
    return f"> {row['seconds']:.3g} ({came_to}) | > {row['times_ours']:.1f} | {row['draws']:,} | {efficiency}"


def _plot(path: Path, results: list[SetResult]) -> None:
    """χ² against time, a panel a set; tuned solid, defaults dashed, ours by itself as dots."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(5 * len(results), 5.2), squeeze=False)
    for panel, result in zip(axes[0], results):
        peers = list(dict.fromkeys(entry.peer for entry in result.entries))
        for entry in result.entries:
            colour = COLOURS[peers.index(entry.peer)]
            runs = [run for of_target in entry.runs.values() for run in of_target]
            # One run a solver keeps the picture readable; where a solver stops by itself, each end is a dot.
            for number, run in enumerate(runs if entry.variant in ("door", "auto") else runs[:1]):
                points = [p for p in run["curve"] if p["chi2"] is not None]
                panel.plot(
                    [p["seconds"] for p in points],
                    [max(p["chi2"], LOWEST_SHOWN) for p in points],
                    STYLES[entry.variant],
                    color=colour,
                    label=None if number else entry.title,
                )
        for target in result.ours:
            panel.axhline(target, color="grey", linewidth=0.6)
        panel.set(xscale="log", yscale="log", title=result.name, xlabel="seconds", ylabel="χ² of cell masses")
        panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
