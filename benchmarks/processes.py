"""Draws a second of several processes against one, each with one thread.

Runs take turns: one rank; all ranks, under torchrun, with a sum over all of them in each step; and as many solves that
know nothing of each other, which is what the machine's cores, caches and memory allow at best.

    python benchmarks/processes.py
    python benchmarks/processes.py --ranks 4 --atoms 1281167 --seconds 60 --out processes.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from otprior.transport.cells.search import LaguerreCells, fast_bfloat16
from otprior.transport.distributed import Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods.sgd import AveragedSgd
from otprior.utils.files import write_json

# Steps before the clock starts.
WARM_UP = 2


def work(count: int, dim: int, seconds: float) -> None:
    """Prints how many draws a second this process's group takes, in steps of the solver, over at least `seconds`."""
    torch.set_num_threads(1)
    processes = Processes.join()
    atoms = torch.randn(count, dim, generator=torch.Generator().manual_seed(0))
    measure = DiscreteMeasure.build(atoms)
    bfloat16 = fast_bfloat16(atoms.device)
    sgd = AveragedSgd(LaguerreCells.build(measure, 0, bfloat16, processes=processes))
    state = sgd.init()
    started, done = 0.0, -WARM_UP
    while True:
        if done == 0:
            started = time.perf_counter()
        # The first rank's clock counts, so that all do the same number of steps.
        if done > 0 and processes.agree(time.perf_counter() - started) > seconds:
            break
        state = sgd.step(state)
        done += 1
    rate = done * sgd.draws_per_step / (time.perf_counter() - started)
    if processes.first:
        print(json.dumps(rate))
    processes.leave()


def start(arguments: list[str], ranks: int) -> subprocess.Popen[str]:
    """A group of so many ranks."""
    script = [str(Path(__file__).resolve()), "--worker", *arguments]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(launcher if ranks > 1 else []), *script]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def rate_of(process: subprocess.Popen[str]) -> float:
    """What the group said."""
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"error: a run ended with exit code {process.returncode}")
    return float(output.strip().splitlines()[-1])


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--atoms", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON, too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.atoms, args.dim, args.seconds)
        return

    given = [f"--atoms={args.atoms}", f"--dim={args.dim}", f"--seconds={args.seconds}"]
    one, group, apart = [], [], []
    for _ in range(args.repeats):
        one.append(rate_of(start(given, 1)))
        group.append(rate_of(start(given, args.ranks)))
        several = [start(given, 1) for _ in range(args.ranks)]
        apart.append(sum(rate_of(process) for process in several))
    together = [a / b for a, b in zip(group, one)]
    limit = [a / b for a, b in zip(apart, one)]
    result: dict[str, Any] = {
        "ranks": args.ranks,
        "atoms": args.atoms,
        "dim": args.dim,
        "one_rank_draws_per_second": one,
        "ratio": together,
        "ratio_of_separate_solves": limit,
    }
    print(f"N = {args.atoms:,}, d = {args.dim}, one thread a process, {args.repeats} repeats in turn")
    print(f"one rank: {statistics.median(one):,.0f} draws/s")
    for what, ratios in ((f"{args.ranks} ranks", together), (f"{args.ranks} separate solves", limit)):
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{what}: {statistics.median(ratios):.2f} times as many ({spread})")
    if args.out is not None:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
