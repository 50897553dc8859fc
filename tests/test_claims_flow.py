"""Claims about the flow and optimal transport: their parts against closed forms, and what they must find."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from otprior.diffusion.denoisers import FiniteDenoiser, GaussianDenoiser
from otprior.diffusion.flow import NOISE, Scales, flow_jacobian
from otprior_studies.claims import brenier_plane, codes_gaussian, distant_times, flow_limit, vp_contraction
from otprior_studies.claims.claim import Effort, Verdict
from otprior_studies.claims.codes_mixtures import mixture_law
from otprior_studies.claims.flow_jacobian import antisymmetry, counter_example, third_cumulant
from otprior_studies.claims.gaussian_laws import random_gaussians, w2_to_noise_ve, w2_to_normal_vp
from otprior_studies.claims.planar import GENERIC, TRIANGLE, basins, cells, laguerre_masses, laguerre_offsets
from otprior_studies.claims.propagation import amplification_bound, line_mixture, line_propagation, quantiles

FAST = Effort(fast=True)
EXACT = (Verdict.HOLDS, Verdict.WITHIN_ERROR)


# Contraction ------------------------------------------------------------------------------------------------


def test_distances_of_gaussians_against_the_definition() -> None:
    law = random_gaussians(FAST, "test", 1)[0]
    for alpha in (0.1, 0.7, 0.99):
        sigma = math.sqrt(1 - alpha**2)
        roots = (alpha**2 * law.variances + sigma**2).sqrt()
        plain = alpha**2 * law.mean @ law.mean + ((roots - 1) ** 2).sum()
        assert w2_to_normal_vp(law.mean, law.variances, alpha) == pytest.approx(math.sqrt(plain), rel=1e-12)
        exploding = law.mean @ law.mean + (((law.variances + sigma**2).sqrt() - sigma) ** 2).sum()
        assert w2_to_noise_ve(law.mean, law.variances, sigma) == pytest.approx(
            math.sqrt(exploding), rel=1e-12
        )


def test_contraction_and_rate_hold_for_gaussians_and_not_for_ve() -> None:
    contraction, rate, exploding = (
        getattr(vp_contraction, name).run(FAST) for name in ("vp_contraction", "vp_rate", "ve_contraction")
    )
    assert contraction.verdict is Verdict.HOLDS
    assert abs(contraction.statistic) < 1e-8  # equality is reached
    assert rate.verdict is Verdict.HOLDS
    assert rate.statistic < 1e-8
    assert exploding.verdict is Verdict.FAILS
    assert exploding.statistic == pytest.approx(1, abs=1e-8)


# Laguerre cells ---------------------------------------------------------------------------------------------


def test_masses_of_half_planes_and_strips() -> None:
    offsets = torch.tensor([0.0, 0.3], dtype=torch.float64)
    atoms = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    # The second wins where 2 x + 0.3 > 0.
    assert float(laguerre_masses(atoms, offsets)[1]) == pytest.approx(float(norm.cdf(0.15)), abs=1e-9)
    three = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    middle = laguerre_masses(three, torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64))[1]
    assert float(middle) == pytest.approx(float(norm.cdf(0.5) - norm.cdf(-0.5)), abs=1e-9)


def test_masses_of_corners() -> None:
    """The first atom wins where y > h and x > h: a quadrant off the origin."""
    atoms = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    h = 0.4
    mass = laguerre_masses(atoms, torch.tensor([0.0, h, h], dtype=torch.float64))[0]
    # x > h would be beaten by −x + h > 0; so the quadrant is x > h, y > h.
    exact = multivariate_normal.cdf([-h, -h], mean=[0, 0])
    assert float(mass) == pytest.approx(float(exact), abs=1e-8)


@pytest.mark.parametrize("count", [3, 5])
def test_solved_cells_have_their_weights(count: int) -> None:
    atoms, weights = GENERIC[count]
    offsets = laguerre_offsets(atoms, weights)
    assert torch.allclose(laguerre_masses(atoms, offsets), weights, atol=1e-9)
    # And by counting, too; four standard errors.
    z = FAST.normal("cells", 100_000, 2)
    shares = torch.bincount(cells(atoms, offsets, z), minlength=count) / len(z)
    assert bool(((shares - weights).abs() < 4 * (weights / len(z)).sqrt()).all())


def test_equilateral_triangle_has_straight_basins() -> None:
    z = FAST.normal("triangle", 3000, 2)
    law = FiniteDenoiser(TRIANGLE)
    assert torch.equal(basins(law, z), (z @ TRIANGLE.T).argmax(dim=1))


# The Brenier map --------------------------------------------------------------------------------------------


def test_brenier_map_on_the_line_but_not_in_the_plane() -> None:
    line, plane = brenier_plane.brenier_line.run(FAST), brenier_plane.brenier_plane.run(FAST)
    assert line.verdict is Verdict.HOLDS
    assert line.statistic < 1e-8
    assert plane.verdict is Verdict.FAILS
    assert plane.details["two atoms"]["mismatch"] == 0
    assert plane.details["equilateral triangle"]["mismatch"] == 0
    for name in ("three atoms", "five atoms"):
        assert plane.details[name]["mismatch interval"][0] > 0.01
        assert plane.details[name]["basins that change with half the steps"] == 0
        assert 0 < plane.details[name]["lost of E<z, T(z)>"] < 0.01


def test_flow_map_converges_at_the_rate_of_the_first_terms() -> None:
    smooth = flow_limit.flow_limit.run(FAST)
    assert smooth.verdict is Verdict.HOLDS
    assert smooth.statistic < 1e-3


@pytest.mark.slow
def test_at_the_data_end_it_converges_at_half_the_rate_in_mean_square() -> None:
    final = flow_limit.flow_limit_final.run(FAST)
    assert final.verdict is Verdict.FAILS
    assert final.details["rate of E|F_T − F_∞|²"] == pytest.approx(1, abs=0.15)


def test_distant_times_are_not_optimal_and_neighbouring_ones_seem_so() -> None:
    found = distant_times.distant_times.run(FAST)
    assert found.verdict is Verdict.FAILS
    near = found.details["excess by α, from 2 % nearer to noise"]
    assert max(near.values()) < 1e-3 * found.statistic
    unbiased = found.details["excess at the data end, without the bias of few points"]
    assert 0 < found.statistic < unbiased


# The Jacobian -----------------------------------------------------------------------------------------------


def test_antisymmetry_is_the_tangent_of_a_rotation() -> None:
    angle = math.radians(7)
    turn = torch.tensor([[[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]])
    assert float(antisymmetry(turn)) == pytest.approx(math.tan(angle), rel=1e-6)


def test_third_cumulant_against_samples() -> None:
    law = mixture_law(3, 0)
    z = FAST.normal("cumulant", 2, 3)
    draws = law.sample(400_000, FAST.generator("cumulant draws")) - law.mean
    for row, exact in zip(z, third_cumulant(law, z)):
        terms = draws[:, :, None] * draws[:, None] * (draws @ row)[:, None, None]
        error = terms.std(dim=0) / len(draws) ** 0.5
        assert bool(((terms.mean(dim=0) - exact).abs() < 5 * error).all())


def test_rotation_of_the_flow_grows_with_the_fifth_power() -> None:
    """½ (J − Jᵀ) = −(s⁵/60) [Σ, T·z] + O(s⁶), entry by entry and with its sign."""
    law, z = counter_example(), FAST.normal("fifth", 20, 2)
    commutator = law.covariance @ third_cumulant(law, z) - third_cumulant(law, z) @ law.covariance
    errors = []
    for s in (0.1, 0.05):
        _, jacobian = flow_jacobian(law, z, NOISE, Scales.vp(math.tanh(s)), rtol=1e-13, atol=1e-15)
        skew = (jacobian - jacobian.mT) / 2
        errors.append(float((skew + s**5 / 60 * commutator).abs().max() / skew.abs().max()))
    # The next term is of relative order s, or s² where it vanishes.
    assert errors[1] < 0.05
    assert errors[1] < 0.6 * errors[0]


def test_gaussian_codes_are_optimal() -> None:
    found = codes_gaussian.codes_gaussian.run(FAST)
    assert found.verdict is Verdict.HOLDS
    assert found.statistic < 1e-9
    misses = found.details["largest difference from the optimal map to N(0, I), by α_T"]
    assert misses["1e-06"] / misses["0.0001"] == pytest.approx(0.01, rel=0.01)


# Propagation of an error ------------------------------------------------------------------------------------


def test_unit_gaussian_data_amplify_nothing() -> None:
    law = GaussianDenoiser(torch.ones(3), torch.eye(3))
    bound = amplification_bound(law, Scales.vp(0.1), Scales.vp(0.99))
    assert math.exp(bound) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("variance", [0.01, 4.0, 100.0])
def test_bound_of_a_gaussian_is_the_gain_of_its_first_axis(variance: float) -> None:
    law = GaussianDenoiser(torch.zeros(2), torch.diag(torch.tensor([variance, variance / 3])))
    start, end = Scales.vp(0.2), Scales.vp(0.9)
    gains = [math.sqrt(s.alpha**2 * variance + s.sigma**2) for s in (start, end)]
    # Simpson's rule on 401 nodes.
    assert math.exp(amplification_bound(law, start, end)) == pytest.approx(gains[1] / gains[0], rel=1e-6)


def test_distance_of_a_mixture_from_the_normal_law_against_quadrature() -> None:
    law, start = line_mixture(8.0), Scales.vp(0.4)

    def squared(level: float) -> float:
        at = torch.tensor([level], dtype=torch.float64)
        return float(quantiles(law, start, at) - torch.special.ndtri(at)) ** 2

    exact = math.sqrt(quad(squared, 0, 1, limit=100, epsabs=1e-9, epsrel=1e-6)[0])
    before, after = line_propagation(8.0, start)
    # The midpoint rule on the graded levels.
    assert before == pytest.approx(exact, rel=1e-3)
    assert after > before


def test_mixture_has_mean_zero_and_variance_one() -> None:
    law = line_mixture(8.0)
    assert float(law.mean) == pytest.approx(0, abs=1e-12)
    assert float(law.covariance) == pytest.approx(1, abs=1e-12)
