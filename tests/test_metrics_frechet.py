"""Fréchet distance against closed forms, torchmetrics and POT, and its laws."""

from __future__ import annotations

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from otprior.metrics import FeatureMoments, frechet_distance

D = 128
sizes = {
    "n": st.integers(2, 30),
    "m": st.integers(2, 30),
    "d": st.integers(1, 12),
    "seed": st.integers(0, 10**6),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def commuting(rank_a: int, rank_b: int) -> tuple[FeatureMoments, FeatureMoments, float]:
    """Normal laws with common principal axes: the distance is |μ_a − μ_b|² + Σ (√λ_a − √λ_b)²."""
    axes = torch.linalg.qr(normal(D, D))[0]
    values = normal(2, D, seed=1).square()
    values[0, rank_a:] = 0.0
    values[1, rank_b:] = 0.0
    means = normal(2, D, seed=2)
    truth = (means[0] - means[1]).square().sum() + (values[0].sqrt() - values[1].sqrt()).square().sum()
    a, b = (FeatureMoments(m, (axes * v) @ axes.T, 2) for m, v in zip(means, values))
    return a, b, float(truth)


class Identity(torch.nn.Module):
    num_features = D

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("ranks", [(D, D), (D, 3), (50, 50), (3, 3), (3, 0), (0, 0)])
def test_is_exact_for_normal_laws_of_any_rank(ranks: tuple[int, int]) -> None:
    a, b, truth = commuting(*ranks)
    # Rounding of sums of 128 terms of order one; roots of eigenvalues would be off by about 5e-7.
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-13, abs=1e-12)


def test_moments_are_those_of_torch_in_float64() -> None:
    features = (normal(300, 7) * 3.0 + 1000.0).float()
    moments = FeatureMoments.from_features(features)
    torch.testing.assert_close(moments.mean, features.double().mean(dim=0))
    torch.testing.assert_close(moments.covariance, features.double().T.cov())
    assert moments.n == 300
    assert moments.covariance.dtype == torch.float64


def test_agrees_with_torchmetrics() -> None:
    real, fake = normal(500, D), 1.1 * normal(400, D, seed=1) + 0.2
    original = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    original.update(real, real=True)
    original.update(fake, real=False)
    assert frechet_distance(real, fake) == pytest.approx(float(original.compute()), rel=1e-10)


def test_agrees_with_pot() -> None:
    a, b = (FeatureMoments.from_features(normal(300, D, seed=s) * (1.0 + s)) for s in (0, 1))
    bures = ot.gaussian.bures_wasserstein_distance(a.mean, b.mean, a.covariance, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(float(bures) ** 2, rel=1e-10)


def test_bias_falls_as_one_over_n() -> None:
    """Two samples of one law: the expected distance is proportional to 1/n, so n times it is level."""
    d = 8
    figures = {
        n: [n * frechet_distance(normal(n, d, seed=2 * i), normal(n, d, seed=2 * i + 1)) for i in range(200)]
        for n in (200, 800)
    }
    small, large = (torch.tensor(v).mean() for v in figures.values())
    # Each mean has a relative standard error of about 1.5 %; the next order in 1/n is about d/200 = 4 %.
    assert float(small / large) == pytest.approx(1.0, abs=0.08)


@settings(max_examples=40, deadline=None)
@given(**sizes)
def test_laws(n: int, m: int, d: int, seed: int) -> None:
    x, y = normal(n, d, seed=seed), 2.0 * normal(m, d, seed=seed + 1) + 1.0
    value = frechet_distance(x, y)
    # float64 rounding of sums of moments of order one.
    close = {"rel": 1e-9, "abs": 1e-9}
    assert frechet_distance(y, x) == pytest.approx(value, **close)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x + 10.0, y + 10.0) == pytest.approx(value, **close)
    assert frechet_distance(3.0 * x, 3.0 * y) == pytest.approx(9.0 * value, **close)
    assert frechet_distance(x.flip(0), y.roll(1, 0)) == pytest.approx(value, **close)
    axes = torch.linalg.qr(normal(d, d, seed=seed + 2))[0]
    assert frechet_distance(x @ axes, y @ axes) == pytest.approx(value, **close)
    # A shift of the mean alone is seen as it is.
    assert frechet_distance(x, x + 2.0) == pytest.approx(4.0 * d, **close)
    assert value >= 0.0


def test_refuses_what_it_cannot_compare() -> None:
    x = normal(10, 3)
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match=r"as wide as b \(2 features\); got 3"):
        frechet_distance(x, x[:, :2])
    with pytest.raises(ValueError, match=r"features must be finite; .* first in row 4"):
        FeatureMoments.from_features(x.index_fill(0, torch.tensor([4]), torch.nan))
    with pytest.raises(ValueError, match="mean must be float64"):
        FeatureMoments(torch.zeros(3), torch.eye(3), 5)
