"""Measures FID and copy rate of the coupled start against χ² of its potential: how accurate must the transport be?

Potentials are taken along one solve of the bundled atoms' problem, beginning with the independent-score potential (no
draws), and χ² of each is measured on fresh draws. Each is the map of a coupled start with the stored settings of 5
evaluations, on the same seeds. Quality is measured against the *validation* images, copying against the atoms, and
both also for the held-out images. The script chooses nothing and uses no reference image.

    python scripts/quality_by_chi2.py --workers 2
    python scripts/quality_by_chi2.py --samples 50 --atoms 1000 --levels 1 0.2 --work rehearsal --out rehearsal
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from otprior import SemiDiscretePrior
from otprior.cli.progress import progress_bar
from otprior.cli.studies import follow
from otprior.experiments.chosen import chosen_starts
from otprior.experiments.comparison import Comparison
from otprior.experiments.inputs import Inputs
from otprior.experiments.run import run_comparison
from otprior.transport.cells.search import LaguerreCells
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.methods.sgd import AveragedSgd
from otprior.transport.stopping import StoppingRule
from otprior.utils.files import output_file, read_json, write_json

LEVELS = (1.0, 0.3, 0.1, 0.05, 0.02, 0.01)
# Averaged gradients leave χ² of about this many N/n after n draws.
DRAWS_PER_ATOM = 1.45
SEED = 0
FIGURES = ("fid", "fid_interval", "copy_rate", "copy_rate_interval", "seed_agreement")


def save_priors(study: Comparison, levels: list[float], work: Path) -> None:
    """Saves a prior for the first potential and one for each level below `work`, where they are missing."""
    folders = [work / name / "priors" / "semidiscrete" for name in names(levels)]
    if all(folder.exists() for folder in folders):
        return
    inputs = Inputs.of(study)
    atoms = inputs.atoms
    measure = DiscreteMeasure.build(atoms.images.flatten(1))
    cells = LaguerreCells.build(measure, SEED)
    rule = StoppingRule(cells, tol=min(levels))
    sgd = AveragedSgd(cells)
    # The prior is fitted without a solve, and its potential is replaced for each level.
    prior = SemiDiscretePrior.fit(atoms, inputs.schedule, tol=1e6, max_draws=1, throw=False)
    state = sgd.init()
    for folder, level in zip(folders, [None, *sorted(levels, reverse=True)]):
        while level is not None and state.step * sgd.draws_per_step < DRAWS_PER_ATOM * len(measure) / level:
            state = sgd.step(state)
        chi2 = rule.chi_squared(state.average)
        prior.potential[measure.index] = state.average
        solve = {
            "chi2": chi2.value,
            "chi2_upper": chi2.upper,
            "chi2_error": chi2.standard_error,
            "draws": state.step * sgd.draws_per_step,
            "outcome": "stopped on the way",
        }
        prior.register_to_config(facts={**prior.facts, **solve})
        print(
            f"{state.step * sgd.draws_per_step:,} draws: χ² {chi2.value:.4f} ± {chi2.standard_error:.4f}",
            flush=True,
        )
        if not folder.exists():
            prior.save_pretrained(folder)


def names(levels: list[float]) -> list[str]:
    """Names of the folders: "start", then the levels from coarse to fine."""
    return ["start", *(f"{level:g}" for level in sorted(levels, reverse=True))]


def plot(points: list[dict[str, Any]], reference: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    chi2 = [point["chi2"] for point in points]
    for axis, name, real in zip(axes, ("fid", "copy_rate"), ("fid_floor", "copy_rate")):
        low, high = zip(*(point[f"{name}_interval"] or [point[name]] * 2 for point in points))
        axis.fill_between(chi2, low, high, alpha=0.2)
        axis.plot(chi2, [point[name] for point in points], "o-", label="coupled, 5 evaluations")
        axis.axhline(reference[real], color="grey", linestyle="--", label="held-out real images")
        axis.set(xscale="log", xlabel="χ² of the cells' masses", ylabel=name.replace("_", " "))
        axis.invert_xaxis()
    axes[0].legend()
    with output_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--atoms", type=int, default=10_000)
    parser.add_argument(
        "--levels", type=float, nargs="+", default=list(LEVELS), help="about these values of χ² are measured"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("quality-by-chi2-work"),
        help="finished work; a later run continues from it",
    )
    parser.add_argument("--out", type=Path, default=Path("results/solver"))
    args = parser.parse_args()
    row = chosen_starts()["coupled_5"]
    study = Comparison("quality by χ²", (row,), args.samples, split="validation", atoms=args.atoms)
    save_priors(study, args.levels, args.work)
    points: list[dict[str, Any]] = []
    for name in names(args.levels):
        folder = args.work / name
        named = replace(study, name=f"χ² {name}")
        with progress_bar("loading") as bar:
            result = run_comparison(named, folder, workers=args.workers, listen=follow(bar))
        facts = read_json(folder / "priors" / "semidiscrete" / "config.json")["facts"]
        figures = {key: getattr(result.report.rows[0], key) for key in FIGURES}
        solve = {key: facts[key] for key in ("chi2", "chi2_error", "draws")}
        points.append(solve | figures)
        reference = result.report.reference.to_json()
    args.out.mkdir(parents=True, exist_ok=True)
    report = {"row": row.to_json(), "study": study.settings(), "reference": reference, "points": points}
    write_json(args.out / "quality_by_chi2.json", report)
    plot(points, reference, args.out / "quality_by_chi2.png")
    for point in points:
        print(f"χ² {point['chi2']:.4f}: FID {point['fid']:.2f}, copy rate {point['copy_rate']:.3f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
