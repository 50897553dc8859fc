"""Kernel distance against its definition and torchmetrics, without bias, and its laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from otprior.metrics import KernelSample, kernel, kernel_distance


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_is_the_sum_over_pairs() -> None:
    x, y = normal(5, 3), normal(7, 3, seed=1) + 0.5

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    xx = sum(k(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    yy = sum(k(y[i], y[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    xy = sum(k(a, b) for a in x for b in y) / (5 * 7)
    assert kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


@pytest.mark.parametrize("entries", [2**22, 1000, 1])
def test_agrees_with_torchmetrics_whatever_the_blocks(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_BLOCK_ENTRIES", entries)
    x, y = normal(60, 128), 1.2 * normal(60, 128, seed=1) + 0.1
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)
    assert kernel_distance(KernelSample.from_features(x), y) == kernel_distance(x, y)


def test_is_unbiased_at_unequal_and_tiny_sizes() -> None:
    """In one dimension with moments m_k of x and n_k of y, the cubic kernel gives Σ binom(3, k)(m_k − n_k)²."""
    values = torch.stack(
        [
            torch.tensor(kernel_distance(normal(3, 1, seed=2 * i), normal(5, 1, seed=2 * i + 1) + 0.5))
            for i in range(4000)
        ]
    )
    shifted = (0.5, 1 + 0.25, 3 * 0.5 + 0.125)
    truth = 3 * shifted[0] ** 2 + 3 * (shifted[1] - 1) ** 2 + shifted[2] ** 2
    error = float(values.std() / len(values) ** 0.5)
    assert abs(float(values.mean()) - truth) < 3.5 * error
    # The plug-in estimate, which keeps the diagonal, would be off by several units.
    assert error < 0.5


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 30), m=st.integers(2, 30), d=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_laws(n: int, m: int, d: int, seed: int) -> None:
    x, y = normal(n, d, seed=seed), normal(m, d, seed=seed + 1) + 0.3
    value = kernel_distance(x, y)
    close = {"rel": 1e-9, "abs": 1e-9}
    assert kernel_distance(y, x) == pytest.approx(value, **close)
    assert kernel_distance(x.flip(0), y.roll(1, 0)) == pytest.approx(value, **close)
    axes = torch.linalg.qr(normal(d, d, seed=seed + 2))[0]
    assert kernel_distance(x @ axes, y @ axes) == pytest.approx(value, **close)


def test_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        kernel_distance(normal(1, 3), normal(4, 3))
    with pytest.raises(ValueError, match=r"x must be as wide as y \(4 columns\); got 3"):
        kernel_distance(normal(4, 3), normal(4, 4))
    with pytest.raises(ValueError, match=r"floating point; got torch\.uint8\. Map 8-bit images"):
        kernel_distance(torch.zeros(4, 3, dtype=torch.uint8), normal(4, 3))
