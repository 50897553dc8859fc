"""Mixtures of low-rank Gaussians: densities against whole covariances, EM against its laws and against scikit-learn."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from otprior.priors.clusters import fit_clusters
from otprior.transport.gaussian_mixture import Axes, GaussianMixture, Points, fit_mixture
from otprior.transport.moments import streaming_spectrum


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def law(count: int = 8, dim: int = 30, rank: int = 5, apart: float = 1.5) -> GaussianMixture:
    """A mixture in the whole space, of unequal weights."""
    bases = torch.linalg.qr(normal(count, dim, rank, seed=1))[0]
    variances = torch.linspace(6, 2, rank, dtype=torch.float64).expand(count, rank)
    weights = torch.linspace(1, 2, count, dtype=torch.float64)
    means, residuals = apart * normal(count, dim, seed=2), torch.full((count,), 0.05, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, bases, variances, residuals, dim)


def covariance(mixture: GaussianMixture, k: int) -> Tensor:
    basis = mixture.bases[k]
    rest = torch.eye(len(basis), dtype=torch.float64) - basis @ basis.T
    return basis @ torch.diag(mixture.variances[k]) @ basis.T + mixture.residuals[k] * rest


def draws(mixture: GaussianMixture, count: int, seed: int) -> Tensor:
    """Rows (count, d)."""
    which = torch.multinomial(mixture.weights, count, replacement=True, generator=generator(seed))
    z = normal(count, mixture.dim, seed=seed + 1)
    rows = torch.empty_like(z)
    for k in range(len(mixture.weights)):
        root = torch.linalg.cholesky(covariance(mixture, k))
        rows[which == k] = mixture.means[k] + z[which == k] @ root.T
    return rows


def whole(rows: Tensor) -> Points:
    return Points(rows, torch.zeros(len(rows), dtype=rows.dtype), rows.shape[1])


def guess(rows: Tensor, count: int) -> Tensor:
    """Shares by the nearest of a few rows."""
    return torch.nn.functional.one_hot(torch.cdist(rows, rows[:count]).argmin(dim=1), count).to(rows)


# Densities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_densities_are_those_of_whole_covariances(noise: float) -> None:
    mixture, rows = law(3), normal(20, 30)
    found = mixture.log_densities(whole(rows), noise)
    clean = mixture.log_densities(whole(rows), noise, clean=True)
    for k in range(3):
        full = covariance(mixture, k) + noise * torch.eye(30, dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(mixture.means[k], full).log_prob(rows)
        exact = exact + mixture.weights[k].log()
        torch.testing.assert_close(found[:, k], exact, rtol=1e-9, atol=1e-9)
        less = 0.5 * noise * torch.linalg.inv(full).trace()
        torch.testing.assert_close(clean[:, k], exact - less, rtol=1e-9, atol=1e-9)


def test_coordinates_on_few_axes_tell_the_whole_density() -> None:
    """Means and axes of clusters lie in the 6 axes; float32 coordinates."""
    rows = normal(200, 6) @ normal(6, 30, seed=3) + 0.01 * normal(200, 30, seed=4)
    axes = Axes.find(rows.float(), 6, generator())
    points = axes.points(rows)
    mixture = fit_mixture(points, guess(points.values, 4), 3, 0.5)
    there = mixture.along(axes)
    torch.testing.assert_close(
        mixture.log_likelihoods(points, 0.5),
        there.log_likelihoods(whole(rows.float()), 0.5),
        rtol=1e-5,
        atol=0,
    )


def test_axes_are_the_leading_ones() -> None:
    """They keep what the exact ones keep, but for a thousandth (a randomised search, of a flat spectrum)."""
    rows = (normal(300, 60) * torch.linspace(2, 0.5, 60)).float()
    axes, exact = Axes.find(rows, 10, generator()), streaming_spectrum(rows, 10)
    torch.testing.assert_close(axes.mean, exact.mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(axes.basis.T @ axes.basis, torch.eye(10, dtype=torch.float64))
    kept = ((rows - axes.mean) @ axes.basis).square().mean(dim=0)
    assert float(kept.sum()) > 0.99 * float(exact.variances.sum())
    assert bool((kept[:-1] >= kept[1:] - 1e-6).all())
    # Few rows, or few dimensions: all that there is.
    few = Axes.find(rows[:5], 10, generator()).points(rows[:5])
    assert float(few.beyond.max()) < 1e-4
    assert Axes.find(rows[:, :4], 10, generator()).basis.shape == (4, 4)


def test_noised_coordinates_have_the_law_of_noised_rows() -> None:
    """20,000 draws of one row: means and variances to 5 standard errors."""
    rows = torch.cat([normal(30, 40).float(), torch.ones(1, 40)])
    axes, noise = Axes.find(rows, 5, generator()), 0.3
    many = rows[-1:].expand(20_000, -1)
    ours = axes.points(many).noised(noise, generator(1))
    theirs = axes.points(many + noise**0.5 * normal(20_000, 40, seed=2))
    for a, b in ((ours.values, theirs.values), (ours.beyond[:, None], theirs.beyond[:, None])):
        a, b = a.double(), b.double()
        error = (a.var(dim=0) / len(a)).sqrt()
        assert bool(((a.mean(dim=0) - b.mean(dim=0)).abs() < 7 * error).all())
        torch.testing.assert_close(a.var(dim=0), b.var(dim=0), rtol=0.1, atol=0)


# EM ----------------------------------------------------------------------------------------------------------


def test_given_the_shares_moments_are_the_weighted_ones() -> None:
    rows, shares = normal(50, 4), torch.softmax(normal(50, 2, seed=1), dim=1)
    found = GaussianMixture.of(whole(rows), shares, 4)
    for k in range(2):
        weights = shares[:, k]
        mean = weights @ rows / weights.sum()
        torch.testing.assert_close(found.means[k], mean)
        scatter = torch.cov(rows.T, correction=0, aweights=weights)
        torch.testing.assert_close(covariance(found, k), scatter)
    torch.testing.assert_close(found.weights, shares.mean(dim=0))


@pytest.mark.parametrize("noise", [1e-3, 0.5, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_bound_never_falls(noise: float, seed: int) -> None:
    """In float64; shares below 1e-6 are left out of moments. At the end it is below the noised likelihood."""
    points = whole(draws(law(), 600, seed))
    mixture = GaussianMixture.of(points, guess(points.values, 6), 3)
    bounds = []
    for _ in range(15):
        each = mixture.log_densities(points, noise, clean=True)
        mixture = GaussianMixture.of(points, each.softmax(dim=1), 3)
        bounds.append(float(each.logsumexp(dim=1).mean()))
    assert len(mixture.weights) == 6
    assert all(after > before - 1e-4 for before, after in pairwise(bounds))
    assert bounds[-1] > bounds[0] + 0.1
    many = Points(points.values.repeat(20, 1), points.beyond.repeat(20), 30).noised(noise, generator(seed))
    assert float(mixture.log_likelihoods(many, noise).mean()) > bounds[-1] - 0.02


def test_with_all_axes_and_no_noise_it_is_a_gaussian_mixture() -> None:
    """scikit-learn's, begun from the same shares: mean log-likelihood and means after convergence."""
    sklearn = pytest.importorskip("sklearn.mixture")
    rows = draws(law(3, 4, 2, apart=4.0), 600, 0)
    shares = guess(rows, 3)
    ours = fit_mixture(whole(rows), shares, 4, 1e-6, tol=1e-6, rounds=200)
    first = GaussianMixture.of(whole(rows), shares, 4)
    precisions = torch.stack([torch.linalg.inv(covariance(first, k)) for k in range(3)])
    theirs = sklearn.GaussianMixture(
        3,
        tol=1e-6,
        max_iter=200,
        reg_covar=1e-6,
        weights_init=first.weights.numpy(),
        means_init=first.means.numpy(),
        precisions_init=precisions.numpy(),
    ).fit(rows.numpy())
    likelihood = float(ours.log_likelihoods(whole(rows), 1e-6).mean())
    assert likelihood == pytest.approx(theirs.score(rows.numpy()), abs=1e-4)
    torch.testing.assert_close(ours.means, torch.from_numpy(theirs.means_), rtol=0, atol=1e-2)


def test_a_known_mixture_is_found_with_its_sizes() -> None:
    """Eight clusters of rank 5 in 30 dimensions. 3,000 rows fitted, 3,000 others judge it.

    A fit of p parameters loses about p/2N nats to the truth, here 8 · 180/6000 = 0.24; allowed is twice that.
    """
    truth, noise = law(), 0.6
    fitted = fit_clusters(draws(truth, 3000, 0).float(), None, None, noise, generator())
    sizes = (len(fitted.weights), fitted.bases.shape[2])
    assert sizes == (8, 5)
    judges = draws(truth, 3000, 10) + noise**0.5 * normal(3000, 30, seed=20)
    best = truth.log_likelihoods(whole(judges), noise)
    found = fitted.log_likelihoods(whole(judges.float()), noise)
    lost = best - found
    error = float(lost.std()) / len(lost) ** 0.5
    assert -4 * error < float(lost.mean()) < 0.48 + 4 * error
    torch.testing.assert_close(fitted.weights.double().sort()[0], truth.weights, rtol=0, atol=0.03)


def test_it_does_not_depend_on_threads_or_state() -> None:
    rows = draws(law(), 500, 0).float()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            found.append(fit_clusters(rows, 8, 4, 0.6, generator()))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0].means, found[1].means, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[0].variances, found[1].variances, rtol=1e-3, atol=0)


def test_no_cluster_is_of_one_row() -> None:
    """A row far from all others is no cluster of its own, unless nothing else is left."""
    rows = torch.cat([normal(100, 6), torch.full((1, 6), 50, dtype=torch.float64)])
    rows[50:100] += 8
    shares = torch.zeros(101, 3, dtype=torch.float64)
    shares[:50, 0], shares[50:100, 1], shares[100, 2] = 1, 1, 1
    assert len(fit_mixture(whole(rows), shares, 2, 0.6).weights) == 2
    alone = fit_mixture(whole(rows[:1]), torch.ones(1, 1, dtype=torch.float64), 2, 0.6)
    torch.testing.assert_close(alone.means, rows[:1])
    assert float(alone.residuals) == 0


def test_clusters_that_noise_makes_alike_are_joined() -> None:
    """Two clusters begun from halves of one normal cloud, a third far away; without noise they stay three."""
    rows = torch.cat([normal(200, 6) * 0.01, 3 + normal(100, 6, seed=1) * 0.01])
    shares = torch.zeros(300, 3, dtype=torch.float64)
    shares[torch.arange(200), (rows[:200, 0] > 0).long()] = 1
    shares[200:, 2] = 1
    joined = fit_mixture(whole(rows), shares, 2, 0.6)
    torch.testing.assert_close(joined.weights, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    torch.testing.assert_close(covariance(joined, 0).trace(), torch.cov(rows[:200].T, correction=0).trace())
    assert len(fit_mixture(whole(rows), shares, 2, 1e-6, rounds=1).weights) == 3


def test_a_cluster_may_run_empty_in_the_last_round() -> None:
    """A broad cluster that has a hundredth of each row of two tight ones loses all of it to them at once."""
    rows = torch.cat([normal(100, 30), 40 + normal(100, 30, seed=1)])
    shares = torch.full((200, 3), 0.01, dtype=torch.float64)
    shares[:100, 0], shares[100:, 1] = 0.98, 0.98
    found = fit_mixture(whole(rows), shares, 0, 0.01, rounds=1)
    torch.testing.assert_close(found.weights, torch.tensor([0.5, 0.5], dtype=torch.float64))
