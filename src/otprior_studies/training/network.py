"""The plan of a training: a small UNet2DModel, the number of steps and the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from otprior.utils.validation import check_choice, check_integer, require

MOST_GROUPS = 16
HEAD = 32
WEIGHTINGS = ("uniform", "min-snr")
# Steps over which the rate rises; in a short training, a twentieth of its steps.
WARM_UP = 200


@dataclass(frozen=True)
class NetworkPlan:
    """A network and its training; the defaults are those of the bundled network.

    Attributes:
        channels: Channels of each level; a level has half the resolution of the one before, the last has attention.
        layers: Residual blocks in each level.
        classes: Number of classes; the label of that number, `null_label`, means no class. None for a network without
            class labels.
        label_drop: Share of images whose label is replaced by `null_label`.
        steps: Number of optimiser steps.
        batch_size: Images in a step.
        rate: Highest learning rate; it rises linearly at first, and falls along a cosine to 0.
        decay: Decay of the moving average of the weights; the average is the result.
        weighting: What the squared error of an image counts at its timestep: "uniform", or "min-snr", by which the
            error in x_0 counts min(SNR, 5), SNR = ᾱ_t/(1 − ᾱ_t) (arXiv:2303.09556, γ = 5).
        precision: "float32", or "bfloat16" for autocast of the network.
        seed: Seed of weights, order of images, noise, timesteps and dropped labels.
        checkpoints: Percentages of the steps at which the network is written, ascending; the last is 100.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    layers: int = 2
    classes: int | None = None
    label_drop: float = 0.2
    steps: int = 9000
    batch_size: int = 64
    rate: float = 1e-3
    decay: float = 0.9995
    weighting: str = "uniform"
    precision: str = "float32"
    seed: int = 0
    checkpoints: tuple[int, ...] = (25, 50, 100)

    def __post_init__(self) -> None:
        for name in ("layers", "steps", "batch_size"):
            check_integer(name, getattr(self, name), 1)
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        check_choice("weighting", self.weighting, WEIGHTINGS)
        require(len(self.channels) >= 2, "channels", "of two levels or more", self.channels)
        rule = f"multiples of 8, the last one of {HEAD} for its attention"
        fits = all(each > 0 and each % 8 == 0 for each in self.channels) and self.channels[-1] % HEAD == 0
        require(fits, "channels", rule, self.channels)
        if self.classes is not None:
            check_integer("classes", self.classes, 1)
        require(0 <= self.label_drop < 1, "label_drop", "in [0, 1)", self.label_drop)
        require(self.rate > 0, "rate", "positive", self.rate)
        require(0 <= self.decay < 1, "decay", "in [0, 1)", self.decay)
        ascending = list(self.checkpoints) == sorted({each for each in self.checkpoints if each > 0})
        rule = "percentages, ascending, above 0, the last of them 100"
        require(ascending and self.checkpoints[-1:] == (100,), "checkpoints", rule, self.checkpoints)
        steps = [self.step_of(percent) for percent in self.checkpoints]
        rule = f"at different steps of {self.steps}"
        require(len(set(steps)) == len(steps), "checkpoints", rule, self.checkpoints)

    @property
    def null_label(self) -> int | None:
        """The label for no class."""
        return self.classes

    def step_of(self, percent: int) -> int:
        """The step after which so much of the training is done."""
        return math.ceil(self.steps * percent / 100)

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rise = max(1, min(WARM_UP, self.steps // 20))
        if step < rise:
            return self.rate * (step + 1) / rise
        return 0.5 * self.rate * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))


def build_network(plan: NetworkPlan, shape: tuple[int, int, int]) -> Any:
    """Builds the network, a `UNet2DModel`, with initial weights that depend on the plan's seed alone.

    Arguments:
        plan: The plan.
        shape: (C, H, W) of the images.

    Raises:
        ValueError: If H or W cannot be halved between all levels.
    """
    from diffusers import UNet2DModel

    channels, height, width = shape
    levels = len(plan.channels)
    fits = height % 2 ** (levels - 1) == 0 and width % 2 ** (levels - 1) == 0
    require(fits, "images", f"of a height and width divisible by {2 ** (levels - 1)}", f"{height} x {width}")
    plain = levels - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        return UNet2DModel(
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=plan.layers,
            block_out_channels=plan.channels,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            attention_head_dim=HEAD,
            norm_num_groups=math.gcd(MOST_GROUPS, *plan.channels),
            num_class_embeds=None if plan.classes is None else plan.classes + 1,
        )
