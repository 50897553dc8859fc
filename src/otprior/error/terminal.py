r"""Where a forward process ends, and what of the data is left there, beside where sampling begins.

A network is trained up to timestep T, at which x_T = α x_0 + σ ε. Sampling begins from s ε, s² = α² + σ². Per unit of
s the signal that sampling leaves out is

    leak = α/√(α² + σ²),

0.0064 for the linear betas of DDPM, 0.068 for Stable Diffusion. Small as it is, it acts on the whole image: a constant
image of value v has the coefficient v √(H W) at frequency zero, where noise has standard deviation 1. At 64 x 64 a
leak of 0.068 moves it by 4.4 v. So a network learns to read the brightness off x_T, and white noise always says
"medium".

Two more facts about the scheduler as it is configured: the timestep at which it really begins (the spacing "leading"
begins below T, at a larger leak), and, given data, how the shift is shared out over mean, spectrum and classes. The
Gaussian channel bounds what x_T can tell of x_0: at most ½ Σ log₂(1 + (α²/σ²) λ_j) bits, λ the data's principal
variances.

References:
    Lin, Liu, Li & Yang, Common diffusion noise schedules and sample steps are flawed (2023),
    https://arxiv.org/abs/2305.08891
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.spectrum import RadialSpectrum, radial_spectrum
from otprior.transport.moments import Spectrum
from otprior.utils.validation import require

# Steps at which the scheduler's own first timestep is looked up.
USUAL_STEPS = 50


@dataclass(frozen=True)
class TerminalAudit:
    """What a schedule leaves at its noisiest timestep.

    Attributes:
        scheduler: The scheduler's class.
        kind: "vp", "ve" or "flow".
        prediction: What the network predicts, if the scheduler says.
        timestep: T, in the network's units.
        alpha, sigma, log_snr: Scales and log-SNR there; log_snr is None where no signal is left.
        leak: α/√(α² + σ²).
        first_timestep: Where the scheduler begins by itself, for 50 steps; None if it does not say, or not on these
            units.
        first_leak: The leak there.
        shape: (C, H, W) of a sample, or None.
        constant_shift: By how many standard deviations a constant image of value 1 shifts frequency zero.
    """

    scheduler: str
    kind: str
    prediction: str | None
    timestep: float
    alpha: float
    sigma: float
    log_snr: float | None
    leak: float
    first_timestep: float | None
    first_leak: float | None
    shape: tuple[int, int, int] | None
    constant_shift: float | None


@dataclass(frozen=True)
class ClassShift:
    """A class beside all data: |m_c − m| times the leak, and how many images it has."""

    label: int
    name: str | None
    images: int
    shift: float


@dataclass(frozen=True)
class DataAtTheEnd:
    """What is left of given data at T, in standard deviations of the noise.

    Attributes:
        images: How many.
        brightness_shift: At frequency zero: leak · √(H W) · root mean square over channels of the mean pixel.
        brightness_spread: At frequency zero: leak · √(H W) · standard deviation of an image's mean pixel.
        mean_shift: leak · |m|, over all pixels together.
        bits: ½ Σ log₂(1 + (α²/σ²) λ_j): x_T tells no more than that of x_0.
        spectrum: Of the clean data.
        excess: (α² P(k) + σ²)/s² − 1 by frequency: what white noise lacks, (K,).
        classes: Each labelled class; empty without labels.
    """

    images: int
    brightness_shift: float
    brightness_spread: float
    mean_shift: float
    bits: float
    spectrum: RadialSpectrum
    excess: Tensor
    classes: tuple[ClassShift, ...]


def terminal_audit(scheduler: Any, shape: tuple[int, int, int] | None = None) -> TerminalAudit:
    """What a diffusers scheduler's process leaves at its end.

    Arguments:
        scheduler: An instance; it is not changed.
        shape: (C, H, W) of a sample, if known.

    Raises:
        ValueError: If the scheduler describes no process that is known.
    """
    schedule = NoiseSchedule.from_scheduler(scheduler)
    end = schedule.timestep_range[1]
    alpha, sigma = schedule.alpha(end), schedule.sigma(end)
    log_snr = schedule.log_snr(end)
    leak = alpha / math.hypot(alpha, sigma)
    first = _first_timestep(scheduler, schedule)
    first_leak = None
    if first is not None:
        first_leak = schedule.alpha(first) / math.hypot(schedule.alpha(first), schedule.sigma(first))
    return TerminalAudit(
        scheduler=type(scheduler).__name__,
        kind=schedule.kind,
        prediction=getattr(scheduler, "config", {}).get("prediction_type"),
        timestep=end,
        alpha=alpha,
        sigma=sigma,
        log_snr=log_snr if math.isfinite(log_snr) else None,
        leak=leak,
        first_timestep=first,
        first_leak=first_leak,
        shape=shape,
        constant_shift=leak * math.sqrt(shape[1] * shape[2]) if shape is not None else None,
    )


def data_at_the_end(audit: TerminalAudit, data: ImageSet, spectrum: Spectrum) -> DataAtTheEnd:
    """What of given data is left.

    Arguments:
        audit: Of the scheduler.
        data: The images, (N, C, H, W).
        spectrum: Their mean and covariance.

    Raises:
        ValueError: If the images have not the model's shape.
    """
    shape = tuple(data.images.shape[1:])
    require(audit.shape is None or audit.shape == shape, "data", f"of shape {audit.shape}", shape)
    area = math.sqrt(shape[1] * shape[2])
    pixels = data.images.double().mean(dim=(2, 3))
    means = pixels.mean(dim=0)
    spread = pixels.var(dim=0, correction=0).mean().sqrt()
    power = radial_spectrum(data.images)
    scale = audit.alpha**2 + audit.sigma**2
    excess = (audit.alpha**2 * power.power + audit.sigma**2) / scale - 1
    ratio = (audit.alpha / audit.sigma) ** 2
    left = len(spectrum.mean) - len(spectrum.variances)
    bits = 0.5 * float(torch.log2(1 + ratio * spectrum.variances.clamp(min=0)).sum())
    bits += 0.5 * left * math.log2(1 + ratio * spectrum.residual)
    return DataAtTheEnd(
        images=len(data),
        brightness_shift=audit.leak * area * float((means**2).mean().sqrt()),
        brightness_spread=audit.leak * area * float(spread),
        mean_shift=audit.leak * float(torch.linalg.vector_norm(spectrum.mean)),
        bits=bits,
        spectrum=power,
        excess=excess,
        classes=_class_shifts(data, spectrum.mean, audit.leak),
    )


def _class_shifts(data: ImageSet, mean: Tensor, leak: float) -> tuple[ClassShift, ...]:
    if data.labels is None:
        return ()
    flat = data.images.flatten(1)
    shifts = []
    for label in data.labels.unique().tolist():
        rows = flat[data.labels == label]
        distance = float(torch.linalg.vector_norm(rows.double().mean(dim=0) - mean))
        name = data.class_names[label] if data.class_names and label < len(data.class_names) else None
        shifts.append(ClassShift(label, name, len(rows), leak * distance))
    return tuple(shifts)


def _first_timestep(scheduler: Any, schedule: NoiseSchedule) -> float | None:
    """The first timestep of the scheduler's own grid of 50 steps, where that is one of the schedule's."""
    if schedule.kind != "vp":
        return None
    fresh = copy.deepcopy(scheduler)
    try:
        fresh.set_timesteps(USUAL_STEPS)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        # Some ask for more than a number of steps; where they begin is then not theirs to say.
        return None
    first = float(fresh.timesteps[0])
    low, high = schedule.timestep_range
    return first if low <= first <= high else None
