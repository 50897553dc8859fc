r"""The flow map from a late time T, F_T, and its limit F_∞ as T grows: how fast, and in which sense.

F_T starts the flow at α_T from plain z ~ N(0, I); F_∞ starts it at α = 0, where (in s = asinh(α/σ)) nothing is
singular. By the flow's first terms, u(s) = z + s μ + ½ s² (Σ − I) z, starting late misses α_T μ, or ½ α_T² (Σ − I)
z if the data are centred. Carried on to a time at which p_t is smooth, a small error stays small:

    E|F_T − F_∞| ~ α_T = exp(−½ ∫ β), or α_T² if centred; so does the root-mean-square.

At the data end, for finitely many points, F_∞ jumps at the walls of its basins. A z within a distance ~ α_T of a
wall changes its atom and moves by an amount that does not shrink, every other one arrives at the same atom. So
E|F_T − F_∞| still falls like α_T, the mass that changes sides, but the mean *square* falls like that mass too: the
root-mean-square only like α_T^{1/2}. Exponential in ½ ∫ β both times, at half the rate.
"""

from __future__ import annotations

import math

import torch

from otprior.diffusion.denoisers import FiniteDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow
from otprior_studies.claims.claim import DERIVED, PRIOR_V1, Curves, Effort, Finding, claim
from otprior_studies.claims.planar import GENERIC, basins

ATOMS, WEIGHTS = GENERIC[5]
SMOOTH_END = Scales.vp(0.6)


def _slope(points: list[tuple[float, float]]) -> float:
    """Slope of log y by log x, between the first and the last point."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    return math.log(y1 / y0) / math.log(x1 / x0)


@claim(
    "flow-limit",
    PRIOR_V1,
    "The reverse flow map converges exponentially as the terminal time grows (here: E|F_T − F_∞| ~ α_T, "
    "α_T² if centred).",
)
def flow_limit(effort: Effort) -> Finding:
    z = effort.normal("flow limit", effort.choose(2000, 300), 2)
    alphas = (1e-4, 1e-3, 1e-2, 1e-1)
    worst, details, series = 0.0, {}, {}
    for name, atoms, expected in (
        ("data as they are", ATOMS, 1.0),
        ("centred data", ATOMS - WEIGHTS @ ATOMS, 2.0),
    ):
        law = FiniteDenoiser(atoms, WEIGHTS)
        limit, *late = (
            probability_flow(law, z, start, SMOOTH_END, method="dop853", rtol=1e-12, atol=1e-13).x
            for start in (NOISE, *map(Scales.vp, alphas))
        )
        points = [(a, float((x - limit).norm(dim=1).mean())) for a, x in zip(alphas, late)]
        slope = _slope(points[:2])
        worst = max(worst, abs(slope - expected))
        details[name] = {"rate in α_T": slope, "expected": expected}
        series[name] = points
    # Error of 1e-12 a step, relative to differences that are 1e-8 where they are smallest.
    error = 1e-3
    return Finding(
        statistic=worst,
        interval=(max(worst - error, 0.0), worst + error),
        threshold=0.01,
        exact=True,
        why="Deviation of the rate of E|F_T − F_∞| in α_T = exp(−½ ∫ β) from 1, or 2 for centred data, at "
        "a time where p_t is smooth. So convergence is exponential, and centring doubles its rate.",
        details=details,
        curves=(
            Curves(
                "flow-limit",
                "The flow from α_T against its limit, five atoms, at α = 0.6",
                "α_T",
                "E|F_T − F_∞|",
                series,
                "xy",
            ),
        ),
    )


@claim(
    "flow-limit-final",
    DERIVED,
    "It converges at the same rate at the data end of a finite set, in mean square: E|F_T − F_∞|² ~ α_T².",
)
def flow_limit_final(effort: Effort) -> Finding:
    z = effort.normal("flow limit, final", effort.choose(200_000, 20_000), 2)
    law = FiniteDenoiser(ATOMS, WEIGHTS)
    limit = ATOMS[basins(law, z)]
    alphas = (0.02, 0.04, 0.08)
    moved = []
    for alpha in alphas:
        # `basins` starts from pure noise, so z is carried back from α to there.
        start = probability_flow(law, z, Scales.vp(alpha), NOISE, steps=8).x
        moved.append((ATOMS[basins(law, start)] - limit).norm(dim=1))
    squares = [(a, float((m**2).mean())) for a, m in zip(alphas, moved)]
    firsts = [(a, float(m.mean())) for a, m in zip(alphas, moved)]
    sample = effort.generator("flow limit bootstrap")
    resampled = []
    stacked = torch.stack(moved, dim=1) ** 2
    for _ in range(400):
        rows = torch.randint(len(z), (len(z),), generator=sample)
        means = stacked[rows].mean(dim=0).tolist()
        resampled.append(_slope(list(zip(alphas, means))))
    ordered = sorted(2.0 - slope for slope in resampled)
    return Finding(
        statistic=2.0 - _slope(squares),
        interval=(ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered))]),
        threshold=0.5,
        why="2 less the rate of E|F_T − F_∞|² in α_T, at the data end of five atoms. The rate there is 1, "
        "since F_∞ jumps: points near a wall change their atom. Convergence is exponential all the same, "
        "at half the rate in this norm.",
        details={
            "rate of E|F_T − F_∞|²": _slope(squares),
            "rate of E|F_T − F_∞|": _slope(firsts),
            "share that changes its atom": {
                str(a): float((m > 0).double().mean()) for a, m in zip(alphas, moved)
            },
        },
    )
