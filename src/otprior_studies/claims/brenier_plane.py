r"""Does the flow from noise to finitely many points take each z where optimal transport takes it?

From pure noise (s = 0, `otprior.diffusion.flow`) the flow of N atoms with their exact score sends N(0, I) to the
atoms, each basin holding its atom's weight. Optimal transport does the same with Laguerre cells. The two can only
differ in the shape of the walls: those of the cells are flat, and those of the basins have no reason to be.

- On the line both are monotone, and the same. So are they for atoms on a line in any dimension, hence for any two.
- If a reflection group forces the walls to be flat (equal weights on an equilateral triangle), they are the same.
- Otherwise: the mass of the points that are sent elsewhere, and what this costs. At every z, with the optimal
  offsets h, the optimal potential u(z) = max_i ⟨z, y_i⟩ + h_i is at least ⟨z, y_b⟩ + h_b for the basin b, and the
  mean of the difference is exactly E⟨z, T(z)⟩ − E⟨z, F(z)⟩, since basins and cells have the same masses: half the
  excess in transport cost, with no bias from finitely many draws.

Lavenant & Santambrogio, The flow map of the Fokker-Planck equation does not provide optimal transport (2022), show
that the flow map is not optimal in general; this measures by how much.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor

from otprior.diffusion.denoisers import FiniteDenoiser
from otprior.diffusion.flow import NOISE, Scales, probability_flow
from otprior.metrics.intervals import bootstrap_mean
from otprior_studies.claims.claim import PRIOR_V1, Curves, Effort, Finding, claim
from otprior_studies.claims.planar import GENERIC, TRIANGLE, basins, cells, laguerre_offsets

# Boundaries on the line are found by bisection of the flow, whose tolerance is 1e-11 a step.
LINE_TOLERANCE = 1e-8
# Draws without a mismatch bound its probability by this over their number (95 %: −ln 0.05).
RULE_OF_THREE = 3.0


def _walls_on_the_line(atoms: Tensor, weights: Tensor) -> Tensor:
    """Boundaries between the flow's basins of ascending atoms (N,), shape (N − 1,), to about 1e-10."""
    law = FiniteDenoiser(atoms[:, None], weights)
    end = Scales(1.0, float(atoms.diff().min()) / 20)
    middles = (atoms[1:] + atoms[:-1]) / 2
    low, high = torch.full_like(middles, -6.0), torch.full_like(middles, 6.0)
    for _ in range(36):
        z = (low + high) / 2
        flow = probability_flow(law, z[:, None], NOISE, end, method="dop853", rtol=1e-11, atol=1e-11)
        beyond = flow.x[:, 0] > middles
        low, high = torch.where(beyond, low, z), torch.where(beyond, z, high)
    return (low + high) / 2


@claim(
    "brenier-line",
    PRIOR_V1,
    "On the line (and for two atoms) the limit of the flow map is the Brenier map of N(0, I) to the data.",
)
def brenier_line(effort: Effort) -> Finding:
    generator = effort.generator("line")
    errors = []
    for count in effort.choose((2, 3, 5, 10, 10), (2, 5)):
        atoms = (3 * torch.randn(count, generator=generator, dtype=torch.float64)).sort().values
        weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.2
        weights /= weights.sum()
        quantiles = torch.from_numpy(norm.ppf(weights.cumsum(0)[:-1].numpy()))
        errors.append(float((_walls_on_the_line(atoms, weights) - quantiles).abs().max()))
    return Finding(
        statistic=max(errors),
        interval=(0.0, max(errors)),
        threshold=LINE_TOLERANCE,
        exact=True,
        why="Largest distance between a wall of the flow's basins and of the optimal map's cells, which on "
        "the line are normal quantiles. A monotone map with the right masses is unique. Two atoms in any "
        "dimension are this case.",
        details={"errors": errors},
    )


@claim(
    "brenier-plane",
    PRIOR_V1,
    "For finite data the limit of the flow map is the Brenier map of N(0, I) to the data.",
)
def brenier_plane(effort: Effort) -> Finding:
    draws = effort.choose(100_000, 8_000)
    details: dict[str, dict[str, Any]] = {}
    mismatches = {}
    for name, (atoms, weights) in {
        "two atoms": (GENERIC[3][0][:2], torch.tensor([0.3, 0.7], dtype=torch.float64)),
        "equilateral triangle": (TRIANGLE, torch.full((3,), 1 / 3, dtype=torch.float64)),
        "three atoms": GENERIC[3],
        "five atoms": GENERIC[5],
    }.items():
        law = FiniteDenoiser(atoms, weights)
        # (The triangle's are equal by symmetry.)
        offsets = 0 * weights if atoms is TRIANGLE else laguerre_offsets(atoms, weights)
        z = effort.normal(f"plane {name}", draws, 2)
        by_flow, by_transport = basins(law, z), cells(atoms, offsets, z)
        scores = z @ atoms.T + offsets
        lost = scores.max(dim=1).values - scores.gather(1, by_flow[:, None])[:, 0]
        cost = float((scores.max(dim=1).values - offsets[by_transport]).mean())
        sample = effort.generator(f"plane {name} bootstrap")
        mismatches[name] = bootstrap_mean(by_flow != by_transport, sample)
        coarser = basins(law, z[: draws // 10], steps=60)
        details[name] = {
            "mismatch": mismatches[name].estimate,
            "mismatch interval": mismatches[name].limits(),
            "lost of E<z, T(z)>": float(lost.mean()) / cost,
            "basins that change with half the steps": int((coarser != by_flow[: draws // 10]).sum()),
            "smallest rotation caught, degrees": _unseen_rotation(atoms, offsets, z),
        }
    chosen = mismatches["three atoms"]
    return Finding(
        statistic=chosen.estimate,
        interval=(chosen.lo, chosen.hi),
        threshold=RULE_OF_THREE / draws,
        unseen_rotation=details["three atoms"]["smallest rotation caught, degrees"],
        why="Mass that the flow sends to another atom than optimal transport does, three atoms in general "
        "position. The basins' walls are curved, the cells' are flat. Two atoms and an equilateral "
        "triangle agree.",
        details=details,
        curves=(_walls(effort),),
    )


def _unseen_rotation(atoms: Tensor, offsets: Tensor, z: Tensor) -> float:
    """Degrees by which the cells must be turned for the test to notice the points that change cell."""
    angle = torch.tensor(1.0, dtype=torch.float64).deg2rad()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    moved = float((cells(atoms, offsets, z) != cells(atoms, offsets, z @ turn.T)).double().mean())
    # What a small rotation moves is proportional to its angle.
    return RULE_OF_THREE / len(z) / moved


def _walls(effort: Effort) -> Curves:
    """Walls of three atoms' basins and cells: midpoints of neighbours on a grid that go to different atoms."""
    atoms, weights = GENERIC[3]
    law, offsets = FiniteDenoiser(atoms, weights), laguerre_offsets(atoms, weights)
    ticks = torch.linspace(-3, 3, effort.choose(181, 81), dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    series = {}
    for name, label in (
        ("basins of the flow", basins(law, grid)),
        ("cells of optimal transport", cells(atoms, offsets, grid)),
    ):
        here, points = label.reshape(len(ticks), -1), grid.reshape(len(ticks), -1, 2)
        across, along = here[1:] != here[:-1], here[:, 1:] != here[:, :-1]
        middles = ((points[1:] + points[:-1])[across] / 2, (points[:, 1:] + points[:, :-1])[along] / 2)
        series[name] = [(float(a), float(b)) for a, b in torch.cat(middles)]
    return Curves(
        "brenier-plane", "Walls between three atoms' shares of the noise", "z₁", "z₂", series, points=True
    )
