r"""Gaussian maps, and distances between laws of known mean and covariance: Gelbrich's bound, and an upper one.

For laws p, q with means m, a and covariances C, S, whatever else they are (Gelbrich, 1990),

    W2²(p, q) ≥ |m − a|² + B²(C, S),     B²(C, S) = tr C + tr S − 2 tr (S^{1/2} C S^{1/2})^{1/2},

with equality for Gaussians. B is the Bures distance: the least ‖C^{1/2} − S^{1/2} R‖ over rotations R.

There is an upper bound, too, for p the law of α X + σ ε and q = N(a, S). Let ζ ~ N(0, I) be coupled with X in
any way, independent of ε, and Γ = E (X − E X) ζᵀ. Among the Gaussians of law q that are linear in (ζ, ε) the nearest
to α X + σ ε gives

    W2²(p, q) ≤ |m − a|² + α² (tr Σ − tr Γ Γᵀ) + B²(α² Γ Γᵀ + σ² I, S),     Σ = Cov X.

Γ Γᵀ is the covariance of the linear regression of X on ζ, "explained" by it. If it is all of Σ the two bounds are
equal; with Γ = 0 (ζ is independent of X) the bound is that of the coupling that shares the noise.

Covariances come as a `Spectrum`, U Λ Uᵀ + s² (I − U Uᵀ), so that nothing is d × d where d is large.

References:
    Gelbrich, On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert spaces,
    Math. Nachrichten 147 (1990).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from otprior.transport.moments import Spectrum
from otprior.utils.validation import require


def isotropic(mean: Tensor, variance: float) -> Spectrum:
    """Mean (d,) and covariance `variance` · I."""
    mean = mean.double()
    return Spectrum(mean, mean.new_zeros(len(mean), 0), mean.new_zeros(0), float(variance))


def no_covariance(dim: int) -> Spectrum:
    """Mean and covariance zero, (d,)."""
    return isotropic(torch.zeros(dim), 0.0)


def gaussian_map(z: Tensor, spectrum: Spectrum, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
    """Maps z to α μ + (α² Σ + σ² I)^{1/2} z: optimal from N(0, I) to N(α μ, α² Σ + σ² I).

    Arguments:
        z: Rows, shape (B, d).
        spectrum: μ and Σ.
        alpha, sigma: Scales of a process α x_0 + σ ε, whose law is the target; by default that of x_0 itself.

    Returns:
        Shape (B, d), in the dtype of z.
    """
    mean, basis = spectrum.mean.to(z.dtype), spectrum.basis.to(z.dtype)
    base = (alpha**2 * spectrum.residual + sigma**2) ** 0.5
    gain = (alpha**2 * spectrum.variances.to(z.dtype) + sigma**2).sqrt() - base
    return alpha * mean + base * z + ((z @ basis) * gain) @ basis.T


def gaussian_code(x: Tensor, spectrum: Spectrum, alpha: float, sigma: float) -> Tensor:
    """Inverts `gaussian_map`: x to (α² Σ + σ² I)^{−1/2} (x − α μ), on rows x (B, d), in their dtype; σ > 0.

    It is the optimal map from N(α μ, α² Σ + σ² I) to N(0, I), and so between any points and their images under it.
    """
    mean, basis = spectrum.mean.to(x.dtype), spectrum.basis.to(x.dtype)
    base = (alpha**2 * spectrum.residual + sigma**2) ** -0.5
    gain = (alpha**2 * spectrum.variances.to(x.dtype) + sigma**2).rsqrt() - base
    centred = x - alpha * mean
    return base * centred + ((centred @ basis) * gain) @ basis.T


def noised(clean: Spectrum, alpha: float, sigma: float) -> Spectrum:
    """The moments of α X + σ ε from those of X."""
    # (The basis stays the same object, by which shared axes are known.)
    return replace(
        clean,
        mean=alpha * clean.mean,
        variances=alpha**2 * clean.variances + sigma**2,
        residual=alpha**2 * clean.residual + sigma**2,
    )


def total_variance(spectrum: Spectrum) -> float:
    """The covariance's trace."""
    dim, rank = spectrum.basis.shape
    return float(spectrum.variances.sum()) + (dim - rank) * spectrum.residual


def variances_along(axes: Tensor, spectrum: Spectrum) -> Tensor:
    """uᵀ C u for the orthonormal columns u of `axes`, (d, k) to (k,)."""
    shares = (spectrum.basis.double().T @ axes) ** 2
    return spectrum.residual + (spectrum.variances.double() - spectrum.residual) @ shares


def gelbrich_squared(p: Spectrum, q: Spectrum) -> float:
    """|m − a|² + B²(C, S): at most W2² of any two laws with these moments, and W2² of two Gaussians."""
    return float(((p.mean.double() - q.mean.double()) ** 2).sum()) + bures_squared(p, q)


def coupled_squared(
    clean: Spectrum, explained: Spectrum, alpha: float, sigma: float, start: Spectrum
) -> float:
    """The upper bound of the module's head on W2² between α X + σ ε and the Gaussian with the moments `start`.

    Arguments:
        clean: Moments of X.
        explained: Γ Γᵀ of a coupling of X with some ζ ~ N(0, I), as a covariance; its mean is not read.
        alpha, sigma: Scales of the process, α ≥ 0 and σ ≥ 0.
        start: Mean and covariance of the Gaussian.
    """
    left = total_variance(clean) - total_variance(explained)
    slack = 1e-9 * total_variance(clean)
    require(left >= -slack, "explained", "of no more variance than the data", total_variance(explained))
    shift = float(((alpha * clean.mean.double() - start.mean.double()) ** 2).sum())
    return shift + alpha**2 * max(left, 0.0) + bures_squared(noised(explained, alpha, sigma), start)


def bures_squared(p: Spectrum, q: Spectrum) -> float:
    """B²(C, S), as a sum of squares, so that equal covariances give zero to rounding; the means are not read."""
    require(len(p.basis) == len(q.basis), "covariances", "of one dimension", (len(p.basis), len(q.basis)))
    shared = shared_axes(p, q)
    if shared is not None:
        rank = shared.shape[1]
        first, second = variances_on(shared, p), variances_on(shared, q)
        inner = float(((first.sqrt() - second.sqrt()) ** 2).sum())
    else:
        axes = joint_axes(p, q)
        rank = axes.shape[1]
        roots = [_root(compressed(axes, each)) for each in (p, q)]
        left, _, right = torch.linalg.svd(roots[0] @ roots[1])
        inner = float(((roots[0] - roots[1] @ right.T @ left.T) ** 2).sum())
    outer = (len(p.basis) - rank) * (p.residual**0.5 - q.residual**0.5) ** 2
    return inner + outer


def shared_axes(p: Spectrum, q: Spectrum) -> Tensor | None:
    """Axes along which both covariances are diagonal, where the two share a basis or one has none."""
    if p.basis is q.basis or q.basis.shape[1] == 0:
        return p.basis
    return q.basis if p.basis.shape[1] == 0 else None


def variances_on(axes: Tensor, spectrum: Spectrum) -> Tensor:
    """The variances along axes that `shared_axes` gave, (k,), float64."""
    if spectrum.basis is axes:
        return spectrum.variances.double().clamp(min=0)
    return torch.full((axes.shape[1],), spectrum.residual, dtype=torch.float64)


def joint_axes(p: Spectrum, q: Spectrum) -> Tensor:
    """An orthonormal basis (d, k) of what the two sets of axes span."""
    dim = len(p.basis)
    if p.basis.shape[1] + q.basis.shape[1] >= dim:
        return torch.eye(dim, dtype=torch.float64)
    return torch.linalg.qr(torch.cat([p.basis.double(), q.basis.double()], dim=1))[0]


def compressed(axes: Tensor, spectrum: Spectrum) -> Tensor:
    """The covariance along the columns of `axes`, (k, k)."""
    across = axes.T @ spectrum.basis.double()
    inner = (across * (spectrum.variances.double() - spectrum.residual)) @ across.T
    return inner + spectrum.residual * torch.eye(axes.shape[1], dtype=torch.float64)


def _root(matrix: Tensor) -> Tensor:
    values, axes = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (axes * values.clamp(min=0).sqrt()) @ axes.T
