"""Transport regularised by entropy: Sinkhorn on a finite source, two atoms by quadrature, and limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from generators.mixtures import mixture, unequal_weights
from scipy.optimize import brentq
from scipy.special import expit
from torch import Generator, Tensor

from otprior import solve_semidiscrete
from otprior.transport.cells import entropic
from otprior.transport.cells.entropic import EntropicCells
from otprior.transport.cells.search import DRAWS_PER_SET, LaguerreCells
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.potential import natural_scale
from otprior.transport.solution import Outcome


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [1, 2, 6, 140])
@pytest.mark.parametrize("relative", [0.3, 3.0])
def test_against_sinkhorn(dim: int, relative: float) -> None:
    """On a source of 300 points the plan and the potential are those of POT's Sinkhorn.

    In POT's plan exp(log_u + log_v − cost/ε), h = ε log_v − |y|²/2. An error of
    h by δ/τ changes masses by that factor where ε < τ, and by δ/ε elsewhere.
    """
    points, atoms, weights = normal(300, dim, seed=3), mixture(25, dim), unequal_weights(25, 4)

    def sampler(count: int, _: int, generator: Generator) -> Tensor:
        return points[torch.randint(300, (count,), generator=generator)]

    tau = natural_scale(atoms, weights)
    entropy = relative * float(tau.median())
    solution = solve_semidiscrete(atoms, weights, source=sampler, entropy=entropy, tol=0.005)
    assert solution.outcome is Outcome.CONVERGED
    cost = ot.dist(points.double().numpy(), atoms.double().numpy()) / 2
    plan, log = ot.sinkhorn(
        np.full(300, 1 / 300),
        weights.numpy(),
        cost,
        entropy,
        method="sinkhorn_log",
        log=True,
        numItermax=10**5,
    )
    shares = torch.softmax((points.double() @ atoms.double().T + solution.potential) / entropy, dim=1)
    chi2 = ((shares.mean(dim=0) - weights) ** 2 / weights).sum()
    assert float(chi2) < 0.006
    total = np.abs(shares.numpy() / 300 - plan).sum() / 2
    assert total < 0.5 * 0.006**0.5 * 1.5  # half the mean relative error of masses, and a bit
    truth = entropy * log["log_v"] - 0.5 * (atoms.double() ** 2).sum(dim=1).numpy()
    off = solution.potential.numpy() - truth
    off = (off - weights.numpy() @ off) / np.maximum(tau.numpy(), entropy)
    assert np.sqrt(weights.numpy() @ off**2) < 3 * 0.006**0.5


@pytest.mark.parametrize("entropy", [0.1, 1.0, 10.0])
def test_two_atoms(entropy: float) -> None:
    """One share, σ((|y_1 − y_0| x + h_1 − h_0)/ε) with x normal, whose mean is 0.2: a root of an integral."""
    y = normal(2, 40)
    solution = solve_semidiscrete(y, torch.tensor([0.8, 0.2]), entropy=entropy, tol=1e-3)
    length = float(torch.linalg.vector_norm(y[1] - y[0]))
    x = np.linspace(-8, 8, 4001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    truth = brentq(lambda h: density @ expit((length * x + h) / entropy) - 0.2, -50, 50)
    difference = float(solution.potential[1] - solution.potential[0])
    # χ² = (Δp)²/(ν_0 ν_1) ≤ 1e-3 allows Δp = 0.013, a change of the boundary by 0.05, or of the logit by 0.1.
    assert abs(difference - truth) < max(0.06 * length, 0.12 * entropy)


@pytest.mark.parametrize("dim", [8, 130])
def test_small_entropy_is_none(dim: int) -> None:
    """Shares at ε = τ/1000 are cells, but for the few draws near a boundary."""
    measure = DiscreteMeasure.build(mixture(200, dim))
    tau = float(natural_scale(measure.atoms, measure.weights).median())
    hard = LaguerreCells.build(measure, 0)
    smoothed = EntropicCells(hard, tau / 1000)
    offsets = torch.zeros(200, dtype=torch.float64)
    shares = smoothed.hits(offsets, "test", range(8)).double() / smoothed.units_per_draw
    assert float(shares.sum()) == pytest.approx(8 * 256, abs=1e-3)
    assert float((shares - hard.hits(offsets, "test", range(8))).abs().sum()) < 0.01 * 8 * 256


@pytest.mark.parametrize("lifted", [0.0, 150.0])
@pytest.mark.parametrize("dim", [8, 130])
def test_shares_are_those_of_a_softmax(dim: int, lifted: float) -> None:
    """Of 2,100 atoms, which are three blocks, summed over all draws of two sets; float64 by hand. An atom that is not
    among the sampled ones may be the highest by far: `lifted` ε are more than float32 has powers for."""
    measure = DiscreteMeasure.build(mixture(2100, dim))
    hard = LaguerreCells.build(measure, 0)
    cells = EntropicCells(hard, 0.5 * float(natural_scale(measure.atoms, measure.weights).median()))
    offsets = 0.2 * cells.entropy * normal(2100, seed=3).double()
    offsets[entropic.SAMPLED + 1] += lifted * cells.entropy
    draws = hard.draws("test", [5, 9])
    rows = torch.cat([draws.rows(k, torch.arange(DRAWS_PER_SET)) for k in (0, 1)])
    expected = torch.softmax((rows @ hard.atoms.double().T + offsets) / cells.entropy, dim=1).sum(dim=0)
    found = cells.hits(offsets, "test", [5, 9]).double() / cells.units_per_draw
    # (A score over ε is some 40 or, lifted, 200, and off by 1e-7 of that.)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)
    # What was kept of the last call is no more than products.
    other = replace(cells, entropy=2 * cells.entropy)
    fresh = EntropicCells(hard, other.entropy)
    assert torch.equal(other.hits(-offsets, "test", [9, 5]), fresh.hits(-offsets, "test", [5, 9]))


def test_chi_squared_of_shares_is_unbiased() -> None:
    """40 estimates of 12 sets spread about the χ² that many draws tell, as they say."""
    measure = DiscreteMeasure.build(mixture(60, 128), unequal_weights(60, 20))
    tau = natural_scale(measure.atoms, measure.weights)
    smoothed = EntropicCells(LaguerreCells.build(measure, 0), 0.5 * float(tau.median()))
    offsets = 0.3 * tau * normal(60, seed=3).double()
    scores = normal(100_000, 128, seed=4) @ smoothed.atoms.T
    masses = torch.softmax((scores + offsets) / smoothed.entropy, dim=1).mean(dim=0)
    truth = float(((masses - measure.weights) ** 2 / measure.weights).sum())
    estimates = [smoothed.chi_squared(offsets, "test", range(12 * k, 12 * k + 12)) for k in range(40)]
    values = torch.tensor([estimate.value for estimate in estimates])
    # The truth has an error too, smaller by √(100,000/3,072) and the mixing.
    assert abs(float(values.mean()) - truth) < 4.5 * float(values.std()) / 40**0.5
    stated = (sum(estimate.standard_error**2 for estimate in estimates) / 40) ** 0.5
    assert 0.6 < stated / float(values.std()) < 1.6


def test_bad_entropy() -> None:
    for bad in (-1.0, float("nan"), "0.1"):
        with pytest.raises(ValueError, match="entropy must be a nonnegative number"):
            solve_semidiscrete(normal(5, 3), entropy=bad)  # type: ignore[arg-type]
