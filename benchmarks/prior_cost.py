"""The time of a prior compared with the network whose evaluations it saves.

A start is one pass over the atoms (semidiscrete) or two products with the principal axes (gaussian), done once an
image; an evaluation of the bundled network is done several times. Both are timed here in one process, call by call in
turn, so that whatever else the machine does meets them alike; the ratio is taken of neighbouring calls. Printed are
the median over the repeats and, as the spread, the quartiles.

The potential is solved to a coarse tolerance only. The values in it decide which atom wins, not how much is computed,
but for the few rows in which float32 cannot tell the best atoms apart, and those are as rare under a coarse potential.

    python benchmarks/prior_cost.py
    python benchmarks/prior_cost.py --batch-sizes 64 1 --repeats 40 --threads 1 --out prior-cost.csv
"""

from __future__ import annotations

import argparse
import csv
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otprior import GaussianPrior, MixturePrior, NoiseSchedule, SemiDiscretePrior
from otprior.data import bundled
from otprior.utils.files import output_file

# What the project asks of a prior, as a share of one network evaluation.
LIMIT = 0.10
TIMESTEP = 500


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def fit_priors(atoms: int, tol: float, device: torch.device) -> dict[str, Any]:
    """The priors to be timed, by the name of their row."""
    schedule = NoiseSchedule.from_scheduler(bundled.load_scheduler())
    images = bundled.atoms().select(slice(0, atoms))
    solved = SemiDiscretePrior.fit(images, schedule, TIMESTEP, tol=tol, throw=False)
    priors = {
        "semidiscrete, coupled": solved,
        "semidiscrete, correlation 0.85": solved.with_options(correlation=0.85),
        "semidiscrete, correlation 0.85, smoothing 0.15": solved.with_options(
            correlation=0.85, smoothing=0.15
        ),
        "mixture": MixturePrior.fit(images, schedule, TIMESTEP, tol=tol),
        "gaussian": GaussianPrior.fit(images, schedule, TIMESTEP),
    }
    return {name: prior.to(device) for name, prior in priors.items()}


def calls_of(priors: dict[str, Any], unet: Any, batch: int, device: torch.device) -> dict[str, Callable]:
    """What is timed, by row; the network's evaluation comes first."""
    generator = torch.Generator().manual_seed(0)
    z, fresh = (torch.randn(batch, 1, 28, 28, generator=generator).to(device) for _ in range(2))
    labels = torch.full((batch,), bundled.null_class_label(), device=device)

    def start_of(prior: Any) -> Callable:
        noise = fresh if prior.needs_fresh else None

        def start() -> None:
            prior.start_and_source(z, fresh=noise)  # what the pipeline calls

        return start

    return {
        "network, one evaluation": lambda: unet(z, TIMESTEP, class_labels=labels),
        **{name: start_of(prior) for name, prior in priors.items()},
    }


def measure(
    calls: dict[str, Callable], batch: int, repeats: int, device: torch.device
) -> list[dict[str, Any]]:
    """One row a call: quartiles of its milliseconds, and of its ratio to the network's call before it."""
    names = list(calls)
    network, *starts = names
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in starts:
            # The network before each start, so that every start finds caches as sampling would leave them.
            evaluation = timed(calls[network], device)
            seconds[network].append(evaluation)
            ratios[network].append(1.0)
            seconds[name].append(timed(calls[name], device))
            ratios[name].append(seconds[name][-1] / evaluation)
    rows = []
    for name in names:
        ms = 1e3 * np.quantile(seconds[name], [0.25, 0.5, 0.75])
        ratio = np.quantile(ratios[name], [0.25, 0.5, 0.75])
        row = {"batch": batch, "what": name, "ms": ms[1], "ms_low": ms[0], "ms_high": ms[2]}
        row |= {"ratio": ratio[1], "ratio_low": ratio[0], "ratio_high": ratio[2]}
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'batch':>5}  {'what':36} {'ms':>9} {'quartiles':>19}  {'of a network evaluation':>24}")
    for row in rows:
        quartiles = f"{row['ms_low']:.2f} to {row['ms_high']:.2f}"
        share = f"{row['ratio']:.1%} ({row['ratio_low']:.1%} to {row['ratio_high']:.1%})"
        print(f"{row['batch']:5d}  {row['what']:36} {row['ms']:9.2f} {quartiles:>19}  {share:>24}")


def write_csv(path: Path, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """All rows, each with the circumstances."""
    with output_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *facts])
        writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 1], metavar="B")
    parser.add_argument("--repeats", type=int, default=30, help="timings of each prior at each batch size")
    parser.add_argument("--atoms", type=int, default=10_000, help="of the 10,000 bundled ones")
    parser.add_argument("--tol", type=float, default=1.0, help="χ² of the coarse solve")
    parser.add_argument("--threads", type=int, help="of torch; by default what it finds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as CSV, too")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    priors = fit_priors(args.atoms, args.tol, device)
    unet = bundled.load_pipeline().unet.to(device).eval()
    with torch.inference_mode():
        rows = [
            row
            for batch in args.batch_sizes
            for row in measure(calls_of(priors, unet, batch, device), batch, args.repeats, device)
        ]
    facts = {
        "repeats": args.repeats,
        "atoms": args.atoms,
        "dim": priors["gaussian"].dim,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print_table(rows)
    for row in rows:
        if row["what"] != "network, one evaluation":
            result = "below" if row["ratio"] < LIMIT else "NOT below"
            print(f"batch {row['batch']}, {row['what']}: {row['ratio']:.1%}, {result} {LIMIT:.0%}")
    if args.out is not None:
        write_csv(args.out, rows, facts)


if __name__ == "__main__":
    main()
