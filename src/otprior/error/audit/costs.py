"""The cost of the errors in samples, at a few t*, and further measurements of an audit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from otprior.diffusion.grids import timestep_grid
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error import ErrorInterval
from otprior.error.audit.cross_checks import cross_checks
from otprior.error.audit.errors import AuditedStart, DataGroup
from otprior.error.audit.estimated_bound import estimated_bound
from otprior.error.audit.request import AuditRequest
from otprior.error.audit.stability import potential_stability
from otprior.error.interval import Bound
from otprior.error.sampling_cost import RootMeanSquare, Sampler
from otprior.error.start_law import sample_starts, seeds_to_starts, semidiscrete
from otprior.report.audit.record import BoundRow, CheckRow, CostRow, ErrorRow, StabilityRow
from otprior.report.record import Limits
from otprior.transport.gaussian import gaussian_map
from otprior.utils.random import normal_block, seed_from

CHECK_DRAWS = 256


def cost_rows(
    request: AuditRequest,
    starts: list[AuditedStart],
    group: DataGroup,
    sampler: Sampler,
    timestep: float,
    generator: torch.Generator,
) -> Iterator[CostRow]:
    """A row for each start: the paired distance of samples, that of K steps from a fine grid, and both together.

    Fresh and frozen starts are left out: their noise is not the seed's, so they are not coupled with codes.
    """
    schedule = NoiseSchedule.from_scheduler(request.scheduler)
    alpha, sigma = schedule.alpha(float(timestep)), schedule.sigma(float(timestep))
    coarse = timestep_grid(schedule, timestep, request.steps)
    most = int(timestep) + 1 if schedule.discrete else request.fine_steps
    fine = timestep_grid(schedule, timestep, min(request.fine_steps, most), end=None)
    shape = (-1, *_shape(request))
    assert group.flow is not None
    rows = slice(0, request.pairs)
    x = group.flow.x[group.flow.at(alpha, sigma)][rows].reshape(shape)
    ends, exact = sampler(x, alpha, sigma, coarse), sampler(x, alpha, sigma, fine)
    stepping = RootMeanSquare.between(ends, exact)
    for each in starts:
        image = _image(each, group, timestep, alpha, sigma, generator)
        if image is None:
            continue
        begun = image(group.flow.codes)[rows].reshape(shape).float()
        reached = sampler(begun, alpha, sigma, coarse)
        apart, total = (RootMeanSquare.between(other, reached) for other in (ends, exact))
        yield CostRow(
            **each.facts,
            timestep=float(timestep),
            nfe=sampler.evaluations(alpha, sigma, coarse),
            pairs=apart.rows,
            cost=apart.value,
            cost_interval=apart.interval,
            cost_upper=apart.upper,
            start_gap=RootMeanSquare.between(x, begun).value,
            stepping=stepping.value,
            stepping_interval=stepping.interval,
            fine_nfe=sampler.evaluations(alpha, sigma, fine),
            total=total.value,
            total_upper=total.upper,
        )


def _shape(request: AuditRequest) -> tuple[int, ...]:
    assert request.data is not None
    return tuple(request.data.images.shape[1:])


def _image(
    audited: AuditedStart,
    group: DataGroup,
    timestep: float,
    alpha: float,
    sigma: float,
    generator: torch.Generator,
) -> Callable[[Tensor], Tensor] | None:
    """T on codes, if it is coupled with p_t by the data's own flow."""
    law = audited.law(group, timestep, alpha, sigma)
    if law is not None:
        return lambda z: gaussian_map(z.double(), law)
    assert audited.prior is not None
    prior = audited.prior.at(timestep)
    cells = semidiscrete(prior)
    if cells is not None:
        return (
            seeds_to_starts(cells, group.label, generator) if cells.noise in ("coupled", "whitened") else None
        )
    seed = seed_from(generator)
    return lambda codes: sample_starts(prior, codes, group.label, seed)


def check_row(
    request: AuditRequest, audited: AuditedStart, group: DataGroup, row: ErrorRow, generator: torch.Generator
) -> CheckRow:
    """Sliced, max-sliced and discrete W2 of one start at its row of errors, with whose interval they should agree."""
    timestep, alpha, sigma = row.timestep, row.alpha, row.sigma
    rows = group.target.rows
    assert rows is not None
    seed = seed_from(generator)
    samples = []
    for name in ("first", "second"):
        picked = torch.randint(len(rows), (CHECK_DRAWS,), generator=generator)
        noise = normal_block(seed, name, 0, CHECK_DRAWS, group.target.dim)
        samples.append(alpha * rows[picked].float() + sigma * noise)
    codes = normal_block(seed, "seeds", 0, CHECK_DRAWS, group.target.dim)
    law = audited.law(group, timestep, alpha, sigma)
    if law is not None:
        starts = gaussian_map(codes.double(), law)
    else:
        starts = sample_starts(audited.prior.at(timestep), codes, group.label, seed)  # type: ignore[union-attr]
    axes = group.target.spectrum.basis[:, :16]
    checks = cross_checks(samples[0], samples[1], starts, _interval(row), axes, seed=request.seed)
    return CheckRow(**audited.facts, timestep=timestep, **vars(checks))


def _interval(row: ErrorRow) -> ErrorInterval:
    upper = math.inf if row.upper is None else row.upper
    return ErrorInterval("data", Bound(row.lower, row.lower_by), Bound(upper, row.upper_by))


def bound_row(
    request: AuditRequest, audited: AuditedStart, group: DataGroup, row: ErrorRow, generator: torch.Generator
) -> BoundRow:
    """The estimated bound of one start, in decimal logarithms."""
    rows = group.target.rows
    assert rows is not None
    assert request.unet is not None
    found = estimated_bound(
        request.unet,
        request.scheduler,
        rows.reshape(-1, *_shape(request)),
        row.timestep,
        _interval(row),
        label=request.network_label,
        generator=generator,
    )
    return BoundRow(
        **audited.facts,
        timestep=row.timestep,
        timesteps=found.timesteps,
        gains=found.gains,
        noise_errors=found.noise_errors,
        log10_growth_interval=_decimal(found.log_growth),
        log10_score_term_interval=_decimal(found.log_score_term),
        log10_prior_term_interval=_decimal(found.log_prior_term),
        log10_total_interval=_decimal(found.log_total),
    )


def _decimal(logarithms: tuple[float, float]) -> Limits:
    low, high = (each / math.log(10) if math.isfinite(each) else None for each in sorted(logarithms))
    return low, high


def stability_rows(prior: Any, label: int | None, generator: torch.Generator) -> list[StabilityRow]:
    """How the starts of a semi-discrete prior answer to errors of its potential."""
    rows = potential_stability(prior, label=label, count=1024, generator=generator)
    facts = {"timestep": float(prior.timestep), "class": label}
    return [StabilityRow.from_json(facts | vars(row)) for row in rows]
