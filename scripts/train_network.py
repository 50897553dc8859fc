"""Trains a small diffusion network on any named schedule, with class labels or without, resumable bit for bit.

    # The bundled network: 60,000 images, about an hour on two cores
    python scripts/training_images.py --out train.npz
    python scripts/train_network.py train.npz --out network --threads 2

    # Another schedule; zero terminal SNR; two classes only, without labels
    python scripts/train_network.py train.npz --schedule scaled-linear --out network-sd
    python scripts/train_network.py train.npz --schedule zero-snr --out network-zero
    python scripts/train_network.py train.npz --classes 0,3 --unconditional --out network-0-3

    # Further from a network that is there (its channels, layers and classes have to be the plan's)
    python scripts/train_network.py train.npz --begin network/100-percent --weighting min-snr --rate 5e-4 --out further

At each of `--checkpoints` percent of the training the averaged weights are written to OUT as a diffusers folder
(OUT/25-percent, …). OUT/state.safetensors lets the same command continue a run that was stopped. The folders serve the
commands of otprior: `otprior fit OUT/100-percent train.npz`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel

from otprior.cli.options import parse_labels
from otprior.data import bundled
from otprior.data.streams import load_images
from otprior_studies.training.loop import TrainingProgress, train_network
from otprior_studies.training.network import WEIGHTINGS, NetworkPlan
from otprior_studies.training.schedules import SCHEDULES, training_scheduler
from otprior_studies.training.splits import select_classes

SHOWN_EVERY_SECONDS = 10.0


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


class ProgressPrinter:
    """Prints a line every few seconds, with the time left."""

    def __init__(self) -> None:
        self.began = self.shown = time.monotonic()
        self.first: int | None = None

    def __call__(self, at: TrainingProgress) -> None:
        now = time.monotonic()
        self.first = at.step - 1 if self.first is None else self.first
        if now - self.shown < SHOWN_EVERY_SECONDS and at.step < at.steps:
            return
        self.shown = now
        pace = (now - self.began) / (at.step - self.first)
        left = pace * (at.steps - at.step) / 60
        print(
            f"step {at.step:,} of {at.steps:,}  loss {at.loss:.4f}  {pace:.3f} s a step  {left:.0f} min left",
            flush=True,
        )


def parse_arguments() -> argparse.Namespace:
    plan = NetworkPlan()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder, .npz, .npy or .safetensors of images, or 'bundled' (10,000)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder; a run that was stopped continues there"
    )
    parser.add_argument(
        "--schedule",
        default="linear",
        help=f"{', '.join(SCHEDULES)} (such as shifted:16, ve:5), or a scheduler_config.json",
    )
    parser.add_argument("--prediction", choices=("epsilon", "v_prediction", "sample"))
    parser.add_argument(
        "--zero-terminal-snr", action="store_true", help="rescale the betas so that no signal is left at T"
    )
    parser.add_argument(
        "--classes", help="train on these labels only, such as 0,3 or 0-4; they become 0, 1, …"
    )
    parser.add_argument("--unconditional", action="store_true", help="train without class labels")
    parser.add_argument(
        "--channels", type=numbers, default=plan.channels, help="channels of each level: 32,64,64"
    )
    parser.add_argument("--layers", type=int, default=plan.layers, help="residual blocks in each level")
    parser.add_argument("--label-drop", type=float, default=plan.label_drop)
    parser.add_argument("--steps", type=int, default=plan.steps)
    parser.add_argument("--batch-size", type=int, default=plan.batch_size)
    parser.add_argument("--rate", type=float, default=plan.rate)
    parser.add_argument(
        "--decay", type=float, default=plan.decay, help="decay of the moving average of the weights"
    )
    parser.add_argument(
        "--weighting", choices=WEIGHTINGS, default=plan.weighting, help="of timesteps in the loss"
    )
    parser.add_argument(
        "--begin", type=Path, help="pipeline folder of the network whose weights to begin with, or 'bundled'"
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=plan.precision)
    parser.add_argument("--checkpoints", type=numbers, default=plan.checkpoints, help="percent: 25,50,100")
    parser.add_argument("--seed", type=int, default=plan.seed)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    scheduler = training_scheduler(args.schedule, args.prediction, True if args.zero_terminal_snr else None)
    images = bundled.atoms() if args.data == "bundled" else load_images(args.data)
    if args.classes is not None:
        images = select_classes(images, parse_labels(args.classes))
    by_class = images.labels is not None and not args.unconditional
    plan = NetworkPlan(
        channels=args.channels,
        layers=args.layers,
        classes=int(images.labels.max()) + 1 if by_class and images.labels is not None else None,
        label_drop=args.label_drop,
        steps=args.steps,
        batch_size=args.batch_size,
        rate=args.rate,
        decay=args.decay,
        weighting=args.weighting,
        precision=args.precision,
        seed=args.seed,
        checkpoints=args.checkpoints,
    )
    torch.set_num_threads(args.threads)
    begin = None
    if args.begin is not None:
        folder = bundled.pipeline_path() if str(args.begin) == "bundled" else args.begin
        begin = UNet2DModel.from_pretrained(folder, subfolder="unet")
    for path in train_network(images, scheduler, plan, args.out, begin=begin, listen=ProgressPrinter()):
        print(path)


if __name__ == "__main__":
    main()
