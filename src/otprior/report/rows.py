"""Reading a report's rows: names of starts, quality above the floor, copying beside that of real images.

With F the FID of a row and F0 that of as many held-out real images, both against the same reference
images, the excess F − F0 is what the sampler adds: an FID of n images is biased upward by about the same
amount in both. Shares of copies are read beside those of held-out images in the same way.
"""

from __future__ import annotations

import math

from otprior.data.samples import SOME_IMAGES
from otprior.report.record import Limits
from otprior.report.sampling_report import Figures, ReportRow, SamplingReport

# A share of copies up to one percentage point above that of held-out images counts as their level.
COPY_MARGIN = 0.01
# (low, high), infinite where the data set no limit.
Ends = tuple[float, float]


def family(row: ReportRow) -> str:
    """What kind of start a row has, whatever its sampler and number of evaluations."""
    if row.family is not None:
        return row.family
    if row.prior == "none":
        return "N(0, I) at T"
    # (Reports of searches among several kinds called them all "experimental".)
    if row.prior is None or row.prior == "experimental":
        return row.label or "samples"
    return " ".join(word for word in (row.prior.replace("_", " "), row.noise) if word)


def start_label(row: ReportRow) -> str:
    """The row's own label, or its family's name where it has none; and whether its sampler diverged."""
    return (row.label or family(row)) + (" (diverged)" if has_diverged(row) else "")


def has_diverged(row: ReportRow) -> bool:
    """Whether a row's figures are those of a sampler that diverged, and say nothing of its start."""
    return row.diverged is not None and row.diverged > SOME_IMAGES


def start_detail(row: ReportRow) -> str:
    """Where and how the sampler starts: "t* = 500 · DPM++2M · trailing"."""
    parts = []
    if row.start_timestep is not None:
        parts.append(f"{'t' if row.prior == 'none' else 't*'} = {row.start_timestep:g}")
    parts += [text for text in (row.scheduler, row.spacing) if text]
    if row.conditional:
        parts.append("by class")
    if row.guidance not in (None, 1):
        parts.append(f"guidance {row.guidance:g}")
    if row.smoothing:
        parts.append(f"smoothing {row.smoothing:g}")
    return " · ".join(parts)


def ends(figures: Figures, key: str) -> Ends | None:
    """The 95 % interval of figure `key`; None where it was not measured."""
    return _infinite(getattr(figures, f"{key}_interval", None))


def quality(report: SamplingReport, row: ReportRow) -> tuple[float | None, Ends | None]:
    """FID above the floor with its interval: as measured, else the FID less the floor.

    In the second case the interval is the FID's, shifted: it leaves out the floor's own error. Without a
    floor it is the FID itself.
    """
    if row.excess_fid is not None:
        return row.excess_fid, ends(row, "excess_fid")
    if row.fid is None:
        return None, None
    floor, limits = report.reference.fid_floor or 0.0, ends(row, "fid")
    return row.fid - floor, None if limits is None else (limits[0] - floor, limits[1] - floor)


def level(report: SamplingReport, row: ReportRow) -> float:
    """The quality of a row that has one."""
    value = quality(report, row)[0]
    assert value is not None
    return value


def evaluations(row: ReportRow) -> int:
    """The network evaluations of a row that knows them."""
    assert row.nfe is not None
    return row.nfe


def with_excess(report: SamplingReport, row: ReportRow) -> ReportRow:
    """The row with its FID above the floor, where a floor is known and the row was not given one."""
    if report.reference.fid_floor is None or row.excess_fid is not None:
        return row
    value, limits = quality(report, row)
    return row.model_copy(update={"excess_fid": value, "excess_fid_interval": limits})


def quality_name(report: SamplingReport) -> str:
    """What `quality` returns, in words."""
    known = report.reference.fid_floor is not None
    return "FID above held-out real images" if known else "FID (no floor was measured)"


def copies_more(report: SamplingReport, row: ReportRow) -> bool | None:
    """Whether a row's share of copies lies more than `COPY_MARGIN` above that of held-out images.

    None where either was not measured.
    """
    real = real_copy_rate(report, row)
    if real is None or row.copy_rate is None:
        return None
    return row.copy_rate > real + COPY_MARGIN


def real_copy_rate(report: SamplingReport, row: ReportRow) -> float | None:
    """How often held-out images count as copies of the atoms that the row's samples could be copies of."""
    own = row.held_out_copy_rate
    return report.reference.copy_rate if own is None else own


def reference_row(report: SamplingReport) -> ReportRow:
    """The held-out real images in the form of a row, to stand in the same table."""
    reference = report.reference
    figures = {name: getattr(reference, name) for name in Figures.model_fields}
    return ReportRow(
        **figures,
        label=reference.label or "held-out real images",
        prior=None,
        nfe=None,
        fid=reference.fid_floor,
        fid_interval=reference.fid_floor_interval,
        excess_fid=None if reference.fid_floor is None else 0.0,
        samples=reference.n,
    )


def _infinite(limits: Limits | None) -> Ends | None:
    if limits is None:
        return None
    low, high = limits
    return -math.inf if low is None else low, math.inf if high is None else high
