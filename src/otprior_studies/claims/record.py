"""The report of `otprior verify`: each claim with its statistic and its verdict."""

from __future__ import annotations

from typing import Annotated

from pydantic import Strict

from otprior.report.record import Curves, Facts, Limits, Many, NonNegative, Record, Report
from otprior_studies.claims.claim import Verdict


class ClaimRow(Record):
    """A claim and its verdict; the claim says that the statistic is at most the threshold.

    Attributes:
        id, paper, statement: The claim.
        statistic, interval: What was found.
        power: What the test would have caught, in words; None where it cannot miss anything.
        threshold: The largest statistic that the claim allows.
        verdict: The outcome.
    """

    id: str
    paper: str
    statement: str
    statistic: float | None
    interval: Limits | None
    power: float | str | None
    threshold: float | None
    verdict: Annotated[Verdict, Strict(False)]


class ClaimDetails(Record):
    """What decided a verdict, the seconds that the test took, further figures, and plots."""

    why: str
    seconds: NonNegative | None
    figures: Facts | None
    curves: Many[Curves]


class ClaimsReport(Report):
    """The report of `otprior verify`; `details` are by the claims' identifiers."""

    claims: Many[ClaimRow]
    details: dict[str, ClaimDetails] | None = None
