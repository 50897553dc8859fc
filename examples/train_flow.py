r"""Trains flows on three ways to pair noise with data, and compares them at equal budgets.

    # In the plane, three seeds: some minutes a run on one core
    accelerate launch examples/train_flow.py --data plane --out runs/plane
    # 28 x 28, by class, with guidance: twenty minutes a run on one core; `--size full`: some four hours
    accelerate launch examples/train_flow.py --data fashion --size medium --by-class --guidance 1 2 --out runs/fashion
    # End to end in minutes
    python examples/train_flow.py --data fashion --size small --out runs/small

`independent` draws noise and image independently; `minibatch-n` pairs n of each by exact optimal transport (as torchcfm
does); `semidiscrete` gives each noise the image of its cell in the transport to all images. Every run has the same
network, steps, batch, times and seeds. A run that is stopped, or killed, continues from its last checkpoint when the
same command is given again, with the same result. OUT/summary.md compares the runs.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch
from accelerate import Accelerator, PartialState
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from otprior import OTPriorPipeline, SemiDiscreteCoupling
from otprior.data import ImageSet, bundled, to_uint8
from otprior.metrics import Atoms, Reference, copy_mask, evaluate, extract_features, seed_set_interval
from otprior.utils.random import stream_generator

logger = logging.getLogger("train_flow")
COUPLINGS = ("independent", "minibatch-256", "minibatch-2048", "semidiscrete")
STEPS_OF_SAMPLING = (1, 2, 3, 5, 20)
LABEL_DROP = 0.2
FINE = 50  # steps of the path whose straightness is measured


@dataclass(frozen=True)
class Size:
    """How large a run is: training points, steps, batch, width of the network, samples that are judged."""

    points: int
    steps: int
    batch: int
    channels: tuple[int, ...]
    samples: int


SIZES = {
    ("plane", "tiny"): Size(200, 20, 32, (32,), 64),
    ("plane", "small"): Size(1000, 500, 128, (64,), 500),
    ("plane", "medium"): Size(2000, 1000, 256, (128,), 1000),
    ("plane", "full"): Size(4000, 1500, 256, (128,), 1000),
    ("fashion", "tiny"): Size(60, 6, 8, (8, 32), 24),
    ("fashion", "small"): Size(1000, 100, 32, (8, 32), 64),
    ("fashion", "medium"): Size(10_000, 1500, 64, (16, 32, 32), 1000),
    ("fashion", "full"): Size(10_000, 9000, 64, (32, 64, 64), 4000),
}


# Data and pairs ---------------------------------------------------------------------------------------------


def spirals(count: int, seed: int) -> ImageSet:
    """Two spirals with a little noise, standardised; the label says which."""
    draws = stream_generator(seed, "spirals")
    label = torch.arange(count) % 2
    turn = 3 * math.pi * torch.rand(count, generator=draws).sqrt()
    sign = 1.0 - 2.0 * label
    points = torch.stack([turn.cos(), turn.sin()], dim=1) * (sign * turn)[:, None] / 5
    points += 0.08 * torch.randn(count, 2, generator=draws)
    return ImageSet(points, label)


@dataclass(frozen=True)
class Data:
    """What is trained on, and what samples are judged by."""

    train: ImageSet
    held_out: ImageSet
    reference: ImageSet

    @classmethod
    def load(cls, name: str, size: Size) -> Data:
        if name == "plane":
            return cls(spirals(size.points, 0), spirals(size.samples, 1), spirals(size.samples, 2))
        parts = (bundled.atoms(), bundled.split("held_out"), bundled.split("reference"))
        wanted = (size.points, size.samples, size.samples)
        return cls(*(part.sample(min(n, len(part))) for part, n in zip(parts, wanted)))


class BatchPairs(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Independent pairs, or pairs of the best assignment among `plan` noises and images: (noise, images, labels).

    By class, noise is paired among that of its own class, so that it does not depend on the label. Draws are
    numbered as in `SemiDiscreteCoupling.stream`.
    """

    def __init__(self, data: ImageSet, batch: int, plan: int, seed: int, by_class: bool, part: slice) -> None:
        self.data, self.batch, self.seed, self.by_class, self.part = data, batch, seed, by_class, part
        self.plan = max(plan, batch) // batch * batch
        self.paired = plan > 1
        self.step = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        known, pairs, steps = -1, (torch.empty(0),) * 3, self.plan // self.batch
        while True:
            if self.step // steps != known:
                known = self.step // steps
                pairs = self.draw(known)
            first = self.step % steps * self.batch
            self.step += 1
            yield tuple(part[first : first + self.batch][self.part] for part in pairs)  # type: ignore[misc]

    def draw(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs of one plan."""
        draws, count = stream_generator(self.seed, "plans", number), self.plan
        rows = torch.randint(len(self.data), (count,), generator=draws)
        noise = torch.randn(count, *self.data.images.shape[1:], generator=draws)
        images, labels = self.data.images[rows], self.data.labels[rows]
        for label in labels.unique() if self.by_class and self.paired else ():
            own = torch.nonzero(labels == label).reshape(-1)
            images[own] = images[own][best_pairing(noise[own], images[own])]
        if self.paired and not self.by_class:
            best = best_pairing(noise, images)
            images, labels = images[best], labels[best]
        return noise, images, labels


def best_pairing(noise: Tensor, images: Tensor) -> Tensor:
    """The image of each noise in the exact transport between them, by POT's network simplex, as torchcfm uses it."""
    cost = ot.dist(noise.flatten(1).double().numpy(), images.flatten(1).double().numpy())
    return torch.from_numpy(ot.emd([], [], cost, numItermax=10**7).argmax(axis=1))


def load_map(args: argparse.Namespace, data: Data) -> SemiDiscreteCoupling:
    """The coupling of OUT, which is solved for if it is not there."""
    path = args.out / "map.safetensors"
    if not path.exists():
        started = time.process_time()
        # (The labels of an ImageSet are carried along; as an argument of their own they ask for a map each.)
        labels = data.train.labels if args.by_class else None
        fitted = SemiDiscreteCoupling.fit(data.train, labels, value_range=None, tol=args.tol)
        fitted.save(path)
        logger.info("map solved in %.0f s of processor time", time.process_time() - started)
    labels = None if args.by_class else data.train.labels
    return SemiDiscreteCoupling.load(path, replace(data.train, labels=None), labels)


def make_stream(args: argparse.Namespace, size: Size, data: Data, run: Run, accelerator: Accelerator) -> Any:
    """The stream of a run's pairs for this process."""
    rank, ranks = accelerator.process_index, accelerator.num_processes
    if run.coupling != "semidiscrete":
        part = size.batch // ranks
        plan = 1 if run.coupling == "independent" else int(run.coupling.split("-")[1])
        mine = slice(rank * part, (rank + 1) * part)
        return BatchPairs(data.train, size.batch, plan, run.seed, args.by_class, mine)
    with accelerator.main_process_first():
        coupling = load_map(args, data)
    return coupling.stream(size.batch, run.seed, rank=rank, ranks=ranks)


# Network and training ---------------------------------------------------------------------------------------


class PlaneNetwork(nn.Module):
    """v(x, t, label) of points, by a small perceptron."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("pitches", 2 ** torch.arange(6) * math.pi / 2, persistent=False)
        self.labels = nn.Embedding(classes + 1, 16)
        sizes = (2 + 12 + 16, width, width, width)
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        angle = t[:, None] * self.pitches
        return self.layers(torch.cat([x, angle.sin(), angle.cos(), self.labels(labels)], dim=1))


class ImageNetwork(nn.Module):
    """v(x, t, label) of images, by diffusers' network, whose timestep is 1000 for noise."""

    def __init__(self, size: Size, classes: int, pixels: int) -> None:
        super().__init__()
        plain = len(size.channels) - 1
        self.unet = UNet2DModel(
            sample_size=pixels,
            in_channels=1,
            out_channels=1,
            layers_per_block=2 if plain > 1 else 1,
            block_out_channels=size.channels,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            attention_head_dim=32,
            norm_num_groups=math.gcd(16, *size.channels),
            num_class_embeds=classes + 1,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.unet(x, 1000 * (1 - t), class_labels=labels).sample


@dataclass
class Run:
    """One training, and what of it a checkpoint keeps beside weights."""

    coupling: str
    seed: int
    step: int = 0
    losses: tuple[float, ...] = ()
    cost: float = 0.0  # mean of |z − y|² over the pairs so far
    seconds: float = 0.0  # processor time of the steps
    pairing: float = 0.0  # and of finding their pairs

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def build(args: argparse.Namespace, size: Size, data: Data, seed: int) -> nn.Module:
    classes = int(data.train.labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if args.data == "plane":
            return PlaneNetwork(size.channels[0], classes)
        return ImageNetwork(size, classes, data.train.images.shape[-1])


def train(args: argparse.Namespace, size: Size, data: Data, run: Run, folder: Path) -> nn.Module:
    """Trains a run, or what is left of it; returns the network with its averaged weights."""
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    network = build(args, size, data, run.seed)
    null = int(data.train.labels.max()) + 1
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate)
    warm_up = size.steps // 20
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=warm_up, num_training_steps=size.steps)
    ema = EMAModel(network.parameters(), decay=args.ema_decay, use_ema_warmup=True, power=0.75)
    # (A prepared schedule would take a step for each process.)
    network, optimizer = accelerator.prepare(network, optimizer)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(run, ema, rates)
    latest = folder / "checkpoint"
    if latest.exists():
        accelerator.load_state(str(latest))
        logger.info("%s, seed %d: going on from step %d", run.coupling, run.seed, run.step)
    if run.step < size.steps:
        stream = make_stream(args, size, data, run, accelerator)
        stream.step = run.step
        loader = DataLoader(stream, batch_size=None, num_workers=args.workers)
        before = time.process_time()
        for noise, images, labels, *_ in loader:
            found = time.process_time()
            run.pairing += found - before
            step(accelerator, network, optimizer, rates, ema, run, null, args.by_class, noise, images, labels)
            now = time.process_time()
            run.seconds += now - found
            if run.step % args.checkpoint_every == 0 or run.step == size.steps:
                save(accelerator, latest)
                plain = accelerator.unwrap_model(network)
                if accelerator.is_main_process:
                    validate(args, data, ema, plain, null, folder / "validation.png")
            if run.step == size.steps:
                break
            before = time.process_time()
    plain = accelerator.unwrap_model(network)
    ema.copy_to(plain.parameters())
    return plain.eval()


def step(
    accelerator: Accelerator,
    network: nn.Module,
    optimizer: Any,
    rates: Any,
    ema: EMAModel,
    run: Run,
    null: int,
    by_class: bool,
    noise: Tensor,
    images: Tensor,
    labels: Tensor,
) -> None:
    """One step of flow matching."""
    # Of all processes together, so that their number changes nothing.
    draws, ranks = stream_generator(run.seed, "times", run.step), accelerator.num_processes
    uniform = torch.rand(2, len(noise) * ranks, generator=draws).unflatten(1, (ranks, -1))
    t, for_dropping = uniform[:, accelerator.process_index]
    dropped = for_dropping < (LABEL_DROP if by_class else 1.0)
    labels = torch.where(dropped, torch.full_like(labels.cpu(), null), labels.cpu())
    noise, images, t, labels = (part.to(accelerator.device) for part in (noise, images, t, labels))
    wide = t.reshape(-1, *[1] * (noise.ndim - 1))
    with accelerator.autocast():
        answer = network((1 - wide) * noise + wide * images, t, labels)
    loss = (answer.float() - (images - noise)).square().mean()
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    rates.step()
    optimizer.zero_grad()
    ema.step(network.parameters())
    own = torch.stack([loss.detach(), (images - noise).square().sum() / len(noise)])
    mean_loss, cost = accelerator.reduce(own, "mean").tolist()
    run.cost += (cost - run.cost) / (run.step + 1)
    run.losses = (*run.losses, mean_loss)
    run.step += 1


def save(accelerator: Accelerator, latest: Path) -> None:
    """Writes a checkpoint next to the last one, then puts it in its place: a kill leaves one of them."""
    fresh, old = latest.with_name("checkpoint.new"), latest.with_name("checkpoint.old")
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(old, ignore_errors=True)
        if latest.exists():
            latest.rename(old)
        fresh.rename(latest)
        shutil.rmtree(old, ignore_errors=True)


def repair(latest: Path) -> None:
    """Takes the previous checkpoint where a kill came between the two renames of `save`."""
    old = latest.with_name("checkpoint.old")
    if old.exists() and not latest.exists():
        old.rename(latest)


# Sampling and judging ---------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    network: nn.Module,
    start: Tensor,
    labels: Tensor,
    null: int,
    steps: int,
    scale: float = 1.0,
    begin: float = 0.0,
) -> Tensor:
    """Euler's method from t = `begin` to 1; with guidance each step takes two evaluations."""
    x = start
    for k in range(steps):
        t = torch.full((len(x),), begin + (1 - begin) * k / steps)
        x = x + (1 - begin) / steps * velocity(network, x, t, labels, null, scale)
    return x


def velocity(network: nn.Module, x: Tensor, t: Tensor, labels: Tensor, null: int, scale: float) -> Tensor:
    device = next(network.parameters()).device
    none = torch.full_like(labels, null)
    rows = 64 if device.type == "cpu" else 500  # what a processor's cache holds, or fills a GPU
    blocks = zip(*(part.to(device).split(rows) for part in (x, t, labels, none)))
    found = []
    for own, time_of, label, no_class in blocks:
        with_class = network(own, time_of, label)
        if scale != 1.0:
            without = network(own, time_of, no_class)
            with_class = without + scale * (with_class - without)
        found.append(with_class.cpu())
    return torch.cat(found)


def validate(args: Any, data: Data, ema: EMAModel, network: nn.Module, null: int, path: Path) -> None:
    """Draws some images by the averaged weights."""
    if args.data == "plane":
        return
    ema.store(network.parameters())
    ema.copy_to(network.parameters())
    labels = torch.arange(25) % null if args.by_class else torch.full((25,), null)
    noise = torch.randn(25, *data.train.images.shape[1:], generator=stream_generator(0, "validation"))
    images = sample(network.eval(), noise, labels, null, 5)
    ema.restore(network.parameters())
    network.train()
    grid = to_uint8(images)[:, 0].reshape(5, 5, *images.shape[-2:]).transpose(0, 2, 1, 3)
    Image.fromarray(grid.reshape(5 * images.shape[-2], -1)).save(path)


def straightness(network: nn.Module, noise: Tensor, labels: Tensor, null: int) -> tuple[float, float]:
    """∫E|v(x_t) − (x_1 − x_0)|² dt over E|x_1 − x_0|², 0 for straight paths; and E|x_1 − x_0|², the cost."""
    x, square = noise, 0.0
    with torch.no_grad():
        for k in range(FINE):
            v = velocity(network, x, torch.full((len(x),), k / FINE), labels, null, 1.0)
            x, square = x + v / FINE, square + float(v.double().square().sum()) / FINE
    # E|v − (x_1 − x_0)|² = E|v|² − |x_1 − x_0|², since x_1 − x_0 is the mean of v along a path.
    moved = float((x - noise).double().square().sum())
    return (square - moved) / moved, moved / len(noise)


class Judge:
    """The figures of a set of samples: of points by transport to held-out ones, of images by features."""

    def __init__(self, name: str, data: Data) -> None:
        self.data, self.plane = data, name == "plane"
        if self.plane:
            self.atoms = Atoms.build(data.train.images)
            return
        self.extractor = bundled.extractor()
        reference, atoms, held_out = (
            self.features(part.images) for part in (data.reference, data.train, data.held_out)
        )
        self.reference = Reference.build(reference, data.train.images, atoms, data.held_out.images, held_out)

    def features(self, images: Tensor) -> Tensor:
        return extract_features(self.extractor, images)

    def __call__(self, samples: Tensor) -> dict[str, float]:
        if self.plane:
            real = self.data.reference.images.double()
            cost = ot.emd2([], [], ot.dist(samples.double().numpy(), real.numpy()), numItermax=10**7)
            copies = copy_mask(self.atoms.nearest(samples, 2)[0]).double().mean()
            return {"distance": float(cost) ** 0.5, "copy_rate": float(copies)}
        samples = samples.clamp(-1, 1)
        figures = evaluate(
            self.features(samples),
            samples,
            reference=self.reference,
            generator=torch.Generator().manual_seed(0),
        )
        return {"distance": figures["fid"], "copy_rate": figures["copy_rate"]}


def draw_judged(args: argparse.Namespace, size: Size, data: Data, seed: int) -> tuple[Tensor, Tensor, int]:
    """Noise and labels of the samples that are judged, and the label for no class."""
    null = int(data.train.labels.max()) + 1
    draws = stream_generator(seed, "judged")
    noise = torch.randn(size.samples, *data.train.images.shape[1:], generator=draws)
    drawn = data.train.labels[torch.randint(len(data.train), (size.samples,), generator=draws)]
    return noise, drawn if args.by_class else torch.full_like(drawn, null), null


def judge(
    args: argparse.Namespace, size: Size, data: Data, run: Run, network: nn.Module, judged: Judge
) -> dict[str, Any]:
    """All figures of a run."""
    noise, labels, null = draw_judged(args, size, data, run.seed)
    bent, cost = straightness(network, noise[:1000], labels[:1000], null)
    tail = run.losses[-max(1, len(run.losses) // 10) :]
    figures = {
        "loss": float(np.mean(tail)),
        "straightness": bent,
        "cost of the flow": cost,
        "cost of the pairs": run.cost,
        "seconds a step": run.seconds / run.step,
        "seconds a step for pairs": run.pairing / run.step,
    }
    for scale in args.guidance:
        for steps in STEPS_OF_SAMPLING:
            found = judged(sample(network, noise, labels, null, steps, scale))
            guided = "" if scale == 1.0 else f", guidance {scale:g}"
            figures |= {f"{name} at {steps}{guided}": value for name, value in found.items()}
    return figures


def write_figures(figures: dict[str, Any], record: Path) -> None:
    """Writes figures or settings next to the file, then puts them in its place: a kill leaves the old or these."""
    written = record.with_suffix(".new")
    written.write_text(json.dumps(figures, indent=1))
    os.replace(written, record)


def keep(figures: dict[str, float], network: nn.Module, record: Path) -> None:
    """Writes a run's figures, and its network of images as a pipeline's folder; the figures last."""
    if isinstance(network, ImageNetwork):
        unet = copy.deepcopy(network.unet)
        with torch.no_grad():  # For diffusers a flow's network answers z − y.
            for parameter in unet.conv_out.parameters():
                parameter.neg_()
        null = unet.config["num_class_embeds"] - 1
        pipe = OTPriorPipeline(unet, FlowMatchEulerDiscreteScheduler(), null_class_label=null)
        pipe.save_pretrained(record.parent)
    write_figures(figures, record)
    logger.info("%s: %s", record.parent.name, figures)


def summarise(
    args: argparse.Namespace, results: dict[str, list[dict[str, float]]], floor: dict[str, float]
) -> str:
    """A table of means over seeds, and of differences from independent pairs with their 95 % intervals."""
    done = len(next(iter(results.values())))
    lines = [f"# {args.data}, size {args.size}, {done} of {len(args.seeds)} seeds", ""]
    lines += [f"Held-out data: {', '.join(f'{name} {value:.4g}' for name, value in floor.items())}.", ""]
    lines += [f"| | {' | '.join(results)} |", "|---|" + "---|" * len(results)]
    base = results.get("independent", [])
    for name in next(iter(results.values()))[0]:
        cells = []
        for coupling, runs in results.items():
            values = [run[name] for run in runs]
            text = f"{np.mean(values):.4g}"
            if coupling != "independent" and len(base) == len(values) >= 2:
                apart = seed_set_interval([a - b[name] for a, b in zip(values, base)])
                text += f" ({apart.lo:+.3g} to {apart.hi:+.3g})"
            cells.append(text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    note = (
        "In brackets: 95 % interval of the difference from independent pairs of the same seeds (Student's t)."
    )
    return "\n".join([*lines, "", note, ""])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=("plane", "fashion"), default="plane")
    parser.add_argument("--out", type=Path, required=True, help="folder; the same command continues there")
    parser.add_argument("--size", choices=("tiny", "small", "medium", "full"), default="full")
    parser.add_argument("--couplings", nargs="+", default=list(COUPLINGS), help="also minibatch-N of any N")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--by-class", action="store_true", help="train with class labels, a fifth dropped")
    parser.add_argument(
        "--guidance", nargs="+", type=float, default=[1.0], help="scales; other than 1 by class only"
    )
    parser.add_argument("--steps", type=int, help="instead of the size's")
    parser.add_argument("--tol", type=float, default=0.05, help="χ² to which the map is solved")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema-decay", type=float, default=0.9995)
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--checkpoint-every", type=int, default=500)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that find pairs beside the training"
    )
    args = parser.parse_args()
    if any(scale != 1.0 for scale in args.guidance) and not args.by_class:
        parser.error("--guidance other than 1 takes --by-class")
    for name in args.couplings:
        plan = re.fullmatch(r"minibatch-(\d+)", name)
        if name not in ("independent", "semidiscrete") and not (plan and int(plan[1]) > 1):
            parser.error(
                f"--couplings takes independent, semidiscrete and minibatch-N, N from 2 on; got {name!r}"
            )
    for option, least in (("steps", 1), ("checkpoint_every", 1), ("workers", 0)):
        value = getattr(args, option)
        if value is not None and value < least:
            parser.error(f"--{option.replace('_', '-')} is at least {least}; got {value}")
    for option, values in (("couplings", args.couplings), ("seeds", args.seeds)):
        if len(set(values)) < len(values):
            parser.error(f"--{option} names one twice")
    return args


def check_same_command(args: argparse.Namespace) -> None:
    """Keeps the settings of the runs in OUT, and refuses others: their figures would not compare."""
    free = ("out", "couplings", "seeds", "checkpoint_every", "workers")
    own = {name: value for name, value in vars(args).items() if name not in free}
    path = args.out / "settings.json"
    if args.out.exists() and not args.out.is_dir():
        raise SystemExit(f"--out must be a folder; {args.out} is a file")
    try:
        known = json.loads(path.read_text()) if path.exists() else own
    except ValueError as error:
        raise SystemExit(f"{path} is damaged ({error}); choose another --out") from None
    if known != own:
        raise SystemExit(f"{args.out} holds runs of other settings, {known}; choose another --out")
    args.out.mkdir(parents=True, exist_ok=True)
    write_figures(own, path)


def main() -> None:
    args = parse_arguments()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logger.setLevel(logging.INFO)
    size = SIZES[args.data, args.size]
    size = size if args.steps is None else replace(size, steps=args.steps)
    check_same_command(args)
    data = Data.load(args.data, size)
    judged = Judge(args.data, data)
    floor = judged(data.held_out.images)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in args.couplings}
    for seed in args.seeds:
        for name in args.couplings:
            folder = args.out / f"{name}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            repair(folder / "checkpoint")
            record = folder / "figures.json"
            if not record.exists():
                run = Run(name, seed)
                network = train(args, size, data, run, folder)
                if PartialState().is_main_process:
                    keep(judge(args, size, data, run, network, judged), network, record)
                PartialState().wait_for_everyone()
            results[name].append(json.loads(record.read_text()))
        if PartialState().is_main_process:
            summary = summarise(args, results, floor)
            (args.out / "summary.md").write_text(summary)
            print(summary)


if __name__ == "__main__":
    main()
