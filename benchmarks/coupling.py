"""What pairs from a solved map cost: finding the images of a batch, beside a training step of the bundled-size network.

    python benchmarks/coupling.py                                # 60,000 images of 28 x 28
    python benchmarks/coupling.py --atoms 1281167 --no-training  # as many as ImageNet has; 4.5 GiB

Images are the bundled ones, repeated with noise; offsets are random, which changes nothing in the cost. Seconds are of
processor time, the median of three, on one thread; with a worker those of the process that trains.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader

from otprior.data import ImageSet, bundled
from otprior.priors.coupling import SemiDiscreteCoupling
from otprior.priors.coupling.maps import PairMaps


def make_coupling(count: int) -> SemiDiscreteCoupling:
    generator, own = torch.Generator().manual_seed(0), bundled.atoms().images
    images = torch.empty(count, *own.shape[1:])
    for block in images.split(len(own)):
        block.normal_(std=0.1, generator=generator).add_(own[: len(block)])
    offsets = 3 * torch.randn(count, generator=generator, dtype=torch.float64)
    maps = PairMaps(images.flatten(1), offsets, torch.zeros(count, dtype=torch.int64))
    return SemiDiscreteCoupling(ImageSet(images), maps, 0.05)


def seconds(call: Callable[[], object]) -> float:
    """The median processor time of three calls, after one."""
    call()
    found = []
    for _ in range(3):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return statistics.median(found)


def fetching(coupling: SemiDiscreteCoupling, batch: int, step: Callable[[], None]) -> float:
    """The median processor time of this process for a batch that a worker finds, between steps of training."""
    pairs = iter(DataLoader(coupling.stream(batch), batch_size=None, num_workers=1))
    next(pairs)
    found = []
    for _ in range(3):
        step()
        started = time.process_time()
        next(pairs)
        found.append(time.process_time() - started)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--atoms", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--no-training", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    coupling = make_coupling(args.atoms)
    pairs = seconds(lambda: coupling.draw(0, range(args.batch)))
    print(
        f"{args.batch} pairs among {args.atoms:,} images: {pairs:.3f} s, {1e3 * pairs / args.batch:.2f} ms each"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"most memory: {peak:.1f} GiB")
    if args.no_training:
        return
    network = bundled.load_pipeline().unet.train()
    optimizer = torch.optim.AdamW(network.parameters())
    x, labels = torch.randn(args.batch, 1, 28, 28), torch.zeros(args.batch, dtype=torch.int64)

    def step() -> None:
        network(x, torch.full((args.batch,), 500), labels).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    training = seconds(step)
    print(f"a training step of {args.batch}: {training:.2f} s; pairs take {pairs / training:.1%} of it")
    left = fetching(coupling, args.batch, step)
    print(f"with a worker {left:.4f} s of this process, {left / training:.2%}")


if __name__ == "__main__":
    main()
