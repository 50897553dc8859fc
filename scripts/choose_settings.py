"""Chooses t*, noise, grid and scheduler of the bundled settings, on the validation images alone.

Every candidate gets the same seeds (which no report uses) and is measured against the 2,000 validation images. The
coupled start with the lowest FID is chosen among those whose copy rate exceeds that of the validation images by at most
`--copy-margin`, at 95 %; the headline is judged by the same rule. For white noise at T the lowest FID is chosen. The
chosen settings go to `settings.json` in the bundled network's folder, all candidates with their figures to
`results/settings/`.

    python scripts/choose_settings.py --samples 2000 --workers 2
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from scipy import stats

from otprior.data import bundled
from otprior.diffusion.grids import SPACINGS
from otprior.experiments.chosen import SHORT_NAMES, short_name
from otprior.experiments.comparison import Comparison
from otprior.experiments.run import run_comparison
from otprior.experiments.study import StageProgress
from otprior.sampling.start_spec import OWN_GRID, StartSpec
from otprior.utils.files import write_json

# Far from the seeds of any report.
FIRST_SEED = 1_000_000_000
GRIDS = tuple(OWN_GRID + name for name in SPACINGS)
STOCK = ("trailing", "karras", "exponential", "beta", "lu")
DPM, UNIPC, DEIS = SHORT_NAMES
# (t*, correlation) of the coupled start, by scheduler; grid and smoothing are screened at the best of them.
COUPLED_5 = {
    DPM: [(450, 0.5), (500, 0.6), (500, 0.7), (525, 0.8), (550, 0.85), (550, 1.0), (575, 1.0), (600, 1.0)],
    UNIPC: [(500, 0.7), (525, 0.8), (550, 0.85), (575, 1.0)],
}
COUPLED_3 = {
    DPM: [(450, 0.6), (500, 0.7), (500, 0.8), (550, 1.0), (600, 1.0)],
    UNIPC: [(500, 0.6), (525, 0.7), (550, 0.85), (575, 1.0)],
}


def white(steps: int, scheduler: str, spacing: str) -> StartSpec:
    label = f"N(0, I) at T, {short_name(scheduler)}, {steps}"
    return StartSpec("none", 999, steps, scheduler, spacing, label=label)


def coupled(steps: int, timestep: int, correlation: float, **details: Any) -> StartSpec:
    start = StartSpec("semidiscrete", timestep, steps, **details)
    return relabelled(start.with_options(correlation=correlation))


def relabelled(row: StartSpec, **changes: Any) -> StartSpec:
    """A coupled start with changes, and a label that names them."""
    row = replace(row, **changes)
    kept = "" if row.correlation == 1 else f", ρ = {row.correlation:g}"
    smoothed = "" if row.smoothing == 0 else f", ε = {row.smoothing:g} τ"
    start = f"coupled, t* = {row.start_timestep}{kept}{smoothed}"
    return replace(row, label=f"{start}, {short_name(row.scheduler)}, {row.steps}")


class Chooser:
    """Runs candidates and keeps their figures."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.figures: dict[str, dict[str, Any]] = {}

    def run(self, name: str, rows: list[StartSpec], samples: int) -> None:
        study = Comparison(
            name,
            tuple(rows),
            samples,
            first_seed=FIRST_SEED,
            split="validation",
            real_split="validation",
            precision=self.args.precision,
            block=250,
        )
        result = run_comparison(
            study, self.args.work / f"{name}-{samples}", workers=self.args.workers, listen=show
        )
        self.copy_rate = result.report.reference.measured("copy_rate")
        for row, measured in zip(rows, result.report.rows):
            figures = measured.to_json()
            self.figures[row.key] = {"row": asdict(row), "samples": samples, **figures}
            print(
                f"{row.label:45s} {row.spacing:14s} FID {figures['fid']:6.2f}  copy {figures['copy_rate']:.4f}",
                flush=True,
            )
        write_json(self.args.results / "candidates.json", list(self.figures.values()))

    def _copies_more(self, row: StartSpec) -> float:
        """Upper 95 % limit of the start's copy rate minus that of the validation images."""
        figures, real = self.figures[row.key], self.copy_rate
        rate, images = figures["copy_rate"], len(bundled.split("validation"))
        error = (rate * (1 - rate) / figures["samples"] + real * (1 - real) / images) ** 0.5
        return rate - real + stats.norm.ppf(0.95) * error

    def best(self, rows: list[StartSpec], count: int = 1) -> list[StartSpec]:
        """The `count` lowest FIDs among the starts that copy little enough."""
        fit = [row for row in rows if self._copies_more(row) <= self.args.copy_margin]
        return sorted(fit, key=lambda row: self.figures[row.key]["fid"])[:count]


def show(at: StageProgress) -> None:
    if at.done == at.total:
        print(f"  {at.stage}: {at.total:g} done", flush=True)


def spacings(scheduler: str, steps: int) -> tuple[str, ...]:
    """Every stock spacing of the class and our own grids; "exponential" and "beta" only at 20 steps and more."""
    stock = [name for name in STOCK if name != "lu" or scheduler == DPM]
    if steps < 20:
        stock = [name for name in stock if name not in ("exponential", "beta")]
    return (*stock, *GRIDS)


def choose_white(chooser: Chooser, steps: int) -> dict[str, StartSpec]:
    """The best spacing of each scheduler at 5 steps, the best of all at more."""
    by_scheduler = {
        scheduler: [white(steps, scheduler, spacing) for spacing in spacings(scheduler, steps)]
        for scheduler in SHORT_NAMES
    }
    everything = [row for rows in by_scheduler.values() for row in rows]
    chooser.run("white", everything, chooser.args.screen)
    if steps == 5:
        names = {DPM: "dpm", UNIPC: "unipc", DEIS: "deis"}
        return {f"none_5_{names[name]}": chooser.best(rows)[0] for name, rows in by_scheduler.items()}
    finalists = chooser.best(everything, 2)
    chooser.run("white", finalists, chooser.args.samples // 2)
    return {f"none_{steps}": chooser.best(finalists)[0]}


def choose_coupled(
    chooser: Chooser, steps: int, starts: dict[str, list[tuple[int, float]]]
) -> dict[str, StartSpec]:
    rows = [coupled(steps, t, rho, scheduler=name) for name, pairs in starts.items() for t, rho in pairs]
    chooser.run("coupled", rows, chooser.args.samples)
    best = chooser.best(rows)[0]
    near = [replace(best, spacing=OWN_GRID + "karras")]
    # Smoothing copies less, which leaves room for a start nearer to the data.
    near += [
        relabelled(best.with_options(smoothing=0.15), start_timestep=best.start_timestep - earlier)
        for earlier in (0, 25, 50)
    ]
    chooser.run("coupled", near, chooser.args.samples)
    return {f"coupled_{steps}": chooser.best([best, *near])[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--samples", type=int, default=2000, help="images of a coupled candidate or a finalist"
    )
    parser.add_argument("--screen", type=int, default=300, help="images of a white-noise candidate")
    parser.add_argument(
        "--copy-margin",
        type=float,
        default=0.01,
        help="largest excess of the copy rate (upper 95 %% limit) over that of the validation images",
    )
    parser.add_argument(
        "--precision", default="bfloat16", choices=("float32", "bfloat16"), help="precision of the network"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--work", type=Path, default=Path("settings-work"), help="finished work; an interrupted run continues"
    )
    parser.add_argument("--results", type=Path, default=Path("results/settings"))
    args = parser.parse_args()
    chooser = Chooser(args)
    rows = {
        **choose_coupled(chooser, 5, COUPLED_5),
        **choose_coupled(chooser, 3, COUPLED_3),
        **choose_white(chooser, 20),
        **choose_white(chooser, 10),
        **choose_white(chooser, 5),
    }
    settings = {
        "format_version": 1,
        "chosen_on": "validation",
        "command": f"python scripts/choose_settings.py --samples {args.samples} --screen {args.screen} "
        f"--copy-margin {args.copy_margin:g} --precision {args.precision}",
        "rows": {name: asdict(row) for name, row in rows.items()},
    }
    write_json(bundled.ROOT / "settings.json", settings)
    print(json.dumps(settings, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
