"""What the filter keeps: a share of the draws, masses that are no longer the weights, and which samples.

Rejection sampling draws from the law given that a draw is kept. So the samples of a start without a filter, split by
whether their draws would have been kept, are exact samples of what the filter keeps and of what it rejects: every k
and every threshold is judged on the same samples, and the network is not run again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.sparse import csr_array
from torch import Tensor

from otprior.metrics import Interval
from otprior.report import Curves, ReportTable
from otprior.sampling import seeds_to_generators
from otprior.transport.chi_squared import chi_squared, chi_squared_of_frequencies
from otprior.utils.arrays import read_arrays, write_arrays
from otprior.utils.random import stream_generator
from otprior.utils.validation import require
from otprior_studies.papers.dpm_ot.maps import SEED, LatentMap
from otprior_studies.papers.dpm_ot.published import BATCH, kept_in_batch, rescaled
from otprior_studies.papers.dpm_ot.sampling import seed_draws
from otprior_studies.papers.dpm_ot.singular import AngleFilter, cell_angles, leading_cells

# Numbers of neighbours that are shown, and shares of draws that thresholds are set to keep.
NEIGHBOURS = (2, 3, 5)
SHARES = (0.9, 0.7, 0.5, 0.3, 0.1)
PLOTTED = tuple(share / 20 for share in range(1, 20))
# (No angle reaches π: lifted atoms all look down.)
EVERYTHING = AngleFilter(2, math.nextafter(math.pi, 0.0))
# Of a smaller share of the draws, some seed among thousands would wait too long for one.
LEAST_KEPT = 0.02


@dataclass(frozen=True)
class FilterLaw:
    """Draws of a map with their leading cells and angles.

    Attributes:
        cells: Of each draw, shape (n,), int64.
        angles: To the pieces 2, …, m over it, shape (n, m − 1), radians.
        count: N of the map.
    """

    cells: Tensor
    angles: Tensor
    count: int

    def threshold(self, topk: int, share: float) -> float:
        """The angle within which the filter keeps a share of the draws, to three digits."""
        least = self.angles[:, : topk - 1].amin(dim=1).double()
        return float(f"{float(least.quantile(share)):.3g}")

    def acceptance(self, angle: AngleFilter) -> float:
        """The share of draws that a filter keeps."""
        return float(angle.kept(self.angles).double().mean())

    def chi2(self, angle: AngleFilter) -> tuple[float, float] | None:
        """χ² of the kept draws' cells against uniform weights, and its standard error; None for fewer than three."""
        kept = self.cells[angle.kept(self.angles)]
        if len(kept) < 3:
            return None
        weights = torch.full((self.count,), 1 / self.count, dtype=torch.float64)
        found = chi_squared(torch.bincount(kept, minlength=self.count), weights)
        return found.value, found.standard_error


def law_of(found: LatentMap, draws: int, topk: int, file: Path) -> FilterLaw:
    """The law of a map's draws, read from its file if that is there.

    Arguments:
        found: The map.
        draws: How many.
        topk: Pieces over each that are looked at, at least.
        file: Where the law is kept.
    """
    count, wide = len(found.latents), min(max(topk, *NEIGHBOURS), len(found.latents))
    if not file.is_file():
        leading = found.blocks(draws, "filter", wide)
        angles = cell_angles(found.potential.atoms, leading)
        write_arrays(file, {"cells": leading[:, 0].numpy(), "angles": angles.float().numpy()})
    stored = read_arrays(file, "cells", "angles")
    return FilterLaw(torch.from_numpy(stored["cells"]), torch.from_numpy(stored["angles"]), count)


def check_keeps(law: FilterLaw, angle: AngleFilter) -> None:
    """Refuses a filter that keeps too few of the draws for every seed to get one."""
    share = law.acceptance(angle)
    enough = law.threshold(angle.topk, LEAST_KEPT)
    rule = (
        f"at least about {enough:.3g} radians, so that {LEAST_KEPT:.0%} of {len(law.cells):,} draws are kept"
    )
    require(share >= LEAST_KEPT, "threshold", rule, f"{angle.threshold:g}, which keeps {share:.2%}")


def filter_table(
    name: str, found: LatentMap, law: FilterLaw, chosen: AngleFilter, mixed: Tensor, first_seed: int
) -> ReportTable:
    """A report's table: what each filter keeps, and how many of the samples that it keeps are mixed.

    Arguments:
        name: The label of the start without a filter.
        found: Its map.
        law: Of that.
        chosen: The filter of the run, shown with the others.
        mixed: Whether each of the start's samples is mixed, shape (n,), bool.
        first_seed: The first seed of these samples.
    """
    width = law.angles.shape[1] + 1
    z = seed_draws(found, seeds_to_generators(range(first_seed, first_seed + len(mixed))))
    pool = cell_angles(found.potential.atoms, leading_cells(found.potential, z, width))
    filters = [AngleFilter(k, law.threshold(k, share)) for k in NEIGHBOURS if k <= width for share in SHARES]
    lines = [_line(law, EVERYTHING, pool, mixed, "none")]
    lines += [_line(law, each, pool, mixed) for each in [chosen, *filters]]
    return ReportTable.build(
        title=f"What the filter keeps: {name}",
        note=f"Acceptance and χ² of the kept cells on {len(law.cells):,} draws; mode mixture of the row's own "
        f"{len(mixed):,} samples, split by whether the filter keeps their draws. A difference below zero says that "
        "what is kept is less mixed than what is rejected; its interval is that of two proportions.",
        columns=["k", "angle ≤, rad", "kept", "χ²", "mixed, kept", "mixed, rejected", "difference", "95 %"],
        lines=lines,
    )


def batch_table(found: LatentMap, topk: int, threshold: float, draws: int) -> ReportTable:
    """A report's table: what each of the authors' changes to the filter does to the share kept and to the masses.

    Draws of a batch depend on each other under their filter, so χ² is estimated from pairs of batches.

    Arguments:
        found: The map.
        topk: k.
        threshold: Of rescaled angles.
        draws: How many, in batches of `BATCH`; three batches at least.
    """
    count, batches = len(found.latents), draws // BATCH
    kinds: dict[str, list[Tensor]] = {
        "no filter": [],
        f"rescaled angle ≤ {threshold:g}, the draw's own cell": [],
        "as coded: the lower index of each pair, once a batch": [],
    }
    for batch in range(batches):
        z = found.draw(BATCH, stream_generator(SEED, "batch filter", batch))
        cells = leading_cells(found.potential, z, topk)
        angles = cell_angles(found.potential.atoms, cells)
        keeps = (rescaled(angles) <= threshold).any(dim=1)
        sets = (cells[:, 0], cells[keeps, 0], kept_in_batch(cells, angles, threshold))
        for kept, returned in zip(kinds.values(), sets):
            kept.append(returned)
    lines: list[list[Any]] = []
    weights = np.full(count, 1 / count)
    for name, kept in kinds.items():
        rows = np.repeat(np.arange(batches), [len(each) for each in kept])
        columns = torch.cat(kept).numpy()
        shares = np.concatenate([np.full(len(each), 1 / len(each)) for each in kept])
        frequencies = csr_array((shares, (rows, columns)), shape=(batches, count))
        chi2 = chi_squared_of_frequencies(frequencies, weights, BATCH)
        lines.append(
            [name, len(columns) / (batches * BATCH), f"{chi2.value:.3f} ± {chi2.standard_error:.3f}"]
        )
    return ReportTable.build(
        title="The filter as the authors' code has it",
        note=f"Of {batches * BATCH:,} draws in batches of {BATCH}, k = {topk}: latents handed back for each draw, and "
        "χ² of their masses, a batch counting as one.",
        columns=["filter", "kept", "χ²"],
        lines=lines,
    )


def filter_curves(laws: dict[str, FilterLaw]) -> list[Curves]:
    """Plots of a report: the share kept against the angle, χ² against the share kept; by the name of each row."""
    kept, moved = {}, {}
    for name, law in laws.items():
        for k in NEIGHBOURS:
            if k - 1 > law.angles.shape[1]:
                continue
            filters = [AngleFilter(k, law.threshold(k, share)) for share in PLOTTED]
            points = [(law.acceptance(each), each.threshold, law.chi2(each)) for each in filters]
            kept[f"{name}, k = {k}"] = [[angle, share] for share, angle, _ in points]
            moved[f"{name}, k = {k}"] = [[share, chi2[0]] for share, _, chi2 in points if chi2 is not None]
    axes = {
        "kept": ("Draws that the filter keeps", "largest angle, radians", "share kept", kept),
        "chi2": ("How far the filter moves the cell masses", "share kept", "χ² of what is kept", moved),
    }
    return [
        Curves.from_json(
            {"name": name, "title": title, "x": x, "y": y, "series": series, "log": "", "points": False}
        )
        for name, (title, x, y, series) in axes.items()
    ]


def _line(
    law: FilterLaw, angle: AngleFilter, pool: Tensor, mixed: Tensor, name: str | None = None
) -> list[Any]:
    keeps = angle.kept(pool)
    chi2, between = law.chi2(angle), _difference(mixed[keeps], mixed[~keeps])
    return [
        name or angle.topk,
        None if name else angle.threshold,
        law.acceptance(angle),
        None if chi2 is None else f"{chi2[0]:.3f} ± {chi2[1]:.3f}",
        _share(mixed[keeps]),
        _share(mixed[~keeps]),
        None if between is None else between.estimate,
        None if between is None else f"[{between.lo:+.3f}, {between.hi:+.3f}]",
    ]


def _share(mask: Tensor) -> float | None:
    return float(mask.double().mean()) if len(mask) else None


def _difference(kept: Tensor, rejected: Tensor) -> Interval | None:
    """Difference of two shares, by Newcombe's limits from Wilson's; None where a set has fewer than two."""
    if min(len(kept), len(rejected)) < 2:
        return None
    first, second = (_wilson(mask) for mask in (kept, rejected))
    middle = first.estimate - second.estimate
    below = math.hypot(first.estimate - first.lo, second.hi - second.estimate)
    above = math.hypot(first.hi - first.estimate, second.estimate - second.lo)
    return Interval(middle - below, middle + above, middle)


def _wilson(mask: Tensor) -> Interval:
    found = stats.binomtest(int(mask.sum()), len(mask)).proportion_ci(method="wilson")
    return Interval(float(found.low), float(found.high), float(mask.double().mean()))
