"""Looking up a seed's atom: exact blocked search against an index (HNSW), time, recall, and what a miss costs.

Atoms are synthetic unless `--fashion` takes the bundled 10,000: a Gaussian mixture, d = 256; offsets are those of the
independent-score model, which have the size and spread of solved ones. Median of `--repeats` calls, one thread by
default.

    python benchmarks/lookup.py --sizes 10000 100000
    python benchmarks/lookup.py --sizes 1281167 --exact-only      # 1.3 GB of atoms
    python benchmarks/lookup.py --fashion
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from approximate_lookup import CellIndex, lookup_quality
from torch import Tensor

from otprior.data import bundled
from otprior.transport.independent_scores import independent_score_start
from otprior.transport.potential import BrenierPotential
from otprior.utils.files import write_json

BATCHES = (1, 64)
CENTRES = 100


def mixture(count: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CENTRES, dim, generator=generator)
    return torch.cat(
        [
            centres[torch.randint(CENTRES, (n,), generator=generator)]
            + 0.5 * torch.randn(n, dim, generator=generator)
            for n in [len(part) for part in torch.arange(count).split(1 << 16)]
        ]
    )


def median_seconds(call: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> float:
    call(inputs[0])
    seconds = []
    for z in inputs:
        started = time.perf_counter()
        call(z)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def measure(name: str, atoms: Tensor, args: argparse.Namespace) -> list[dict[str, object]]:
    atoms = atoms - atoms.mean(dim=0)
    weights = torch.full((len(atoms),), 1 / len(atoms), dtype=torch.float64)
    offsets = independent_score_start(atoms, weights)
    potential = BrenierPotential.build(atoms, offsets)
    generator = torch.Generator().manual_seed(1)
    calls: list[tuple[str, Callable[[Tensor], Tensor], dict[str, object]]] = [("exact", potential.assign, {})]
    if not args.exact_only:
        z = torch.randn(args.draws, atoms.shape[1], generator=generator)
        for effort in args.efforts:
            started = time.perf_counter()
            index = CellIndex(potential, effort=effort, threads=args.threads)
            built = time.perf_counter() - started
            quality = lookup_quality(index, potential, weights, z)
            facts = {
                "build_seconds": built,
                "recall": quality.recall,
                "mean_loss_in_tau": quality.mean_loss,
                "worst_loss_in_tau": quality.worst_loss,
                "chi2": quality.chi2.value,
                "chi2_exact": quality.exact_chi2.value,
                "chi2_error": quality.chi2.standard_error,
            }
            calls.append((f"index, effort {effort}", index.assign, facts))
    rows = []
    for method, call, facts in calls:
        seconds = {}
        for batch in BATCHES:
            inputs = [torch.randn(batch, atoms.shape[1], generator=generator) for _ in range(args.repeats)]
            seconds[f"milliseconds_at_{batch}"] = 1e3 * median_seconds(call, inputs)
        rows.append({"atoms": name, "count": len(atoms), "method": method, **seconds, **facts})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--fashion", action="store_true", help="the bundled images besides")
    parser.add_argument("--efforts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--draws", type=int, default=2000, help="that recall is measured on")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exact-only", action="store_true")
    parser.add_argument("--out", type=Path, help="a JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    if args.fashion:
        rows += measure("fashion", bundled.atoms().images.flatten(1), args)
    for count in args.sizes:
        rows += measure("mixture", mixture(count, args.dim), args)
    if args.out:
        write_json(args.out, {"threads": args.threads, "rows": rows})


if __name__ == "__main__":
    main()
