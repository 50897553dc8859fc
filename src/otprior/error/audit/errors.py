"""The errors of every start at every t*, as rows of the report's table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from otprior.data.images import ImageSet
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error import (
    ErrorInterval,
    FlowCoupling,
    HeldOut,
    Target,
    couple_by_flow,
    data_error,
    draw_starts,
    gaussian_error,
    gaussian_population_error,
    population_error,
)
from otprior.error.audit.request import AuditRequest
from otprior.error.interval import combined
from otprior.error.start_law import StartDraws, holds_atoms, semidiscrete
from otprior.priors import IdentityPrior, Prior
from otprior.report.audit.record import ErrorRow
from otprior.transport.gaussian import bures_squared, noised
from otprior.transport.moments import Spectrum

# Options of a prior by which reports tell starts apart.
OPTIONS = ("noise", "correlation", "smoothing")


@dataclass(frozen=True, eq=False)
class DataGroup:
    """The data of one class, or all of them.

    Attributes:
        label: The class; None for all.
        weight: Its share of the data.
        target: The data.
        flow: Draws of their p_t at every timestep with signal, with their codes; None without draws.
        held_out: Held-out data of the class, split for the estimates; None if there are none.
    """

    label: int | None
    weight: float
    target: Target
    flow: FlowCoupling | None
    held_out: HeldOut | None


@dataclass(frozen=True, eq=False)
class AuditedStart:
    """A start that is audited.

    Attributes:
        name: The prior's name in the request; None for the priors that every audit has.
        prior: The prior at any timestep; None for the gaussian prior of the audited data themselves, whose law follows
            from their moments without a fit.
        draws: By label of a group, the draws of a semi-discrete prior's starts.
        own: By label of a group, the data as a semi-discrete prior fitted to them holds them.
    """

    name: str | None
    prior: Prior | None
    draws: dict[int | None, StartDraws] = field(default_factory=dict)
    own: dict[int | None, DataGroup] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """Name, prior and options, which distinguish this start from others in the report's tables."""
        facts: dict[str, Any] = {"name": self.name, "prior": "gaussian"} | dict.fromkeys(OPTIONS)
        if self.prior is not None:
            options = self.prior.config
            facts |= {"prior": self.prior.kind} | {name: options.get(name) for name in OPTIONS}
        return facts

    def law(self, group: DataGroup, timestep: float, alpha: float, sigma: float) -> Spectrum | None:
        """The law of the starts, where it is Gaussian."""
        if self.prior is None:
            return noised(group.target.spectrum, alpha, sigma)
        return self.prior.at(timestep).gaussian_law(group.label)


def data_groups(
    request: AuditRequest,
    data: ImageSet,
    held_out: ImageSet | None,
    by_class: bool,
    generator: torch.Generator,
) -> list[DataGroup]:
    """Groups the data: all of them as one, or one group for each class."""
    labels: list[int | None] = [None]
    if by_class:
        assert data.labels is not None
        labels = [int(label) for label in data.labels.unique()]
    groups = []
    for label in labels:
        images = data.images if label is None else data.images[data.labels == label]
        groups.append(
            _data_group(
                request,
                label,
                len(images) / len(data),
                Target.of(images),
                _of_class(held_out, label),
                generator,
            )
        )
    return groups


def _of_class(held_out: ImageSet | None, label: int | None) -> torch.Tensor | None:
    if held_out is None or label is None:
        return None if held_out is None else held_out.images
    return None if held_out.labels is None else held_out.images[held_out.labels == label]


def _data_group(
    request: AuditRequest,
    label: int | None,
    weight: float,
    target: Target,
    held_out: torch.Tensor | None,
    generator: torch.Generator,
) -> DataGroup:
    schedule = NoiseSchedule.from_scheduler(request.scheduler)
    scales = [(schedule.alpha(float(t)), schedule.sigma(float(t))) for t in request.timesteps]
    scales = [pair for pair in scales if pair[0] > 0]
    flow = shared = None
    if request.draws and scales and target.rows is not None:
        largest = float(target.spectrum.variances.max())
        flow = couple_by_flow(
            target.rows, scales, request.draws, largest_variance=largest, generator=generator
        )
    if held_out is not None:
        wanted = scales if request.draws else []
        shared = HeldOut.of(held_out, wanted, generator=generator)
    return DataGroup(label, weight, target, flow, shared)


def audited_priors(
    request: AuditRequest, data: ImageSet, groups: list[DataGroup], by_class: bool, generator: torch.Generator
) -> Iterator[AuditedStart]:
    """Identity, gaussian and the request's priors: the conditional ones if errors are by class, else the others."""
    shape = (int(data.images.shape[1]), int(data.images.shape[2]), int(data.images.shape[3]))
    first = request.timesteps[0]
    yield AuditedStart(None, IdentityPrior.build(shape, request.scheduler, first))
    yield AuditedStart(None, None)
    for name, prior in request.priors.items():
        if (prior.num_classes is not None) is not by_class:
            continue
        audited = AuditedStart(name, prior)
        cells = semidiscrete(prior)
        if cells is not None:
            for group in groups:
                draws = draw_starts(cells.at(first), group.label, generator=generator)
                audited.draws[group.label] = draws
                audited.own[group.label] = _own_group(request, prior, group, draws, generator)
        yield audited


def _own_group(
    request: AuditRequest, prior: Prior, group: DataGroup, draws: StartDraws, generator: torch.Generator
) -> DataGroup:
    """The data as a semi-discrete prior fitted to them holds them: equal images merged, with their masses."""
    rows = group.target.rows
    assert rows is not None
    if not holds_atoms(prior, rows, group.label):
        return group
    if rows.shape == draws.atoms.shape and torch.equal(rows.float(), draws.atoms):
        return group
    uniform = bool((draws.weights == draws.weights[0]).all()) and len(draws.atoms) >= 2
    target = Target.of(draws.atoms) if uniform else draws.target
    return replace(
        _data_group(request, group.label, group.weight, target, None, generator), held_out=group.held_out
    )


def error_rows(
    request: AuditRequest, audited: AuditedStart, groups: list[DataGroup], generator: torch.Generator
) -> Iterator[list[ErrorRow]]:
    """For each timestep, the rows of one start: for the data and, with held-out data, for the population."""
    schedule = NoiseSchedule.from_scheduler(request.scheduler)
    level = 1 - (1 - request.level) / len(groups)
    for t in request.timesteps:
        alpha, sigma = schedule.alpha(float(t)), schedule.sigma(float(t))
        moment = {"timestep": float(t), "alpha": alpha, "sigma": sigma}
        found: dict[str, list[tuple[DataGroup, ErrorInterval]]] = {"data": [], "population": []}
        for group in groups:
            own, draws = audited.own.get(group.label, group), audited.draws.get(group.label)
            law = audited.law(group, t, alpha, sigma)
            flow = own.flow if alpha > 0 else None
            options: dict[str, Any] = {
                "label": group.label,
                "draws": draws,
                "level": level,
                "generator": generator,
            }
            if law is not None:
                given = gaussian_error(own.target, alpha, sigma, law, flow=flow, level=level)
            else:
                assert audited.prior is not None
                given = data_error(audited.prior.at(t), own.target, flow=flow, **options)
            found["data"].append((own, given))
            if group.held_out is None or alpha == 0:
                continue
            if law is not None:
                found["population"].append(
                    (group, gaussian_population_error(group.held_out, alpha, sigma, law, level))
                )
            elif audited.prior is not None and audited.draws:
                found["population"].append(
                    (group, population_error(audited.prior.at(t), group.held_out, **options))
                )
        rows = []
        for target, intervals in found.items():
            for group, interval in intervals:
                values = audited.facts | moment | _figures(group.label, interval)
                law = audited.law(group, t, alpha, sigma)
                if law is not None and target == "data":
                    values |= _shares(noised(group.target.spectrum, alpha, sigma), law)
                rows.append(ErrorRow.from_json(values))
            if len(intervals) > 1:
                whole = combined(
                    target, [each for _, each in intervals], [group.weight for group, _ in intervals]
                )
                rows.append(ErrorRow.from_json(audited.facts | moment | _figures("all classes", whole)))
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
    """Distance of the means, and Bures distance of the covariances."""
    apart = float(torch.linalg.vector_norm(moments.mean - law.mean))
    return {"mean_part": apart, "covariance_part": math.sqrt(bures_squared(moments, law))}
