"""The Fokker-Planck equation: closed forms, what it must conserve, rates of convergence, and the authors' solver."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from otprior.diffusion.denoisers import MixtureDenoiser
from otprior.diffusion.flow import Scales
from otprior_studies.claims import fokker_planck as claims
from otprior_studies.claims.chains import Chain, random_chain
from otprior_studies.claims.claim import Effort, Verdict
from otprior_studies.claims.power import excess_cost
from otprior_studies.fokker_planck.cross import CrossPath, solve_by_cross
from otprior_studies.fokker_planck.hermite import HermitePath
from otprior_studies.fokker_planck.particles import carry, carry_with_jacobian
from otprior_studies.fokker_planck.trains import FunctionTrain, chebyshev, decompose, hermite

FAST = Effort(fast=True)
START = claims.START


def _later(t: float) -> Scales:
    return Scales.vp(START.alpha * math.exp(-t))


def _gaussian(means: Sequence[float], variances: Sequence[float]) -> Chain:
    """One bump an axis; at the noise of START its variances are these."""
    widths = [math.sqrt(v - START.sigma**2) / START.alpha for v in variances]
    shaped = [[torch.tensor([[value]], dtype=torch.float64) for value in each] for each in (means, widths)]
    return Chain([torch.ones(1, 1, dtype=torch.float64)] * len(means), *shaped)


def _path(dim: int, stream: str = "test") -> tuple[MixtureDenoiser, HermitePath]:
    law = random_chain(dim, FAST, stream)
    return law.mixture(), HermitePath.from_cores(law.noised(START))


# Trains -----------------------------------------------------------------------------------------------------


def test_hermite_functions_are_orthonormal() -> None:
    # Sixty nodes integrate polynomials of degree 119 exactly.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    values = hermite(torch.from_numpy(nodes), 40)[0].numpy()
    gram = (values * (weights / weights.sum())[:, None]).T @ values
    assert np.abs(gram - np.eye(40)).max() < 1e-10


@pytest.mark.parametrize("order", [0, 1, 2])
def test_chebyshev_functions_and_derivatives_are_numpys(order: int) -> None:
    x = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)
    found = chebyshev(2.5)(x, 9)[order].numpy()
    for n in range(9):
        series = np.polynomial.Chebyshev.basis(n, domain=[-2.5, 2.5])
        # Derivatives of degree 8 reach 1e3.
        assert np.abs(found[:, n] - (series.deriv(order) if order else series)(x.numpy())).max() < 1e-10


@pytest.mark.parametrize("basis", [hermite, chebyshev(4.0)])
def test_derivatives_of_a_train_are_those_of_autograd(basis: object) -> None:
    ranks = [1, 2, 3, 1]
    cores = [FAST.normal(f"core {k}", ranks[k], 5, ranks[k + 1]) / 5 for k in range(3)]
    cores[0][:, 0] = cores[1][:, 0] = cores[2][:, 0] = 1.0
    train = FunctionTrain(cores, basis)  # type: ignore[arg-type]
    points = FAST.normal("train", 4, 3) / 2
    gradient, hessian = train.log_derivatives(points)
    assert torch.allclose(gradient, train.log_gradient(points))
    for row, first, second in zip(points, gradient, hessian):

        def log_abs(y: Tensor) -> Tensor:
            return train(y[None])[0].abs().log()

        assert torch.allclose(first, torch.autograd.functional.jacobian(log_abs, row))
        assert torch.allclose(second, torch.autograd.functional.hessian(log_abs, row))


def test_full_tensors_are_decomposed_and_short_ones_found_short() -> None:
    full = FAST.normal("full", 4, 5, 6)
    cores = decompose(full)
    assert torch.allclose(torch.einsum("aib,bjc,ckd->ijk", *cores), full, atol=1e-12)
    vectors = [FAST.normal(f"vector {k}", 8) for k in range(3)]
    short = torch.einsum("i,j,k->ijk", *vectors) + 2.0
    assert FunctionTrain(decompose(short), hermite).ranks == [2, 2]


# The equation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 4, 7])
def test_chains_are_the_mixtures_that_they_are_written_out_as(dim: int) -> None:
    law = random_chain(dim, FAST, "test")
    mixture = law.mixture()
    assert float(mixture.mean.abs().max()) < 1e-12
    x = mixture.noised(20, *START, torch.Generator().manual_seed(0))
    product = torch.ones(20, 1, dtype=torch.float64)
    for k in range(dim):
        matrices = law.noised(START)(x[:, k])[k]
        product = torch.einsum("br,rbs->bs", product, matrices)
    assert torch.allclose(product[:, 0].log(), mixture.log_density(x, *START), atol=1e-12)


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("t", [0.0, 0.2, 1.0, 5.0])
def test_density_and_score_are_those_of_the_noised_mixture(dim: int, t: float) -> None:
    mixture, path = _path(dim)
    x = mixture.noised(50, *_later(t), torch.Generator().manual_seed(1))
    # Modes are exact in time; what is left is rounding, 1e-15 times h_n at the farthest point.
    assert torch.allclose(path.log_density(t, x), mixture.log_density(x, *_later(t)), atol=1e-10)
    assert torch.allclose(path.score(t, x), mixture.score(x, *_later(t)), atol=1e-9)


def test_curvature_is_that_of_the_noised_mixture() -> None:
    mixture, path = _path(3)
    scales = _later(0.5)
    x = mixture.noised(20, *scales, torch.Generator().manual_seed(1))
    # ∇² log p = (α ∂D/∂x − I)/σ².
    exact = (scales.alpha * mixture.jacobian(x, *scales) - torch.eye(3)) / scales.sigma**2
    assert torch.allclose(path.score_with_jacobian(0.5, x)[1], exact, atol=1e-9)


def test_a_law_that_is_no_chain_from_a_full_grid() -> None:
    factor = torch.tensor([[0.8, 0.0], [0.4, 0.6]], dtype=torch.float64)
    covariances = torch.stack([factor @ factor.T, 0.5 * torch.eye(2, dtype=torch.float64)])
    law = MixtureDenoiser(torch.tensor([0.6, 0.4]), torch.tensor([[-0.7, 0.2], [1.0, -0.3]]), covariances)
    start = Scales.vp(0.9)
    path = HermitePath.from_density(lambda x: law.log_density(x, *start).exp(), 2)
    later = Scales.vp(0.9 * math.exp(-0.4))
    x = law.noised(50, *later, torch.Generator().manual_seed(0))
    assert torch.allclose(path.score(0.4, x), law.score(x, *later), atol=1e-9)
    assert path.mass == pytest.approx(1, abs=1e-12)


def test_mass_is_kept_and_the_normal_law_stays() -> None:
    _, path = _path(4)
    assert path.mass == pytest.approx(1, abs=1e-12)
    # At any time ∫ p is the product of the first modes, which do not decay.
    for t in (0.0, 1.0, 30.0):
        later = HermitePath(path.ratio(t).cores)
        assert later.mass == pytest.approx(1, abs=1e-12)
    normal = HermitePath.from_cores(_gaussian([0.0, 0.0], [1.0, 1.0]).noised(START))
    x = FAST.normal("stays", 20, 2)
    assert torch.allclose(normal.score(0.0, x), -x, atol=1e-10)
    assert torch.allclose(
        path.score(30.0, FAST.normal("ends", 20, 4)), -FAST.normal("ends", 20, 4), atol=1e-10
    )


@pytest.mark.parametrize("variance", [0.3, 0.6])
def test_modes_converge_at_the_rate_of_a_gaussian(variance: float) -> None:
    """c_n falls like |1 − v|^{n/2}, and so does what is missing."""
    law = _gaussian([0.0], [variance])
    exact = HermitePath.from_cores(law.noised(START))
    at = torch.tensor([[0.3]], dtype=torch.float64)
    counts = [16, 24, 32, 40]
    errors = [
        abs(float(FunctionTrain([exact.cores[0][:, :n]], hermite)(at) - exact.ratio(0.0)(at))) for n in counts
    ]
    slope = float(np.polyfit(counts, np.log(errors), 1)[0])
    # h_n at a point oscillates, which a fit over four counts feels.
    assert slope == pytest.approx(0.5 * math.log(1 - variance), rel=0.25)


def test_laws_without_mass_one_or_too_narrow_are_refused() -> None:
    law = _gaussian([0.0, 0.0], [0.5, 0.5])
    with pytest.raises(ValueError, match="density must be of mass 1"):
        HermitePath.from_cores(lambda x: [2 * core for core in law.noised(START)(x)])
    with pytest.raises(ValueError, match="modes must be so many that the last"):
        HermitePath.from_cores(law.noised(START), modes=10)
    with pytest.raises(ValueError, match="dim must be an integer in"):
        HermitePath.from_density(lambda x: x[:, 0], 4)


# Particles --------------------------------------------------------------------------------------------------


def test_gaussian_particles_follow_the_optimal_map() -> None:
    means, variances = [0.5, -0.3], [0.4, 0.9]
    path = HermitePath.from_cores(_gaussian(means, variances).noised(START))
    x = FAST.normal("particles", 30, 2)
    later, decay = _later(2.0), math.exp(-2.0)
    ends = torch.tensor([decay**2 * v + 1 - decay**2 for v in variances], dtype=torch.float64)
    gain = (ends / torch.tensor(variances, dtype=torch.float64)).sqrt()
    means_before, means_after = (s.alpha * torch.tensor(means, dtype=torch.float64) for s in (START, later))
    moved, jacobian = carry_with_jacobian(path, x, (0.0, 2.0))
    # The tolerance of a step, 1e-8, over some tens of steps.
    assert torch.allclose(moved, means_after + (x - means_before) * gain, atol=1e-6)
    assert torch.allclose(jacobian, torch.diag(gain).expand(30, 2, 2), atol=1e-6)
    assert torch.allclose(carry(path, x, (0.0, 2.0)), moved, atol=1e-6)


def test_change_of_variables_to_the_normal_law() -> None:
    """p(x, 0) = p(F(x), T) |det ∂F|, and p(·, T) is nearly normal."""
    mixture, path = _path(3)
    x = mixture.noised(20, *START, torch.Generator().manual_seed(2))
    moved, jacobian = carry_with_jacobian(path, x, (0.0, 6.0))
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(moved).sum(dim=1)
    # 0.0024 of the signal is left of centred data, and enters squared.
    assert torch.allclose(path.log_density(6.0, moved), normal, atol=1e-3)
    carried = path.log_density(6.0, moved) + torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(mixture.log_density(x, *START), carried, atol=1e-6)


def test_products_are_carried_without_rotation() -> None:
    """Each axis by itself: a diagonal Jacobian, which the claim's statistic must find to be no rotation."""
    path = HermitePath.from_cores(_gaussian([0.4, -0.2], [0.3, 0.7]).noised(START))
    jacobian = carry_with_jacobian(path, FAST.normal("product", 10, 2), (0.0, 1.0))[1]
    assert float((jacobian - jacobian.mT).abs().max()) < 1e-12


# The authors' solver ----------------------------------------------------------------------------------------


def _solved(steps: int) -> tuple[MixtureDenoiser, HermitePath, CrossPath]:
    pytest.importorskip("fpcross")
    law = random_chain(2, FAST, "test")
    found = solve_by_cross(law.noised(START), duration=1.0, steps=steps)
    return law.mixture(), HermitePath.from_cores(law.noised(START)), found


def test_authors_solver_is_of_second_order_in_time() -> None:
    errors = []
    for steps in (10, 20, 40):
        mixture, path, found = _solved(steps)
        x = mixture.noised(100, *_later(1.0), torch.Generator().manual_seed(3))
        errors.append(float((found.score(1.0, x) - path.score(1.0, x)).abs().mean()))
    slope = float(np.polyfit(np.log([0.1, 0.05, 0.025]), np.log(errors), 1)[0])
    assert slope == pytest.approx(2, abs=0.3)
    assert errors[-1] < 0.01


def test_authors_solver_begins_at_the_law_and_keeps_its_mass_about() -> None:
    mixture, _, found = _solved(10)
    x = mixture.noised(50, *START, torch.Generator().manual_seed(4))
    # Sixty nodes on [-6, 6] and bumps of width 0.5: 1e-5 of the peak, more of a value far out.
    assert torch.allclose(found.density(0.0, x), mixture.log_density(x, *START).exp(), rtol=1e-3, atol=1e-5)
    ticks = torch.linspace(-6, 6, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    # It does not renormalise; a splitting step of 0.1 loses some thousandths.
    assert float(found.density(1.0, grid).sum() * (ticks[1] - ticks[0]) ** 2) == pytest.approx(1, abs=0.02)


def test_authors_solver_knows_its_times_and_where_it_is() -> None:
    _, _, found = _solved(10)
    assert found.times == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    here = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"t must be a multiple of 0\.1 up to 1; got 0\.25"):
        found.score(0.25, here)
    with pytest.raises(ValueError, match="points must be within 6; got 7"):
        found.score(0.5, here + 7)


def test_authors_solver_refuses_what_it_cannot_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    line = _gaussian([0.0], [0.5]).noised(START)
    with pytest.raises(ValueError, match="steps must be even; got 3"):
        solve_by_cross(line, duration=1.0, steps=3)
    monkeypatch.setitem(sys.modules, "fpcross", None)
    with pytest.raises(ImportError, match=r"pip install 'otprior\[theory\]'"):
        solve_by_cross(line, duration=1.0, steps=2)


def test_authors_solver_is_not_asked_for_one_dimension() -> None:
    pytest.importorskip("fpcross")
    with pytest.raises(ValueError, match="dimension must be 2 or more; got 1"):
        solve_by_cross(_gaussian([0.0], [0.5]).noised(START), duration=1.0, steps=2)


# The claims -------------------------------------------------------------------------------------------------


def test_excess_is_that_of_pots_plan() -> None:
    mixture, path = _path(2)
    x = mixture.noised(60, *START, torch.Generator().manual_seed(5))
    # Turned, so that there is something to find.
    codes = carry(path, x, (0.0, 6.0)) @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    costs = ot.dist(x.numpy(), codes.numpy())
    best = ot.emd2([], [], costs)
    assert excess_cost(x, codes) == pytest.approx((np.diag(costs).mean() - best) / best, rel=1e-9)
    assert excess_cost(x, codes) > 0.1


def test_equation_agrees_with_exact_scores_and_is_not_optimal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "DIMENSIONS", (2, 3))
    monkeypatch.setattr(claims, "_by_cross", lambda *arguments: {})
    codes = claims.fokker_planck_codes.run(FAST)
    jacobian, cost = claims.fokker_planck_jacobian.run(FAST), claims.fokker_planck_cost.run(FAST)
    assert codes.verdict is Verdict.HOLDS
    assert "pip install" in codes.details["authors' solver by dimension"]
    assert jacobian.verdict is Verdict.FAILS
    assert jacobian.details["largest difference from exact scores"] < 1e-6
    assert cost.verdict is Verdict.UNDECIDED


@pytest.mark.slow
def test_authors_solver_converges_to_the_same_codes() -> None:
    pytest.importorskip("fpcross")
    found = claims._by_cross(FAST, (2, 3), (60, 120))
    for each in found.values():
        assert each["order in the step"][0] == pytest.approx(2, abs=0.3)
        assert each["mean rotation, degrees"]["120"] == pytest.approx(
            each["mean rotation, degrees"]["exact"], rel=0.05
        )
