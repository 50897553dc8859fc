"""Streaming moments against numpy, however the stream is cut, whole or as low rank plus isotropic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generators.gaussians import gaussian, with_moments
from torch import Tensor

from otprior.transport import moments
from otprior.transport.moments import Spectrum, StreamingMoments, streaming_spectrum


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(spectrum: Spectrum) -> Tensor:
    u, dim = spectrum.basis, len(spectrum.mean)
    left = torch.eye(dim, dtype=u.dtype) - u @ u.T
    return (u * spectrum.variances) @ u.T + spectrum.residual * left


def check_basis(spectrum: Spectrum) -> None:
    u = spectrum.basis
    torch.testing.assert_close(u.T @ u, torch.eye(u.shape[1], dtype=u.dtype), rtol=0, atol=1e-10)
    assert bool((spectrum.variances.diff() <= 1e-12).all())


@pytest.mark.parametrize("count", [2, 5, 40, 2500])
def test_full_covariance_is_numpys(count: int) -> None:
    rows = normal(count, 12) * torch.arange(1, 13) + 1e3  # a mean that would ruin E x² − (E x)²
    spectrum = streaming_spectrum(rows, rank=12)
    np.testing.assert_allclose(spectrum.mean, rows.numpy().mean(axis=0), rtol=1e-12)
    expected = np.cov(rows.numpy().T, ddof=0)
    np.testing.assert_allclose(covariance(spectrum), expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    assert spectrum.residual == 0
    check_basis(spectrum)


def test_truncation_keeps_the_leading_axes_and_the_total_variance() -> None:
    law = gaussian(torch.tensor([9.0, 4.0, 1.0, 0.5, 0.25, 0.25]))
    spectrum = streaming_spectrum(with_moments(law, 500), rank=2)
    torch.testing.assert_close(spectrum.variances, torch.tensor([9.0, 4.0], dtype=torch.float64))
    assert spectrum.residual == pytest.approx((1 + 0.5 + 0.25 + 0.25) / 4)
    assert float(torch.trace(covariance(spectrum))) == pytest.approx(15)
    check_basis(spectrum)


@pytest.mark.parametrize("limit", [4096, 10])
def test_the_cut_of_the_stream_changes_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a bit: rows are regrouped. Both for the whole covariance and for the factorised one."""
    monkeypatch.setattr(moments, "FULL_COVARIANCE_LIMIT", limit)
    monkeypatch.setattr(moments, "BLOCK_ROWS", 64)
    rows = normal(300, 20).float()
    spectra = []
    for size in (1, 7, 64, 300):
        stream = StreamingMoments(20, rank=5)
        for part in rows.split(size):
            stream.update(part)
        spectra.append(stream.spectrum(5))
    for other in spectra[1:]:
        assert torch.equal(other.mean, spectra[0].mean)
        assert torch.equal(other.basis, spectra[0].basis)
        assert torch.equal(other.variances, spectra[0].variances)
        assert other.residual == spectra[0].residual


def test_beyond_the_limit_a_low_rank_law_is_found_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """d = 5,000: 5 axes of known variance; the factorisation carries more axes than there are, so it loses none."""
    monkeypatch.setattr(moments, "BLOCK_ROWS", 100)
    variances = torch.tensor([100.0, 25.0, 9.0, 4.0, 1.0], dtype=torch.float64)
    axes = torch.linalg.qr(normal(5000, 5))[0]
    law = gaussian(torch.ones(5))
    scores = with_moments(type(law)(torch.zeros(5, dtype=torch.float64), torch.diag(variances)), 250)
    mean = normal(5000, seed=1)
    spectrum = streaming_spectrum(mean + scores @ axes.T, rank=5)
    torch.testing.assert_close(spectrum.mean, mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(spectrum.variances, variances, rtol=1e-9, atol=0)
    overlap = torch.linalg.svdvals(spectrum.basis.T @ axes)
    torch.testing.assert_close(overlap, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-9)
    assert spectrum.residual < 1e-12
    check_basis(spectrum)


def test_beyond_the_limit_what_axes_leave_is_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strong axis on isotropic noise: total variance is exact, the axis and its variance nearly so."""
    monkeypatch.setattr(moments, "FULL_COVARIANCE_LIMIT", 30)
    monkeypatch.setattr(moments, "BLOCK_ROWS", 64)
    monkeypatch.setattr(moments, "OVERSAMPLING", 8)
    rows = normal(600, 40)
    rows[:, 0] *= 10
    truth = np.cov(rows.numpy().T, ddof=0)
    spectrum = streaming_spectrum(rows, rank=1)
    assert float(spectrum.variances[0] + 39 * spectrum.residual) == pytest.approx(np.trace(truth), rel=1e-12)
    # What truncation drops from each block is at right angles to the axes kept, up to sampling: 1 % here.
    assert float(spectrum.variances[0]) == pytest.approx(np.linalg.eigvalsh(truth)[-1], rel=0.01)
    assert abs(float(spectrum.basis[0, 0])) > 0.999


@pytest.mark.parametrize("dim", [6, 5000])
def test_fewer_rows_than_axes(dim: int) -> None:
    rows = normal(4, dim)
    rank = min(dim, 10)
    spectrum = streaming_spectrum(rows, rank)
    assert spectrum.basis.shape == (dim, rank)
    assert spectrum.variances.shape == (rank,)
    check_basis(spectrum)
    # Four rows span three directions about their mean.
    assert float(spectrum.variances[2]) > 0.1
    assert float(spectrum.variances[3:].abs().max()) < 1e-9
    assert spectrum.residual < 1e-9
    centred = rows - rows.mean(dim=0)
    kept = centred @ spectrum.basis[:, :3]
    torch.testing.assert_close(kept @ spectrum.basis[:, :3].T, centred, rtol=0, atol=1e-9)


def test_one_row_and_none() -> None:
    spectrum = streaming_spectrum(normal(1, 3), rank=2)
    assert spectrum.variances.tolist() == [0, 0]
    with pytest.raises(ValueError, match="rows must be at least one; got 0"):
        StreamingMoments(3, 2).spectrum(2)
    with pytest.raises(ValueError, match=r"rows must be of shape \(B, d\)"):
        StreamingMoments(3, 2).update(torch.zeros(5, 4))


def test_more_rows_may_follow_a_look() -> None:
    rows = normal(50, 4)
    stream = StreamingMoments(4, 4)
    stream.update(rows[:20])
    stream.spectrum(4)
    stream.update(rows[20:])
    torch.testing.assert_close(covariance(stream.spectrum(4)), covariance(streaming_spectrum(rows, 4)))
