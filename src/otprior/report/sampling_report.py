"""The report on samples: where sampling began, the figures of each start, and those of held-out real images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field

from otprior.report.record import Count, Curves, Limits, Many, NonNegative, Rate, Record, Report
from otprior.utils.validation import require


class Features(Record):
    """The feature extractor behind FID, KID, precision, recall, density and coverage."""

    name: str | None
    dim: Count | None


class Solve(Record):
    """How well a semi-discrete transport was solved.

    Attributes:
        atoms, dim: Number of atoms, and of their dimensions.
        chi2: Mean squared relative error of the cells' masses, on fresh draws.
        chi2_upper: Its upper 95 % limit.
        seconds, draws: What the solve took.
        outcome: How it ended.
        variance_kept: Share of the data's variance that the axes keep along which cells are found.
        cost_excess_share: By how much the solved transport costs more than the optimal one, relative.
    """

    atoms: Count | None
    dim: Count | None
    chi2: float | None
    chi2_interval: Limits | None = None
    chi2_upper: float | None = None
    seconds: NonNegative | None
    draws: Count | None = None
    outcome: str | None = None
    variance_kept: Rate | None = None
    cost_excess_share: NonNegative | None = None


class Figures(Record):
    """Figures of images, each with its interval; a start's and those of real images. See `otprior.report.metric`."""

    kid: float | None = None
    kid_interval: Limits | None = None
    precision: Rate | None = None
    precision_interval: Limits | None = None
    recall: Rate | None = None
    recall_interval: Limits | None = None
    density: NonNegative | None = None
    density_interval: Limits | None = None
    coverage: Rate | None = None
    coverage_interval: Limits | None = None
    copy_rate: Rate | None
    copy_rate_interval: Limits | None = None
    duplicate_rate: Rate | None = None
    duplicate_rate_interval: Limits | None = None
    nearest_pixel_distance: NonNegative | None = None
    nearest_pixel_distance_interval: Limits | None = None
    nearest_feature_distance: NonNegative | None = None
    nearest_feature_distance_interval: Limits | None = None
    nearest_pixel_below_1pct: Rate | None = None
    nearest_pixel_below_1pct_interval: Limits | None = None
    nearest_feature_below_1pct: Rate | None = None
    nearest_feature_below_1pct_interval: Limits | None = None
    class_accuracy: Rate | None = None
    class_accuracy_interval: Limits | None = None
    mode_mixture: Rate | None = None
    mode_mixture_interval: Limits | None = None

    def measured(self, key: str) -> float:
        """The figure of this name.

        Raises:
            ValueError: If it was not measured.
        """
        value = getattr(self, key)
        require(value is not None, key, "measured", None)
        return float(value)


class RealImages(Figures):
    """Held-out real images, measured as samples are: the floor of every figure.

    Attributes:
        n: Number of images.
        label: Name in the report.
        fid_floor: Their FID.
        class_fid_floor: Their FID class by class, averaged.
        copy_power: Share of training images altered by 8 grey levels that count as copies.
    """

    n: Count | None
    label: str | None = None
    fid_floor: float | None
    fid_floor_interval: Limits | None = None
    class_fid_floor: float | None = None
    class_fid_floor_interval: Limits | None = None
    copy_power: Rate | None = None

    @classmethod
    def from_figures(cls, n: int, figures: Mapping[str, Any], label: str | None = None) -> Self:
        """The record from figures as `metrics.evaluate` names them.

        Arguments:
            n: Number of images.
            figures: An FID becomes a floor; what only samples have is left out.
            label: Name in the report.
        """
        renamed = {name.replace("fid", "fid_floor", 1): value for name, value in figures.items()}
        kept = {name: value for name, value in renamed.items() if not name.startswith(("source_", "seed_"))}
        return cls.from_json({"n": n, "label": label, "fid_floor": None, "copy_rate": None} | kept)


class ReportRow(Figures):
    """A start with its sampler, and the figures of the samples.

    Attributes:
        label: Name in the report; by default the family's.
        family: What starts of this kind are called; by default the prior's kind and noise in words.
        note: A few more words.
        prior: The prior's kind: "none" for white noise at T, None where it is not known.
        noise: How the prior makes noise: "coupled", "fresh", "frozen" or another way; None where it has one alone.
        smoothing, correlation: The prior's entropic smoothing; correlation of its noise with the seed's.
        start_timestep: t*, or where sampling from white noise starts.
        scheduler, spacing, guidance: The sampler.
        conditional: Whether seeds asked for the classes in turn, of a prior by class.
        nfe: Network evaluations for one image.
        samples: Number of samples.
        seeds: Their seeds.
        diverged: Share of them that are far outside [-1, 1] or of one colour: of a sampler that diverged.
        excess_fid: FID less that of held-out real images.
        source_rate: Share of samples whose nearest training image is the one that the start was built on.
        seed_agreement, seed_likeness, seed_pixel_distance: Beside the full sampler's image of the same seed: share of
            one class, mean cosine of features, mean Euclidean distance of pixels.
        fit_seconds: Seconds spent on fitting the prior; None if it was not fitted or not timed.
        break_even: Images after which that time is saved; None if it never is.
        atoms, atoms_from, held_out_copy_rate: The row's own atoms, and the copy rate of real images against them,
            where these are not the report's.

    Examples:
        >>> ReportRow.from_json({"label": "mixture", "prior": "mixture", "nfe": 5, "fid": 7.5, "copy_rate": 0.007}).fid
        7.5
    """

    label: str | None = None
    family: str | None = None
    note: str | None = None
    prior: str | None
    noise: str | None = None
    smoothing: NonNegative | None = None
    correlation: Rate | None = None
    start_timestep: float | None = None
    scheduler: str | None = None
    spacing: str | None = None
    guidance: float | None = None
    conditional: bool | None = None
    nfe: Count | None
    samples: Count | None = None
    seeds: str | Many[int] | None = None
    diverged: Rate | None = None
    fid: float | None
    fid_interval: Limits | None = None
    excess_fid: float | None = None
    excess_fid_interval: Limits | None = None
    source_rate: Rate | None = None
    source_rate_interval: Limits | None = None
    seed_agreement: Rate | None = None
    seed_agreement_interval: Limits | None = None
    seed_likeness: float | None = None
    seed_likeness_interval: Limits | None = None
    seed_pixel_distance: NonNegative | None = None
    seed_pixel_distance_interval: Limits | None = None
    class_fid: float | None = None
    class_fid_interval: Limits | None = None
    excess_class_fid: float | None = None
    excess_class_fid_interval: Limits | None = None
    excess_mode_mixture: float | None = None
    excess_mode_mixture_interval: Limits | None = None
    seconds_per_image: NonNegative | None = None
    seconds_per_image_interval: Limits | None = None
    fit_seconds: NonNegative | None = None
    break_even: NonNegative | None = None
    atoms: Count | None = None
    atoms_from: str | None = None
    held_out_copy_rate: Rate | None = None

    always_written = frozenset(
        {"noise", "start_timestep", "scheduler", "spacing", "guidance", "samples", "seeds"}
        | {"kid", "precision", "recall", "density", "coverage"}
        | {"source_rate", "duplicate_rate", "seed_agreement"}
    )

    @property
    def has_prior(self) -> bool:
        """Whether sampling starts from a prior."""
        return self.prior not in ("none", None)


class Gate(Record):
    """A statement that was to be shown, and the figure that decides it.

    Attributes:
        statement: What was to be shown: that the statistic is at most the threshold.
        statistic: The figure; None where it is not known.
        interval, upper: Its interval, and its upper 95 % limit.
        threshold: See `statement`.
        reached: Whether the upper limit is at most the threshold.

    Examples:
        >>> Gate(statement="at most half", statistic=0.34, upper=0.36, threshold=0.5, reached=True).reached
        True
    """

    statement: str
    statistic: float | None
    interval: Limits | None = None
    upper: float | None = None
    threshold: float | None
    reached: bool


class ReportTable(Record):
    """A table of further figures: title, note, headings, and cells line by line.

    Examples:
        >>> ReportTable(title="Timings", note="", columns=("step", "s"), lines=(("fit", 8.0),)).columns
        ('step', 's')
    """

    title: str
    note: str
    columns: Many[str]
    lines: Many[Many[int | float | str | None]]


class Lead(Record):
    """Title and first sentences of a report that is about something other than its best start."""

    title: str
    sentences: Many[str]


class SamplingReport(Report):
    """The report on samples.

    Attributes:
        features: The feature extractor.
        ot: The transport behind the prior; None where none was solved.
        reference: Held-out real images.
        rows: A start each.
        headline_nfe: Most network evaluations of the start that the summary puts first; None for any number.
        lead: What the report opens with in place of its best start.
        gates: Statements that were to be shown.
        tables, curves: Further figures.
        encoding: Figures of `otprior encode`.

    Examples:
        >>> features, reference = {"name": "mine", "dim": 128}, {"n": 2000, "fid_floor": 2.7, "copy_rate": 0.01}
        >>> report = SamplingReport.from_json({"features": features, "reference": reference, "ot": None, "rows": []})
        >>> report.reference.fid_floor
        2.7
    """

    features: Features
    ot: Solve | None
    reference: RealImages
    rows: Many[ReportRow]
    headline_nfe: Annotated[int, Field(ge=1)] | None = None
    lead: Lead | None = None
    gates: Many[Gate] | None = None
    tables: Many[ReportTable] | None = None
    curves: Many[Curves] | None = None
    encoding: dict[str, Any] | None = None
