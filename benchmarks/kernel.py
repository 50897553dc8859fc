"""How much of the matrix-product peak the solver's kernel reaches: draws, scores, maximum and histogram together.

The peak is what large square products of the same type reach, measured in turn with the kernel. A draw stands for
2 N d floating-point operations, whichever way its scores were computed: independent draws show how well a product is
used, mixed ones (see docs/solver.md) how much is saved on top, which can be more than the peak.

    python benchmarks/kernel.py
    python benchmarks/kernel.py --atoms 60000 --dim 256 --threads 1 --out kernel.csv
    python benchmarks/kernel.py --atoms 1281167 --dim 256 --device cuda
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otprior.transport.cells.search import DRAWS_PER_SET, LaguerreCells, fast_bfloat16
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.measure import DiscreteMeasure
from otprior.utils.files import output_file

SQUARE = 2048
SETS = 8


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Of one call, until the device is done with it."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def product(dtype: torch.dtype, device: torch.device) -> Callable[[], Any]:
    """A large product, the measure of the peak."""
    a, b = (torch.randn(SQUARE, SQUARE).to(device, dtype) for _ in range(2))
    return lambda: a @ b


def block(cells: LaguerreCells, offsets: torch.Tensor) -> Callable[[], Any]:
    """What a step of the solver does before its update."""

    def call() -> torch.Tensor:
        found = cells.find(offsets, "fit", range(SETS))
        return torch.bincount(found.reshape(-1), minlength=len(offsets))

    return call


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--atoms", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=784)
    parser.add_argument("--threads", type=int, help="of torch; by default what it finds")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as CSV, too")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.threads is not None:
        torch.set_num_threads(args.threads)

    atoms = torch.randn(args.atoms, args.dim, generator=torch.Generator().manual_seed(0))
    atoms = atoms.to(args.device)
    measure = DiscreteMeasure.build(atoms)
    offsets = independent_score_start(atoms, measure.weights)
    calls: dict[tuple[str, str], Callable[[], Any]] = {
        ("peak", "float32"): product(torch.float32, args.device)
    }
    calls["independent draws", "float32"] = block(LaguerreCells.build(measure, 0, mixed=False), offsets)
    calls["mixed draws", "float32"] = block(LaguerreCells.build(measure, 0), offsets)
    if fast_bfloat16(atoms.device):
        calls["peak", "bfloat16"] = product(torch.bfloat16, args.device)
        calls["mixed draws", "bfloat16"] = block(LaguerreCells.build(measure, 0, bfloat16=True), offsets)

    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for call in calls.values():
        seconds_of(call, args.device)
    for _ in range(args.repeats):
        for key, call in calls.items():
            seconds[key].append(seconds_of(call, args.device))

    flops = {"peak": 2.0 * SQUARE**3}
    work = 2.0 * args.atoms * args.dim * SETS * DRAWS_PER_SET
    rows = []
    for (what, dtype), times in seconds.items():
        rate = flops.get(what, work) / np.array(times) / 1e9
        share = rate / (flops["peak"] / np.array(seconds["peak", dtype]) / 1e9)
        low, middle, high = np.quantile(share, [0.25, 0.5, 0.75])
        draws = None if what == "peak" else SETS * DRAWS_PER_SET / float(np.median(times))
        row = {
            "what": what,
            "dtype": dtype,
            "gflop_per_second": float(np.median(rate)),
            "draws_per_second": draws,
        }
        rows.append(row | {"share_of_peak": middle, "low": low, "high": high})
    print(
        f"N = {args.atoms:,}, d = {args.dim}, {args.device}, {torch.get_num_threads()} threads, "
        f"{args.repeats} repeats in turn"
    )
    for row in rows:
        drawn = "" if row["draws_per_second"] is None else f"{row['draws_per_second']:10,.0f} draws/s"
        print(
            f"{row['what']:18} {row['dtype']:9} {row['gflop_per_second']:8,.0f} GFLOP/s {drawn:18} "
            f"{row['share_of_peak']:6.0%} of the peak (quartiles {row['low']:.0%} to {row['high']:.0%})"
        )
    if args.out is not None:
        with output_file(args.out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
