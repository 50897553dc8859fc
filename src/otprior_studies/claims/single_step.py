r"""Static optimal transport as a single step: is it the map nearest to the flow's, F from pure noise to t*?

E|T(z) − F_{t*}(z)|² for

- the transport map: at the data end T(z) = y_{i(z)}, optimal to the data set; at t* > 0 McCann's interpolation α
  y_{i(z)} + σ z, which is what an OT prior can compute (it is optimal onto its own law, which is not p_t*);
- the gaussian map α μ + (α² Σ + σ² I)^{1/2} z;
- N(0, I): z itself.

The ratio of the first to the second is the statistic: below 1 if static transport is the better single step. The two
limits are opposite. Towards noise the flow is z + α μ + ½ α² (Σ − I) z + O(α³), as is the gaussian map,
while α y_{i(z)} + σ z is off by α y: the gaussian map wins at large t*, whatever the data. At the data end the flow
ends in data points, and so does transport, while the gaussian map blurs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprior.diffusion.denoisers import FiniteDenoiser
from otprior.metrics.intervals import Interval, ratio_interval
from otprior_studies.claims.claim import DERIVED, PRIOR_V1, Curves, Effort, Finding, claim
from otprior_studies.claims.images import TIMESTEPS, image_flow, image_offsets, images
from otprior_studies.claims.planar import GENERIC, basins, cells, laguerre_offsets

BLOCKS = 10
# Where the library starts by default.
USUAL_TIMESTEP = 500


def _gaussian_map(rows: Tensor, weights: Tensor, z: Tensor, alpha: float, sigma: float) -> Tensor:
    """α μ + (α² Σ + σ² I)^{1/2} z with the rows' own moments, float64."""
    mean = weights @ rows
    centred = rows - mean
    variances, axes = torch.linalg.eigh((centred * weights[:, None]).T @ centred)
    gain = (alpha**2 * variances.clamp(min=0) + sigma**2).sqrt()
    return alpha * mean + (z @ axes * gain) @ axes.T


def _ratio(map_: Tensor, other: Tensor, flow: Tensor) -> Interval:
    """E|map − flow|²/E|other − flow|², with Fieller's interval over blocks of the draws."""
    parts = [((m - flow) ** 2).sum(dim=1) for m in (map_, other)]
    above, below = (torch.stack([b.mean() for b in part.tensor_split(BLOCKS)]) for part in parts)
    found = ratio_interval(above, below)
    return Interval(float(found.lo), float(found.hi), found.estimate)


@claim(
    "single-step-end",
    PRIOR_V1,
    "At the data end static optimal transport is the single step nearest to the flow (nearer than the "
    "gaussian map).",
)
def single_step_end(effort: Effort) -> Finding:
    found: dict[str, Interval] = {}
    to_noise: dict[str, float] = {}
    for name, (atoms, weights) in {f"{k} atoms in the plane": GENERIC[k] for k in GENERIC}.items():
        z = effort.normal(f"single step {name}", effort.choose(50_000, 5_000), 2)
        flow = atoms[basins(FiniteDenoiser(atoms, weights), z)]
        transport = atoms[cells(atoms, laguerre_offsets(atoms, weights), z)]
        found[name] = _ratio(transport, _gaussian_map(atoms, weights, z, 1.0, 0.0), flow)
        to_noise[name] = _ratio(transport, z, flow).estimate
    pictures, rows = image_flow(effort), images().double()
    z = pictures.z.double()
    chosen = rows[cells(rows, image_offsets("one", effort.seed), z)]
    uniform = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    blurred = _gaussian_map(rows, uniform, z, 1.0, 0.0)
    found["1,000 images"] = _ratio(chosen, blurred, rows[pictures.basin])
    to_noise["1,000 images"] = _ratio(chosen, z, rows[pictures.basin]).estimate
    worst = max(found, key=lambda name: found[name].hi)
    return Finding(
        statistic=found[worst].estimate,
        interval=(found[worst].lo, found[worst].hi),
        threshold=1.0,
        why="E|T(z) − F(z)|² of the optimal map to the data over that of the gaussian map, at the data "
        f"end, where it is largest: {worst}. Not 0, since the flow is not optimal transport; below 1 if "
        "transport is the better single step.",
        details={
            "ratio to the gaussian map": {k: [v.lo, v.estimate, v.hi] for k, v in found.items()},
            "ratio to N(0, I)": to_noise,
        },
    )


@claim(
    "single-step-middle",
    DERIVED,
    "So it is in the middle of the process (α y(z) + σ z against the gaussian map, 1,000 images, t* = 500).",
)
def single_step_middle(effort: Effort) -> Finding:
    flow, rows = image_flow(effort), images().double()
    z = flow.z.double()
    chosen = rows[cells(rows, image_offsets("one", effort.seed), z)]
    uniform = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    found: list[Interval] = []
    series: dict[str, list[tuple[float, float]]] = {"transport": [], "gaussian": [], "N(0, I)": []}
    for t, (alpha, sigma), points in zip(TIMESTEPS, flow.moments, flow.points):
        there = points.double()
        maps = (alpha * chosen + sigma * z, _gaussian_map(rows, uniform, z, alpha, sigma), z)
        found.append(_ratio(maps[0], maps[1], there))
        for curve, start in zip(series.values(), maps):
            curve.append((t, float(((start - there) ** 2).sum(dim=1).mean())))
    usual = found[TIMESTEPS.index(USUAL_TIMESTEP)]
    nearer = [t for t, f in zip(TIMESTEPS, found) if f.hi < 1]
    return Finding(
        statistic=usual.estimate,
        interval=(usual.lo, usual.hi),
        threshold=1.0,
        why="E|T(z) − F(z)|² of α y(z) + σ z over that of the gaussian map, 1,000 images, at t* = "
        f"{USUAL_TIMESTEP}. Towards noise the flow is linear to second order, as the gaussian map is; "
        f"transport is surely nearer only at t* = {', '.join(map(str, nearer))}.",
        details={
            "by timestep": {
                str(t): {"ratio": [f.lo, f.estimate, f.hi]} | {k: dict(v)[t] for k, v in series.items()}
                for t, f in zip(TIMESTEPS, found)
            }
        },
        curves=(
            Curves(
                "single-step",
                "How far a single step is from the exact flow of 1,000 images",
                "t*",
                "E|T(z) − F(z)|²",
                series,
                "y",
            ),
        ),
    )
