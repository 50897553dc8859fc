"""1,281,167 atoms of 256 dimensions: draws a second, memory, and χ² after so many minutes.

The atoms are features as an encoder gives them: drawn once, into a file from which they are mapped. They fall into
1,000 clusters, their spread decays along the axes, and their norms differ. The solve keeps its state: killed and
started again with the same command it goes on; time is counted over all runs.

    python benchmarks/million.py --minutes 60 --out million
    python benchmarks/million.py --atoms 20000 --minutes 1 --out rehearsal
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from otprior import solve_semidiscrete
from otprior.transport.solution import Progress, Solution
from otprior.utils.files import output_file, write_json

IMAGENET = 1_281_167
CLUSTERS = 1000
ROWS_PER_BLOCK = 1 << 16
# bfloat16 products of one modern accelerator, dense, and the share of them that large products reach.
ACCELERATOR_FLOPS, ACCELERATOR_SHARE = 9.9e14, 0.6


class TimeIsUpError(Exception):
    """Raised out of the solve, whose state is then kept."""


def draw_atoms(path: Path, count: int, dim: int) -> None:
    """Writes float32 (count, dim) as .npy, block by block."""
    generator = torch.Generator().manual_seed(0)
    spread = (1 + torch.arange(dim)) ** -0.5
    spread *= (dim / (spread**2).sum()).sqrt()
    centres = torch.randn(CLUSTERS, dim, generator=generator) * spread
    with output_file(path) as temporary:
        mapped = np.lib.format.open_memmap(temporary, "w+", np.float32, (count, dim))
        for first in range(0, count, ROWS_PER_BLOCK):
            rows = min(ROWS_PER_BLOCK, count - first)
            own = torch.randn(rows, dim, generator=generator) * spread
            centre = centres[torch.randint(CLUSTERS, (rows,), generator=generator)]
            length = torch.exp(0.2 * torch.randn(rows, 1, generator=generator))
            mapped[first : first + rows] = (length * (0.7 * centre + 0.7 * own)).numpy()
        mapped.flush()


def solve(args: argparse.Namespace, atoms: torch.Tensor) -> dict[str, Any]:
    """Runs until the time is up, then measures what there is."""
    state = args.out / f"state-{len(atoms)}x{atoms.shape[1]}-{args.tol:g}.safetensors"
    seen = {"draws": 0, "began": None, "first": 0}
    started = time.perf_counter()

    def watch(progress: Progress) -> None:
        now = time.perf_counter()
        if seen["began"] is None:
            # What comes before the first step (merging, centring, the start) is not throughput.
            seen["began"], seen["first"] = now, progress.draws
        seen["draws"] = progress.draws
        rate = (progress.draws - seen["first"]) / max(now - seen["began"], 1e-9)
        if now - watch.said > 30:
            chi2 = (
                ""
                if progress.chi2 is None
                else f", χ² {progress.chi2.value:.3g} ± {progress.chi2.standard_error:.2g}"
            )
            print(f"{now - started:6.0f} s: {progress.draws:,} draws, {rate:,.0f} a second{chi2}", flush=True)
            watch.said = now
        if now - started > 60 * args.minutes:
            raise TimeIsUpError

    watch.said = 0.0
    options: dict[str, Any] = {
        "tol": args.tol,
        "checkpoint": state,
        "throw": False,
        "precision": args.precision,
    }
    try:
        solution = solve_semidiscrete(atoms, progress=watch, **options)
    except TimeIsUpError:
        solution = None
    solving = time.perf_counter() - started
    # (Nothing, if an earlier run had arrived already.)
    rate = (seen["draws"] - seen["first"]) / (time.perf_counter() - seen["began"])
    if solution is None:
        # No draws are left, so all that this does is to measure.
        solution = solve_semidiscrete(atoms, max_draws=max(seen["draws"], 1), **options)
    return figures(atoms, solution, solving, rate)


def figures(atoms: torch.Tensor, solution: Solution, solving: float, rate: float) -> dict[str, Any]:
    """What is written: of this run (`solving` seconds at `rate` draws a second) and of the solve."""
    count, dim = atoms.shape
    draws = solution.stats["draws"]
    # χ² falls like 1/draws once it is small: what is left to do, at the rate seen here.
    hours = 1.9 * count / 0.05 / 3600
    flops = 2.0 * count * dim
    return {
        "atoms": count,
        "dim": dim,
        "threads": torch.get_num_threads(),
        "precision": solution.stats["precision"],
        "machine": platform.processor() or platform.machine(),
        "seconds_of_this_run": solving,
        "seconds_of_all_runs": solution.stats["seconds"],
        "draws": draws,
        "draws_per_second": rate,
        "chi2": solution.chi2.value,
        "chi2_standard_error": solution.chi2.standard_error,
        "chi2_draws": solution.chi2.draws,
        "efficiency": count / draws / solution.chi2.value,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (1 << (20 if sys.platform != "darwin" else 30)),
        "projected_hours_to_0.05_here": hours / rate if rate else None,
        # Without mixing, which leaves an accelerator's product the bottleneck, not its memory.
        "projected_hours_to_0.05_on_an_accelerator": hours * flops / (ACCELERATOR_FLOPS * ACCELERATOR_SHARE),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--atoms", type=int, default=IMAGENET)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=60.0, help="of this run; the state is kept")
    parser.add_argument(
        "--tol", type=float, default=0.2, help="of χ²: how precisely it is measured, and where to stop"
    )
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="of torch; by default what it finds")
    parser.add_argument(
        "--out", type=Path, default=Path("million"), help="folder for atoms, state and figures"
    )
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"atoms-{args.atoms}x{args.dim}.npy"
    if not path.exists():
        print(f"drawing {args.atoms:,} atoms of {args.dim} dimensions", flush=True)
        draw_atoms(path, args.atoms, args.dim)
    atoms = torch.from_numpy(np.load(path, mmap_mode="c"))
    result = solve(args, atoms)
    write_json(args.out / "million.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
