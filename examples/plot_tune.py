r"""
What otprior tune tries
=======================

`otprior tune` looks for the prior, t*, noise, scheduler and spacing with the lowest FID among those that copy
no more than real images do, by a margin. Many starts are tried on few seeds; those that pass go on to more
seeds; then the neighbours of the best are tried.

These are the trials of a search on the bundled network, in five evaluations, kept in `results/tune/`. It took
180,000 network evaluations; `otprior tune bundled bundled --steps 5 --precision bfloat16 --out tuned` makes them
anew in about twenty minutes of one core.

Picture: FID and copying of every trial against t*, hollow marks for those that copy too much, a dashed
line at the limit, and a ring around the one that was chosen.
"""

import json
import sys
from pathlib import Path

from otprior.experiments.search_report import search_curve

results = Path(__file__).resolve().parents[1] / "results/tune"
record = json.loads((results / "trials.json").read_text(encoding="utf-8"))
trials, limit = record["trials"], record["limit"]["rate"] + record["limit"]["margin"]

# %%
# The lowest FID among those that pass on all seeds. On fewer seeds a rate is too uncertain to decide by.

seeds = max(trial["samples"] for trial in trials)
passed = [trial for trial in trials if trial["samples"] == seeds and trial["allowed"]]
chosen = min(passed, key=lambda trial: trial["fid"])
print(f"{len(trials)} trials, {len(passed)} of them passed on {seeds:,} seeds")
print(f"chosen: {chosen['label']}: FID {chosen['fid']:.2f}, copies {chosen['copy_rate']:.2%}")
Path(sys.argv[1] if len(sys.argv) > 1 else "tune.png").write_bytes(search_curve(trials, chosen, limit))
