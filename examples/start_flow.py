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
without a flow. RUNS/starts.md compares them; runs that were judged before are not judged again.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from train_flow import SIZES, Data, Judge, Run, Size, draw_judged, load_map, logger, sample, train

from otprior import GaussianPrior, MixturePrior
from otprior.diffusion import NoiseSchedule
from otprior.metrics import seed_set_interval
from otprior.utils.random import stream_generator

FORMS = ("noised", "interpolated")
EVALUATIONS = (1, 2, 3, 5)
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
        if name == "semidiscrete":
            end = self.coupling.pair(noise, labels).images
        elif form == "interpolated":
            end = self.priors[name].at(0)(noise, labels)
        elif name == "mixture":
            return self.priors[name].with_options(noise="fresh").at(LAST * (1 - u))(noise, labels, fresh)
        else:
            return self.priors[name].at(LAST * (1 - u))(noise, labels)
        return u * end + (1 - u) * (noise if form == "interpolated" else fresh)


def judge_starts(
    args: argparse.Namespace, size: Size, data: Data, seed: int, network: nn.Module, ends: Ends, judged: Judge
) -> dict[str, dict[str, float]]:
    """The figures of each start, and of none, by its description."""
    noise, labels, null = draw_judged(args, size, data, seed)
    fresh = torch.randn(noise.shape, generator=stream_generator(seed, "fresh"))
    figures = {
        f"none at 0, {steps}": judged(sample(network, noise, labels, null, steps)) for steps in EVALUATIONS
    }
    own = labels if args.by_class else None
    for name in ends.names:
        for form in FORMS:
            for u in args.at:
                start = ends.start(name, form, u, noise, fresh, own)
                for steps in EVALUATIONS:
                    samples = sample(network, start, labels, null, steps, begin=u)
                    figures[f"{name} {form} at {u:g}, {steps}"] = judged(samples)
        figures[f"{name} at 1, 0"] = judged(ends.start(name, "interpolated", 1.0, noise, fresh, own))
    return figures


def summarise(results: dict[str, list[dict[str, dict[str, float]]]], floor: dict[str, float]) -> str:
    """A table a way to pair: of means over seeds, and the distances' differences from no start."""
    lines = [f"Held-out data: {', '.join(f'{name} {value:.4g}' for name, value in floor.items())}.", ""]
    for coupling, runs in results.items():
        lines += [f"Trained on {coupling} pairs, {len(runs)} seeds:", ""]
        lines += [f"| start at u* | {' | '.join(f'distance at {k}' for k in EVALUATIONS)} | copies at 1, 5 |"]
        lines += ["|---|" + "---|" * (len(EVALUATIONS) + 1)]
        for start in dict.fromkeys(key.rpartition(",")[0] for key in runs[0]):
            if start.endswith("at 1"):
                values = (np.mean([run[f"{start}, 0"][name] for run in runs]) for name in floor)
                distance, copies = values
                lines.append(f"| {start}, no evaluation | {distance:.3g} |" + " |" * 3 + f" {copies:.3f} |")
                continue
            cells = [difference(runs, start, steps) for steps in EVALUATIONS]
            copies = [np.mean([run[f"{start}, {steps}"]["copy_rate"] for run in runs]) for steps in (1, 5)]
            lines.append(f"| {start} | {' | '.join(cells)} | {copies[0]:.3f}, {copies[1]:.3f} |")
        lines.append("")
    return "\n".join(
        [*lines, "In brackets: 95 % interval of the difference from no start (Student's t).", ""]
    )


def difference(runs: list[dict[str, dict[str, float]]], start: str, steps: int) -> str:
    """A mean distance, and how far it is from that without a start."""
    values = [run[f"{start}, {steps}"]["distance"] for run in runs]
    text = f"{np.mean(values):.3g}"
    if len(runs) < 2 or start == "none at 0":
        return text
    apart = seed_set_interval([a - run[f"none at 0, {steps}"]["distance"] for a, run in zip(values, runs)])
    return f"{text} ({apart.lo:+.2g} to {apart.hi:+.2g})"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="the folder that was --out of train_flow.py")
    parser.add_argument("--at", nargs="+", type=float, default=[0.25, 0.5, 0.75], help="u*")
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
    args = argparse.Namespace(**kept, out=asked.runs, at=asked.at, workers=0, checkpoint_every=1)
    size = SIZES[args.data, args.size]
    size = size if args.steps is None else replace(size, steps=args.steps)
    data = Data.load(args.data, size)
    ends, judged = Ends(args, data), Judge(args.data, data)
    results: dict[str, list[dict[str, dict[str, float]]]] = {}
    for coupling in asked.couplings:
        for folder in sorted(asked.runs.glob(f"{coupling}-*")):
            if not (folder / "figures.json").exists():
                continue  # not trained to its end
            record = folder / f"starts-{'-'.join(f'{u:g}' for u in asked.at)}.json"
            if not record.exists():
                run = Run(coupling, int(folder.name.rpartition("-")[2]))
                network = train(args, size, data, run, folder)
                figures = judge_starts(args, size, data, run.seed, network, ends, judged)
                written = record.with_suffix(".new")
                written.write_text(json.dumps(figures, indent=1))
                os.replace(written, record)
                logger.info("%s judged", folder.name)
            results.setdefault(coupling, []).append(json.loads(record.read_text()))
    if not results:
        raise SystemExit(f"{asked.runs} holds no finished run on {', '.join(asked.couplings)} pairs")
    summary = summarise(results, judged(data.held_out.images))
    (asked.runs / "starts.md").write_text(summary)
    print(summary)


if __name__ == "__main__":
    main()
