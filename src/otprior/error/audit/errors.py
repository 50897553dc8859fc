"""The errors of every start at every t*, as rows of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from otprior.data.images import ImageSet
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error import (
    Encoding,
    ErrorInterval,
    HeldOut,
    StartDraws,
    Target,
    combined,
    data_error,
    draw_starts,
    encode,
    gaussian_error,
    gaussian_population_error,
    gaussian_start,
    population_error,
)
from otprior.error.audit.request import AuditRequest
from otprior.error.dataset import holds_atoms
from otprior.priors import (
    IdentityPrior,
    MixturePrior,
    Prior,
    SemiDiscretePrior,
)
from otprior.transport.gaussian import bures_squared, noised
from otprior.transport.moments import Spectrum


@dataclass(frozen=True, eq=False)
class Part:
    """The data of one class, or all of them.

    Attributes:
        label: The class; None for all.
        weight: Its share of the data.
        target: The data.
        encoding: Draws of their p_t at every timestep with signal, with their codes; None without draws.
        held_out: Held-out data of the class, shared out; None if there are none.
    """

    label: int | None
    weight: float
    target: Target
    encoding: Encoding | None
    held_out: HeldOut | None


@dataclass(frozen=True, eq=False)
class Audited:
    """A start that is audited.

    Attributes:
        name: What the request calls it; None for those that every audit has.
        prior: At any timestep; None for the gaussian prior of the audited data themselves, whose law follows from their
            moments without being fitted again.
        draws: For each part's label the draws of a semi-discrete prior's starts.
        own: For each part's label the data as a semi-discrete prior fitted to them has them.
    """

    name: str | None
    prior: Prior | None
    draws: dict[int | None, StartDraws] = field(default_factory=dict)
    own: dict[int | None, Part] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What tells it from other starts in a report's rows."""
        facts: dict[str, Any] = {"name": self.name, "prior": "gaussian"}
        facts |= dict.fromkeys(("noise", "correlation", "smoothing"))
        if self.prior is not None:
            facts["prior"] = self.prior.kind
        if isinstance(self.prior, MixturePrior):
            facts["noise"] = self.prior.config["noise"]
        if isinstance(self.prior, SemiDiscretePrior):
            prior = self.prior
            facts |= {"noise": prior.noise, "correlation": prior.correlation, "smoothing": prior.smoothing}
        return facts

    def law(self, part: Part, timestep: float, alpha: float, sigma: float) -> Spectrum | None:
        """The law of its starts, where it is Gaussian."""
        if self.prior is None:
            return noised(part.target.spectrum, alpha, sigma)
        return gaussian_start(self.prior.at(timestep), part.label)


def parts_of(
    request: AuditRequest,
    data: ImageSet,
    held_out: ImageSet | None,
    by_class: bool,
    generator: torch.Generator,
) -> list[Part]:
    """All data, or each class of them."""
    labels: list[int | None] = [None]
    if by_class:
        assert data.labels is not None
        labels = [int(label) for label in data.labels.unique()]
    parts = []
    for label in labels:
        images = data.images if label is None else data.images[data.labels == label]
        parts.append(
            _part(request, label, len(images) / len(data), Target.of(images), _of(held_out, label), generator)
        )
    return parts


def _of(held_out: ImageSet | None, label: int | None) -> torch.Tensor | None:
    if held_out is None or label is None:
        return None if held_out is None else held_out.images
    return None if held_out.labels is None else held_out.images[held_out.labels == label]


def _part(
    request: AuditRequest,
    label: int | None,
    weight: float,
    target: Target,
    held_out: torch.Tensor | None,
    generator: torch.Generator,
) -> Part:
    schedule = NoiseSchedule.from_scheduler(request.scheduler)
    scales = [(schedule.alpha(float(t)), schedule.sigma(float(t))) for t in request.timesteps]
    scales = [pair for pair in scales if pair[0] > 0]
    encoding = shared = None
    if request.draws and scales and target.rows is not None:
        largest = float(target.spectrum.variances.max())
        encoding = encode(target.rows, scales, request.draws, largest_variance=largest, generator=generator)
    if held_out is not None:
        wanted = scales if request.draws else []
        shared = HeldOut.of(held_out, wanted, generator=generator)
    return Part(label, weight, target, encoding, shared)


def audited_priors(
    request: AuditRequest, data: ImageSet, parts: list[Part], by_class: bool, generator: torch.Generator
) -> Iterator[Audited]:
    """Identity, gaussian, and those given: conditional ones where errors are by class, and the others where not."""
    shape = (int(data.images.shape[1]), int(data.images.shape[2]), int(data.images.shape[3]))
    first = request.timesteps[0]
    yield Audited(None, IdentityPrior.build(shape, request.scheduler, first))
    yield Audited(None, None)
    for name, prior in request.priors.items():
        if (prior.num_classes is not None) is not by_class:
            continue
        audited = Audited(name, prior)
        if isinstance(prior, SemiDiscretePrior):
            for part in parts:
                draws = draw_starts(prior.at(first), part.label, generator=generator)
                audited.draws[part.label] = draws
                audited.own[part.label] = _own_part(request, prior, part, draws, generator)
        yield audited


def _own_part(
    request: AuditRequest, prior: Prior, part: Part, draws: StartDraws, generator: torch.Generator
) -> Part:
    """The data as a semi-discrete prior of them has them: equal ones merged, with their masses."""
    rows = part.target.rows
    assert rows is not None
    if not holds_atoms(prior, rows, part.label):
        return part
    if rows.shape == draws.atoms.shape and torch.equal(rows.float(), draws.atoms):
        return part
    uniform = bool((draws.weights == draws.weights[0]).all()) and len(draws.atoms) >= 2
    target = Target.of(draws.atoms) if uniform else draws.target
    return replace(_part(request, part.label, part.weight, target, None, generator), held_out=part.held_out)


def error_rows(
    request: AuditRequest, audited: Audited, parts: list[Part], generator: torch.Generator
) -> Iterator[list[dict[str, Any]]]:
    """For each timestep, the rows of one start: for the data and, where data are held out, for the population."""
    schedule = NoiseSchedule.from_scheduler(request.scheduler)
    level = 1 - (1 - request.level) / len(parts)
    for t in request.timesteps:
        alpha, sigma = schedule.alpha(float(t)), schedule.sigma(float(t))
        moment = {"timestep": float(t), "alpha": alpha, "sigma": sigma}
        found: dict[str, list[tuple[Part, ErrorInterval]]] = {"data": [], "population": []}
        for part in parts:
            own, draws = audited.own.get(part.label, part), audited.draws.get(part.label)
            law = audited.law(part, t, alpha, sigma)
            encoding = own.encoding if alpha > 0 else None
            options: dict[str, Any] = {
                "label": part.label,
                "draws": draws,
                "level": level,
                "generator": generator,
            }
            if law is not None:
                given = gaussian_error(own.target, alpha, sigma, law, encoding=encoding, level=level)
            else:
                assert audited.prior is not None
                given = data_error(audited.prior.at(t), own.target, encoding=encoding, **options)
            found["data"].append((own, given))
            if part.held_out is None or alpha == 0:
                continue
            if law is not None:
                found["population"].append(
                    (part, gaussian_population_error(part.held_out, alpha, sigma, law, level))
                )
            elif isinstance(audited.prior, SemiDiscretePrior):
                found["population"].append(
                    (part, population_error(audited.prior.at(t), part.held_out, **options))
                )
        rows = []
        for target, intervals in found.items():
            for part, interval in intervals:
                rows.append(audited.facts | moment | _figures(part.label, interval))
                law = audited.law(part, t, alpha, sigma)
                if law is not None and target == "data":
                    rows[-1] |= _shares(noised(part.target.spectrum, alpha, sigma), law)
            if len(intervals) > 1:
                whole = combined(
                    target, [each for _, each in intervals], [part.weight for part, _ in intervals]
                )
                rows.append(audited.facts | moment | _figures("all classes", whole))
        yield rows


def _figures(label: int | str | None, interval: ErrorInterval) -> dict[str, Any]:
    return {
        "class": label,
        "target": interval.target,
        "lower": interval.lower.value,
        "lower_by": interval.lower.how,
        "lower_level": interval.lower.level,
        "upper": interval.upper.value if math.isfinite(interval.upper.value) else None,
        "upper_by": interval.upper.how,
        "upper_level": interval.upper.level,
        "ratio": interval.ratio if math.isfinite(interval.ratio) else None,
        "mean_part": None,
        "covariance_part": None,
        "bounds": [
            {"value": bound.value, "by": bound.how, "level": bound.level, "note": bound.note}
            for bound in interval.others
        ],
    }


def _shares(moments: Spectrum, law: Spectrum) -> dict[str, float]:
    """How far apart the means are, and how far the covariances."""
    apart = float(torch.linalg.vector_norm(moments.mean - law.mean))
    return {"mean_part": apart, "covariance_part": math.sqrt(bures_squared(moments, law))}
