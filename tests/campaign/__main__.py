"""The campaign: what its parts found, one JSON line a case, and a summary.

    make campaign                                    # all of it
    cd tests && python -m campaign inputs --count 500 --seed 1
    cd tests && python -m campaign inputs --only 123 # one case again; its folder is kept

Parts: `inputs` (mutated inputs of every command), `kills` (SIGKILL, SIGINT, SIGTERM at random times and at every file
operation), `writers` (two processes on one output), `disks` (a full disk and a read-only folder). Each begins where an
earlier run with the same folder and seed stopped. Summary: `summary.json` and `summary.txt` in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from campaign import inputs, material, running


def resumed(path: Path, cases: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Appends each case's record to a file of JSON lines."""
    with path.open("a", encoding="utf-8") as file:
        for case in cases:
            record = asdict(case)
            file.write(json.dumps(record) + "\n")
            file.flush()
            yield record


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; a last line that is not whole is dropped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def summarize(folder: Path) -> str:
    """Counts of all parts, and each failure."""
    lines, summary = [], {}
    for path in sorted(folder.glob("*.jsonl")):
        records = read(path)
        faults = [record for record in records if record["fault"]]
        kinds = Counter(record["fault"].split(":")[0] for record in faults)
        summary[path.stem] = {"cases": len(records), "faults": len(faults), "kinds": kinds, "failed": faults}
        lines.append(f"{path.stem}: {len(records):,} cases, {len(faults)} faults {dict(kinds)}")
        if "real" in (records[0] if records else {}):
            codes = Counter(record["code"] for record in records)
            lines.append(f"    exit codes {dict(codes)}, of processes {sum(r['real'] for r in records):,}")
        for record in faults:
            lines.append(f"    {record['number']}: {record['fault']}: {record['done']}")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    (folder / "summary.txt").write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("inputs", "kills", "writers", "disks", "summary"))
    parser.add_argument("--folder", type=Path, default=Path("campaign-results"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--processes", type=float, default=0.02, help="share of cases in processes of their own"
    )
    parser.add_argument("--only", type=int)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if asked.part == "summary":
        print(summarize(folder))
        return
    source = material.build(folder / "material")
    running.warm_up()
    if asked.part != "inputs":
        path = folder / f"{asked.part}-{asked.seed}.jsonl"
        part = import_module(f"campaign.{asked.part}")
        for _ in resumed(path, part.main(source, folder, asked.seed, len(read(path)))):
            pass
        print(summarize(folder))
        return
    if asked.only is not None:
        result = inputs.run_case(source, folder / "only", asked.seed, asked.only, asked.processes)
        print(json.dumps(asdict(result), indent=1))
        print(result.said)
        return
    path = folder / f"inputs-{asked.seed}.jsonl"
    first, end = len(read(path)), time.monotonic() + 60 * asked.minutes
    for _ in resumed(path, inputs.main(source, folder, asked.seed, first, asked.count, asked.processes)):
        if time.monotonic() > end:
            break
    print(summarize(folder))


main()
