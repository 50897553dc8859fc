"""The report of an audit: where the process ends, how wrong each start is, and what that costs.

Distances are W2 in the latents' own units; a bound without a level holds for certain.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from otprior.report.record import Count, Limits, Many, NonNegative, Rate, Record, Report

Level = Annotated[float, Field(gt=0, lt=1)]


class Terminal(Record):
    """What the schedule leaves at its noisiest timestep T; see `otprior.error.terminal.TerminalAudit`."""

    scheduler: str
    kind: Literal["vp", "ve", "flow"]
    prediction: str | None
    timestep: float
    alpha: NonNegative
    sigma: NonNegative
    log_snr: float | None
    leak: Rate
    first_timestep: float | None
    first_leak: NonNegative | None
    shape: Annotated[tuple[int, int, int], Strict(False)] | None
    constant_shift: NonNegative | None


class ClassShift(Record):
    """A class and how far its mean lies from that of all data at T, in standard deviations of the noise."""

    label: int
    name: str | None
    images: Annotated[int, Field(ge=1)]
    shift: NonNegative


class DataAtTheEnd(Record):
    """What is left of the data at T, in standard deviations of the noise; power by cycles an image."""

    name: str
    sha256: str
    images: Count | None
    brightness_shift: NonNegative | None
    brightness_spread: NonNegative | None
    mean_shift: NonNegative | None
    bits: NonNegative | None
    frequency: Many[float]
    power: Many[float]
    mean_power: Many[float]
    excess: Many[float]
    classes: Many[ClassShift]


class AuditVerdict(Record):
    """What is left at T, graded, in words, and what to do about it."""

    grade: Literal["nothing left", "negligible", "small", "large"]
    finding: str
    remedy: str


class AuditRow(Record):
    """A row of an audit: a start at a timestep.

    Attributes:
        name: What it was called; None for the starts of every audit.
        prior: The prior's kind; "identity" for white noise.
        noise, correlation, smoothing: How the prior makes noise; None where it has one way.
        timestep: t*.
    """

    name: str | None
    prior: str
    noise: str | None
    correlation: float | None
    smoothing: float | None
    timestep: float

    @property
    def start(self) -> tuple[Any, ...]:
        """What rows of one start share."""
        return self.name, self.prior, self.noise, self.correlation, self.smoothing

    @property
    def title(self) -> str:
        """What people call the start."""
        words = self.prior.replace("_", " ")
        if self.noise is None:
            title = "N(0, I)" if self.prior == "identity" else f"{words} prior"
        else:
            title = f"{words}, {self.noise}"
            title += "" if self.correlation in (None, 1) else f" ρ={self.correlation:g}"
            title += f" ε={self.smoothing:g}" if self.smoothing else ""
        return title if self.name in (None, self.prior) else f"{self.name} ({title})"


class OtherBound(Record):
    """A bound of an error that is not the best one: its value, where it comes from, and its level."""

    value: NonNegative
    by: str
    level: Level | None
    note: str


class ErrorRow(AuditRow):
    """lower <= W2(p_t, law of the starts) <= upper.

    Attributes:
        label: The class of the data; None for all at once, "all classes" for all put together.
        target: Whether p_t is that of the given data or of their population.
        alpha, sigma: The scales at t*.
        lower, lower_by, lower_level: The lower end, where it comes from, and its level.
        upper, upper_by, upper_level: The same for the upper end, which may be None: unbounded.
        ratio: upper/lower; None if infinite.
        mean_part, covariance_part: Distances of means and of covariances, where the starts' law is Gaussian.
        bounds: Other bounds.
    """

    label: int | str | None = Field(alias="class")
    target: Literal["data", "population"]
    alpha: NonNegative
    sigma: NonNegative
    lower: NonNegative
    lower_by: str
    lower_level: Level | None
    upper: NonNegative | None
    upper_by: str
    upper_level: Level | None
    ratio: Annotated[float, Field(ge=1)] | None
    mean_part: NonNegative | None
    covariance_part: NonNegative | None
    bounds: Many[OtherBound]


class CostRow(AuditRow):
    """Root mean square distances of samples from coupled starts, and of K steps from a fine grid.

    Attributes:
        nfe, fine_nfe: Network evaluations of the K steps and of the fine grid.
        pairs: Number of pairs.
        cost, cost_interval, cost_upper: How far the start moves a sample.
        start_gap: How far apart the coupled starts are.
        stepping, stepping_interval: How far solving in K steps moves a sample.
        total, total_upper: How far both together move it, and its upper 95 % limit; None in older reports.
    """

    nfe: Count | None
    pairs: Count | None
    cost: NonNegative
    cost_interval: Limits
    cost_upper: NonNegative
    start_gap: NonNegative
    stepping: NonNegative
    stepping_interval: Limits
    fine_nfe: Count | None
    total: NonNegative | None = None
    total_upper: NonNegative | None = None


class CheckRow(AuditRow):
    """Other distances of samples, each with its floor; see `otprior.error.audit.cross_checks`."""

    draws: Count | None
    sliced: NonNegative
    sliced_floor: NonNegative
    max_sliced: NonNegative
    max_sliced_floor: NonNegative
    discrete: NonNegative
    discrete_floor: NonNegative
    consistent: bool


class BoundRow(AuditRow):
    """The estimated bound, which is no bound: two of its terms are sampled. Decimal logarithms."""

    timesteps: Many[float]
    gains: Many[Limits]
    noise_errors: Many[Many[float]]
    log10_growth_interval: Limits
    log10_score_term_interval: Limits
    log10_prior_term_interval: Limits
    log10_total_interval: Limits


class StabilityRow(Record):
    """How semi-discrete starts answer to errors of the potential; see `otprior.error.audit.stability`."""

    timestep: float
    label: int | str | None = Field(alias="class")
    size: NonNegative
    largest: NonNegative
    changed: Rate
    gap: NonNegative
    gap_upper: NonNegative
    bound: NonNegative


class Decision(AuditRow):
    """The start that is right for a schedule and data; see `otprior.error.audit.decision`.

    Attributes:
        name, prior, noise, correlation, smoothing, timestep: The recommended start.
        white_is_right: Whether that is the usual one, N(0, I) at T; None if it is right in law, but no audited start is
            right in so few steps.
        white_error: W2 between p_T and N(0, I), from their moments, in standard deviations of the noise.
        share: Share of samples that this affects, about.
        noise_floor: In the same units, what the mean of so many images is uncertain by.
        lower, upper: W2 between p_t* and the recommended start; None if it was not computed or is unbounded.
        steps: K; None where nothing was measured in samples.
        total: How far the recommended start and K steps move a sample, root mean square: `CostRow.total_upper`.
        white_total: How far N(0, I) at T and K steps move it.
        spread: Root mean square distance of the data from their mean.
    """

    white_is_right: bool | None
    white_error: NonNegative
    share: Rate
    noise_floor: NonNegative
    lower: NonNegative | None
    upper: NonNegative | None
    steps: Count | None
    total: NonNegative | None
    white_total: NonNegative | None
    spread: NonNegative


class Audit(Record):
    """What an audit found.

    Attributes:
        name: What was audited.
        terminal: The end of the schedule.
        data: What is left of the data there; None without data.
        verdict: In words.
        errors, costs, checks, bounds, stability: Rows of each part.
        decision: Whether to begin with N(0, I); None without data, and in older reports.
    """

    name: str
    terminal: Terminal
    data: DataAtTheEnd | None
    verdict: AuditVerdict
    errors: Many[ErrorRow]
    costs: Many[CostRow]
    checks: Many[CheckRow]
    bounds: Many[BoundRow]
    stability: Many[StabilityRow]
    decision: Decision | None = None

    def errors_by_start(self, target: str, label: int | str | None = None) -> list[list[ErrorRow]]:
        """Rows of errors, one list a start, in the order of timesteps.

        Arguments:
            target: "data" or "population".
            label: The class; None for all data at once.
        """
        groups: dict[tuple[Any, ...], list[ErrorRow]] = {}
        for row in self.errors:
            if row.target == target and row.label == label:
                groups.setdefault(row.start, []).append(row)
        return list(groups.values())


class AuditReport(Report):
    """The report of `otprior audit`.

    Examples:
        >>> audit = run_audit(AuditRequest(scheduler=scheduler, name="mine", shape=(1, 28, 28)))
        >>> AuditReport(audit=audit).audit.name
        'mine'
    """

    audit: Audit
