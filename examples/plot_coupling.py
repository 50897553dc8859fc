r"""
Coupling noise with data for flow matching
==========================================

Paths of three flows in the plane, trained alike on independent pairs, mini-batches and the solved map.

Independent pairs cross, so the flow bends, and one step of Euler's method ends in the middle of the data. Pairs of the
optimal map hardly cross, and one step comes near the data. `train_flow.py` beside this measures it.

Picture: Two rows of three charts over two spirals of points: the paths of each flow, which bend for independent pairs
and are nearly straight for the others; below, where one evaluation ends: in a heap in the middle for independent pairs,
spread over the spirals for the others.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from train_flow import BatchPairs, PlaneNetwork, sample, spirals, velocity

from otprior import SemiDiscreteCoupling
from otprior.utils.random import stream_generator

POINTS, STEPS, BATCH, FINE = 2000, 1200, 256, 40
data = spirals(POINTS, 0)
coupling = SemiDiscreteCoupling.fit(data, value_range=None)
streams = {
    "independent": BatchPairs(data, BATCH, 1, 0, False, slice(None)),
    "mini-batches of 256": BatchPairs(data, BATCH, 256, 0, False, slice(None)),
    "solved map": coupling.stream(BATCH),
}


def train(stream: BatchPairs) -> PlaneNetwork:
    torch.manual_seed(0)
    network = PlaneNetwork(96, 0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step, (noise, points, *_) in zip(range(STEPS), stream):
        t = torch.rand(BATCH, generator=stream_generator(0, "times", step))
        answer = network(
            (1 - t[:, None]) * noise + t[:, None] * points, t, torch.zeros(BATCH, dtype=torch.int64)
        )
        loss = (answer - (points - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return network


def paths(network: PlaneNetwork, noise: Tensor) -> Tensor:
    """Points along the flow, (FINE + 1, B, 2)."""
    x, found, labels = noise, [noise], torch.zeros(len(noise), dtype=torch.int64)
    for k in range(FINE):
        x = x + velocity(network, x, torch.full((len(x),), k / FINE), labels, 0, 1.0) / FINE
        found.append(x)
    return torch.stack(found)


figure, axes = plt.subplots(2, 3, figsize=(11, 7.4), sharex=True, sharey=True, layout="constrained")
noise = torch.randn(400, 2, generator=stream_generator(0, "shown"))
for (upper, lower), (name, stream) in zip(axes.T, streams.items()):
    network = train(stream)
    with torch.no_grad():
        lines = paths(network, noise[:80])
        once = sample(network, noise, torch.zeros(400, dtype=torch.int64), 0, 1)
    for axis in (upper, lower):
        axis.scatter(*data.images.T, s=1, color="0.8")
        axis.set(xticks=[], yticks=[], aspect="equal")
    upper.plot(lines[..., 0], lines[..., 1], color="tab:blue", linewidth=0.7)
    upper.scatter(*lines[0].T, s=6, color="0.4")
    upper.set_title(f"{name}: paths")
    lower.scatter(*once.T, s=4, color="tab:red")
    lower.set_title("in one evaluation")
path = sys.argv[1] if len(sys.argv) > 1 else "coupling.png"
figure.savefig(path, dpi=90)
