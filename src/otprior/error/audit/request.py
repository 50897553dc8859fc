"""The request of an audit, which is checked before any of it is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from otprior.data.images import ImageSet
from otprior.diffusion.grids import MOST_STEPS, timestep_grid
from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.population import LEAST_HELD_OUT
from otprior.error.sampling_cost import Sampler
from otprior.priors import Prior
from otprior.utils.validation import check_integer, require

# More latents, followed at every timestep, would fill memory.
MOST_DRAWS = 1_000_000
# Log-SNRs at which a schedule of continuous time is audited, in addition to its end.
_LOG_SNRS = (2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.5, -6.0, -8.0)


def default_timesteps(schedule: NoiseSchedule) -> list[float]:
    """About ten timesteps from clean to noisy, the last of them T.

    Examples:
        >>> default_timesteps(schedule)[-1]
        999.0
    """
    end = schedule.timestep_range[1]
    if schedule.discrete:
        count = len(schedule.times)
        return [float(t) for t in sorted({round(count * k / 10) for k in range(1, 10)} - {0})] + [end]
    low, high = schedule.log_snr(end), schedule.log_snr(schedule.timestep_range[0])
    return [schedule.timestep(level) for level in _LOG_SNRS if low < level < high] + [end]


@dataclass(frozen=True, eq=False)
class AuditRequest:
    """The request of an audit. Without data only the scheduler is audited.

    Attributes:
        scheduler: The model's own scheduler, a diffusers scheduler.
        name: Name of the model in the report.
        shape: (C, H, W) of a sample, if known.
        unet: The network, for costs in samples; None leaves them out.
        sampler: The scheduler that samples, deterministic and able to start at t*; the model's own if None.
        network_label: Class label that the network is called with, or None if it takes none.
        data: The images whose p_t priors are compared with.
        held_out: Other images of the same population, for the interval of the population.
        priors: Fitted priors by their names in reports. (Identity and gaussian are always audited.)
        timesteps: Timesteps at which errors are computed.
        cost_timesteps: Timesteps at which costs in samples are measured; each one of `timesteps`.
        steps: Number K of steps of the sampler.
        fine_steps: Number of steps of the grid that K steps are compared with; at most one for each timestep below t*.
        draws: Number of draws of p_t that the data's own flow carries to their codes; 0 leaves out that coupling, and
            costs.
        pairs: Number of these draws that run through the sampler.
        conditional: Whether errors are computed for each class as well.
        estimated_bound: Whether the analytic bound is estimated for the network, at the first of `cost_timesteps`.
        level: Probability with which limits hold that do not hold for certain.
        seed: Seed of every draw.

    Raises:
        ValueError: If parts of the request are out of range or do not fit together.

    Examples:
        >>> request = AuditRequest(scheduler=scheduler, name="mine", shape=(1, 28, 28))
        >>> run_audit(request).verdict.grade
        'negligible'
    """

    scheduler: Any
    name: str
    shape: tuple[int, int, int] | None = None
    unet: nn.Module | None = None
    sampler: Any = None
    network_label: int | None = None
    data: ImageSet | None = None
    held_out: ImageSet | None = None
    priors: Mapping[str, Prior] = field(default_factory=dict)
    timesteps: tuple[float, ...] = ()
    cost_timesteps: tuple[float, ...] = ()
    steps: int = 5
    fine_steps: int = 24
    draws: int = 64
    pairs: int = 24
    conditional: bool = False
    estimated_bound: bool = False
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        schedule = NoiseSchedule.from_scheduler(self.scheduler)
        for t in self.timesteps:
            schedule.check_timestep(t, "timesteps")
            require(schedule.sigma(float(t)) > 0, "timesteps", "such that there is noise", t)
        for t in self.cost_timesteps:
            require(t in self.timesteps, "cost_timesteps", "among timesteps", t)
            require(schedule.alpha(float(t)) > 0, "cost_timesteps", "such that there is signal", t)
            timestep_grid(schedule, t, self.steps)
        check_integer("steps", self.steps, 1, MOST_STEPS)
        check_integer("fine_steps", self.fine_steps, self.steps, MOST_STEPS)
        check_integer("draws", self.draws, 0, MOST_DRAWS)
        require(self.draws != 1, "draws", "0, or at least 2: a mean of one has no interval", self.draws)
        check_integer("pairs", self.pairs, 2)
        require(0.5 < self.level < 1, "level", "in (0.5, 1)", self.level)
        if self.unet is not None:
            Sampler(self.unet, self.sampler or self.scheduler, self.network_label)
        if self.estimated_bound:
            self._check_estimated_bound(schedule)
        if self.data is None:
            extra = (self.held_out is not None, bool(self.priors), self.conditional)
            require(not any(extra), "data", "given with held_out, priors or conditional", None)
            return
        shape = tuple(self.data.images.shape[1:])
        require(len(self.data) >= 2, "data", "at least two images", len(self.data))
        require(self.shape is None or shape == self.shape, "data", f"of shape {self.shape}", shape)
        if self.held_out is not None:
            other = tuple(self.held_out.images.shape[1:])
            require(other == shape, "held-out data", f"of shape {shape}, as data", other)
            count = len(self.held_out)
            require(count >= LEAST_HELD_OUT, "held-out data", f"at least {LEAST_HELD_OUT} images", count)
        for prior in self.priors.values():
            self._check_prior(prior, schedule, shape)
        if self.conditional:
            self._check_classes(self.data, self.held_out)

    def _check_estimated_bound(self, schedule: NoiseSchedule) -> None:
        known = self.unet is not None and self.data is not None
        require(known, "estimated_bound", "left out without a network, data and draws", True)
        assert self.unet is not None
        NetworkDenoiser(self.unet, self.scheduler)
        cleanest = schedule.log_snr(schedule.timestep_range[0])
        rule = "left out where the process ends without noise"
        require(math.isfinite(cleanest), "estimated_bound", rule, True)

    def _check_prior(self, prior: Prior, schedule: NoiseSchedule, shape: tuple[int, ...]) -> None:
        require(prior.shape == shape, "prior", f"for latents of shape {shape}, as data", prior.shape)
        same = abs(prior.schedule.log_snr(float(prior.timestep)) - _level(schedule, prior)) < 0.01
        require(same, "prior", "fitted for this model's noise schedule", f"one of {prior.schedule.kind}")
        rule = "fitted without labels, unless the audit is by class"
        known = self.conditional or prior.num_classes is None
        require(known, "prior", rule, f"one of {prior.num_classes} classes")

    def _check_classes(self, data: ImageSet, held_out: ImageSet | None) -> None:
        require(data.labels is not None, "data", "labelled for an audit by class", "no labels")
        assert data.labels is not None
        classes = int(data.labels.max()) + 1
        _check_counts("data", data.labels, classes, 2)
        for prior in self.priors.values():
            mapped = getattr(prior, "classes", None)
            if prior.num_classes is not None and mapped is not None:
                missing = sorted(set(range(classes)) - set(mapped.unique().tolist()))
                rule = "with a map for each of the data's classes"
                require(not missing, "prior", rule, f"none for {missing}")
        if held_out is not None and held_out.labels is not None:
            _check_counts("held-out data", held_out.labels, classes, LEAST_HELD_OUT)


def _check_counts(name: str, labels: Tensor, classes: int, least: int) -> None:
    for label in range(classes):
        count = int((labels == label).sum())
        require(count >= least, name, f"at least {least} images of every class", f"{count} of class {label}")


def _level(schedule: NoiseSchedule, prior: Prior) -> float:
    low, high = schedule.timestep_range
    t = float(prior.timestep)
    return schedule.log_snr(t) if low <= t <= high else float("nan")
