"""What a prior's error becomes in samples: the analytic bound, the paired cost, stability, cross-checks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from exact_denoiser import ExactDenoiser

from otprior import OTPriorPipeline, timestep_grid
from otprior.diffusion.denoisers import FiniteDenoiser, GaussianDenoiser
from otprior.diffusion.flow import Scales, probability_flow
from otprior.diffusion.network import NetworkDenoiser
from otprior.diffusion.schedule import NoiseSchedule
from otprior.error import Target, gaussian_error
from otprior.error.audit.cross_checks import cross_checks
from otprior.error.audit.estimated_bound import estimated_bound, sampled_gain
from otprior.error.audit.stability import potential_stability
from otprior.error.interval import Bound, ErrorInterval
from otprior.error.sampling_cost import RootMeanSquare, Sampler
from otprior.priors import IdentityPrior, SemiDiscretePrior
from otprior.transport.gaussian import gaussian_map, isotropic
from otprior_studies.claims.growth import diameter_gain, gaussian_gain, log_growth

DDPM = NoiseSchedule.from_scheduler(DDPMScheduler())
SHAPE = (1, 2, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The analytic bound ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", [50, 500, 999])
def test_unit_gaussian_data_grow_by_nothing(timestep: float) -> None:
    assert log_growth(DDPM, timestep, 0, gaussian_gain(1.0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("variance", [0.0, 0.04, 1.0, 30.0])
@pytest.mark.parametrize("schedule", [DDPM, NoiseSchedule.edm(0.002, 80.0), NoiseSchedule.flow(1000)])
def test_gaussian_growth_is_the_flows_own(variance: float, schedule: NoiseSchedule) -> None:
    low, high = schedule.timestep_range
    start, end = low + 0.7 * (high - low), low + 0.1 * (high - low)
    if schedule.discrete:
        start, end = round(start), round(end)
    sizes = [math.sqrt(schedule.alpha(t) ** 2 * variance + schedule.sigma(t) ** 2) for t in (start, end)]
    found = log_growth(schedule, start, end, gaussian_gain(variance))
    assert found == pytest.approx(math.log(sizes[1] / sizes[0]), abs=1e-9)


def test_growth_begins_where_no_signal_is_left() -> None:
    flow = NoiseSchedule.flow(1000)
    found = log_growth(flow, 1000.0, 10.0, gaussian_gain(1.0))
    assert found == pytest.approx(0.5 * math.log(0.99**2 + 0.01**2), abs=1e-9)


def test_stochastic_growth_has_twice_the_score() -> None:
    # Unit Gaussian data under VP: −f + g² λ = ½ β − β.
    found = log_growth(DDPM, 600, 10, gaussian_gain(1.0), stochastic=True)
    assert found == pytest.approx(math.log(DDPM.alpha(600.0) / DDPM.alpha(10.0)), abs=1e-9)


def test_two_points_reach_the_gain_of_their_distance_and_the_flow_stays_below_its_growth() -> None:
    atoms = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    denoiser = FiniteDenoiser(atoms)
    alpha, sigma = 0.6, 0.8
    middle = torch.zeros(1, 2, dtype=torch.float64)
    largest = torch.linalg.eigvalsh(alpha * denoiser.jacobian(middle, alpha, sigma))[0, -1]
    assert float(largest) == pytest.approx(diameter_gain(2.0)(2 * math.log(alpha / sigma)))
    # Two x near the middle are driven apart by nearly I; two typical ones are not.
    start, end = 700, 200
    bound = log_growth(DDPM, start, end, diameter_gain(2.0))
    moments = [Scales(DDPM.alpha(float(t)), DDPM.sigma(float(t))) for t in (start, end)]
    for place, low, high in ((0.0, 0.99, 1.0), (2.0, -1.0, 0.7)):
        x = torch.tensor([[place - 1e-6, 0.3], [place + 1e-6, 0.3]], dtype=torch.float64)
        ends = probability_flow(denoiser, x, *moments, method="dop853").x
        grown = math.log(float((ends[0] - ends[1]).norm()) / 2e-6)
        assert low * bound <= grown <= high * bound + 1e-6


def test_the_growth_of_an_exact_score_bounds_what_is_measured() -> None:
    law = GaussianDenoiser(torch.zeros(3), torch.diag(torch.tensor([4.0, 1.0, 0.1])))
    start, end = 500, 0
    moments = [Scales(DDPM.alpha(float(t)), DDPM.sigma(float(t))) for t in (start, end)]
    x = law.noised(500, *moments[0], generator())
    other = 1.3 * x + 0.2
    gap = RootMeanSquare.between(x, other).value
    ends = [probability_flow(law, points, *moments, steps=200).x for points in (x, other)]
    measured = RootMeanSquare.between(*ends).value
    bound = math.exp(log_growth(DDPM, start, end, gaussian_gain(4.0))) * gap
    assert 0.5 * bound < measured <= bound


def test_bad_ends_are_refused() -> None:
    with pytest.raises(ValueError, match="cleaner than start"):
        log_growth(DDPM, 100, 500, gaussian_gain(1.0))
    with pytest.raises(ValueError, match="with some noise left"):
        log_growth(NoiseSchedule.flow(10), 5, 0, gaussian_gain(1.0))
    with pytest.raises(ValueError, match="with signal"):
        log_growth(NoiseSchedule.flow(10), 10, 1, gaussian_gain(1.0), stochastic=True)
    with pytest.raises(ValueError, match="variance"):
        gaussian_gain(-1.0)


# The estimated bound -----------------------------------------------------------------------------------------


def test_a_network_that_is_exact_has_the_exact_gain() -> None:
    network = ExactDenoiser(DDPM, 0.3, 0.7).eval()
    denoiser = NetworkDenoiser(network, DDPMScheduler())
    alpha, sigma = DDPM.alpha(300.0), DDPM.sigma(300.0)
    x = torch.randn(3, *SHAPE, generator=generator())
    expected = gaussian_gain(0.49)(2 * math.log(alpha / sigma))
    # In float32.
    torch.testing.assert_close(
        sampled_gain(denoiser, x, alpha, sigma), torch.full((3,), expected), rtol=0, atol=1e-4
    )


def test_the_gain_is_that_of_the_jacobian_also_through_attention() -> None:
    weights = torch.randn(3, 4, 4, generator=generator(2))

    def denoiser(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        q, k, v = (x.reshape(len(x), 1, 2, 4) @ w for w in weights)
        return 4 * x + torch.nn.functional.scaled_dot_product_attention(q, k, v).reshape(x.shape)

    x = torch.randn(1, 8, generator=generator(3))
    jacobian = torch.autograd.functional.jacobian(lambda y: denoiser(y, 0.5, 1.0), x).reshape(8, 8)
    exact = torch.linalg.eigvalsh(0.5 * (jacobian + jacobian.T) / 2)[-1]
    found = sampled_gain(denoiser, x, 0.5, 1.0)
    # Rayleigh quotients approach it from below; 8 iterations on these eigenvalues leave some per cent.
    assert 0.9 * float(exact) <= float(found) <= float(exact) + 1e-5


def test_the_estimated_bound_of_an_exact_network_is_the_analytic_one() -> None:
    std = 0.7
    network = ExactDenoiser(DDPM, 0.0, std).eval()
    # So many rows of a Gaussian that on 4 dimensions their own denoiser is nearly the law's, where noise is large.
    rows = std * torch.randn(4000, *SHAPE, generator=generator())
    error = ErrorInterval("data", Bound(0.5, "x"), Bound(0.6, "y"))
    found = estimated_bound(
        network,
        DDPMScheduler(),
        rows,
        900,
        error,
        end=400,
        levels=12,
        points=1,
        draws=64,
        generator=generator(1),
    )
    exact = log_growth(DDPM, 900, 400, gaussian_gain(std**2))
    # The trapezoidal rule on 12 levels.
    assert found.log_growth[0] == pytest.approx(exact, abs=5e-3)
    assert found.log_prior_term[0] == pytest.approx(exact + math.log(0.5), abs=5e-3)
    assert found.log_prior_term[1] == pytest.approx(exact + math.log(0.6), abs=5e-3)
    assert found.log_total[1] >= max(found.log_prior_term[1], found.log_score_term[1])
    assert all(low <= middle <= high for low, middle, high in found.noise_errors)
    assert found.noise_errors[0][1] < 0.1


def test_an_estimated_bound_needs_signal_and_order() -> None:
    network, rows = ExactDenoiser(DDPM, 0.0, 1.0), torch.randn(9, *SHAPE, generator=generator())
    error = ErrorInterval("data", Bound(0.0, "x"), Bound(1.0, "y"))
    with pytest.raises(ValueError, match="finite log-SNR"):
        estimated_bound(network, DDPMScheduler(), rows, 100, error, end=500, generator=generator())


# The sampler and the paired cost -----------------------------------------------------------------------------


def test_the_sampler_gives_what_the_pipeline_gives() -> None:
    scheduler = DPMSolverMultistepScheduler.from_config(DDPMScheduler().config)
    network = ExactDenoiser(DDPM, 0.2, 0.5).eval()
    prior = IdentityPrior.build(SHAPE, scheduler, 500)
    grid = timestep_grid(DDPM, 500, 5)
    z = torch.randn(3, *SHAPE, generator=generator())
    pipe = OTPriorPipeline(network, scheduler, prior)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(batch_size=3, latents=z, timesteps=grid, output_type="latent").images
    sampler = Sampler(network, scheduler)
    for latents in (z, torch.cat([z, -z])):
        found = sampler(latents, prior.alpha, prior.sigma, grid)[:3]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_the_cost_of_a_fine_sampler_is_the_flows(kind: str) -> None:
    scheduler = (
        DDIMScheduler(clip_sample=False) if kind == "vp" else FlowMatchEulerDiscreteScheduler(shift=1.0)
    )
    schedule = NoiseSchedule.from_scheduler(scheduler)
    network = ExactDenoiser(schedule, 0.0, 0.5).eval()
    t = 500
    alpha, sigma = schedule.alpha(float(t)), schedule.sigma(float(t))
    grid = timestep_grid(schedule, t, 200, "time")
    x = torch.randn(64, *SHAPE, generator=generator())
    starts = x + 0.3
    sampler = Sampler(network, scheduler)
    apart = RootMeanSquare.between(sampler(x, alpha, sigma, grid), sampler(starts, alpha, sigma, grid))
    factor = 0.5 / math.hypot(0.5 * alpha, sigma)
    # Two hundred steps of a first-order method.
    assert apart.value == pytest.approx(factor * 0.3 * 2, rel=0.02)
    assert apart.interval[0] <= apart.value <= apart.interval[1]
    assert apart.rows == 64


def test_a_stochastic_scheduler_is_refused() -> None:
    network = ExactDenoiser(DDPM, 0.0, 1.0)
    sde = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    for scheduler in (DDPMScheduler(), sde):
        with pytest.raises(ValueError, match="deterministic"):
            Sampler(network, scheduler)
    with pytest.raises(ValueError, match="at least 2"):
        RootMeanSquare.between(torch.zeros(1, 2), torch.zeros(1, 2))


# Stability and cross-checks ----------------------------------------------------------------------------------


def test_an_error_of_the_potential_moves_starts_by_less_than_its_bound_and_like_a_root() -> None:
    images = torch.randn(60, 1, 2, 3, generator=generator())
    prior = SemiDiscretePrior.fit(images, DDPM, 500, value_range=None, generator=generator())
    rows = potential_stability(prior, (0.0, 0.01, 0.04, 0.16), count=8192, generator=generator(1))
    assert rows[0].changed == rows[0].gap == rows[0].bound == 0
    for row in rows[1:]:
        assert 0 < row.gap <= row.gap_upper <= row.bound
    # Four times the error: four times the seeds, twice the root mean square; within sampling error of rare changes.
    for first, second in pairwise(rows[1:]):
        assert 2.5 < second.changed / first.changed < 5.5
        assert 1.5 < second.gap / first.gap < 2.6


def test_an_equal_shift_of_all_offsets_changes_nothing_and_unfit_priors_are_refused() -> None:
    images = torch.randn(20, 1, 1, 2, generator=generator())
    prior = SemiDiscretePrior.fit(images, DDPM, 500, value_range=None, generator=generator())
    shifted = prior.with_options()
    shifted.load_state_dict({**prior.state_dict(), "potential": prior.potential + 3.0}, assign=True)
    first, second = (
        [
            value
            for row in potential_stability(each, generator=generator())
            for value in (row.changed, row.gap)
        ]
        for each in (prior, shifted)
    )
    assert second == pytest.approx(first, abs=1e-9)
    with pytest.raises(ValueError, match="without smoothing"):
        potential_stability(prior.with_options(smoothing=0.1), generator=generator())
    one = SemiDiscretePrior.fit(images[:1], DDPM, 500, value_range=None, generator=generator())
    with pytest.raises(ValueError, match="at least two atoms"):
        potential_stability(one, generator=generator())


def test_other_distances_fall_where_theory_puts_them_and_give_a_wrong_interval_away() -> None:
    rows = torch.randn(200, 6, generator=generator()) * torch.linspace(2, 0.5, 6)
    target = Target.of(rows)
    alpha, sigma = 0.8, 0.6
    start = isotropic(torch.full((6,), 1.0), 1.0)
    found = gaussian_error(target, alpha, sigma, start)
    picks = [torch.randint(200, (200,), generator=generator(s)) for s in (1, 2)]
    x, again = (alpha * rows[pick] + sigma * torch.randn(200, 6, generator=generator(3)) for pick in picks)
    starts = gaussian_map(torch.randn(200, 6, generator=generator(4)).double(), start)
    checks = cross_checks(x, again, starts, found, target.spectrum.basis)
    assert checks.consistent
    assert checks.sliced <= found.upper.value + 1.6 * checks.sliced_floor
    assert checks.max_sliced >= math.sqrt(6) * 0.9  # the means are √6 apart
    assert checks.discrete >= found.lower.value
    narrow = ErrorInterval("data", Bound(0.0, "x"), Bound(0.5, "wrong"))
    assert not cross_checks(x, again, starts, narrow, target.spectrum.basis).consistent
    high = ErrorInterval("data", Bound(9.0, "wrong"), Bound(10.0, "x"))
    assert not cross_checks(x, again, starts, high).consistent
    with pytest.raises(ValueError, match="of one shape"):
        cross_checks(x, again[:5], starts, found)


@pytest.mark.parametrize("dim", [1, 64])
def test_samples_of_one_law_raise_no_alarm(dim: int) -> None:
    # In 64 dimensions the means of two samples differ most along their difference, which the floor has to try, too. In
    # one dimension the floor itself is a random number, half of its mean or less in many cases.
    nothing = ErrorInterval("data", Bound(0.0, "exact law"), Bound(0.0, "exact law"))
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        x, again, starts = (torch.randn(100, dim, generator=generator) for _ in range(3))
        assert cross_checks(x, again, starts, nothing, projections=32, seed=seed).consistent
        assert not cross_checks(
            x, again, starts + 3 / dim**0.5, nothing, projections=32, seed=seed
        ).consistent
