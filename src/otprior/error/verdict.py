"""The terminal audit in words: what is left at T, what to expect of it, and what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from otprior.error.terminal import DataAtTheEnd, TerminalAudit

# From harmless to harmful.
GRADES = ("nothing left", "negligible", "small", "large")
# Shifts of a normal coefficient, in its standard deviations: what nobody sees, and what everybody does.
NEGLIGIBLE, LARGE = 0.1, 0.5
# Height and width where the size of samples is not known.
USUAL_SIZE = (64, 64)


@dataclass(frozen=True)
class Verdict:
    """A judgement and what follows.

    Attributes:
        grade: One of `GRADES`, of what is left at T or, if that is worse, where the scheduler begins by itself.
        finding: What is left, and what to expect, in a sentence or two.
        remedy: What to do, in a sentence or two.
    """

    grade: str
    finding: str
    remedy: str


def verdict(audit: TerminalAudit, data: DataAtTheEnd | None = None) -> Verdict:
    """Judges by the shift at frequency zero: of the data's brightness, or else of a constant image of value ½."""
    at_end = _grade(_shift(audit.leak, audit, data))
    begins = audit.leak if audit.first_leak is None else audit.first_leak
    at_begin = _grade(_shift(begins, audit, data))
    finding = _left(audit, data, at_end)
    if GRADES.index(at_begin) > GRADES.index(at_end):
        shift = _shift(begins, audit, data)
        finding += (
            f" But as configured the scheduler begins at {audit.first_timestep:g}, not at T; there {begins:.3g} of "
            f"the signal is left, a shift of {shift:.2g} standard deviations: {at_begin}."
        )
    worst = max(at_end, at_begin, key=GRADES.index)
    return Verdict(worst, finding, _remedy(at_end, at_begin, audit))


def _grade(shift: float) -> str:
    if shift == 0:
        return GRADES[0]
    return GRADES[1] if shift < NEGLIGIBLE else GRADES[2] if shift < LARGE else GRADES[3]


def _shift(leak: float, audit: TerminalAudit, data: DataAtTheEnd | None) -> float:
    """Standard deviations by which the lowest frequency is off at a leak."""
    if data is not None and audit.leak > 0:
        return max(data.brightness_shift, data.brightness_spread) * leak / audit.leak
    height, width = audit.shape[1:] if audit.shape is not None else USUAL_SIZE
    return 0.5 * leak * math.sqrt(height * width)


def _left(audit: TerminalAudit, data: DataAtTheEnd | None, grade: str) -> str:
    if grade == GRADES[0]:
        return "No signal is left at T: N(0, I) is the law that the network was trained on there, whatever the data."
    if data is not None:
        which = (
            f"shifts the lowest frequency by {data.brightness_shift:.2g} standard deviations of the noise (and by "
            f"{data.brightness_spread:.2g} from image to image)"
        )
    elif audit.constant_shift is not None and audit.shape is not None:
        which = (
            f"shifts the lowest frequency by {audit.constant_shift:.2g} standard deviations of the noise for a "
            f"constant {audit.shape[1]}x{audit.shape[2]} sample of value 1"
        )
    else:
        which = "shifts the lowest frequency, the more the larger the samples"
    return (
        f"A {audit.leak:.3g} signal scale at T = {audit.timestep:.4g} leaks the image mean, which {which}. "
        + _expect(grade, data)
    )


def _expect(grade: str, data: DataAtTheEnd | None) -> str:
    if grade == GRADES[1]:
        return "Sampling from N(0, I) will not show it."
    if grade == GRADES[2]:
        return "Expect a slight brightness bias of samples from N(0, I)."
    tail = ""
    if data is not None and data.classes:
        strongest = max(data.classes, key=lambda each: each.shift)
        if strongest.shift > LARGE:
            who = strongest.name or f"class {strongest.label}"
            tail = f" Classes leak too, {who!r} the most: its mean is {strongest.shift:.2g} away from that of all."
    return (
        "Expect a brightness bias: from N(0, I) the network reads a medium brightness off every start, and very dark "
        "or bright samples are missing." + tail
    )


def _remedy(at_end: str, at_begin: str, audit: TerminalAudit) -> str:
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
            "A network that predicts noise says nothing at zero SNR: use one that predicts v, or begin one timestep "
            "earlier."
        )
    return " ".join(parts) or "Nothing to do."
