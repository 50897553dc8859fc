"""The clusters of a mixture prior: fitted by EM, as many and of as high a rank as images set aside ask for.

A fifth of the images is set aside. Mixtures are fitted to the others, begun from k-means, and judged by the mean of
ln q(x + τ ε) over those set aside, as noised as images are at the least t* that such a prior is started from: up to a
constant that is −KL of the mixture from the images' law there, which bounds what a perfect network makes of the start.
Sizes grow as long as that gains more than its standard error, paired by image; what it does not tell apart is decided
for the smaller one. Then all images are fitted again.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from functools import cache

import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from otprior.transport.gaussian_mixture import Axes, GaussianMixture, Points, fit_mixture
from otprior.utils.torch_state import plain_torch

# Axes in which clusters are found. (On the bundled images, 200 change the log-likelihood by 0.1 nats of 50.)
AXES = 128
KMEANS_ROUNDS = 10
# Choosing sizes: images used, the share of them set aside, the fewest, and rounds of EM.
CHOICE_IMAGES, SET_ASIDE, LEAST_TO_CHOOSE, CHOICE_ROUNDS = 10_000, 5, 20, 5
IMAGES_PER_CLUSTER = 10
USUAL_RANK = 10
RANKS = (5, 10, 20, 40)

logger = logging.getLogger(__name__)


@plain_torch()
def fit_clusters(
    rows: Tensor, components: int | None, rank: int | None, noise: float, generator: torch.Generator
) -> GaussianMixture:
    """The mixture of low-rank Gaussians for rows (N, d), in the whole space.

    Arguments:
        rows: Images of one class.
        components: Clusters to begin with, or None to choose how many. Those that run empty are left out.
        rank: The most axes of a cluster, or None to choose.
        noise: τ² = (σ/α)², the level of noise at which it is fitted and judged.
        generator: Seeds axes, clusters and the choice.
    """
    axes = Axes.find(rows, max(AXES, rank or 0), generator)
    points = axes.points(rows)
    if (components is None or rank is None) and len(points) >= LEAST_TO_CHOOSE:
        first, rank = _choose(points, components, rank, noise, generator)
        shares = first.log_densities(points, noise, clean=True).softmax(dim=1)
    else:
        shares, rank = _grouped(points, components or 1, generator), rank or USUAL_RANK
    return fit_mixture(points, shares, min(rank, len(axes.basis.T)), noise).along(axes)


def _choose(
    points: Points, components: int | None, rank: int | None, noise: float, generator: torch.Generator
) -> tuple[GaussianMixture, int]:
    """A mixture of the best number of clusters and rank, whichever is not given, and that rank."""
    order = torch.randperm(len(points), generator=generator)[:CHOICE_IMAGES].to(points.values.device)
    aside = len(order) // SET_ASIDE
    judged, fitted = points[order[:aside]].noised(noise, generator), points[order[aside:]]
    seed = generator.get_state()

    @cache
    def fit(count: int, axes: int) -> tuple[GaussianMixture, Tensor]:
        # (All begin from the same random numbers, so that they differ in their sizes alone.)
        shares = _grouped(fitted, count, torch.Generator().set_state(seed))
        mixture = fit_mixture(fitted, shares, axes, noise, rounds=CHOICE_ROUNDS)
        found = mixture.log_likelihoods(judged, noise)
        logger.info("%d clusters of rank %d: %.3f nats an image set aside", count, axes, float(found.mean()))
        return mixture, found

    counts, best = [1], rank or USUAL_RANK
    while 2 * counts[-1] * IMAGES_PER_CLUSTER <= len(fitted):
        counts.append(2 * counts[-1])
    count = components or _climb(counts, lambda size: fit(size, best)[1])
    if rank is None:
        best = _climb(
            [r for r in RANKS if r <= points.values.shape[1]] or [1], lambda size: fit(count, size)[1]
        )
        if components is None:
            near = [size for size in counts if size in (count // 2, count, 2 * count)]
            count = _climb(near, lambda size: fit(size, best)[1])
    return fit(count, best)[0], best


def _climb(sizes: Iterable[int], score: Callable[[int], Tensor]) -> int:
    """The last of growing sizes, each of which gained more than a standard error over the one before it."""
    chosen, *larger = sizes
    for size in larger:
        gain = score(size) - score(chosen)
        if gain.mean() <= gain.std() / len(gain) ** 0.5:
            break
        chosen = size
    return chosen


def _grouped(points: Points, count: int, generator: torch.Generator) -> Tensor:
    """Shares (N, K) of whole images in `count` clusters of k-means, or fewer."""
    values = points.values.cpu()
    with warnings.catch_warnings():
        # (Clusters that run empty are left out by the fit.)
        warnings.simplefilter("ignore", UserWarning)
        first = _spread(values, count, generator)
        _, found = kmeans2(values.numpy(), first.numpy(), iter=KMEANS_ROUNDS, minit="matrix")
    return torch.nn.functional.one_hot(torch.from_numpy(found).long()).to(points.values)


def _spread(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows of values (N, p) that lie apart, `count` unless fewer differ: k-means++ (Arthur & Vassilvitskii, 2007)."""
    chosen = [int(torch.randint(len(values), (), generator=generator))]
    far = (values - values[chosen[0]]).square().sum(dim=1).double()
    while len(chosen) < count and float(far.max()) > 0:
        chosen.append(int(torch.multinomial(far, 1, generator=generator)))
        far = torch.minimum(far, (values - values[chosen[-1]]).square().sum(dim=1).double())
    return values[chosen]
