"""A network's own sampler beside a start: how far it is from real images, and what that means for the start."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from otprior.diffusion.schedule import NoiseSchedule
from otprior.experiments.comparison import Comparison
from otprior.experiments.gates import paired_fid_difference
from otprior.experiments.inputs import Inputs
from otprior.experiments.run import run_comparison
from otprior.metrics import Interval, frechet_distance
from otprior.metrics.features import extract_features
from otprior.report import ReportImages, ReportRow
from otprior.report.rows import ends
from otprior.sampling.schedulers.support import find_support
from otprior.sampling.schedulers.switch import switched
from otprior.sampling.start_spec import OWN_GRID, StartSpec

# The scheduler that a search begins with, by the kind of process: the best known of those that can start at t*.
SCHEDULERS = {
    "vp": "UniPCMultistepScheduler",
    "ve": "EDMEulerScheduler",
    "flow": "FlowMatchEulerDiscreteScheduler",
}
# Evaluations of a network's own sampler: where exact networks are within 0.5 of their limit.
STEPS = 20
WEAK = (
    "The start makes up for what the network does not know: it carries more of the training images than the network "
    "would draw itself. Mind the copies; a better network would gain more than more evaluations."
)
GOOD = (
    "The network knows more than this start shows in {nfe} evaluations: more of them gain, or a start of the right law "
    "(fresh or whitened noise) where copying allows it."
)
EQUAL = (
    "This start gives what the network can give: more evaluations gain nothing that so many seeds would show."
)


@dataclass(frozen=True)
class OwnSampler:
    """What N(0, I) in 20 evaluations gives on the seeds of a search, beside the start that was chosen.

    Attributes:
        figures: Its figures.
        excess: Its FID less that of as many training images.
        gain: Its FID less that of the chosen start on the same seeds: positive where the start is better.
        chosen: The chosen start.
        images: Of both starts, on the same seeds.
    """

    figures: ReportRow
    excess: Interval
    gain: Interval
    chosen: StartSpec
    images: Sequence[ReportImages] = field(default=(), repr=False)

    @property
    def words(self) -> str:
        """In which regime the network is, and what that means."""
        low, high = self.excess.lo, self.excess.hi
        place = f"{self.excess.estimate:z.1f} [{low:z.1f}, {high:z.1f}] above real images"
        if low <= 0:
            place = f"not told apart from real images (FID {place})"
        ends = sorted(abs(end) for end in (self.gain.lo, self.gain.hi))
        gain = f"{abs(self.gain.estimate):.1f} [{ends[0]:.1f}, {ends[1]:.1f}]"
        nfe, n = self.chosen.evaluations, self.figures.samples or 0
        said = f"The network's own sampler, {STEPS} evaluations from N(0, I) on {n:,} seeds, is {place}; "
        if self.gain.lo > 0:
            return said + f"the chosen start is better by {gain}. {WEAK}"
        if self.gain.hi < 0:
            return said + f"it is better than the chosen start by {gain}. {GOOD.format(nfe=nfe)}"
        return said + f"the chosen start is not told apart from it. {EQUAL}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "steps": STEPS,
            "fid": self.figures.fid,
            "copy_rate": self.figures.copy_rate,
            "excess": self.excess.estimate,
            "excess_interval": self.excess.limits(),
            "gain": self.gain.estimate,
            "gain_interval": self.gain.limits(),
            "words": self.words,
        }


def usual_scheduler(own: Any) -> str:
    """The class that starts are sampled with: that of `SCHEDULERS` if it fits the network, or else its own.

    (Cosmos 2 has a flow scheduler on an exploding process, CogVideoX betas that others do not know.)

    Arguments:
        own: The network's scheduler.

    Raises:
        ValueError: If neither can start at t* on this network.
    """
    kind, name = NoiseSchedule.from_scheduler(own).kind, type(own).__name__
    if kind in SCHEDULERS:
        with suppress(ValueError):
            switched(own, getattr(diffusers, SCHEDULERS[kind]))
            return SCHEDULERS[kind]
    find_support(own)
    return name


def white_noise(own: Any, steps: int) -> StartSpec:
    """N(0, I) at T in so many steps of the usual scheduler, evenly in log-SNR, or in time where T has no signal.

    Arguments:
        own: The network's scheduler.
        steps: How many.

    Raises:
        ValueError: As `usual_scheduler`.
    """
    schedule = NoiseSchedule.from_scheduler(own)
    end = schedule.timestep_range[1]
    spacing = OWN_GRID + ("log_snr" if schedule.alpha(float(end)) > 0 else "time")
    return StartSpec("none", end, steps, usual_scheduler(own), spacing, f"N(0, I) at T, {steps}")


def beside(study: Comparison, chosen: StartSpec, samples: int, work: Path, **options: Any) -> OwnSampler:
    """Samples the network's own sampler on the first `samples` seeds of a search.

    Arguments:
        study: The comparison of the search.
        chosen: The start that it chose; its images are in `work`.
        samples: How many of its seeds.
        work: Folder of the search's pieces.
        options: As for `run_comparison`.
    """
    inputs = Inputs.of(study)
    own = white_noise(inputs.scheduler, STEPS).told_as(chosen)
    result = run_comparison(
        replace(study, starts=(chosen, own), samples=samples), work, growing=True, **options
    )
    figures = result.report.rows[1]
    # (The validation images are the reference here, so the floor comes from the images that the prior was fitted to.)
    generator = torch.Generator().manual_seed(study.first_seed)
    rows = torch.randperm(len(inputs.atoms), generator=generator)[:samples]
    real = frechet_distance(
        extract_features(inputs.extractor, inputs.atoms.images[rows]), inputs.reference.moments
    )
    fid = figures.measured("fid")
    low, high = ends(figures, "fid") or (fid, fid)
    excess = Interval(low - real, high - real, fid - real)
    gain = paired_fid_difference(result, own, chosen)
    return OwnSampler(figures, excess, gain, chosen, result.images)
