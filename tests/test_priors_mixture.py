"""The mixture prior: its two limits, the law of its clusters, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import diffusers
import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor

from otprior.data.images import ImageSet
from otprior.diffusion.schedule import NoiseSchedule
from otprior.priors import GaussianPrior, MixturePrior, SemiDiscretePrior

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
    """Ten copies of each of four images: no variance is left but for shares of 1e-6 in other images, which are far.

    Cells differ by what the two solves leave of χ².
    """
    z = normal(1000, *SHAPE)
    four = normal(4, *SHAPE, seed=1).sign()
    coupled = SemiDiscretePrior.fit(ImageSet(four), SCHEDULE, 400, tol=0.001)
    # Of twelve first rows several are copies of one image: their clusters are one in the end.
    copies = ImageSet(four.repeat_interleave(10, dim=0))
    mixture = MixturePrior.fit(copies, SCHEDULE, 400, components=12, tol=0.001)
    assert mixture.config["components"] == 4
    assert float(mixture.residuals.max()) < 1e-4
    same = (mixture(z) - coupled(z)).flatten(1).abs().amax(dim=1) < 1e-4
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
    images = ImageSet(normal(120, *SHAPE, seed=6).sign() * 0.9)
    mixture = MixturePrior.fit(images, SCHEDULE, 400, components=12, rank=8)
    kept = (mixture.bases.abs().sum(dim=1) > 0).sum(dim=1)
    assert int(kept.max()) <= 8
    assert bool((kept < 8).any())
    # Axes are orthonormal, and variances those of the images: more of them than images would be zero.
    for k, count in enumerate(kept.tolist()):
        basis = mixture.bases[k, :, :count]
        torch.testing.assert_close(basis.T @ basis, torch.eye(count), rtol=0, atol=1e-5)
        assert count == 0 or float(mixture.variances[k, count - 1]) > 0


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


def test_images_set_aside_choose_as_many_clusters_as_there_are() -> None:
    """Of islands without any shape four of the lowest rank; of each class its own two; what is given stays."""
    images, which = islands()
    mixture = MixturePrior.fit(images, SCHEDULE)
    assert (mixture.config["components"], mixture.config["rank"]) == (4, 5)
    assert ("rank", "5 axes of a cluster at most") in mixture.summary()
    by_class = MixturePrior.fit(images, SCHEDULE, labels=(which == 3).long())
    assert torch.bincount(by_class.classes).tolist() == [3, 1]
    assert MixturePrior.fit(images, SCHEDULE, components=2).config["components"] == 2
    assert MixturePrior.fit(images, SCHEDULE, rank=7).config["rank"] == 7


def test_copies_and_constant_pixels_are_no_trouble() -> None:
    """Ten copies of 30 images of which two pixels never change; and images that are all one."""
    pixels = IMAGES.images[:30].clone()
    pixels[:, :, 0, :2] = -1
    starts = MixturePrior.fit(ImageSet(pixels.repeat(10, 1, 1, 1)), SCHEDULE)(normal(50, *SHAPE))
    assert bool(torch.isfinite(starts).all())
    one = MixturePrior.fit(ImageSet(pixels[:1].repeat(40, 1, 1, 1)), SCHEDULE, 400)
    z = normal(50, *SHAPE)
    torch.testing.assert_close(one(z), one.alpha * pixels[:1] + one.sigma * z, rtol=0, atol=1e-5)


# The law of a start ----------------------------------------------------------------------------------------


def test_fresh_noise_has_exactly_the_law_of_its_cluster() -> None:
    """T(z, ε) = α μ + A ε with A Aᵀ = α² Σ + σ² I (float32 products of 16)."""
    images, _ = islands()
    fresh = MixturePrior.fit(images, SCHEDULE, 200, components=6, rank=4, noise="fresh")
    noise = torch.cat([torch.zeros(1, 16), torch.eye(16)]).reshape(-1, *SHAPE)
    seen = set()
    for z in normal(40, *SHAPE, seed=3):
        start = fresh(z.expand(17, *SHAPE), fresh=noise).flatten(1).double()
        k = int(torch.cdist(start[:1].float() / fresh.alpha, fresh.means).argmin())
        basis, variances = fresh.bases[k].double(), fresh.variances[k].double()
        filled = torch.eye(16) - basis @ basis.T
        wanted = basis @ torch.diag(variances) @ basis.T + float(fresh.residuals[k]) * filled
        matrix = (start[1:] - start[0]).T
        torch.testing.assert_close(
            matrix @ matrix.T,
            fresh.alpha**2 * wanted + fresh.sigma**2 * torch.eye(16, dtype=torch.float64),
            rtol=0,
            atol=1e-5,
        )
        torch.testing.assert_close(start[0].float(), fresh.alpha * fresh.means[k], rtol=0, atol=1e-5)
        seen.add(k)
    assert len(seen) > 2


def marginal(x: Any, weights: Tensor, means: Tensor, widths: Tensor) -> Any:
    """The distribution function of a mixture on the line."""
    return sum(w * norm.cdf(x, m, s) for w, m, s in zip(weights.numpy(), means.numpy(), widths.numpy()))


@pytest.mark.parametrize("noise", ["fresh", "whitened"])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_starts_law_is_the_mixtures_p_t(noise: str, conditional: bool) -> None:
    """Two clusters: cells are half-spaces, which whitening undoes. Kolmogorov's test on 20,000 seeds, at 0.001.

    (It sees shares that are off by 0.014; a tolerance of 1e-4 leaves 0.005.)
    """
    images, which = islands(2 + 2 * conditional)
    options: dict[str, Any] = {"noise": noise, "components": 2, "rank": 3, "tol": 1e-4}
    mixture = MixturePrior.fit(images, SCHEDULE, 300, which // 2 if conditional else None, **options)
    z, fresh = normal(20_000, *SHAPE, seed=3), normal(20_000, *SHAPE, seed=4) if noise == "fresh" else None
    for label in range(1 + conditional):
        given = torch.full((len(z),), label) if conditional else None
        starts = mixture(z, given, fresh=fresh).flatten(1).double()
        # In the order of the islands, whose shares of the images are known.
        centres = torch.stack(
            [images.images[which == k].flatten(1).mean(dim=0) for k in (2 * label, 2 * label + 1)]
        )
        own = torch.nonzero(mixture.classes == label).reshape(-1)
        own = own[torch.cdist(centres, mixture.means[own]).argmin(dim=1)]
        shares = torch.bincount(which)[2 * label : 2 * label + 2].double()
        means, bases = mixture.means[own].double(), mixture.bases[own].double()
        for direction in [means[1] - means[0], *normal(3, 16, seed=5).double()]:
            u = direction / direction.norm()
            along = torch.einsum("d,kdr->kr", u, bases) ** 2
            clean = (along * mixture.variances[own]).sum(dim=1) + (1 - along.sum(dim=1)) * mixture.residuals[
                own
            ]
            widths = (mixture.alpha**2 * clean + mixture.sigma**2).sqrt()
            law = (shares / shares.sum(), mixture.alpha * means @ u, widths)
            assert kstest((starts @ u).numpy(), marginal, args=law).pvalue > 0.001


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"components": 31}, "components must be at most half of 60 images; got 31"),
        ({"components": 0}, "components must be an integer >= 1"),
        ({"noise": "frozen"}, "noise must be one of"),
        ({"rank": 0}, "rank must be an integer >= 1"),
        ({"rank": 17}, "rank must be an integer in [1, 16]"),
        ({"timestep": 1000}, "timestep must be"),
        ({"labels": torch.tensor([0] * 59 + [1])}, "data must be at least two images for class 1; got 1"),
    ],
)
def test_refusals(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        MixturePrior.fit(IMAGES, SCHEDULE, **options)
