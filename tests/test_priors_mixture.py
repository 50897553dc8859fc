"""The mixture prior: its two limits, the law of its clusters, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior, MixturePrior, SemiDiscretePrior
from otprior.priors.mixture import IMAGES_PER_AXIS
from otprior.transport.moments import streaming_spectrum, thin_spectrum

SCHEDULE = NoiseSchedule.from_scheduler(diffusers.DDPMScheduler())
SHAPE = (1, 4, 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# A few directions carry most of the variance, as in pictures.
IMAGES = ImageSet(torch.tanh(normal(60, 5, seed=7) @ normal(5, 16, seed=8)).reshape(60, *SHAPE))


def islands(count: int = 4, each: int = 30) -> tuple[ImageSet, Tensor]:
    """Images in clusters far apart, of unequal sizes, and the cluster of each."""
    sizes = [each * (k + 1) for k in range(count)]
    which = torch.repeat_interleave(torch.arange(count), torch.tensor(sizes))
    centres = normal(count, 16, seed=1).sign() * 0.7
    pixels = centres[which] + 0.05 * normal(len(which), 16, seed=2)
    return ImageSet(pixels.clamp(-1, 1).reshape(-1, *SHAPE)), which


# Limits ----------------------------------------------------------------------------------------------------


def test_one_cluster_is_the_gaussian_prior() -> None:
    """With all axes, of which a cluster of 60 keeps 16 (float32 rounding of products of 16)."""
    z = normal(200, *SHAPE)
    gaussian = GaussianPrior.fit(IMAGES, SCHEDULE, 400)
    mixture = MixturePrior.fit(IMAGES, SCHEDULE, 400, components=1, rank=16)
    torch.testing.assert_close(mixture(z), gaussian(z), rtol=0, atol=1e-5)


def test_clusters_of_equal_images_are_the_coupled_prior() -> None:
    """Ten copies of each of four images: no variance is left. Cells differ by what the two solves leave of χ²."""
    z = normal(1000, *SHAPE)
    four = IMAGES.images[:4]
    coupled = SemiDiscretePrior.fit(ImageSet(four), SCHEDULE, 400, tol=0.001)
    # Of twelve first rows several are copies of one image: their clusters run empty and are dropped.
    copies = ImageSet(four.repeat_interleave(10, dim=0))
    mixture = MixturePrior.fit(copies, SCHEDULE, 400, components=12, tol=0.001)
    assert mixture.config["components"] == 4
    assert float(mixture.residuals.max()) < 1e-12
    same = (mixture(z) - coupled(z)).flatten(1).abs().amax(dim=1) < 1e-5
    assert float(same.double().mean()) > 0.95


# Clusters --------------------------------------------------------------------------------------------------


def test_each_cluster_gets_its_share_of_seeds_and_its_own_law() -> None:
    """At small t* a start is near its cluster. 20,000 seeds: shares to 4 standard errors and the solve's 3 %."""
    images, which = islands()
    mixture = MixturePrior.fit(images, SCHEDULE, 20, components=40, tol=0.001)
    starts = mixture(normal(20_000, *SHAPE, seed=3)).flatten(1) / mixture.alpha
    centres = torch.stack([images.images[which == k].flatten(1).mean(dim=0) for k in range(4)])
    island = torch.cdist(starts, centres).argmin(dim=1)
    shares = torch.bincount(which).double() / len(which)
    found = torch.bincount(island, minlength=4).double() / len(starts)
    error = (shares * (1 - shares) / len(starts)).sqrt()
    assert bool(((found - shares).abs() < 4 * error + 0.03 * shares).all())


def test_a_cluster_keeps_a_third_as_many_axes_as_images() -> None:
    mixture = MixturePrior.fit(IMAGES, SCHEDULE, 400, components=10, rank=8)
    kept = (mixture.bases.abs().sum(dim=1) > 0).sum(dim=1)
    assert int(kept.max()) <= 8
    assert bool((kept < 8).any())
    # Axes are orthonormal, and variances those of the images: more of them than images would be zero.
    for k, count in enumerate(kept.tolist()):
        basis = mixture.bases[k, :, :count]
        torch.testing.assert_close(basis.T @ basis, torch.eye(count), rtol=0, atol=1e-5)
        assert count == 0 or float(mixture.variances[k, count - 1]) > 0
    assert int(kept.sum()) <= len(IMAGES) // IMAGES_PER_AXIS


def test_no_image_is_stored() -> None:
    mixture = MixturePrior.fit(IMAGES, SCHEDULE, 400, components=10, rank=8)
    flat = IMAGES.images.flatten(1)
    assert float(torch.cdist(mixture.means, flat).min()) > 0.1
    assert mixture.source(normal(5, *SHAPE)) is None


def test_clusters_by_class_stay_in_their_class() -> None:
    images, which = islands()
    labels = which % 2
    mixture = MixturePrior.fit(images, SCHEDULE, 20, labels, components=5)
    z = normal(400, *SHAPE)
    centres = torch.stack([images.images[which == k].flatten(1).mean(dim=0) for k in range(4)])
    for label in (0, 1):
        starts = mixture(z, torch.full((400,), label)).flatten(1) / mixture.alpha
        assert bool((torch.cdist(starts, centres).argmin(dim=1) % 2 == label).all())


def test_fresh_starts_have_the_mean_and_spread_of_the_mixture() -> None:
    """20,000 starts: 4 standard errors of an entry's mean (0.028), 1 % of the total variance (0.2 %)."""
    coupled = MixturePrior.fit(IMAGES, SCHEDULE, 300, components=6, rank=4, tol=0.001)
    fresh = coupled.with_options(noise="fresh")
    z, noise = normal(20_000, *SHAPE, seed=3), normal(20_000, *SHAPE, seed=4)
    starts = fresh(z, fresh=noise).flatten(1).double()
    flat = IMAGES.images.flatten(1).double()
    torch.testing.assert_close(starts.mean(dim=0), fresh.alpha * flat.mean(dim=0), rtol=0, atol=0.04)
    wanted = fresh.alpha**2 * float(torch.cov(flat.T, correction=0).trace()) + 16 * fresh.sigma**2
    assert float(torch.cov(starts.T).trace()) == pytest.approx(wanted, rel=0.01)
    # Coupled ones lean towards their cluster.
    assert float(torch.cov(coupled(z).flatten(1).double().T).trace()) > 1.05 * wanted


def test_the_same_seed_gives_the_same_prior() -> None:
    one, same, other = (
        MixturePrior.fit(IMAGES, SCHEDULE, 400, components=6, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    z = normal(10, *SHAPE)
    assert torch.equal(one(z), same(z))
    assert not torch.equal(one(z), other(z))
    # By default a cluster for every ten images.
    assert MixturePrior.fit(islands()[0], SCHEDULE, 400).config["components"] <= 300 // 10


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 12), rank=st.integers(1, 20), seed=st.integers(0, 1000))
def test_thin_spectrum_is_that_of_the_stream(rows: int, rank: int, seed: int) -> None:
    values = normal(rows, 9, seed=seed).double()
    thin, full = thin_spectrum(values, rank), streaming_spectrum(values, min(rank, 9))
    kept = len(thin.variances)
    assert kept == min(rank, rows, 9)
    torch.testing.assert_close(thin.mean, full.mean)
    torch.testing.assert_close(thin.variances, full.variances[:kept], rtol=1e-9, atol=1e-12)
    if rank <= min(rows, 9):
        assert thin.residual == pytest.approx(full.residual, rel=1e-9, abs=1e-12)
    # (Axes of equal variance may turn into each other: compare the covariances that they make.)
    ours, theirs = ((s.basis[:, :kept] * s.variances[:kept]) @ s.basis[:, :kept].T for s in (thin, full))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"components": 31}, "components must be at most half of 60 images; got 31"),
        ({"components": 0}, "components must be an integer >= 1"),
        ({"noise": "frozen"}, "noise must be one of"),
        ({"rank": 0}, "rank must be an integer"),
        ({"rank": 17}, "rank must be an integer"),
        ({"timestep": 1000}, "timestep must be"),
        ({"labels": torch.tensor([0] * 59 + [1])}, "data must be at least two images for class 1; got 1"),
    ],
)
def test_refusals(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        MixturePrior.fit(IMAGES, SCHEDULE, **options)
