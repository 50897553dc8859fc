r"""Mixtures of Gaussians, each of low rank plus isotropic, fitted to images under noise by EM.

Under noise the mixture Σ_k π_k N(μ_k, Σ_k), Σ_k = U_k Λ_k U_kᵀ + r_k (I − U_k U_kᵀ), is

    q(x) = Σ_k π_k N(x; μ_k, S_k),   S_k = Σ_k + τ² I.

How far it is from the law p of images under noise, x + τ ε, is KL(p ‖ q) = −E ln q(x + τ ε) + const, and no sampler
that is exact from there on makes it larger (data processing). For any shares w_ik ≥ 0 with Σ_k w_ik = 1, by Jensen,

    E_ε ln q(x_i + τ ε) ≥ Σ_k w_ik (ln π_k + E_ε ln N(x_i + τ ε; μ_k, S_k) − ln w_ik),
    E_ε ln N(x + τ ε; μ, S) = ln N(x; μ, S) − ½ τ² tr S⁻¹.

EM raises the right side. The best shares are the softmax over k of what stands in the brackets, and then the sum over k
is the logarithm of a sum; given the shares, π_k, μ_k and Σ_k are those of the weighted images: the leading axes of
their covariance, and the mean variance along the others. With τ = 0 this is EM for mixtures of probabilistic principal
components. With τ > 0 no variance is too small: images may be equal, pixels constant.

Points are known by their coordinates on p leading axes of all images, in which means and axes of clusters lie, and by
what is left of their squared length.

References:
    Tipping & Bishop, Mixtures of probabilistic principal component analysers (1999), Neural Computation 11.
    Halko, Martinsson & Tropp, Finding structure with randomness (2011), SIAM Review 53.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from otprior.utils.random import seed_from, stream_generator

# Of the search for leading axes: axes beyond those asked for, and products with the covariance.
OVERSAMPLING, POWERS = 16, 3
ROWS_PER_BLOCK = 4096
# Of the E step: few enough to stay in a processor's cache.
ENTRIES_PER_BLOCK = 1 << 18
# Shares that are left out of a cluster's moments.
LEAST_SHARE = 1e-6
# Images of a cluster: below the first it is empty; below the second, which two of nearly equal shares reach, it is one.
LEAST_SIZE, LEAST_IMAGES = 1e-3, 1.9
# Squared distance of means that are alike, in units of τ²: equal Gaussians so far apart differ by 0.05 nats.
ALIKE = 0.1
IMAGES_PER_AXIS = 3


@dataclass(frozen=True)
class Axes:
    """Leading principal axes of rows.

    Attributes:
        mean: Of the rows, shape (d,), float64.
        basis: Orthonormal columns, shape (d, p), float64.
    """

    mean: Tensor
    basis: Tensor

    @classmethod
    def find(cls, rows: Tensor, count: int, generator: torch.Generator) -> Axes:
        """Nearly the leading axes of rows (N, d), min(count, d) of them, by a randomised search."""
        dim = rows.shape[1]
        blocks = rows.split(ROWS_PER_BLOCK)
        mean = torch.stack([block.sum(dim=0, dtype=torch.float64) for block in blocks]).sum(dim=0) / len(rows)

        def product(basis: Tensor) -> Tensor:
            total = torch.zeros_like(basis)
            for block in blocks:
                centred = (block - mean).float()
                total += (centred.T @ (centred @ basis.float())).double()
            return total / len(rows)

        tried = torch.randn(
            dim, min(dim, count + OVERSAMPLING), generator=generator, dtype=torch.float64, device="cpu"
        )
        basis = torch.linalg.qr(tried.to(rows.device))[0]
        for _ in range(POWERS):
            basis = torch.linalg.qr(product(basis))[0]
        _, turn = torch.linalg.eigh(basis.T @ product(basis))
        return cls(mean, basis @ turn.flip(1)[:, :count])

    def points(self, rows: Tensor) -> Points:
        """Coordinates of rows (N, d)."""
        values, beyond = [], []
        for block in rows.split(ROWS_PER_BLOCK):
            centred = block.double() - self.mean
            own = centred @ self.basis
            values.append(own.float())
            beyond.append((centred.square().sum(dim=1) - own.square().sum(dim=1)).clamp(min=0).float())
        return Points(torch.cat(values), torch.cat(beyond), rows.shape[1])


@dataclass(frozen=True)
class Points:
    """Rows by their coordinates.

    Attributes:
        values: Coordinates, shape (N, p).
        beyond: Squared length of what is orthogonal to the axes, (N,).
        dim: d.
    """

    values: Tensor
    beyond: Tensor
    dim: int

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor) -> Points:
        return Points(self.values[index], self.beyond[index], self.dim)

    def noised(self, variance: float, generator: torch.Generator) -> Points:
        """Coordinates of x + τ ε, drawn exactly, with τ² = `variance`."""
        seed = seed_from(generator)
        noise = torch.randn(self.values.shape, generator=stream_generator(seed, "noise"), device="cpu")
        values = self.values + variance**0.5 * noise.to(self.values)
        left = self.dim - self.values.shape[1]
        if not left:
            return Points(values, self.beyond, self.dim)
        # |y + τ ε|² of left dimensions depends on |y|² alone.
        size = self.beyond.cpu().double().numpy() / variance
        drawn = variance * np.random.default_rng(seed).noncentral_chisquare(left, size)
        return Points(values, torch.from_numpy(drawn).to(self.beyond), self.dim)


@dataclass(frozen=True)
class GaussianMixture:
    """Σ_k π_k N(μ_k, U_k Λ_k U_kᵀ + r_k (I − U_k U_kᵀ)), in coordinates on p axes.

    Attributes:
        weights: π, shape (K,).
        means: μ, (K, p).
        bases: U, (K, p, R); a cluster of fewer axes has columns of zeros.
        variances: Λ, (K, R).
        residuals: r, (K,).
        dim: d, of the whole space; r is along all d − R other axes.
    """

    weights: Tensor
    means: Tensor
    bases: Tensor
    variances: Tensor
    residuals: Tensor
    dim: int

    @classmethod
    def of(cls, points: Points, shares: Tensor, rank: int) -> GaussianMixture:
        """The M step: moments of points with shares (N, K), of at most `rank` axes and one for three images.

        Clusters without an image are left out.
        """
        # (What is left out would be numbers too small for a processor's fast path, too.)
        shares = torch.where(shares > LEAST_SHARE, shares, 0.0)
        sizes = shares.sum(dim=0, dtype=torch.float64)
        kept = torch.nonzero(sizes >= min(LEAST_SIZE, float(sizes.max()))).reshape(-1)
        shares, sizes = shares[:, kept], sizes[kept]
        means = ((shares.T @ points.values).double() / sizes[:, None]).to(points.values)
        cluster, row = torch.nonzero(shares.T, as_tuple=True)
        rows = row.split(torch.bincount(cluster, minlength=len(kept)).tolist())
        ranks = [min(rank, int(count + 0.1) // IMAGES_PER_AXIS) for count in _images(shares).tolist()]
        bases = points.values.new_zeros(len(kept), points.values.shape[1], max([1, *ranks]))
        variances, residuals = bases.new_zeros(len(kept), bases.shape[2]), bases.new_zeros(len(kept))
        for k, own in enumerate(rows):
            share = (shares[own, k].double() / sizes[k]).sqrt()[:, None]
            centred = share * (points.values[own] - means[k]).double()
            found, basis = _leading(centred, ranks[k])
            left = centred.square().sum() + share[:, 0].square() @ points.beyond[own].double() - found.sum()
            residuals[k] = left.clamp(min=0) / max(points.dim - len(found), 1)
            bases[k, :, : len(found)] = basis
            variances[k, : len(found)] = found.clamp(min=float(residuals[k]))
        return cls((sizes / sizes.sum()).to(means), means, bases, variances, residuals, points.dim)

    def along(self, axes: Axes) -> GaussianMixture:
        """The same in the whole space, p = d, for coordinates along these axes."""
        basis = axes.basis
        means = (self.means.double() @ basis.T + axes.mean).to(self.means)
        bases = (basis @ self.bases.double()).to(self.bases)
        return replace(self, means=means, bases=bases)

    def log_densities(self, points: Points, noise: float, *, clean: bool = False) -> Tensor:
        """ln(π_k N(x; μ_k, Σ_k + τ² I)), shape (N, K), with τ² = `noise`.

        Of clean points it is the mean over their noise: E_ε ln(π_k N(x + τ ε; μ_k, Σ_k + τ² I)).
        """
        count, width, rank = self.bases.shape
        base, along = self.residuals + noise, self.variances + noise
        filled = self.bases.square().sum(dim=1) > 0.5
        narrow = torch.where(filled, 1 / base[:, None] - 1 / along, 0.0).clamp(min=0)
        axes = self.bases * narrow.sqrt()[:, None, :]
        flat = axes.permute(1, 2, 0).reshape(width, rank * count)
        place = torch.einsum("kpr,kp->rk", axes, self.means).reshape(-1)
        spread = torch.where(filled, (along / base[:, None]).log(), 0.0).sum(dim=1) + self.dim * base.log()
        constant = self.weights.log() - 0.5 * (spread + self.dim * math.log(2 * math.pi))
        if clean:
            constant = constant - 0.5 * noise * (self.dim / base - narrow.sum(dim=1))
        square = self.means.square().sum(dim=1)
        found = []
        size = max(1, ENTRIES_PER_BLOCK // (count * max(rank, 1)))
        for values, beyond in zip(points.values.split(size), points.beyond.split(size)):
            inner = torch.addmm(-place, values, flat).square_().unflatten(1, (rank, count)).sum(dim=1)
            far = (values.square().sum(dim=1) + beyond)[:, None] - 2 * values @ self.means.T + square
            found.append(constant - 0.5 * (far / base - inner))
        return torch.cat(found)

    def log_likelihoods(self, points: Points, noise: float) -> Tensor:
        """ln q(x) of points that have been noised, shape (N,), float64."""
        return self.log_densities(points, noise).double().logsumexp(dim=1)


def fit_mixture(
    points: Points, shares: Tensor, rank: int, noise: float, *, tol: float = 0.01, rounds: int = 30
) -> GaussianMixture:
    """EM from shares (N, K) until the bound rises by less than `tol` nats an image, or for so many rounds.

    At the end clusters are joined whose means noise makes alike, as no transport to means could tell them apart. Those
    that fewer than two images have a part in are left out, unless no other is.

    Arguments:
        points: The clean images.
        shares: What part each cluster has in each image, rows of sum 1.
        rank: R, the most axes of a cluster.
        noise: τ².
        tol: In nats an image.
        rounds: The most rounds, at least one.
    """
    mixture, before = GaussianMixture.of(points, shares, rank), -math.inf
    for _ in range(rounds):
        each = mixture.log_densities(points, noise, clean=True)
        mixture = GaussianMixture.of(points, each.softmax(dim=1), rank)
        bound = float(each.double().logsumexp(dim=1).mean())
        if bound - before < tol:
            break
        before = bound
    # (The last step may have left a cluster out.)
    each = mixture.log_densities(points, noise, clean=True)
    groups = _alike(mixture.means, (ALIKE * noise) ** 0.5)
    joined = torch.stack([each[:, groups == k].logsumexp(dim=1) for k in groups.unique()], dim=1)
    images = _images(joined.softmax(dim=1))
    kept = images >= min(LEAST_IMAGES, float(images.max()))
    shares = joined[:, kept].softmax(dim=1)
    return mixture if shares.shape == each.shape else GaussianMixture.of(points, shares, rank)


def _alike(means: Tensor, distance: float) -> Tensor:
    """Numbers of groups (K,) of means (K, p) that lie within this distance of the group's first."""
    near = torch.cdist(means, means) <= distance
    groups = torch.full((len(means),), -1, device=means.device)
    for k in range(len(means)):
        if groups[k] < 0:
            groups[near[k] & (groups < 0)] = k
    return groups


def _images(shares: Tensor) -> Tensor:
    """How many images have a part in each cluster, as if parts were equal: (Σ w)²/Σ w², shape (K,), float64."""
    shares = shares.double()
    return shares.sum(dim=0) ** 2 / shares.square().sum(dim=0).clamp(min=1e-300)


def _leading(rows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvalues (r,) and eigenvectors (p, r) of rowsᵀ rows, r ≤ rank of them, float64."""
    if len(rows) >= rows.shape[1]:
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        values, vectors = values.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
        return values, vectors
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    # What is zero but for rounding has no axis.
    kept = int((values.flip(0)[:rank] > 1e-12 * values.clamp(min=0).sum()).sum())
    values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
    return values, rows.T @ vectors / values.sqrt()
