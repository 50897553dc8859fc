"""Measures the bundled network's full sampler and stores its figures with the network.

The full sampler is the probability flow from N(0, I) at T, in 100 evaluations of DPM-Solver++ 2M, on the demo's seeds.
The script stores the figures of the report and the class of the image of each of the first seeds. The demo compares
these classes with those of a fast start from the same seeds.

    python scripts/full_sampler.py --workers 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

from otprior.cli.progress import progress_bar
from otprior.cli.studies import follow
from otprior.data import bundled
from otprior.experiments.comparison import AGREEMENT_SEEDS, Comparison
from otprior.experiments.run import run_comparison
from otprior.metrics.features import classify
from otprior.sampling.start_spec import StartSpec
from otprior.utils.files import write_json

STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("full-sampler-work"),
        help="finished work; a later run continues from it",
    )
    args = parser.parse_args()
    row = StartSpec("none", 999, STEPS, spacing="trailing", label=f"full sampler, DPM++2M, {STEPS}")
    study = Comparison("full sampler", (row,), args.samples)
    with progress_bar("loading") as bar:
        result = run_comparison(study, args.work, workers=args.workers, listen=follow(bar))
    classes = classify(bundled.extractor(), result.samples(row).images[:AGREEMENT_SEEDS])
    figures = result.report.rows[0].replace(seed_agreement=None).to_json()
    write_json(bundled.ROOT / "full_sampler.json", {"row": figures, "classes": classes.tolist()})


if __name__ == "__main__":
    main()
