r"""How near samples are to the images that they could have been copied from, and to one another.

All distances are Euclidean over all pixels. *Atoms* are the training images behind a prior; atoms that
equal one another count as one: otherwise the second nearest atom of a copied duplicate would be the
duplicate, and its copies would never be detected.

*Near twins* (a JPEG made twice, a crop off by a pixel, video frames) hide copies in the same way. Let x be a copy of a,
altered by r, and b a twin of a at distance δ. The alteration has nothing to do with the twin, so |x − b|² = r² + δ²
about, and b is no c = 1.5 times further than a wherever δ² < (c² − 1) r². So x is compared with groups of atoms: with
d_1 <= d_2 <= ... the distances of x to all atoms b_1, b_2, ..., the first j are one image, seen from x, if

    c d_j < d_{j+1}   and   c |b_1 − b_i| < d_{j+1} for i <= j,

that is, if all others are c times further than the whole group, and than the group is wide. For j = 1 that is the rule
for a copy. Among images without twins the rest adds next to nothing: if they lie as in d dimensions,
P(c d_j < d_{j+1}) = c^(−d j), so that all j > 1 together add about the share c^(−d) of what j = 1 gives. (Held-out
images show how much that is.)

Two images are *equal* here when they differ by at most half a grey level of 255 root-mean-square. That is
far above what a batch size changes through rounding (1e-6 to 1e-4), so one frozen start under a
deterministic solver is found again whatever batch it was in, where 8-bit images of the two already differ
in pixels that fell on two sides of a level; and far below any visible difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otprior.metrics._rows import as_rows
from otprior.metrics.neighbours import first_within, nearest, squared_distances
from otprior.utils.torch_state import plain_torch
from otprior.utils.validation import check_number, require

# Half a step of an 8-bit image mapped to [-1, 1].
HALF_GREY_LEVEL = 1.0 / 255.0
# A sample is called a copy when its nearest atom is this much nearer than the second nearest.
COPY_RATIO = 1.5
# Root mean square by which planted copies are altered: 8 grey levels of 255 (30 dB), about the least that one sees.
ALTERATION, PLANTED = 16.0 / 255.0, 300
# Twins of an atom that are looked for.
MOST_TWINS = 10


@dataclass(frozen=True, eq=False)
class Atoms:
    """Atoms as the rows of a matrix, each image once.

    Arguments:
        images: Different images, shape (M, D), in the atoms' order.
        indices: Where each of them stands among the given atoms, the first place of several; shape (M,).
        representative: First place of an atom that equals this one, shape (N,), N >= M.

    Examples:
        >>> distances, which = Atoms.build(images.images).nearest(images.images[:3] + 0.01, 2)
        >>> which[:, 0]
        tensor([0, 1, 2])
    """

    images: Tensor
    indices: Tensor
    representative: Tensor

    @classmethod
    def build(cls, images: Tensor) -> Atoms:
        """Merges equal images of `images`, shape (N, C, H, W) or (N, D), on a scale of [-1, 1]."""
        images = as_rows("atoms", images)
        representative = first_equal(images)
        indices = torch.unique(representative)
        return cls(images[indices], indices, representative)

    def nearest(self, images: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Distances to the `k` nearest different atoms, and their indices among the given atoms; (N, k).

        Near twins of the nearest one, up to `MOST_TWINS`, are not different from it.
        """
        return self.nearest_and_twins(images, k)[:2]

    @plain_torch()
    def nearest_and_twins(self, images: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same; and the indices of the nearest one and its near twins, −1 in the places of fewer; (N, K)."""
        spare = min(MOST_TWINS, len(self.images) - k) if k > 1 else 0
        distances, columns = nearest(images, self.images, k + max(spare, 0))
        if spare <= 0:
            indices = self.indices[columns]
            return distances, indices, indices[:, :1]
        twins = self._twins(distances, columns, spare)[:, None]
        places = torch.arange(spare + 1, device=columns.device)
        near = torch.where(places <= twins, self.indices[columns[:, : spare + 1]], -1)
        chosen = twins + places[:k]
        chosen[:, 0] = 0
        return distances.gather(1, chosen), self.indices[columns.gather(1, chosen)], near

    def _twins(self, distances: Tensor, columns: Tensor, most: int) -> Tensor:
        """How many twins, up to `most`, the nearest of the atoms `columns` has as seen from each sample; (N,)."""
        beyond = distances[:, 1:].double()
        apart = COPY_RATIO * distances[:, :-1].double() < beyond
        apart[:, 0] = False
        rows = torch.nonzero(apart[:, : most + 1].any(dim=1))[:, 0]
        first = columns[rows, :1].expand(-1, most + 1)
        pairs = (first.reshape(-1), columns[rows, : most + 1].reshape(-1))
        width = squared_distances(self.images, self.images, *pairs).reshape(first.shape).sqrt()
        narrow = COPY_RATIO * width.cummax(dim=1).values < beyond[rows, : most + 1]
        groups = apart[rows, : most + 1] & narrow
        places = torch.arange(most + 1, device=columns.device)
        twins = torch.zeros(len(columns), dtype=torch.int64, device=columns.device)
        twins[rows] = torch.where(groups, places, 0).max(dim=1).values
        return twins


@plain_torch()
def copy_mask(distances: Tensor) -> Tensor:
    """Finds copies: samples whose nearest atom is `COPY_RATIO` times nearer than the second, shape (N,), bool.

    Arguments:
        distances: To the nearest and the second nearest *different* atom, shape (N, >= 2), ascending.

    Source: Gu et al., "On memorization in diffusion models", 2023, https://arxiv.org/abs/2310.02664, after
    Yoon et al., 2023. They ask for a factor of 3; 1.5 also sees copies that were altered a little.

    Raises:
        ValueError: If there are not at least two distances a sample.

    Examples:
        >>> copy_mask(torch.tensor([[1.0, 1.4], [1.0, 1.6]]))
        tensor([False,  True])
    """
    shape = tuple(distances.shape)
    require(len(shape) == 2 and shape[1] >= 2, "distances", "of shape (N, k) with k >= 2", shape)
    return COPY_RATIO * distances[:, 0] < distances[:, 1]


@plain_torch()
def copy_power(atoms: Atoms) -> float:
    """The share of copies that `copy_mask` finds among atoms altered by `ALTERATION` of noise, at random.

    Where atoms are alike (flat patches of photographs), a copy is nearly as near to others, and is not told apart from
    these. A copy rate says little where this share is small.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(atoms.images), generator=generator)[:PLANTED].to(atoms.images.device)
    planted = atoms.images[rows]
    noise = torch.randn(planted.shape, generator=generator, dtype=torch.float32).to(planted)
    return float(copy_mask(atoms.nearest(planted + ALTERATION * noise, 2)[0]).double().mean())


def source_mask(near: Tensor, sources: Tensor, atoms: Atoms) -> Tensor:
    """Finds samples whose nearest atom is the one that their start was built on, or a near twin of it; (N,), bool.

    Arguments:
        near: The nearest atom and its near twins, from `Atoms.nearest_and_twins`, shape (N, K).
        sources: Index of the atom behind each start, shape (N,); of equal atoms any counts.
        atoms: The atoms that both index.
    """
    require(
        sources.shape == near.shape[:1], "sources", f"of shape {tuple(near.shape[:1])}", tuple(sources.shape)
    )
    count = len(atoms.representative)
    in_range = bool(((sources >= 0) & (sources < count)).all())
    require(in_range, "sources", f"in [0, {count})", f"[{int(sources.min())}, {int(sources.max())}]")
    return (near == atoms.representative[sources][:, None]).any(dim=1)


def below_quantile(distances: Tensor, reference: Tensor, q: float = 0.01) -> Tensor:
    """Finds samples that lie nearer to an atom than nearly all of the reference images.

    Arguments:
        distances: Nearest-atom distances of samples, shape (N,).
        reference: The same for images that are no copies, such as held-out ones, shape (M,).
        q: Their quantile that is the limit (interpolated linearly), in (0, 1).

    Returns:
        Strictly below the limit, shape (N,), bool. Its mean is about `q` for more such images.
    """
    require(0.0 < q < 1.0, "q", "in (0, 1)", q)
    return distances.double() < torch.quantile(reference.double(), q)


def first_equal(images: Tensor, tolerance: float = HALF_GREY_LEVEL) -> Tensor:
    """Finds the first image that each image equals: itself where no earlier one does.

    Arguments:
        images: Shape (N, C, H, W) or (N, D), on a scale of [-1, 1].
        tolerance: Largest root-mean-square difference over pixels between equal images.

    Returns:
        Shape (N,), int64. Chains are followed: what equals an image that equals an earlier one gets the
        earliest.
    """
    rows = as_rows("images", images)
    tolerance = check_number("tolerance", tolerance)
    require(0 < tolerance < float("inf"), "tolerance", "positive and finite", tolerance)
    first = first_within(rows, tolerance * rows.shape[1] ** 0.5)
    # Each index is at most its row's own, so this ends at fixed points.
    while not torch.equal(first, first[first]):
        first = first[first]
    return first


@plain_torch()
def duplicate_rate(images: Tensor, tolerance: float = HALF_GREY_LEVEL) -> float:
    """Computes the share of images that equal an earlier one (`first_equal`). It depends on their number.

    Arguments:
        images: Shape (N, C, H, W) or (N, P).
        tolerance: The largest difference of two equal images in any value; by default half a grey level.

    Examples:
        >>> duplicate_rate(torch.zeros(4, 1, 8, 8))
        0.75
    """
    first = first_equal(images, tolerance)
    return float((first != torch.arange(len(first), device=first.device)).double().mean())
