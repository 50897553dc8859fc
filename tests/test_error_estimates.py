"""What is estimated from draws: couplings by the flow, by masses and by cells, duals, and their confidence."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from generators.gaussians import gaussian
from generators.line import line
from generators.prior_error import Mixture, spectrum
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.error import (
    HeldOut,
    Target,
    couple_by_flow,
    data_error,
    draw_starts,
    gaussian_error,
    population_error,
)
from otprior.error.bounds.dual import MeanEstimate, QuadraticPair
from otprior.error.bounds.flow_coupling import squared_gap
from otprior.error.bounds.mass_coupling import mass_plan
from otprior.error.population import gaussian_population_error
from otprior.priors import IdentityPrior, RandomAtomPrior, SemiDiscretePrior
from otprior.transport.gaussian import gaussian_map, gelbrich_squared, isotropic, noised
from otprior.utils.random import normal_block

SCHEDULE = NoiseSchedule.vp(torch.linspace(0.999, 0.001, 100, dtype=torch.float64))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Means and their limits --------------------------------------------------------------------------------------


def test_limits_are_students_and_sums_have_the_degrees_of_freedom_of_welch() -> None:
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=12)), torch.from_numpy(3 * rng.normal(size=7))
    from scipy import stats

    total = MeanEstimate.of(x) + MeanEstimate.of(-y)
    reference = stats.ttest_ind(x.numpy(), y.numpy(), equal_var=False)
    low, high = reference.confidence_interval(0.9)
    assert total.limit(0.95, "lower") == pytest.approx(low)
    assert total.limit(0.95, "upper") == pytest.approx(high)
    assert MeanEstimate(2.0).limit(0.95, "upper") == 2.0


# Duals -------------------------------------------------------------------------------------------------------


def test_a_quadratic_pair_is_below_the_cost_everywhere_and_best_for_gaussians() -> None:
    rng = np.random.default_rng(1)
    for dim in (1, 4):
        first = gaussian(torch.from_numpy(np.exp(rng.normal(size=dim))), seed=dim)
        second = gaussian(torch.from_numpy(np.exp(rng.normal(size=dim))), seed=dim + 9)
        p = spectrum(first.mean.numpy(), first.covariance.numpy())
        q = spectrum(second.mean.numpy(), second.covariance.numpy())
        pair = QuadraticPair.between(p, q)
        x, y = (torch.randn(200, dim, generator=generator(s), dtype=torch.float64) * 3 for s in (1, 2))
        cost = ((x - y) ** 2).sum(dim=1)
        assert bool((pair.at_target(x) + pair.at_start(y) <= cost + 1e-9).all())
        reached = pair.mean_at_target(p) + pair.mean_at_start(q)
        assert reached == pytest.approx(gelbrich_squared(p, q), abs=1e-10)
        # A pair chosen for other laws stays below.
        other = QuadraticPair.between(noised(p, 0.5, 1.3), q)
        assert other.mean_at_target(p) + other.mean_at_start(q) <= gelbrich_squared(p, q) + 1e-10


def test_a_pair_of_low_rank_moments_has_the_means_that_samples_have() -> None:
    dim = 9
    basis = torch.linalg.qr(torch.randn(dim, 3, generator=generator(4), dtype=torch.float64))[0]
    p = noised(isotropic(torch.ones(dim), 0.7), 0.8, 0.5)
    q = type(p)(torch.zeros(dim).double(), basis, torch.tensor([4.0, 2.0, 0.5]).double(), 0.3)
    pair = QuadraticPair.between(p, q)
    y = gaussian_map(torch.randn(200_000, dim, generator=generator(5)).double(), q)
    values = pair.at_start(y)
    # Five standard errors.
    error = 5 * float(values.std()) / math.sqrt(len(values))
    assert float(values.mean()) == pytest.approx(pair.mean_at_start(q), abs=error)
    clean = torch.randn(50_000, dim, generator=generator(6), dtype=torch.float64) * 0.7**0.5 + 1
    noisy = 0.8 * clean + 0.5 * torch.randn(clean.shape, generator=generator(7), dtype=torch.float64)
    direct, known = (
        pair.at_target(noisy).mean(),
        pair.at_target(0.8 * clean).mean() + pair.noise_at_target(0.5),
    )
    assert float(direct) == pytest.approx(
        float(known), abs=5 * float(pair.at_target(noisy).std()) / 50_000**0.5
    )


# Coverage ----------------------------------------------------------------------------------------------------


def binomial_room(trials: int, level: float) -> float:
    """Three standard deviations of the share of `trials` that succeed with probability `level`."""
    return 3 * math.sqrt(level * (1 - level) / trials)


@pytest.mark.parametrize("trials", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_limits_from_held_out_data_have_their_nominal_level(trials: int) -> None:
    law = gaussian(torch.tensor([3.0, 1.0, 0.4]), seed=2)
    alpha, sigma, start = 0.7, 0.7, isotropic(torch.zeros(3), 1.0)
    clean = spectrum(law.mean.numpy(), law.covariance.numpy())
    truth = gelbrich_squared(noised(clean, alpha, sigma), start)
    best = QuadraticPair.between(noised(clean, alpha, sigma), start)
    shared = alpha**2 * float((law.mean**2).sum() + law.covariance.trace()) + 3 * (1 - sigma) ** 2
    low = high = whole = 0
    for trial in range(trials):
        rows = law.transport(torch.randn(400, 3, generator=generator(trial), dtype=torch.float64))
        held_out = HeldOut.of(rows, generator=generator(trial))
        found = gaussian_population_error(held_out, alpha, sigma, start)
        whole += found.lower.value**2 <= truth <= found.upper.value**2
        high += found.upper.value**2 >= shared
        # With the best pair of all, which is fixed, the lower limit is the one-sided limit of W2² itself.
        limit = held_out.target_mean(best, alpha, sigma) + MeanEstimate(best.mean_at_start(start))
        low += limit.limit(0.95, "lower") <= truth
    for count in (low, high):
        assert abs(count / trials - 0.95) <= binomial_room(trials, 0.95)
    # The interval that is reported: the chosen pair is worse than the best, and the coupling than the optimal one.
    assert whole / trials >= 0.95 - binomial_room(trials, 0.95)


def test_a_gaussian_prior_of_the_population_itself_has_no_error_that_is_found() -> None:
    law = gaussian(torch.tensor([3.0, 1.0, 0.4]), seed=2)
    clean = spectrum(law.mean.numpy(), law.covariance.numpy())
    start = noised(clean, 0.6, 0.8)
    rows = law.transport(torch.randn(600, 3, generator=generator(), dtype=torch.float64))
    held_out = HeldOut.of(rows, [(0.6, 0.8)], draws=32, generator=generator())
    found = gaussian_population_error(held_out, 0.6, 0.8, start)
    # A plug-in Fréchet distance would be positive here.
    assert found.lower.value == 0
    assert found.upper.how == "flow"
    assert 0 < found.upper.value < 0.5


# The data's own flow -----------------------------------------------------------------------------------------


def points(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=generator(seed), dtype=torch.float64) * torch.linspace(
        2, 0.5, dim
    )


def test_on_a_line_the_flow_is_optimal() -> None:
    rows = torch.tensor([[-1.0], [0.2], [2.5]], dtype=torch.float64)
    alpha, sigma = 0.8, 0.6
    law = Mixture(np.full(3, 1 / 3), rows.reshape(-1).numpy(), np.zeros(3)).noised(alpha, sigma)
    x, share, normal = law.grid()
    truth = float((share * (x - normal) ** 2).sum())
    flow = couple_by_flow(rows, [(alpha, sigma)], 4000, largest_variance=2.1, generator=generator())
    gap = squared_gap(flow, alpha, sigma, lambda z: z.double())
    estimate = MeanEstimate.of(gap.values)
    # Four standard errors; the flow's own error is far below.
    assert estimate.value == pytest.approx(truth, abs=4 * estimate.standard_error)
    assert gap.stepping < 1e-3
    # Codes are normal: Kolmogorov-Smirnov's distance is below its 1 % point.
    values = flow.codes.reshape(-1).sort().values.double()
    distance = (torch.special.ndtr(values) - (torch.arange(4000) + 0.5) / 4000).abs().max()
    assert float(distance) < 1.63 / math.sqrt(4000)


def test_one_pass_serves_every_moment_and_halved_steps_change_little() -> None:
    rows = points(50, 6)
    scales = [(0.9, math.sqrt(1 - 0.81)), (0.5, math.sqrt(0.75)), (0.05, math.sqrt(1 - 0.0025))]
    flow = couple_by_flow(rows, scales[::-1], 16, largest_variance=4.0, generator=generator())
    assert [flow.at(*pair) for pair in scales] == [0, 1, 2]
    start = isotropic(torch.zeros(6), 1.0)
    for pair in scales:
        gap = squared_gap(flow, *pair, lambda z: gaussian_map(z.double(), start))
        assert gap.stepping < 0.01 * math.sqrt(float(gap.values.mean()))
    with pytest.raises(ValueError, match="must be a moment of the coupling"):
        flow.at(0.7, 0.7)


def test_the_known_part_of_a_gaussian_gap_lowers_the_variance_and_not_the_mean() -> None:
    rows, pair = points(80, 5), (0.3, math.sqrt(0.91))
    target, start = Target.of(rows), isotropic(torch.zeros(5), 1.0)
    moments = noised(target.spectrum, *pair)
    flow = couple_by_flow(rows, [pair], 1500, largest_variance=4.0, generator=generator())
    plain = squared_gap(flow, *pair, lambda z: gaussian_map(z.double(), start))
    better = squared_gap(flow, *pair, lambda z: gaussian_map(z.double(), start), start, moments)
    first, second = MeanEstimate.of(plain.values), MeanEstimate.of(better.values)
    assert second.standard_error < 0.5 * first.standard_error
    assert first.value == pytest.approx(second.value, abs=4 * (first.standard_error + second.standard_error))
    found = gaussian_error(target, *pair, start, flow=flow)
    assert found.upper.how == "flow"
    assert found.ratio < 1.2


# Masses ------------------------------------------------------------------------------------------------------


def test_a_mass_plan_is_exact_in_one_block_and_near_it_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = points(300, 4, seed=5)
    counts = torch.randint(0, 30, (300,), generator=generator(6))
    weights = torch.rand(300, generator=generator(4), dtype=torch.float64) + 0.5
    weights /= weights.sum()
    frequencies = (counts.double() / counts.sum()).numpy()
    exact = float(ot.emd2(frequencies, weights.numpy(), (torch.cdist(atoms, atoms) ** 2).numpy()))
    assert mass_plan(atoms, counts, weights).cost == pytest.approx(exact)
    monkeypatch.setattr("otprior.error.bounds.mass_coupling.BLOCK_ATOMS", 64)
    assert exact <= mass_plan(atoms, counts, weights).cost <= 2.5 * exact


def test_the_upper_limit_of_masses_holds() -> None:
    atoms, trials, misses = points(12, 2, seed=7), 200, 0
    truth = torch.rand(12, generator=generator(8), dtype=torch.float64) + 0.2
    truth /= truth.sum()
    weights = torch.full((12,), 1 / 12, dtype=torch.float64)
    exact = float(ot.emd2(truth.numpy(), weights.numpy(), (torch.cdist(atoms, atoms) ** 2).numpy()))
    for trial in range(trials):
        counts = torch.multinomial(truth, 300, True, generator=generator(trial)).bincount(minlength=12)
        misses += mass_plan(atoms, counts, weights).upper(0.95) < exact
    # McDiarmid's inequality is far from tight.
    assert misses / trials <= 0.05


# Semi-discrete starts ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_a_line() -> tuple[SemiDiscretePrior, Mixture]:
    problem = line(6, seed=3, ratio=1.0)
    images = problem.atoms.float().reshape(-1, 1, 1, 1)
    prior = SemiDiscretePrior.fit(images, SCHEDULE, 50, value_range=None, generator=generator())
    prior = prior.whiten(generator=generator()).with_options(noise="coupled")
    values = images.reshape(-1).double().numpy()
    return prior, Mixture(np.full(6, 1 / 6), values, np.zeros(6))


def line_truth(law: Mixture, starts: Tensor) -> float:
    """W2² on a line between a mixture and a large sample, by sorting."""
    x, share, _ = law.grid()
    quantiles = np.interp((np.arange(len(starts)) + 0.5) / len(starts), np.cumsum(share) - share / 2, x)
    return float(((starts.reshape(-1).sort().values.double().numpy() - quantiles) ** 2).mean())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"correlation": 0.6},
        {"smoothing": 0.5},
        {"noise": "fresh"},
        {"noise": "frozen"},
        {"noise": "whitened"},
    ],
    ids=["coupled", "correlated", "smoothed", "fresh", "frozen", "whitened"],
)
@pytest.mark.parametrize("timestep", [10, 50, 95])
def test_semi_discrete_starts_are_enclosed_on_a_line(
    on_a_line: tuple[SemiDiscretePrior, Mixture], options: dict[str, object], timestep: int
) -> None:
    prior, law = on_a_line
    prior = prior.with_options(**options).at(timestep)
    draws = draw_starts(prior, generator=generator(4))  # (an end misses for one seed in twenty)
    pair = (prior.alpha, prior.sigma)
    rows = draws.atoms.double()
    flow = couple_by_flow(rows, [pair], 256, largest_variance=float(rows.var()), generator=generator(2))
    found = data_error(prior, draws.target, draws=draws, flow=flow, generator=generator(3))
    many = 100_000
    z, fresh = (normal_block(9, name, 0, many, 1).reshape(-1, 1, 1, 1) for name in ("z", "fresh"))
    starts = prior(z, fresh=fresh if prior.needs_fresh else None)  # type: ignore[operator]
    truth = math.sqrt(line_truth(law.noised(*pair), starts))
    # The truth is of a sample of 100,000: within 0.02 of that of the law.
    assert found.lower.value <= truth + 0.02
    assert truth <= found.upper.value + 0.02
    assert math.isfinite(found.ratio) or found.lower.value == 0


def test_fresh_starts_differ_by_their_masses_alone_and_frozen_ones_by_much(
    on_a_line: tuple[SemiDiscretePrior, Mixture],
) -> None:
    prior, _ = on_a_line
    found = {}
    for noise in ("fresh", "coupled", "frozen"):
        each = prior.with_options(noise=noise)
        draws = draw_starts(each, generator=generator(1))
        found[noise] = {bound.how: bound for bound in data_error(each, draws.target, draws=draws).others}
    assert "noise" not in found["fresh"]["chain"].note
    assert found["coupled"]["chain"].value - found["fresh"]["chain"].value == pytest.approx(
        prior.sigma * math.sqrt(2 * math.log(6)), abs=0.02
    )
    assert "independent atoms" not in found["frozen"]
    assert found["frozen"]["nearest start"].value > 0


def test_a_population_is_enclosed_for_semi_discrete_starts() -> None:
    law = gaussian(torch.tensor([1.0, 0.3]), seed=1)
    images = (
        law.transport(torch.randn(64, 2, generator=generator(), dtype=torch.float64))
        .float()
        .reshape(-1, 1, 1, 2)
    )
    prior = SemiDiscretePrior.fit(
        images, SCHEDULE, 30, value_range=None, noise="fresh", generator=generator()
    )
    rows = law.transport(torch.randn(800, 2, generator=generator(4), dtype=torch.float64))
    held_out = HeldOut.of(rows, [(prior.alpha, prior.sigma)], generator=generator(5))
    for noise in ("fresh", "coupled", "frozen"):
        found = population_error(prior.with_options(noise=noise), held_out, generator=generator(6))
        n = 1500
        x = prior.alpha * rows[:800].repeat(2, 1)[:n] + prior.sigma * normal_block(1, "x", 0, n, 2)
        starts = draw_starts(prior.with_options(noise=noise), count=n, generator=generator(7)).starts(
            prior.alpha, prior.sigma
        )
        uniform = np.full(n, 1 / n)
        discrete = math.sqrt(
            ot.emd2(uniform, uniform, ot.dist(x.numpy(), starts.double().numpy()), numItermax=10**6)
        )
        # On the plane 1,500 points are within 0.15 of their law.
        assert found.lower.value <= discrete + 0.15
        assert found.upper.value >= discrete - 0.3


def test_an_unknown_prior_has_no_upper_bound_without_the_flow_and_one_with_it() -> None:
    class Doubled(IdentityPrior):
        def _start(self, z: Tensor, labels: Tensor | None, fresh: Tensor | None) -> Tensor:
            return 2 * z

        def gaussian_law(self, label: int | None = None) -> None:
            """Unknown, as of a prior that somebody else wrote."""

    images = points(30, 4).float().reshape(-1, 1, 2, 2)
    prior = Doubled.build((1, 2, 2), SCHEDULE, 80)
    target = Target.of(images)
    without = data_error(prior, target)
    pair = (prior.alpha, prior.sigma)
    flow = couple_by_flow(target.rows, [pair], 64, largest_variance=4.0, generator=generator())
    found = data_error(prior, target, flow=flow)
    assert without.upper.how == "no upper bound known"
    assert math.isinf(without.upper.value)
    start = isotropic(torch.zeros(4), 4.0)
    truth = gelbrich_squared(noised(target.spectrum, *pair), start)
    assert found.lower.value**2 <= truth + 0.1
    assert truth <= found.upper.value**2


def test_bad_estimates_are_refused() -> None:
    rows = points(20, 3)
    with pytest.raises(ValueError, match="at least 32 images"):
        HeldOut.of(rows, generator=generator())
    with pytest.raises(ValueError, match="signal"):
        couple_by_flow(rows, [(0.0, 1.0)], 8, largest_variance=1.0, generator=generator())
    held_out = HeldOut.of(points(64, 3), generator=generator())
    images = points(10, 4).float().reshape(-1, 1, 2, 2)
    with pytest.raises(ValueError, match="dimension 4"):
        population_error(IdentityPrior.build((1, 2, 2), SCHEDULE, 50), held_out)
    rival = RandomAtomPrior.fit(images, SCHEDULE, 50, value_range=None)
    others = HeldOut.of(points(64, 4), generator=generator())
    with pytest.raises(
        ValueError, match="prior must be semi-discrete or of Gaussian starts; got RandomAtomPrior"
    ):
        population_error(rival, others)
    weighted = SemiDiscretePrior.fit(
        images,
        SCHEDULE,
        50,
        value_range=None,
        weights=torch.tensor([0.0] + [1 / 9] * 9),
        generator=generator(),
    )
    with pytest.raises(ValueError, match="weights that it was fitted with"):
        draw_starts(weighted, generator=generator())
    draws = draw_starts(weighted, weights=torch.tensor([0.0] + [1 / 9] * 9), generator=generator())
    assert len(draws.atoms) == 9
