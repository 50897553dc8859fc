r"""Starts the flows that train_flow.py trained by priors, and compares them at few evaluations.

    python examples/train_flow.py --data plane --out runs/plane
    python examples/start_flow.py runs/plane

A flow runs from noise at u = 0 to data at u = 1. A start at u* spares it the way to there. Each of three ends y(z), a
Gaussian's, a mixture's, and an image of the map that pairs were drawn from, makes a start in two forms:

- *noised*: u* y + (1 − u*) ε, or Gaussians of that law, with noise ε that does not depend on y. That is the law of a
  flow trained on independent pairs.
- *interpolated*: u* y(z) + (1 − u*) z, with the noise that y was found from. That is the law of a flow trained on the
  pairs (z, y(z)).

Each is tried on both flows, at all u*, with all numbers of evaluations; nothing is chosen. u* = 1 is the end itself,
without a flow. RUNS/starts.md compares them; figures that are known from before, also from a run that was stopped, are
kept in the folder of each flow.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from train_flow import (
    SIZES,
    Data,
    Judge,
    Run,
    Size,
    draw_judged,
    load_map,
    logger,
    sample,
    train,
    write_figures,
)

from otprior import GaussianPrior, MixturePrior
from otprior.diffusion import NoiseSchedule
from otprior.metrics import seed_set_interval
from otprior.utils.random import stream_generator

FORMS = ("noised", "interpolated")
LAST = 1000  # diffusers' timestep of noise: t = 1000 (1 − u)


class Ends:
    """Where noise is sent by each prior, and starts on the way there."""

    names = ("gaussian", "mixture", "semidiscrete")

    def __init__(self, args: argparse.Namespace, data: Data) -> None:
        labels = data.train.labels if args.by_class else None
        images, schedule = replace(data.train, labels=None), NoiseSchedule.flow(LAST)
        self.priors = {
            "gaussian": GaussianPrior.fit(images, schedule, 0.5 * LAST, labels, value_range=None),
            "mixture": MixturePrior.fit(images, schedule, 0.5 * LAST, labels, value_range=None),
        }
        self.coupling = load_map(args, data)

    def start(
        self, name: str, form: str, u: float, noise: Tensor, fresh: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Starts at time u, from noise and, for what is noised anew, further noise; labels by class."""
        if u == 0:
            return noise
        if name == "semidiscrete":
            end = self.coupling.pair(noise, labels).images
        elif form == "interpolated":
            end = self.priors[name].at(0)(noise, labels)
        elif name == "mixture":
            return self.priors[name].with_options(noise="fresh").at(LAST * (1 - u))(noise, labels, fresh)
        else:
            return self.priors[name].at(LAST * (1 - u))(noise, labels)
        return u * end + (1 - u) * (noise if form == "interpolated" else fresh)


def starts(args: argparse.Namespace) -> dict[str, tuple[str, str, float, list[int]]]:
    """All starts by their description: prior, form, u* and the numbers of evaluations from there."""
    found = [("none", "interpolated", 0.0, args.evaluations)]
    for name in Ends.names:
        found += [(name, form, u, args.evaluations) for form in FORMS for u in args.at]
        found.append((name, "interpolated", 1.0, [0]))
    return {
        f"{name} {form} at {u:g}" if 0 < u < 1 else f"{name} at {u:g}": (name, form, u, steps)
        for name, form, u, steps in found
    }


def judge_starts(
    args: argparse.Namespace, size: Size, data: Data, run: Run, ends: Ends, judged: Judge, folder: Path
) -> dict[str, dict[str, float]]:
    """The figures of all starts of a run's flow; those that its folder has from before are not found again."""
    record = folder / "starts.json"
    figures = json.loads(record.read_text()) if record.exists() else {}
    wanted = {
        (start, steps): known
        for start, known in starts(args).items()
        for steps in known[3]
        if f"{start}, {steps}" not in figures
    }
    if not wanted:
        return figures
    network = train(args, size, data, run, folder)
    noise, labels, null = draw_judged(args, size, data, run.seed)
    fresh = torch.randn(noise.shape, generator=stream_generator(run.seed, "fresh"))
    for (start, steps), (name, form, u, _) in wanted.items():
        x = ends.start(name, form, u, noise, fresh, labels if args.by_class else None)
        figures[f"{start}, {steps}"] = judged(sample(network, x, labels, null, steps, begin=u))
        write_figures(figures, record)
    logger.info("%s judged", folder.name)
    return figures


def summarise(
    args: argparse.Namespace, results: dict[str, list[dict[str, dict[str, float]]]], floor: dict[str, float]
) -> str:
    """A table a way to pair: of means over seeds, and the distances' differences from no start."""
    lines = [f"Held-out data: {', '.join(f'{name} {value:.4g}' for name, value in floor.items())}.", ""]
    columns = [f"{figure} at {k}" for figure in ("distance", "copies") for k in args.evaluations]
    for coupling, runs in results.items():
        lines += [f"Trained on {coupling} pairs, {len(runs)} seeds:", ""]
        lines += [f"| start at u* | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        for start, (*_, evaluations) in starts(args).items():
            keys = [f"{start}, {steps}" for steps in evaluations]
            cells = [difference(runs, key) for key in keys]
            copies = [f"{np.mean([run[key]['copy_rate'] for run in runs]):.3f}" for key in keys]
            gap = [""] * (len(args.evaluations) - len(keys))
            lines.append(f"| {start} | {' | '.join([*cells, *gap, *copies, *gap])} |")
        lines.append("")
    note = "In brackets: 95 % interval of the difference from no start (Student's t). At u* = 1 no evaluation follows."
    return "\n".join([*lines, note, ""])


def difference(runs: list[dict[str, dict[str, float]]], key: str) -> str:
    """A mean distance, and how far it is from that of as many evaluations without a start."""
    values = [run[key]["distance"] for run in runs]
    none = f"none at 0, {key.rpartition(' ')[2]}"
    if len(runs) < 2 or key == none or none not in runs[0]:
        return f"{np.mean(values):.3g}"
    apart = seed_set_interval([a - run[none]["distance"] for a, run in zip(values, runs)])
    return f"{np.mean(values):.3g} ({apart.lo:+.2g} to {apart.hi:+.2g})"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="the folder that was --out of train_flow.py")
    parser.add_argument("--at", nargs="+", type=float, default=[0.25, 0.5, 0.75], help="u*")
    parser.add_argument("--evaluations", nargs="+", type=int, default=[1, 2, 3, 5], help="from u* to 1")
    parser.add_argument("--couplings", nargs="+", default=["independent", "semidiscrete"])
    args = parser.parse_args()
    if not all(0 < u < 1 for u in args.at):
        parser.error("--at must be between 0, which is noise, and 1, which is data")
    if not (args.runs / "settings.json").exists():
        parser.error(f"{args.runs} holds no runs of train_flow.py")
    return args


def main() -> None:
    asked = parse_arguments()
    kept = json.loads((asked.runs / "settings.json").read_text())
    args = argparse.Namespace(**kept, **vars(asked), out=asked.runs, workers=0, checkpoint_every=1)
    size = SIZES[args.data, args.size]
    size = size if args.steps is None else replace(size, steps=args.steps)
    data = Data.load(args.data, size)
    ends, judged = Ends(args, data), Judge(args.data, data)
    results: dict[str, list[dict[str, dict[str, float]]]] = {}
    for coupling in args.couplings:
        for folder in sorted(args.runs.glob(f"{coupling}-*")):
            if (folder / "figures.json").exists():  # trained to its end
                run = Run(coupling, int(folder.name.rpartition("-")[2]))
                found = judge_starts(args, size, data, run, ends, judged, folder)
                results.setdefault(coupling, []).append(found)
    if not results:
        raise SystemExit(f"{args.runs} holds no finished run on {', '.join(args.couplings)} pairs")
    summary = summarise(args, results, judged(data.held_out.images))
    (args.runs / "starts.md").write_text(summary)
    print(summary)


if __name__ == "__main__":
    main()
