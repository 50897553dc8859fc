"""Compares settings found by `otprior tune` with those chosen by hand, on the same seeds.

The settings of the bundled network were chosen with `choose_settings.py` and some decisions by hand; `otprior tune`
searches automatically. Both use the validation images only. This script measures both on the reference images, with
their copy rates, over sets of seeds that neither has used.

    otprior tune bundled bundled --steps 5 --out tuned
    python scripts/tuned_beside_chosen.py tuned/settings.json --out results/tune/beside-chosen
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from otprior.cli.progress import progress_bar
from otprior.cli.studies import follow, print_report
from otprior.experiments.chosen import chosen_starts
from otprior.experiments.comparison import Comparison
from otprior.experiments.gates import difference_gate
from otprior.experiments.processes import kept_processes
from otprior.experiments.run import run_comparison
from otprior.report import write_report
from otprior.sampling.settings import read_settings, start_of_steps
from otprior.utils.files import output_dir


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", type=Path, help="written by `otprior tune bundled bundled --steps 5`")
    parser.add_argument("--samples", type=int, default=2000, help="images for each set of seeds")
    parser.add_argument("--seed-sets", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("tuned-beside-chosen-work"), help="finished work")
    parser.add_argument("--out", type=Path, default=Path("tuned-beside-chosen"))
    args = parser.parse_args()
    chosen = chosen_starts()["coupled_5"]
    tuned = start_of_steps(read_settings(args.settings), chosen.steps)
    rows = (replace(tuned, label=f"tuned: {tuned.label}"), replace(chosen, label="chosen by hand"))
    if tuned.key == chosen.key:
        sys.exit("the two settings are the same: there is nothing to compare")
    study = Comparison("tuned beside chosen", rows, args.samples, args.seed_sets, precision="bfloat16")
    with output_dir(args.out) as folder:
        with progress_bar("loading") as bar, kept_processes(args.workers):
            result = run_comparison(study, args.work, workers=args.workers, listen=follow(bar))
        statement = "FID of the tuned settings minus FID of the settings chosen by hand"
        gates = [difference_gate(result, *rows, statement)]
        report = result.report.replace(gates=gates, command=["python", *sys.argv])
        write_report(folder, report, result.images)
    print_report(report, args.out)


if __name__ == "__main__":
    main()
