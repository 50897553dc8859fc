"""Sources other than N(0, I): quantiles on the line, products, affine images of the normal law, discrete transport."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from generators.mixtures import mixture, unequal_weights
from torch import Generator, Tensor

from otprior import solve_semidiscrete
from otprior.transport.potential import BrenierPotential, natural_scale
from otprior.transport.solution import Outcome


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(count: int, dim: int, generator: Generator) -> Tensor:
    return torch.rand(count, dim, generator=generator) - 0.5


def skewed(count: int, dim: int, generator: Generator) -> Tensor:
    """Exponential along the axes, at scales from 0.1 to 10, far from the origin."""
    scales = torch.logspace(-1, 1, dim)
    return 5 - scales * (1 - torch.rand(count, dim, generator=generator)).log()


def cells(atoms: Tensor, offsets: Tensor, x: Tensor) -> Tensor:
    return BrenierPotential.build(atoms.double(), offsets).assign(x.double())


@pytest.mark.parametrize("source", ["uniform", uniform])
def test_uniform_on_the_line_is_the_monotone_map(source: object) -> None:
    atoms, weights = normal(30, 1), unequal_weights(30, 10)
    solution = solve_semidiscrete(atoms, weights, source=source, tol=0.01)  # type: ignore[arg-type]
    assert solution.stats["method"] == ("monotone" if source == "uniform" else "newton")
    x = uniform(4000, 1, Generator().manual_seed(1))
    order = atoms[:, 0].argsort()
    truth = order[torch.searchsorted(weights[order].cumsum(0), x[:, 0].double() + 0.5)]
    wrong = (cells(atoms, solution.potential, x) != truth).double().mean()
    # Exact, or masses off by 10 %, root mean square: their sums so far, in cells, are 0.1 √(30/4) at most.
    assert float(wrong) < (1e-3 if source == "uniform" else 0.2)


def test_uniform_square_onto_a_grid() -> None:
    """Products of maps on the line are optimal: cells are rectangles."""
    a, b = normal(9, 1).reshape(-1).sort().values, normal(7, 1, seed=1).reshape(-1).sort().values
    solution = solve_semidiscrete(torch.cartesian_prod(a, b), source="uniform", tol=0.01)
    assert solution.stats["method"] == "newton"
    assert solution.outcome is Outcome.CONVERGED
    x = uniform(4000, 2, Generator().manual_seed(1))
    truth = ((x[:, 0] + 0.5) * 9).long() * 7 + ((x[:, 1] + 0.5) * 7).long()
    assert float((cells(torch.cartesian_prod(a, b), solution.potential, x) == truth).double().mean()) > 0.93


def test_an_affine_image_of_the_normal_law_has_a_known_potential() -> None:
    """x = m + s z: offsets differ from those of N(0, I) for atoms s y by ⟨m, y⟩, up to what tol leaves of either."""
    scales, mean = torch.logspace(-1, 1, 40), torch.linspace(-3, 3, 40)

    def sampler(count: int, dim: int, generator: Generator) -> Tensor:
        return mean + scales * torch.randn(count, dim, generator=generator)

    atoms = mixture(100, 40)
    solution = solve_semidiscrete(atoms, source=sampler, tol=0.01)
    reference = solve_semidiscrete(scales * atoms, tol=0.01).potential - atoms.double() @ mean.double()
    unit = natural_scale(scales * atoms, torch.full((100,), 0.01))
    difference = (solution.potential - reference + reference.mean()) / unit
    assert float(difference.square().mean().sqrt()) < 2 * 0.01**0.5


@pytest.mark.parametrize(("dim", "method"), [(4, "block newton"), (150, "sgd")])
def test_a_skewed_source_by_draws(dim: int, method: str) -> None:
    atoms = mixture(300, dim)
    solution = solve_semidiscrete(atoms, source=skewed)
    assert solution.stats["method"].startswith(method)
    assert solution.outcome is Outcome.CONVERGED
    # (A million draws is where the frequencies below come from; their own χ² is N/n.)
    counts = torch.zeros(300)
    for k in range(8):
        x = skewed(5000, dim, Generator().manual_seed(100 + k))
        counts += torch.bincount(cells(atoms, solution.potential, x), minlength=300)
    n = int(counts.sum())
    chi2 = float((counts * (counts - 1)).sum() * 300 / (n * (n - 1.0))) - 1
    assert chi2 < 0.06


def test_a_finite_source_against_exact_discrete_transport() -> None:
    """Drawing among n points is a source too: the dual value on them is the cost that POT's network simplex finds."""
    points, atoms = mixture(500, 6, seed=3), normal(20, 6)

    def sampler(count: int, dim: int, generator: Generator) -> Tensor:
        return points[torch.randint(500, (count,), generator=generator)]

    solution = solve_semidiscrete(atoms, source=sampler, tol=0.01)
    cost = ot.dist(points.double().numpy(), atoms.double().numpy())
    exact = ot.emd2(np.full(500, 1 / 500), np.full(20, 1 / 20), cost)
    u = BrenierPotential.build(atoms.double(), solution.potential).value(points.double()).mean()
    squares = (points.double() ** 2).sum(dim=1).mean() + (atoms.double() ** 2).sum(dim=1).mean()
    dual = float(squares + 2 * solution.potential.mean() - 2 * u)
    # Below it for any offsets, by about τ χ² (see `test_against_exact_discrete_transport`).
    tau = float(points.std()) * float(natural_scale(atoms, torch.full((20,), 0.05)).max())
    assert -1e-9 < exact - dual < 2 * tau * 0.02


def test_bad_sources() -> None:
    atoms = normal(5, 3)
    with pytest.raises(ValueError, match="source must be 'normal', 'uniform' or a sampler; got 'cauchy'"):
        solve_semidiscrete(atoms, source="cauchy")
    with pytest.raises(ValueError, match=r"sampler of draws of shape \(4096, 3\); got \(4096, 2\)"):
        solve_semidiscrete(atoms, source=lambda n, d, g: torch.randn(n, 2, generator=g))
    with pytest.raises(ValueError, match="sampler of finite draws; got NaN or infinity"):
        solve_semidiscrete(atoms, source=lambda n, d, g: torch.full((n, d), torch.nan))
    with pytest.raises(ValueError, match="spreads out in every direction; got a constant coordinate 0"):
        solve_semidiscrete(atoms, source=lambda n, d, g: torch.ones(n, d))
