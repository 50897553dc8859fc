r"""The decision that an audit ends in: is N(0, I) at T the right start for this schedule and these data, or which is?

*The law at T.* The probability flow with the exact score is a bijection, so the law of samples differs from that of
the data exactly as N(0, s² I), s² = α² + σ², differs from p_T: in total variation, and in every divergence of
densities. There p_T is nearly Gaussian, and W2 = D s away, mostly by a shift; of the samples a share of about
2 Φ(D/2) − 1 is affected. Where D is graded harmless (`terminal.NEGLIGIBLE`), N(0, I) is right. Else the gaussian prior
at T is, unless D is no more than its own noise floor: the mean of N images is off by α √(tr Σ/N), in units of s.

*In K steps.* A start at t* < T has another law than p_t*, but fewer steps to lose. With a network both are measured
together: x ~ p_t* in many steps against the start that is coupled with it in K, root mean square, an upper bound of W2
between samples and what the network can do (`CostRow.total`). Where that of the start at T is at most a share
`ENOUGH` of the data's own spread, nothing is left to gain. Else it is the start of the lowest upper limit, if that is
lower by more than the same share; if it is not, no audited start is right in so few steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.stats import norm

from otprior.diffusion.schedule import NoiseSchedule
from otprior.error.audit.request import AuditRequest
from otprior.error.target import Target
from otprior.error.terminal import NEGLIGIBLE, TerminalAudit, TerminalData
from otprior.report.audit.record import CostRow, Decision, ErrorRow

# Samples that are off by a twentieth of the data's own spread leave nothing to gain.
ENOUGH = 0.05
# What names a start.
START = ("name", "prior", "noise", "correlation", "smoothing", "timestep")


def decide(
    request: AuditRequest,
    terminal: TerminalAudit,
    at_end: TerminalData,
    target: Target,
    errors: Sequence[ErrorRow],
    costs: Sequence[CostRow],
) -> Decision:
    """The start that is right, and why."""
    end = float(NoiseSchedule.from_scheduler(request.scheduler).timestep_range[1])
    spread = math.sqrt(target.total_variance)
    floor = terminal.leak * spread / math.sqrt(at_end.images)
    off = at_end.white_error
    harmless = off < NEGLIGIBLE or off**2 <= 2 * floor**2
    chosen: dict[str, Any] = dict.fromkeys(START)
    chosen |= {"prior": "identity" if harmless else "gaussian", "timestep": end}
    measured: dict[str, Any] = {"steps": None, "total": None, "white_total": None}
    right: bool | None = harmless
    known = [row for row in costs if row.total_upper is not None]
    at_t = {row.prior: row for row in known if row.timestep == end and row.name is None}
    white, base = at_t.get("identity"), at_t.get(chosen["prior"])
    if white is not None and base is not None:
        best = min((row for row in known if row.timestep < end), key=_upper, default=base)
        enough = ENOUGH * spread
        near = _upper(base) <= enough
        if near or _upper(best) > _upper(base) - enough:
            best = base
        right = (near or None) if harmless and best is base else False
        chosen = {name: getattr(best, name) for name in START}
        measured = {"steps": request.steps, "total": best.total_upper, "white_total": white.total_upper}
    facts = chosen | measured | {
        "white_is_right": right,
        "white_error": off,
        "noise_floor": floor,
        "share": float(2 * norm.cdf(off / 2) - 1),
        "spread": spread,
    }  # fmt: skip
    own = [row for row in errors if row.target == "data" and row.label is None]
    error = next((row for row in own if all(getattr(row, name) == chosen[name] for name in START)), None)
    facts |= {
        "lower": None if error is None else error.lower,
        "upper": None if error is None else error.upper,
    }
    return Decision.build(**facts)


def _upper(row: CostRow) -> float:
    assert row.total_upper is not None
    return row.total_upper
