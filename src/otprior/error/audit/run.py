"""An audit from request to report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

import torch

from otprior.data.images import ImageSet
from otprior.error.audit.costs import bound_row, check_row, cost_rows, stability_rows
from otprior.error.audit.decision import decide
from otprior.error.audit.errors import AuditedStart, DataGroup, audited_priors, data_groups, error_rows
from otprior.error.audit.request import AuditRequest
from otprior.error.sampling_cost import Sampler
from otprior.error.start_law import semidiscrete
from otprior.error.terminal import TerminalData, judge_terminal, terminal_audit, terminal_data
from otprior.report.audit.record import (
    Audit,
    AuditVerdict,
    BoundRow,
    CheckRow,
    CostRow,
    DataAtTheEnd,
    ErrorRow,
    StabilityRow,
    Terminal,
)

logger = logging.getLogger(__name__)

Listener = Callable[[str, int, int], None]


def run_audit(request: AuditRequest, listen: Listener | None = None) -> Audit:
    """Computes everything that was asked.

    Arguments:
        request: The audit.
        listen: Called with (stage, done, total) now and then.

    Examples:
        >>> audit = run_audit(AuditRequest(scheduler=scheduler, name="mine", shape=(1, 28, 28)))
        >>> round(audit.terminal.leak, 4)
        0.0064
    """
    listen = listen or (lambda stage, done, total: None)
    listen("reading the schedule", 0, 0)
    terminal = terminal_audit(request.scheduler, request.shape or _shape(request.data))
    audit = Audit(
        name=request.name,
        terminal=Terminal.from_json(asdict(terminal)),
        data=None,
        verdict=AuditVerdict.from_json(asdict(judge_terminal(terminal))),
        errors=(),
        costs=(),
        checks=(),
        bounds=(),
        stability=(),
    )
    if request.data is None:
        return audit
    run = _DataAudit(request, request.data, listen)
    at_end = terminal_data(terminal, request.data, run.groups[0].target.spectrum)
    starts, errors = run.errors(run.groups, by_class=False)
    checks, stability = run.checks(starts, errors)
    costs, bounds = run.costs(starts), run.bounds(starts, errors)
    if request.conditional:
        listen("moments and flow of each class", 0, 0)
        groups = data_groups(request, request.data, request.held_out, True, run.generator)
        errors += run.errors(groups, by_class=True)[1]
    return audit.replace(
        data=_data_part(at_end, request.data),
        verdict=asdict(judge_terminal(terminal, at_end)),
        errors=errors,
        costs=costs,
        checks=checks,
        bounds=bounds,
        stability=stability,
        decision=decide(request, terminal, at_end, run.groups[0].target, errors, costs),
    )


def _shape(data: ImageSet | None) -> tuple[int, int, int] | None:
    if data is None:
        return None
    channels, height, width = data.images.shape[1:]
    return int(channels), int(height), int(width)


def _data_part(at_end: TerminalData, data: ImageSet) -> DataAtTheEnd:
    spectrum = at_end.spectrum
    return DataAtTheEnd.build(
        name=data.name,
        sha256=data.sha256,
        images=at_end.images,
        brightness_shift=at_end.brightness_shift,
        brightness_spread=at_end.brightness_spread,
        mean_shift=at_end.mean_shift,
        bits=at_end.bits,
        frequency=spectrum.frequency.tolist(),
        power=spectrum.power.tolist(),
        mean_power=spectrum.mean_power.tolist(),
        excess=at_end.excess.tolist(),
        classes=[asdict(each) for each in at_end.classes],
    )


class _DataAudit:
    """The parts of an audit that need data; all draws are of one generator, so their order matters."""

    def __init__(self, request: AuditRequest, data: ImageSet, listen: Listener) -> None:
        self.request, self.data, self.listen = request, data, listen
        self.generator = torch.Generator().manual_seed(request.seed)
        listen("moments and flow of the data", 0, 0)
        self.groups = data_groups(request, data, request.held_out, False, self.generator)
        dim = self.groups[0].target.dim
        if len(data) <= dim:
            message = "%d images in %d dimensions: their covariance is singular, and says little of the population's"
            logger.warning(message, len(data), dim)
        times = request.cost_timesteps
        # Where the errors are looked at more closely.
        self.middle = float(times[0] if times else request.timesteps[len(request.timesteps) // 2])

    def errors(self, groups: list[DataGroup], by_class: bool) -> tuple[list[AuditedStart], list[ErrorRow]]:
        """The starts, and their errors at every timestep."""
        starts, found = [], []
        for each in audited_priors(self.request, self.data, groups, by_class, self.generator):
            starts.append(each)
            stage = f"errors of {each.facts['prior']}" + (" by class" if by_class else "")
            for done, rows in enumerate(error_rows(self.request, each, groups, self.generator)):
                found += rows
                self.listen(stage, done + 1, len(self.request.timesteps))
        return starts, found

    def checks(
        self, starts: list[AuditedStart], errors: list[ErrorRow]
    ) -> tuple[list[CheckRow], list[StabilityRow]]:
        """Cross-checks of every start, and the stability of the first semi-discrete one."""
        checks: list[CheckRow] = []
        stability: list[StabilityRow] = []
        for each in starts:
            self.listen("cross-checks", 0, 0)
            own, row = each.own.get(None, self.groups[0]), self._row(each, errors)
            if own.target.rows is not None and row.alpha > 0:
                checks.append(check_row(self.request, each, own, row, self.generator))
            # (Starts that differ in their noise alone have the same map. Stability is known for cells in all
            # directions.)
            cells = semidiscrete(each.prior)
            solved = cells is not None and cells.smoothing == 0 and cells.axes.shape[1] == 0
            if cells is not None and solved and not stability:
                stability = stability_rows(cells.at(self.middle), None, self.generator)
        return checks, stability

    def costs(self, starts: list[AuditedStart]) -> list[CostRow]:
        """Costs in samples, where there are a network and draws."""
        request, costs = self.request, []
        if request.unet is not None and self.groups[0].flow is not None:
            sampler = Sampler(request.unet, request.sampler or request.scheduler, request.network_label)
            for done, t in enumerate(request.cost_timesteps):
                self.listen("cost in samples", done, len(request.cost_timesteps))
                costs += list(cost_rows(request, starts, self.groups[0], sampler, t, self.generator))
        return costs

    def bounds(self, starts: list[AuditedStart], errors: list[ErrorRow]) -> list[BoundRow]:
        """The estimated bound of white noise and of the gaussian prior, if it was asked for."""
        if self.request.unet is None or not self.request.estimated_bound:
            return []
        self.listen("estimated bound", 0, 0)
        return [
            bound_row(self.request, each, self.groups[0], self._row(each, errors), self.generator)
            for each in starts[:2]
        ]

    def _row(self, start: AuditedStart, errors: list[ErrorRow]) -> ErrorRow:
        """The error of a start for the data as a whole, at the middle timestep."""
        return next(
            row
            for row in errors
            if row.target == "data" and row.label is None and row.timestep == self.middle
            if row.start == tuple(start.facts.values())
        )
