"""An audit from request to report: a plain dictionary in the form of `report/schemas/report.schema.json`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from otprior.data.images import ImageSet
from otprior.error.audit.costs import bound_row, check_row, cost_rows, stability_rows
from otprior.error.audit.errors import AuditedStart, DataGroup, audited_priors, data_groups, error_rows
from otprior.error.audit.request import AuditRequest
from otprior.error.sampling_cost import Sampler
from otprior.error.start_law import semidiscrete
from otprior.error.terminal import TerminalAudit, TerminalData, judge_terminal, terminal_audit, terminal_data

logger = logging.getLogger(__name__)

Listener = Callable[[str, int, int], None]


def run_audit(request: AuditRequest, listen: Listener | None = None) -> dict[str, Any]:
    """Computes everything that was asked.

    Arguments:
        request: The audit.
        listen: Called with (stage, done, total) now and then.

    Returns:
        The part "audit" of a report.
    """
    tell = listen or (lambda stage, done, total: None)
    tell("reading the schedule", 0, 0)
    terminal = terminal_audit(request.scheduler, request.shape or _shape(request.data))
    report: dict[str, Any] = {
        "name": request.name,
        "terminal": asdict(terminal),
        "data": None,
        "verdict": asdict(judge_terminal(terminal)),
        "errors": [],
        "costs": [],
        "checks": [],
        "bounds": [],
        "stability": [],
    }
    if request.data is not None:
        _of_data(request, request.data, terminal, report, tell)
    return report


def _shape(data: ImageSet | None) -> tuple[int, int, int] | None:
    if data is None:
        return None
    channels, height, width = data.images.shape[1:]
    return int(channels), int(height), int(width)


def _of_data(
    request: AuditRequest, data: ImageSet, terminal: TerminalAudit, report: dict[str, Any], tell: Listener
) -> None:
    generator = torch.Generator().manual_seed(request.seed)
    tell("moments and flow of the data", 0, 0)
    groups = data_groups(request, data, request.held_out, False, generator)
    if len(data) <= groups[0].target.dim:
        logger.warning(
            "%d images in %d dimensions: their covariance is singular, and says little of the population's",
            len(data),
            groups[0].target.dim,
        )
    at_end = terminal_data(terminal, data, groups[0].target.spectrum)
    report["data"] = _data_part(at_end, data)
    report["verdict"] = asdict(judge_terminal(terminal, at_end))
    starts = _errors(request, data, groups, False, report, tell, generator)
    _rest(request, starts, groups[0], report, tell, generator)
    if request.conditional:
        tell("moments and flow of each class", 0, 0)
        by_class = data_groups(request, data, request.held_out, True, generator)
        _errors(request, data, by_class, True, report, tell, generator)


def _data_part(at_end: TerminalData, data: ImageSet) -> dict[str, Any]:
    spectrum = at_end.spectrum
    return {
        "name": data.name,
        "sha256": data.sha256,
        "images": at_end.images,
        "brightness_shift": at_end.brightness_shift,
        "brightness_spread": at_end.brightness_spread,
        "mean_shift": at_end.mean_shift,
        "bits": at_end.bits,
        "frequency": spectrum.frequency.tolist(),
        "power": spectrum.power.tolist(),
        "mean_power": spectrum.mean_power.tolist(),
        "excess": at_end.excess.tolist(),
        "classes": [asdict(each) for each in at_end.classes],
    }


def _errors(
    request: AuditRequest,
    data: ImageSet,
    groups: list[DataGroup],
    by_class: bool,
    report: dict[str, Any],
    tell: Listener,
    generator: torch.Generator,
) -> list[AuditedStart]:
    starts = []
    for each in audited_priors(request, data, groups, by_class, generator):
        starts.append(each)
        stage = f"errors of {each.facts['prior']}" + (" by class" if by_class else "")
        for done, rows in enumerate(error_rows(request, each, groups, generator)):
            report["errors"] += rows
            tell(stage, done + 1, len(request.timesteps))
    return starts


def _rest(
    request: AuditRequest,
    starts: list[AuditedStart],
    group: DataGroup,
    report: dict[str, Any],
    tell: Listener,
    generator: torch.Generator,
) -> None:
    """Cross-checks, costs in samples, the estimated bound and stability."""
    middle = (
        request.cost_timesteps[0]
        if request.cost_timesteps
        else request.timesteps[len(request.timesteps) // 2]
    )
    known = {_key(row): row for row in report["errors"] if row["target"] == "data" and row["class"] is None}
    for each in starts:
        tell("cross-checks", 0, 0)
        own = each.own.get(None, group)
        row = known[_key(each.facts | {"timestep": float(middle)})]
        if own.target.rows is not None and row["alpha"] > 0:
            report["checks"].append(check_row(request, each, own, middle, row, generator))
        # (Starts that differ in their noise alone have the same map. What is known of stability is of cells in all
        # directions.)
        cells = semidiscrete(each.prior)
        solved = cells is not None and cells.smoothing == 0 and cells.axes.shape[1] == 0
        if cells is not None and solved and not report["stability"]:
            report["stability"] = stability_rows(cells.at(middle), None, generator)
    if request.unet is None:
        return
    if group.flow is not None:
        sampler = Sampler(request.unet, request.sampler or request.scheduler, request.network_label)
        for done, t in enumerate(request.cost_timesteps):
            tell("cost in samples", done, len(request.cost_timesteps))
            report["costs"] += list(cost_rows(request, starts, group, sampler, t, generator))
    if request.estimated_bound:
        tell("estimated bound", 0, 0)
        for each in starts[:2]:
            row = known[_key(each.facts | {"timestep": float(middle)})]
            report["bounds"].append(bound_row(request, each, group, row, generator))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("name", "prior", "noise", "correlation", "smoothing", "timestep"))
