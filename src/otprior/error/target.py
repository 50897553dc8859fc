"""The target of a prior: p_t of a given data set, known by its moments or by all of its images.

Moments are enough for Gelbrich's bound and for the coupling that shares the noise, and come from one pass over data
of any size. With the images themselves the data set's p_t, a mixture of N narrow Gaussians, is known exactly, and the
bounds are tighter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from otprior.error.cell_coupling import explained_by_cells
from otprior.transport.gaussian import no_covariance, total_variance
from otprior.transport.moments import FULL_COVARIANCE_LIMIT, Spectrum, StreamingMoments, streaming_spectrum
from otprior.utils.validation import check_finite, require

# Number of axes kept beyond FULL_COVARIANCE_LIMIT dimensions, as in the gaussian prior.
DEFAULT_RANK = 512
# Marginals along further axes are nearly normal once noise is added, and each costs a pass over the data.
MARGINAL_AXES = 8


@dataclass(frozen=True, eq=False)
class Target:
    """Clean data, whose noised law p_t priors are compared with.

    Build it with `of`, `streamed`, or, for a law in closed form, from its moments.

    Attributes:
        spectrum: Mean and covariance of the clean data, float64.
        rows: The data, shape (N, d), or None if only moments are known.
        given: The part of the covariance that a coupling with N(0, I) explains, where the caller knows one (Γ Γᵀ of
            `transport.gaussian.coupled_squared`); the whole covariance for Gaussian data.

    Examples:
        >>> target = Target.of(torch.randn(100, 1, 4, 4))
        >>> target.spectrum.mean.shape
        torch.Size([16])
    """

    spectrum: Spectrum
    rows: Tensor | None = None
    given: Spectrum | None = None

    @classmethod
    def of(cls, images: Tensor, rank: int | None = None) -> Target:
        """Makes a target of images (N, C, H, W) or rows (N, d).

        Raises:
            ValueError: If there are fewer than two images, or one has NaN or infinity.
        """
        rows = images.flatten(1)
        require(len(rows) >= 2, "data", "at least two images", len(rows))
        check_finite("data", rows)
        return cls(streaming_spectrum(rows, axes_kept(rows.shape[1], rank)), rows)

    @classmethod
    def streamed(cls, batches: Iterable[Tensor], rank: int | None = None) -> Target:
        """Makes a target of the moments of a stream of batches (B, C, H, W) or (B, d), which is read once.

        Raises:
            ValueError: If there are fewer than two rows, or a value is not finite.
        """
        moments: StreamingMoments | None = None
        count = 0
        for batch in batches:
            rows = batch.flatten(1)
            check_finite("data", rows)
            if moments is None:
                rank = axes_kept(rows.shape[1], rank)
                moments = StreamingMoments(rows.shape[1], rank)
            moments.update(rows)
            count += len(rows)
        require(count >= 2, "data", "at least two images", count)
        assert moments is not None
        assert rank is not None
        return cls(moments.spectrum(rank))

    @classmethod
    def weighted(cls, rows: Tensor, weights: Tensor) -> Target:
        """Makes a target of the moments of rows (N, d) with masses (N,), sum 1."""
        weights = weights.double()
        mean = weights @ rows.double()
        scaled = (rows.double() - mean) * (len(rows) * weights).sqrt()[:, None]
        # Each row and its negative: mean zero, and the second moments of the weighted rows.
        spectrum = streaming_spectrum(torch.cat([scaled, -scaled]), axes_kept(rows.shape[1]))
        return cls(replace(spectrum, mean=mean))

    @property
    def dim(self) -> int:
        """d."""
        return len(self.spectrum.mean)

    @property
    def total_variance(self) -> float:
        """tr Σ."""
        return total_variance(self.spectrum)

    @cached_property
    def explained(self) -> Spectrum:
        """Γ Γᵀ: as given, of the boxes of `cell_coupling` where the data are known, or 0."""
        if self.given is not None:
            return self.given
        if self.rows is not None:
            return explained_by_cells(self.rows, self.spectrum.basis)
        return no_covariance(self.dim)

    @cached_property
    def explained_off_axes(self) -> Spectrum:
        """Γ Γᵀ for Gaussians that are not diagonal along the data's axes."""
        if self.given is not None or self.rows is None:
            return self.explained
        return explained_by_cells(self.rows, self.spectrum.basis, diagonal=False)

    @cached_property
    def places(self) -> Tensor:
        """The data's centred coordinates along the leading axes, (N, k), for `marginals`."""
        assert self.rows is not None
        axes = self.spectrum.basis[:, :MARGINAL_AXES]
        return (self.rows.double() - self.spectrum.mean) @ axes


def axes_kept(dim: int, rank: int | None = None) -> int:
    """Number of principal axes that are kept: all in few dimensions."""
    if rank is None:
        return dim if dim <= FULL_COVARIANCE_LIMIT else DEFAULT_RANK
    require(1 <= rank <= dim, "rank", f"in [1, {dim}]", rank)
    return rank
