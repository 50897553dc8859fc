"""The interval holds the true error wherever that is known, and is a point where theory says so."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import ot
import pytest
import torch
from generators.gaussians import gaussian
from generators.line import line
from generators.prior_error import FAMILIES, Mixture, error_case, line_w2_squared, spectrum
from torch import Tensor

from otprior.diffusion.schedule import NoiseSchedule
from otprior.error import Target, data_error, gaussian_error
from otprior.error.bounds.marginals import normal_products
from otprior.error.cell_coupling import explained_by_cells
from otprior.error.interval import Bound, best, combined
from otprior.priors import GaussianPrior, IdentityPrior, Prior, RandomAtomPrior, SemiDiscretePrior
from otprior.transport.gaussian import (
    bures_squared,
    coupled_squared,
    gelbrich_squared,
    isotropic,
    no_covariance,
    noised,
)
from otprior.transport.moments import Spectrum, streaming_spectrum

SCHEDULE = NoiseSchedule.vp(torch.linspace(0.999, 0.001, 100, dtype=torch.float64))


def contained(family: str, dim: int, seed: int) -> bool:
    case = error_case(family, dim, np.random.default_rng(seed))
    target = Target(case.clean, given=case.explained)
    found = gaussian_error(target, case.alpha, case.sigma, case.start)
    # Truth comes by quadrature, and both ends are sums of squares of roots of eigenvalues: 1e-8 is their rounding.
    room = 1e-8 * (1 + case.w2_squared)
    return found.lower.value**2 <= case.w2_squared + room and found.upper.value**2 >= case.w2_squared - room


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8, 17, 64])
def test_the_interval_holds_the_true_error(family: str, dim: int) -> None:
    assert all(contained(family, dim, 100 * dim + repeat) for repeat in range(3))


@pytest.mark.slow
def test_the_interval_holds_the_true_error_in_a_thousand_of_a_thousand_cases() -> None:
    rng = np.random.default_rng(7)
    cases = [(FAMILIES[i % 3], int(rng.integers(1, 65)), int(rng.integers(2**31))) for i in range(1000)]
    assert sum(contained(*case) for case in cases) == 1000


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_both_ends_are_the_error_of_gaussian_data(dim: int) -> None:
    law = gaussian(torch.linspace(0.1, 4, dim), seed=dim)
    clean = spectrum(law.mean.numpy(), law.covariance.numpy())
    found = gaussian_error(Target(clean, given=clean), 0.6, 0.8, isotropic(torch.zeros(dim), 1.0))
    truth = math.sqrt(law.noised(0.6, 0.8).w2_squared)
    assert found.lower.value == pytest.approx(truth, abs=1e-8)
    assert found.upper.value == pytest.approx(truth, abs=1e-8)
    assert found.ratio == pytest.approx(1, abs=1e-8)


def test_both_ends_are_the_error_of_a_single_image() -> None:
    image = torch.full((5, 1, 3, 3), 0.7, dtype=torch.float64)
    found = gaussian_error(Target.of(image), 0.28, 0.96, isotropic(torch.zeros(9), 1.0))
    truth = math.sqrt(9 * ((0.28 * 0.7) ** 2 + 0.04**2))
    assert found.lower.value == pytest.approx(truth, abs=1e-8)
    assert found.upper.value == pytest.approx(truth, abs=1e-8)


def test_a_convex_gradient_is_enclosed_in_a_point_by_its_own_coupling() -> None:
    case = error_case("gradient", 6, np.random.default_rng(1))
    squared = coupled_squared(case.clean, case.explained, 1.0, 0.0, case.start)
    assert squared == pytest.approx(case.w2_squared, abs=1e-8)


def test_without_signal_white_noise_has_no_error() -> None:
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    found = gaussian_error(Target.of(rows), 0.0, 1.0, isotropic(torch.zeros(4), 1.0))
    assert found.upper.value == pytest.approx(0, abs=1e-8)


def test_bures_distance_is_that_of_pot_for_full_low_rank_and_isotropic_covariances() -> None:
    generator = torch.Generator().manual_seed(3)
    dim = 7

    def random_spectrum(rank: int) -> tuple[Spectrum, Tensor]:
        basis = torch.linalg.qr(torch.randn(dim, rank, generator=generator, dtype=torch.float64))[0]
        variances = torch.rand(rank, generator=generator, dtype=torch.float64) + 0.2
        found = Spectrum(torch.zeros(dim).double(), basis, variances, 0.3 if rank < dim else 0.0)
        return found, 0.3 * (rank < dim) * (torch.eye(dim) - basis @ basis.T) + (basis * variances) @ basis.T

    for first_rank, second_rank in ((7, 7), (2, 3), (2, 7), (0, 3), (4, 0)):
        first, one = random_spectrum(first_rank)
        second, two = random_spectrum(second_rank)
        zero = torch.zeros(dim).double()
        expected = float(ot.gaussian.bures_wasserstein_distance(zero, zero, one, two)) ** 2
        assert bures_squared(first, second) == pytest.approx(expected, abs=1e-10)
        assert bures_squared(first, first) == pytest.approx(0, abs=1e-15)


def test_low_rank_moments_give_a_bound_below_that_of_full_ones() -> None:
    rows = torch.randn(400, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.2, 3, 12)
    start = isotropic(torch.zeros(12), 1.0)
    full = gelbrich_squared(noised(streaming_spectrum(rows, 12), 0.7, 0.7), start)
    low = gelbrich_squared(noised(streaming_spectrum(rows, 4), 0.7, 0.7), start)
    assert 0 < low <= full


def test_a_stream_gives_the_moments_of_the_whole() -> None:
    rows = torch.randn(3000, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    whole, streamed = Target.of(rows), Target.streamed(iter(rows.split(700)))
    torch.testing.assert_close(streamed.spectrum.variances, whole.spectrum.variances, rtol=0, atol=1e-12)
    assert streamed.rows is None
    with pytest.raises(ValueError, match="at least two images"):
        Target.streamed(iter([rows[:1]]))


def test_thousands_of_dimensions_are_bounded_along_the_axes_that_are_followed() -> None:
    inner = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 0.5, 6)
    rows = torch.cat([inner, torch.zeros(40, 4200 - 6)], dim=1)
    few, many = Target.of(inner), Target.of(rows, rank=8)
    assert many.spectrum.basis.shape == (4200, 8)
    alpha, sigma = 0.6, 0.8
    for size in (1.0, 1.1):
        found = [gaussian_error(t, alpha, sigma, isotropic(torch.zeros(t.dim), size**2)) for t in (few, many)]
        # In every further direction σ ε stands beside noise of another size.
        beyond = (4200 - 6) * (size - sigma) ** 2
        for low, high in zip(found[0].others, found[1].others):
            assert low.how == high.how
            # (Axes may point the other way, and then an odd number of rows is halved the other way.)
            room = 1e-3 if low.how == "cells" else 1e-5
            assert high.value**2 == pytest.approx(low.value**2 + beyond, rel=room)
    own = gaussian_error(many, alpha, sigma, noised(many.spectrum, alpha, sigma))
    assert own.others[0].value == pytest.approx(0, abs=1e-4)


def product_data(counts: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    """All combinations of a few values an axis: p_t is a product, along the axes that the moments find."""
    generator = torch.Generator().manual_seed(sum(counts))
    values = [
        (k + 1) * torch.randn(count, generator=generator, dtype=torch.float64).exp()
        for k, count in enumerate(counts)
    ]
    return torch.cartesian_prod(*values).reshape(-1, len(counts)), values


@pytest.mark.parametrize(("alpha", "sigma"), [(0.6, 0.8), (0.9, 0.3), (0.1, 0.99)])
def test_marginals_are_the_whole_error_of_a_product(alpha: float, sigma: float) -> None:
    rows, values = product_data((4, 5, 6))
    target = Target.of(rows)
    truth = 0.0
    for column in values:
        count = len(column)
        law = Mixture(np.full(count, 1 / count), column.numpy(), np.zeros(count)).noised(alpha, sigma)
        truth += line_w2_squared(law, 0.0, math.hypot(alpha, sigma))
    found = gaussian_error(target, alpha, sigma, isotropic(torch.zeros(3), alpha**2 + sigma**2))
    assert found.lower.how == "marginals"
    # Two quadratures, each exact to rounding.
    assert found.lower.value == pytest.approx(math.sqrt(truth), abs=1e-8)
    assert found.upper.value >= found.lower.value


def test_the_noise_may_be_so_small_that_it_is_paid_for_instead() -> None:
    column = torch.tensor([[-300.0], [0.0], [300.0]], dtype=torch.float64)
    exact, small = normal_products(column, 1.0, 0.0), normal_products(column, 1.0, 1e-3)
    assert float(small) == pytest.approx(float(exact) + 1e-3)


def test_cells_are_the_monotone_map_on_a_line() -> None:
    problem = line(12, seed=4, ratio=1.0)
    target = Target.of(problem.atoms)
    found = gaussian_error(target, 1.0, 0.0, isotropic(torch.zeros(1), 1.0))
    assert found.upper.how == "cells"
    assert found.upper.value == pytest.approx(math.sqrt(problem.w2_squared), abs=1e-8)
    assert found.lower.value == pytest.approx(found.upper.value, abs=1e-8)


def test_cells_explain_part_of_the_variance_and_help() -> None:
    rows = torch.randn(257, 10, generator=torch.Generator().manual_seed(0)).double() * torch.linspace(
        3, 0.3, 10
    )
    target = Target.of(rows)
    explained = explained_by_cells(rows, target.spectrum.basis)
    # Each explained variance is that of a regression on one normal coordinate: at most the variance itself.
    assert bool((explained.variances <= target.spectrum.variances + 1e-12).all())
    start = isotropic(torch.zeros(10), 1.0)
    plain = coupled_squared(target.spectrum, no_covariance(10), 0.6, 0.8, start)
    assert coupled_squared(target.spectrum, explained, 0.6, 0.8, start) < 0.9 * plain


@pytest.mark.parametrize("timestep", [5, 50, 99])
def test_priors_are_enclosed_by_the_laws_that_they_have(timestep: int) -> None:
    images = torch.tanh(torch.randn(60, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
    target = Target.of(images)
    plain = IdentityPrior.build((1, 3, 3), SCHEDULE, timestep)
    fitted = GaussianPrior.fit(images, SCHEDULE, timestep)
    of_plain, of_fitted = data_error(plain, target), data_error(fitted, target)
    moments = noised(target.spectrum, plain.alpha, plain.sigma)
    expected = gelbrich_squared(moments, isotropic(torch.zeros(9), 1.0))
    assert of_plain.others[0].value == pytest.approx(math.sqrt(expected), rel=1e-6)
    # A fitted prior holds its moments in float32.
    assert of_fitted.others[0].value == pytest.approx(0, abs=1e-5)
    assert of_fitted.lower.value <= of_fitted.upper.value <= of_plain.upper.value
    same = data_error(RandomAtomPrior.fit(images, SCHEDULE, timestep), target)
    assert (same.lower.value, same.upper.value, same.ratio) == (0, 0, 1)


def test_an_upper_end_below_the_lower_is_raised_to_it() -> None:
    found = best("data", [Bound(2.0, "gelbrich")], [Bound(1.9, "flow", 0.95)])
    assert found.upper.value == 2.0
    assert found.upper.how == "flow"
    nothing = best("data", [], [])
    assert (nothing.lower.value, nothing.upper.value) == (0, math.inf)
    assert nothing.upper.how == "no upper bound known"


def test_classes_are_put_together_by_their_squares() -> None:
    parts = [
        best("data", [Bound(1.0, "x")], [Bound(2.0, "y", 0.98)]),
        best("data", [Bound(3.0, "x")], [Bound(4.0, "y")]),
    ]
    whole = combined("data", parts, [0.25, 0.75])
    assert whole.lower.value == pytest.approx(math.sqrt(0.25 + 0.75 * 9))
    assert whole.upper.value == pytest.approx(math.sqrt(0.25 * 4 + 0.75 * 16))
    assert whole.upper.level == pytest.approx(0.98)


def test_what_cannot_be_is_refused() -> None:
    rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    target = Target.of(rows)
    with pytest.raises(ValueError, match="no more variance than the data"):
        coupled_squared(
            target.spectrum, isotropic(torch.zeros(4), 100.0), 1.0, 1.0, isotropic(torch.zeros(4), 1.0)
        )
    with pytest.raises(ValueError, match="at least two images"):
        Target.of(rows[:1])
    with pytest.raises(ValueError, match="dimension 9"):
        data_error(IdentityPrior.build((1, 3, 3), SCHEDULE, 50), target)
    with pytest.raises(
        ValueError, match=r"target must be a Target; Target.of makes one of images; got Tensor"
    ):
        data_error(IdentityPrior.build((1, 2, 2), SCHEDULE, 50), rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        Target.of(rows.index_fill(0, torch.tensor([3]), math.nan))


def test_cells_hold_beside_a_gaussian_along_other_axes() -> None:
    """Three points and a normal law on a line that is none of their axes: W2 by the quantiles, to 1e-6."""
    x = torch.tensor([[-1.5, 1.0], [-1.5, -0.5], [-0.5, -0.5]])
    centre, spread = x.double().mean(dim=0), 0.5454
    start = Spectrum(centre, torch.tensor([[0.0], [1.0]]).double(), torch.tensor([spread**2]).double(), 0.0)
    quantile = torch.special.ndtri((torch.arange(300_000).double() + 0.5) / 300_000) * spread + centre[1]
    along = x[:, 1].double().sort().values.repeat_interleave(100_000)
    truth = math.sqrt(float(((along - quantile) ** 2).mean() + x[:, 0].double().var(correction=0)))
    found = gaussian_error(Target.of(x), 1.0, 0.0, start)
    assert found.lower.value <= truth + 1e-4
    assert truth <= found.upper.value + 1e-4


@pytest.mark.parametrize("prior_class", [RandomAtomPrior, SemiDiscretePrior])
def test_other_images_than_a_priors_atoms_are_no_part_of_its_law(prior_class: type[Prior]) -> None:
    schedule = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
    atoms = torch.randn(12, 1, 1, 2, generator=torch.Generator().manual_seed(0)) / 4 + 0.3
    prior = prior_class.fit(atoms, schedule, 200, value_range=None)
    own, other = data_error(prior, Target.of(atoms)), data_error(prior, Target.of(-atoms))
    # In another order they are the same law.
    assert data_error(prior, Target.of(atoms.flip(0))).upper.how == own.upper.how != other.upper.how
    shift = 2 * prior.alpha * float(atoms.double().mean(dim=0).norm())
    # The means alone are so far apart; the lower end is known from draws.
    assert 0.9 * shift < other.lower.value <= other.upper.value
