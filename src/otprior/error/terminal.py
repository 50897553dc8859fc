r"""The signal that a forward process leaves at its end, where sampling begins from noise without any.

A network is trained up to timestep T, at which x_T = α x_0 + σ ε. Sampling begins from s ε, s² = α² + σ². Per unit of
s, sampling leaves out the signal

    leak = α/√(α² + σ²),

0.0064 for the linear betas of DDPM, 0.068 for Stable Diffusion. Small as it is, it acts on the whole image: a constant
image of value v has the coefficient v √(H W) at frequency zero, where noise has standard deviation 1. At 64 x 64 a
leak of 0.068 moves it by 4.4 v. So a network learns to read the brightness off x_T, and white noise always has a
medium brightness.

The audit also gives the timestep at which the scheduler, as configured, begins (the spacing "leading" begins below T,
at a larger leak) and, with data, the parts of the shift that belong to the mean, the spectrum and the classes. The
Gaussian channel bounds the information of x_T on x_0: at most ½ Σ log₂(1 + (α²/σ²) λ_j) bits, λ the data's principal
variances. `judge_terminal` puts all of it in words.

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
from otprior.transport.gaussian import gelbrich_squared, isotropic, noised
from otprior.transport.moments import Spectrum
from otprior.utils.validation import require

# Number of steps for which the scheduler's own first timestep is looked up.
USUAL_STEPS = 50
# Grades of a terminal verdict, from harmless to harmful.
GRADES = ("nothing left", "negligible", "small", "large")
# Shifts of a normal law, in its standard deviations: below the first 1 in 20 draws differs, above the second 1 in 5.
NEGLIGIBLE, LARGE = 0.125, 0.5
# Height and width where the size of samples is not known.
USUAL_SIZE = (64, 64)


@dataclass(frozen=True)
class TerminalAudit:
    """The signal at a schedule's noisiest timestep.

    Attributes:
        scheduler: The scheduler's class.
        kind: "vp", "ve" or "flow".
        prediction: The scheduler's prediction type, if it has one.
        timestep: T, in the network's units.
        alpha, sigma, log_snr: Scales and log-SNR there; log_snr is None where no signal is left.
        leak: α/√(α² + σ²).
        first_timestep: Where the scheduler begins by itself, for 50 steps; None if it gives none, or one in other
            units.
        first_leak: The leak there.
        shape: (C, H, W) of a sample, or None.
        constant_shift: Shift of frequency zero by a constant image of value 1, in standard deviations of the noise.
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
    """How far the mean m_c of a class is from the mean m of all data: |m_c − m| times the leak."""

    label: int
    name: str | None
    images: int
    shift: float


@dataclass(frozen=True)
class TerminalData:
    """The signal that given data leave at T, in standard deviations of the noise.

    Attributes:
        images: Number of images.
        brightness_shift: At frequency zero: leak · √(H W) · root mean square over channels of the mean pixel.
        brightness_spread: At frequency zero: leak · √(H W) · standard deviation of an image's mean pixel.
        mean_shift: leak · |m|, over all pixels together.
        white_error: W2 between p_T and N(0, s² I), from their moments: of the mean, and of all variances.
        bits: ½ Σ log₂(1 + (α²/σ²) λ_j), an upper bound of the information of x_T on x_0.
        spectrum: Power spectrum of the clean data.
        excess: (α² P(k) + σ²)/s² − 1 by frequency, the relative power that white noise lacks, (K,).
        classes: Shift of each labelled class; empty without labels.
    """

    images: int
    brightness_shift: float
    brightness_spread: float
    mean_shift: float
    white_error: float
    bits: float
    spectrum: RadialSpectrum
    excess: Tensor
    classes: tuple[ClassShift, ...]


@dataclass(frozen=True)
class TerminalVerdict:
    """The terminal audit in words.

    Attributes:
        grade: One of `GRADES`, of the signal left at T or, if that is worse, where the scheduler begins by itself.
        finding: How much signal is left, and what to expect of samples, in a sentence or two.
        remedy: What to do, in a sentence or two.
    """

    grade: str
    finding: str
    remedy: str


def terminal_audit(scheduler: Any, shape: tuple[int, int, int] | None = None) -> TerminalAudit:
    """Measures the signal that the process of a diffusers scheduler leaves at its end.

    Arguments:
        scheduler: An instance; it is not changed.
        shape: (C, H, W) of a sample, if known.

    Raises:
        ValueError: If the scheduler's process is not known.
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


def terminal_data(audit: TerminalAudit, data: ImageSet, spectrum: Spectrum) -> TerminalData:
    """Measures the signal that given data leave at T.

    Arguments:
        audit: The scheduler's audit.
        data: The images, (N, C, H, W).
        spectrum: Mean and covariance of the images.

    Raises:
        ValueError: If the images do not have the model's shape.
    """
    shape = tuple(data.images.shape[1:])
    require(audit.shape is None or audit.shape == shape, "data", f"of shape {audit.shape}", shape)
    area = math.sqrt(shape[1] * shape[2])
    brightness = data.images.double().mean(dim=(2, 3))
    means = brightness.mean(dim=0)
    spread = brightness.var(dim=0, correction=0).mean().sqrt()
    power = radial_spectrum(data.images)
    scale = audit.alpha**2 + audit.sigma**2
    excess = (audit.alpha**2 * power.power + audit.sigma**2) / scale - 1
    ratio = (audit.alpha / audit.sigma) ** 2
    beyond = len(spectrum.mean) - len(spectrum.variances)
    bits = 0.5 * float(torch.log2(1 + ratio * spectrum.variances.clamp(min=0)).sum())
    bits += 0.5 * beyond * math.log2(1 + ratio * spectrum.residual)
    return TerminalData(
        images=len(data),
        brightness_shift=audit.leak * area * float((means**2).mean().sqrt()),
        brightness_spread=audit.leak * area * float(spread),
        mean_shift=audit.leak * float(torch.linalg.vector_norm(spectrum.mean)),
        white_error=_white_error(audit, spectrum),
        bits=bits,
        spectrum=power,
        excess=excess,
        classes=_class_shifts(data, spectrum.mean, audit.leak),
    )


def _white_error(audit: TerminalAudit, spectrum: Spectrum) -> float:
    white = isotropic(torch.zeros(len(spectrum.mean)), audit.alpha**2 + audit.sigma**2)
    apart = math.sqrt(gelbrich_squared(noised(spectrum, audit.alpha, audit.sigma), white))
    return apart / math.hypot(audit.alpha, audit.sigma)


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
        # Some need more than a number of steps, and so have no first timestep of their own.
        return None
    first = float(fresh.timesteps[0])
    low, high = schedule.timestep_range
    return first if low <= first <= high else None


def judge_terminal(audit: TerminalAudit, data: TerminalData | None = None) -> TerminalVerdict:
    """Judges a schedule by how far N(0, I) is from p_T of the data, or else from a constant image of value ½ at T."""
    at_end = _grade(_shift(audit.leak, audit, data))
    begins = audit.leak if audit.first_leak is None else audit.first_leak
    at_begin = _grade(_shift(begins, audit, data))
    finding = _describe_leak(audit, data, at_end)
    if GRADES.index(at_begin) > GRADES.index(at_end):
        shift = _shift(begins, audit, data)
        finding += (
            f" But as configured the scheduler begins at {audit.first_timestep:g}, not at T; there {begins:.3g} of "
            f"the signal is left, a shift of {shift:.2g} standard deviations: {at_begin}."
        )
    worst = max(at_end, at_begin, key=GRADES.index)
    return TerminalVerdict(worst, finding, _advise(at_end, at_begin, audit))


def _grade(shift: float) -> str:
    if shift == 0:
        return GRADES[0]
    return GRADES[1] if shift < NEGLIGIBLE else GRADES[2] if shift < LARGE else GRADES[3]


def _shift(leak: float, audit: TerminalAudit, data: TerminalData | None) -> float:
    """How far latents are from white noise at a leak, in standard deviations."""
    if data is not None and audit.leak > 0:
        # (At another leak than that of T to first order, as the mean's share of it.)
        return data.white_error * leak / audit.leak
    height, width = audit.shape[1:] if audit.shape is not None else USUAL_SIZE
    return 0.5 * leak * math.sqrt(height * width)


def _describe_leak(audit: TerminalAudit, data: TerminalData | None, grade: str) -> str:
    if grade == GRADES[0]:
        return "No signal is left at T: whatever the data, the network was trained on N(0, I) there."
    if data is not None:
        shift = (
            f"shifts the lowest frequency by {data.brightness_shift:.2g} standard deviations of the noise (and by "
            f"{data.brightness_spread:.2g} from image to image)"
        )
    elif audit.constant_shift is not None and audit.shape is not None:
        shift = (
            f"shifts the lowest frequency by {audit.constant_shift:.2g} standard deviations of the noise for a "
            f"constant {audit.shape[1]}x{audit.shape[2]} sample of value 1"
        )
    else:
        shift = "shifts the lowest frequency, the more the larger the samples"
    return (
        f"A {audit.leak:.3g} signal scale at T = {audit.timestep:.4g} leaks the image mean, which {shift}. "
        + _describe_samples(grade, data)
    )


def _describe_samples(grade: str, data: TerminalData | None) -> str:
    if grade == GRADES[1]:
        return "Samples from N(0, I) will not show it."
    if grade == GRADES[2]:
        return "Expect a slight brightness bias of samples from N(0, I)."
    tail = ""
    if data is not None and data.classes:
        strongest = max(data.classes, key=lambda each: each.shift)
        if strongest.shift > LARGE:
            who = strongest.name or f"class {strongest.label}"
            tail = f" Classes leak too, {who!r} the most: its mean is {strongest.shift:.2g} away from that of all."
    return (
        "Expect a brightness bias: every start from N(0, I) has a medium brightness, so very dark or bright samples "
        "are missing." + tail
    )


def _advise(at_end: str, at_begin: str, audit: TerminalAudit) -> str:
    parts = []
    if GRADES.index(at_end) >= 2:
        parts.append(
            "Without retraining, start at T from the latents' own mean and covariance: `otprior fit --prior gaussian "
            f"--timestep {audit.timestep:.6g}`."
        )
        if audit.kind == "vp":
            parts.append(
                "When training anew: zero terminal SNR (rescale_betas_zero_snr) and a network that predicts v."
            )
        if audit.kind == "ve":
            parts.append("When training anew: a larger sigma_max.")
    if GRADES.index(at_begin) > GRADES.index(at_end):
        parts.append("Let the scheduler begin at T: timestep_spacing='trailing'.")
    if at_end == GRADES[0] and audit.kind == "vp" and audit.prediction == "epsilon":
        parts.append(
            "A network that predicts noise is undefined at zero SNR: use one that predicts v, or begin one timestep "
            "earlier."
        )
    return " ".join(parts) or "Nothing to do."
