"""An audit's report in words and as a terminal table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]

# Names of bounds in words, by how they come in a report.
BOUNDS = {
    "gelbrich": "Gelbrich: from means and covariances",
    "marginals": "exact marginals along principal axes, added",
    "dual": "a quadratic pair of Kantorovich's dual, on other draws than chose it",
    "nearest start": "distance to the nearest of the frozen starts",
    "shared noise": "coupling that shares the noise",
    "cells": "coupling by halving data and noise together",
    "given coupling": "the coupling that was given",
    "flow": "coupling by the data's own probability flow",
    "chain": "chain over smoothing, noise and cell masses",
    "independent atoms": "coupling with independent atoms",
    "exact law": "the starts have the law of p_t",
    "by class": "root of the weighted mean of squares over classes",
    "none": "nothing is known",
    "no upper bound known": "no upper bound is known",
}

# Starts beside each other in a table of 100 columns.
COLUMNS = 4

_PRIORS = {"identity": "N(0, I)", "gaussian": "gaussian prior", "random_atom": "random image + noise"}


def start_name(row: Row) -> str:
    """A start as people call it."""
    name = _PRIORS.get(row["prior"], f"{row['prior']} prior")
    if row["noise"] is not None:
        name = f"{row['prior']}, {row['noise']}"
        if row["correlation"] not in (None, 1, 1.0):
            name += f" ρ={row['correlation']:g}"
        if row["smoothing"]:
            name += f" ε={row['smoothing']:g}"
    return name if row["name"] is None else f"{row['name']} ({name})"


def start_key(row: Row) -> tuple[Any, ...]:
    """What rows of one start share."""
    return tuple(row[name] for name in ("name", "prior", "noise", "correlation", "smoothing"))


def rows_of(report: Row, target: str, label: Any = None) -> list[list[Row]]:
    """Rows of errors, one list a start, in the order of timesteps; `label` None is for all data at once."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in report["audit"]["errors"]:
        if row["target"] == target and row["class"] == label:
            groups.setdefault(start_key(row), []).append(row)
    return list(groups.values())


def error_text(row: Row) -> str:
    """The interval, four figures at most."""
    low = _short(row["lower"])
    if row["upper"] is None:
        return f"≥ {low}"
    high = _short(row["upper"])
    return low if low == high else f"{low} – {high}"


def _short(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.2f}" if value >= 10 else f"{value:.3g}"


def audit_headline(report: Row) -> str:
    """What was found, in a line."""
    audit = report["audit"]
    graded = {
        "nothing left": "no signal is left at T, where sampling begins",
        "negligible": "what is left of the signal at T does not matter",
        "small": "some of the signal is left at T, where sampling assumes none",
        "large": "a lot of the signal is left where sampling begins and assumes none",
    }
    return f"{audit['name']}: {graded[audit['verdict']['grade']]}"


def audit_summary(report: Row) -> list[str]:
    """The audit in a few sentences: the end, the errors at the middle timestep, the costs."""
    audit = report["audit"]
    sentences = [f"{audit['verdict']['finding']} {_remedied(audit['verdict']['remedy'])}"]
    data = audit["data"]
    if data is not None:
        sentences.append(
            f"All that a latent at T can tell of its image is {_short(data['bits'])} bits at most, and the data's mean "
            f"shifts it by {_short(data['mean_shift'])} in all."
        )
    groups = rows_of(report, "data")
    if groups:
        sentences += _errors_in_words(groups, _middle(report))
    sentences += [_cost_in_words(costs) for costs in _by_timestep(audit["costs"])]
    failed = [row for row in audit["checks"] if not row["consistent"]]
    if audit["checks"]:
        verdict = (
            "Sliced, max-sliced and discrete distances of samples fall where the intervals put them."
            if not failed
            else "WARNING: distances of samples fall outside the interval of "
            + ", ".join(start_name(row) for row in failed)
            + ": please report this."
        )
        sentences.append(verdict)
    return sentences


def _remedied(remedy: str) -> str:
    return remedy if remedy.endswith(".") else remedy + "."


def _middle(report: Row) -> float:
    costs, errors = report["audit"]["costs"], report["audit"]["errors"]
    if costs:
        return costs[0]["timestep"]
    times = sorted({row["timestep"] for row in errors})
    return times[len(times) // 2]


def _errors_in_words(groups: Sequence[Sequence[Row]], timestep: float) -> list[str]:
    here = [row for rows in groups for row in rows if row["timestep"] == timestep]
    plain = next((row for row in here if row["prior"] == "identity"), None)
    sentences = []
    if plain is not None:
        text = f"At t* = {timestep:g} white noise is {error_text(plain)} away (W2) from the data's latents"
        if plain["mean_part"] is not None and plain["lower"] > 0:
            mean, covariance = plain["mean_part"], plain["covariance_part"]
            text += f", {_short(mean)} of it in the mean and {_short(covariance)} in the covariance"
        sentences.append(text + ".")
    for row in here:
        if row is plain:
            continue
        name = start_name(row)
        name = name if row["name"] else name[0].upper() + name[1:]
        text = f"{name}: {error_text(row)}"
        if plain is not None and plain["lower"] > 0 and row["upper"] is not None:
            removed = 1 - row["upper"] / plain["lower"]
            text += f", so that at least {removed:.0%} of the error is gone" if removed > 0 else ""
        sentences.append(text + ".")
    return sentences


def _by_timestep(costs: Sequence[Row]) -> list[list[Row]]:
    times = list(dict.fromkeys(row["timestep"] for row in costs))
    return [[row for row in costs if row["timestep"] == t] for t in times]


def _cost_in_words(costs: Sequence[Row]) -> str:
    first = costs[0]
    moved = ", ".join(f"{start_name(row)} {_short(row['cost'])}" for row in costs)
    return (
        f"In samples, {first['nfe']} evaluations from t* = {first['timestep']:g}: starting from another law than the "
        f"latents' moves a sample, root mean square, by at most: {moved}. Solving in {first['nfe']} steps in place of "
        f"{first['fine_nfe']} moves it by {_short(first['stepping'])}."
    )


def audit_tables(report: Row) -> list[Table]:
    """The errors at every timestep, for the data and for the population, readable at 100 columns."""
    titles = {
        "data": "W2 between p_t of the given data and the starts",
        "population": "W2 between p_t of the population and the starts, each end with 95 % confidence",
    }
    return [
        _table(report, title, groups)
        for target, title in titles.items()
        if (groups := rows_of(report, target))
    ]


def _table(report: Row, title: str, groups: Sequence[Sequence[Row]]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False
    )
    table.add_column("t*", justify="right")
    table.add_column("α", justify="right")
    for rows in groups:
        table.add_column(start_name(rows[0]), justify="right", overflow="fold")
    for index, row in enumerate(groups[0]):
        cells = [_cell(rows[index]) for rows in groups]
        table.add_row(f"{row['timestep']:g}", f"{row['alpha']:.3f}", *cells)
    return table


def _cell(row: Row) -> Text:
    text = Text(error_text(row))
    if row["ratio"] is not None and row["ratio"] > 1.005:
        text.append(f"\n×{row['ratio']:.3g}", style="dim")
    elif row["ratio"] is None:
        text.append("\n×∞", style="dim")
    return text
