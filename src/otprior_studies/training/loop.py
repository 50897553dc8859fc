r"""Training a denoiser, resumable bit for bit.

A step draws B images, their noise ε ~ N(0, I) and timesteps t, uniform on 0..T−1, and moves the weights against the
gradient of the mean squared error of the network's answer to x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε. The target is

    ε (epsilon),    √ᾱ_t ε − √(1 − ᾱ_t) x_0 (v_prediction),    x_0 (sample).

A plan may weight timesteps ("min-snr"), and a training may begin with the weights of another network.

The draws of a step depend on the seed and the step's number alone: the order of the images on (seed, epoch), all else
on (seed, step). So the state is weights, moving average, the optimiser's moments and the step's number. A run that was
killed at any time gives the same weights, bit for bit, as one that was not (on the same machine, with as many threads).

The loop is written by hand rather than with accelerate: accelerate keeps the states of global random generators and of
data loaders, which this resume does without.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.transport.checkpoint import load_checkpoint, save_checkpoint
from otprior.utils.arrays import fingerprint
from otprior.utils.random import stream_generator
from otprior.utils.validation import require
from otprior_studies.training.export import save_network
from otprior_studies.training.network import NetworkPlan, build_network

logger = logging.getLogger(__name__)

STATE_FILE = "state.safetensors"
# The reported loss is an average over about so many steps.
REMEMBERED = 100
LARGEST_GRADIENT = 1.0
MOST_SNR = 5.0
SAVED_EVERY_SECONDS = 120.0


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a training.

    Attributes:
        step: Steps done.
        steps: Number of all steps.
        loss: Mean squared error, averaged over about the last hundred.
    """

    step: int
    steps: int
    loss: float


def checkpoint_path(folder: str | Path, percent: int) -> Path:
    """The folder to which `train_network` writes the network after `percent` of the training."""
    return Path(folder) / f"{percent}-percent"


def train_network(
    images: ImageSet,
    scheduler: Any,
    plan: NetworkPlan,
    folder: str | Path,
    *,
    begin: torch.nn.Module | None = None,
    until: int | None = None,
    listen: Callable[[TrainingProgress], None] = lambda at: None,
) -> list[Path]:
    """Trains a network, or continues where an earlier call stopped.

    Arguments:
        images: In [-1, 1]; labelled 0 … classes − 1 for a plan with classes.
        scheduler: A `DDPMScheduler`: the forward process and what is predicted; see `training_scheduler`.
        plan: Network and training.
        folder: Receives `state.safetensors`, the state of the training, and a pipeline folder of the averaged weights
            for each of the plan's checkpoints (`checkpoint_path`).
        begin: A network of the plan's kind whose weights are those of the first step; by default they are random.
        until: The step at which this call stops; by default the last.
        listen: Called after each step.

    Returns:
        The folders of the checkpoints that have been reached.

    Raises:
        ValueError: If images, plan and `begin` do not fit, the folder holds another training, or the loss is not
            finite.
    """
    folder = Path(folder)
    if plan.classes is not None:
        require(images.labels is not None, f"images {images.name}", "labelled", "without labels")
        assert images.labels is not None
        low, high = int(images.labels.min()), int(images.labels.max())
        fits = low >= 0 and high < plan.classes
        require(fits, "labels", f"in [0, {plan.classes - 1}]", f"[{low}, {high}]")
    training = _Training(images, scheduler, plan, begin)
    if (folder / STATE_FILE).exists():
        training.load(folder / STATE_FILE)
    facts = _facts(images, scheduler, plan)
    ends = {plan.step_of(percent): percent for percent in plan.checkpoints}
    last = plan.steps if until is None else min(until, plan.steps)
    saved = time.monotonic()
    while training.step < last:
        training.advance()
        listen(TrainingProgress(training.step, plan.steps, training.loss))
        percent = ends.get(training.step)
        if percent is not None:
            path = checkpoint_path(folder, percent)
            with training.averaged():
                reached = facts | {"steps_done": training.step, "loss": training.loss}
                # (A run killed here repeats this step.)
                save_network(training.network, scheduler, path, reached, plan.null_label, overwrite=True)
        if percent is not None or training.step == last or time.monotonic() - saved > SAVED_EVERY_SECONDS:
            training.save(folder / STATE_FILE)
            saved = time.monotonic()
    paths = [checkpoint_path(folder, percent) for percent in plan.checkpoints]
    return [path for path in paths if path.is_dir()]


def _facts(images: ImageSet, scheduler: Any, plan: NetworkPlan) -> dict[str, Any]:
    return {
        "images": len(images),
        "images_name": images.name,
        "images_sha256": images.sha256,
        "images_source": None if images.source is None else Path(images.source).name,
        "images_license": images.license,
        "class_names": images.class_names,
        "prediction": scheduler.config.prediction_type,
        "plan": asdict(plan),
        "torch": torch.__version__,
    }


class _Training:
    """Network, moving average and optimiser after some number of steps."""

    def __init__(
        self, images: ImageSet, scheduler: Any, plan: NetworkPlan, begin: torch.nn.Module | None
    ) -> None:
        from diffusers.training_utils import EMAModel

        channels, height, width = images.images.shape[1:]
        self.images, self.scheduler, self.plan = images, scheduler, plan
        self.network = build_network(plan, (int(channels), int(height), int(width))).train()
        self.parameters = dict(self.network.named_parameters())
        if begin is not None:
            shapes = {key: tuple(value.shape) for key, value in self.network.state_dict().items()}
            given = {key: tuple(value.shape) for key, value in begin.state_dict().items()}
            other = sorted(key for key in shapes | given if shapes.get(key) != given.get(key))
            require(not other, "begin", "a network of the plan's kind", f"another {', '.join(other[:3])}")
            self.network.load_state_dict(begin.state_dict())
        self.average = EMAModel(self.parameters.values(), decay=plan.decay)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=plan.rate)
        self.step, self.loss = 0, math.nan
        labels = torch.zeros(0) if images.labels is None else images.labels
        # (Only the parts of the scheduler that a step uses: the rest of its config differs between processes.)
        process, prediction = scheduler.alphas_cumprod, scheduler.config.prediction_type
        first = [] if begin is None else [value.detach() for value in self.parameters.values()]
        self.problem = fingerprint("training", images.images, labels, repr(plan), process, prediction, *first)
        # What the squared error in the prediction counts at each timestep; (T,).
        self.weights = torch.ones_like(process)
        if plan.weighting == "min-snr":
            snr = process / (1 - process)
            self.weights = snr.clamp(max=MOST_SNR) / {"epsilon": snr, "v_prediction": snr + 1}.get(
                prediction, 1
            )

    def advance(self) -> None:
        """Makes one step."""
        plan = self.plan
        rows = batch_rows(plan.seed, self.step, plan.batch_size, len(self.images))
        clean = self.images.images[rows]
        generator = stream_generator(plan.seed, "training", self.step)
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(len(self.scheduler.betas), (len(clean),), generator=generator)
        dropped = torch.rand(len(clean), generator=generator) < plan.label_drop
        labelled = {}
        if plan.classes is not None:
            assert self.images.labels is not None
            labelled["class_labels"] = torch.where(dropped, plan.classes, self.images.labels[rows])
        noisy = self.scheduler.add_noise(clean, noise, times)
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.precision == "bfloat16"):
            answer = self.network(noisy, times, **labelled, return_dict=False)[0]
        errors = (answer.float() - self._wanted(clean, noise, times)).square().flatten(1).mean(dim=1)
        loss = (self.weights[times] * errors).mean()
        value = float(loss.detach())
        hint = f"This was step {self.step}; lower the rate"
        require(math.isfinite(value), "the loss", "a number", value, hint)
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.average.step(self.parameters.values())
        self.step += 1
        weight = 1 / min(self.step, REMEMBERED)
        self.loss = value if self.step == 1 else (1 - weight) * self.loss + weight * value

    def _wanted(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        match self.scheduler.config.prediction_type:
            case "epsilon":
                return noise
            case "v_prediction":
                return self.scheduler.get_velocity(clean, noise, times)
            case _:
                return clean

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the network has its averaged weights."""
        self.average.store(self.parameters.values())
        self.average.copy_to(self.parameters.values())
        try:
            yield
        finally:
            self.average.restore(self.parameters.values())

    def save(self, path: Path) -> None:
        """Writes the state of the training."""
        tensors: dict[str, Tensor] = {}
        for (name, weight), mean in zip(self.parameters.items(), self.average.shadow_params, strict=True):
            moments = self.optimizer.state[weight]
            tensors |= {
                f"weight.{name}": weight,
                f"average.{name}": mean,
                f"first.{name}": moments["exp_avg"],
                f"second.{name}": moments["exp_avg_sq"],
            }
        save_checkpoint(path, self.problem, tensors, {"step": self.step, "loss": self.loss})

    def load(self, path: Path) -> None:
        """Reads a state that `save` wrote."""
        tensors, numbers = load_checkpoint(path, self.problem, "images, schedule and plan")
        self.step, self.loss = int(numbers["step"]), float(numbers["loss"])
        logger.info("going on from step %d of %s", self.step, path)
        with torch.no_grad():
            for (name, weight), mean in zip(self.parameters.items(), self.average.shadow_params, strict=True):
                weight.copy_(tensors[f"weight.{name}"])
                mean.copy_(tensors[f"average.{name}"])
                self.optimizer.state[weight] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"first.{name}"],
                    "exp_avg_sq": tensors[f"second.{name}"],
                }
        self.average.optimization_step = self.step


def batch_rows(seed: int, step: int, size: int, count: int) -> Tensor:
    """Indices of the images of a step: the next `size` of a sequence of permutations, one for each epoch."""
    places = range(step * size, (step + 1) * size)
    return torch.stack([_order(seed, place // count, count)[place % count] for place in places])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=stream_generator(seed, "order", epoch))
