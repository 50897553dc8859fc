"""Seconds, draws and memory to a given accuracy: `solve_semidiscrete` and its peers on the same atoms, in turn.

    python benchmarks/solver.py --out solver-benchmark
    python benchmarks/solver.py --sets rehearsal --targets 0.2 --shortest 2 --out rehearsal

Accuracy is χ² of the cell masses, on draws that no solver sees; a target is reached when the upper 95 % limit is not
above it. Each run has a process of its own. Peers are run with their defaults, and with the best settings of a search
that is reported; docs/solver.md says what is measured how. Every run is a file in OUT.work, and the same command goes
on where it was cut off.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from harness.atom_sets import SETS
from harness.race import HEADLINE, Race
from harness.results import SetResult, write
from peers import NAMES, Settings

from otprior.utils.files import check_output_dir, read_json, sha256, write_json
from otprior.utils.validation import invalid

DEFAULT_SETS = ("fashion-10k", "mixture", "plane", "line")
PACKAGES = ("torch", "numpy", "POT", "ott-jax", "jax", "jaxlib", "optax")


def claim(work: Path, out: Path, facts: dict[str, Any]) -> None:
    """Makes the work folder, or finds it made under the same conditions.

    Raises:
        ValueError: If runs there were made under others.
        FileExistsError: If there is no work folder, but something else in the way of the results.
    """
    record = work / "conditions.json"
    if not record.is_file():
        check_output_dir(out)
        write_json(record, facts)
        return
    found = read_json(record)
    changed = {
        key: f"{found.get(key)} then, {value} now" for key, value in facts.items() if found.get(key) != value
    }
    if changed:
        hint = "Name another --out, or remove that folder."
        raise invalid(str(work), "a folder of runs made under the present conditions", changed, hint)


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """What makes figures comparable."""
    return {
        "threads": args.threads,
        "dtype": args.dtype,
        "limit_tuned": args.limit_tuned,
        "limit_default": args.limit_default,
        "shortest": args.shortest,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "solver_sha256": solver_digest(),
    }


def installed(package: str) -> str | None:
    """Its version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def solver_digest() -> str:
    """Of the files behind `solve_semidiscrete`: runs of an older solver must not pass for runs of this one."""
    files = {m.__file__ for n, m in sys.modules.items() if n.startswith("otprior.") and m.__file__}
    return hashlib.sha256("".join(sha256(file) for file in sorted(files)).encode()).hexdigest()


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Parses a positive number of that kind."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be positive and finite; got {text}")
        return value

    return parse


def best_settings(results: Path) -> dict[tuple[str, str], Settings]:
    """Of each set and peer in the record of an earlier search: the first to the target, or else the nearest to it."""
    return {
        (name, peer): min(
            trials, key=lambda trial: (trial["seconds"] or math.inf, trial["chi2"] or math.inf)
        )["settings"]
        for name, peers in read_json(results)["tuning"].items()
        for peer, trials in peers.items()
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = parser.add_argument
    count, number = positive(int), positive(float)
    add("--sets", nargs="+", choices=list(SETS), default=list(DEFAULT_SETS), metavar="SET",
        help=f"any of {', '.join(SETS)}; default: {' '.join(DEFAULT_SETS)}")  # fmt: skip
    add("--targets", nargs="+", type=number, default=[0.05, 0.01], metavar="X", help="values of χ² to reach")
    add(
        "--peers",
        nargs="*",
        choices=NAMES,
        default=list(NAMES),
        metavar="PEER",
        help=f"of {', '.join(NAMES)}",
    )
    add("--threads", type=count, default=os.cpu_count(), help="of a run; one run at a time")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--repeats", type=count, default=3,
        help=f"runs of tuned solvers on {HEADLINE}, and with --settings; elsewhere one")  # fmt: skip
    add("--limit-tuned", type=number, default=10.0, metavar="X", help="times ours that a tuned peer may take")
    add("--limit-default", type=number, default=20.0, metavar="X", help="the same for a peer's defaults")
    add("--shortest", type=number, default=10.0, metavar="S", help="seconds that any run of a peer may take")
    add("--source", type=Path, metavar="DIR", help="the four files of Fashion-MNIST, for fashion-60k")
    add("--settings", type=Path, metavar="FILE",
        help="results.json of an earlier search; peers keep the settings that were best in it")  # fmt: skip
    add("--out", type=Path, default=Path("solver-benchmark"), metavar="DIR", help="folder for the results")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    facts = conditions(args)
    work = args.out.with_name(args.out.name + ".work")
    results: list[SetResult] = []
    try:
        known = best_settings(args.settings) if args.settings else {}
        claim(work, args.out, facts)
        for name in args.sets:
            results.append(Race(name, work, args, known).run())
            table = write(args.out, results, facts)
    except (ValueError, FileExistsError, FileNotFoundError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on from {work}", file=sys.stderr)
        sys.exit(130)
    print(f"\n{table}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
