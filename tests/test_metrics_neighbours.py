"""Nearest neighbours against brute force, and the four shares against prdc."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torch import Tensor

from otprior.metrics import nearest, neighbours, precision_recall_density_coverage


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Small integers: distances are exact and full of ties."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


def brute_force(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    squared = (x.double()[:, None] - y.double()[None]).square().sum(dim=2)
    values, indices = squared.sort(dim=1, stable=True)
    return values[:, :k].sqrt(), indices[:, :k]


@pytest.fixture(params=[2**22, 500, 1], ids=["one block", "some blocks", "a row a block"])
def block_entries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_ENTRIES", request.param)
    monkeypatch.setattr(neighbours, "_DIFFERENCE_ENTRIES", request.param)


@pytest.mark.usefixtures("block_entries")
@pytest.mark.parametrize("k", [1, 2, 6, 90])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_is_brute_force(k: int, offset: float) -> None:
    x, y = normal(70, 40) + offset, normal(90, 40, seed=1) + offset
    distances, indices = nearest(x, y, k)
    truth, places = brute_force(x, y, k)
    assert torch.equal(indices, places)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, truth.float(), rtol=1e-7, atol=0.0)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 20), m=st.integers(1, 20), d=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_ties_go_to_the_lowest_index(n: int, m: int, d: int, seed: int) -> None:
    x, y = grid(n, d, seed=seed), grid(m, d, seed=seed + 1)
    for k in {1, (m + 1) // 2, m}:
        distances, indices = nearest(x, y, k)
        truth, places = brute_force(x, y, k)
        assert torch.equal(indices, places)
        assert torch.equal(distances, truth.float())


def test_neighbours_that_float32_products_cannot_tell_apart() -> None:
    """Points at 1,000 from the centre and 1e-3 from one another: float32 squares are off by about 0.1."""
    y = normal(40, 784).double()
    y = torch.cat([1000.0 * y / y.norm(dim=1, keepdim=True)] * 3)
    y[40:80] += 1e-3 * normal(40, 784, seed=1) / 28.0
    y[80:] += 2e-3 * normal(40, 784, seed=2) / 28.0
    x = y[:40] + 4e-4 * normal(40, 784, seed=3) / 28.0
    distances, indices = nearest(x, y, 3)
    truth, places = brute_force(x, y, 3)
    assert torch.equal(indices, places)
    torch.testing.assert_close(distances, truth, rtol=1e-12, atol=0.0)


def test_equal_rows_are_at_distance_zero() -> None:
    x = normal(50, 784) + 3.0
    distances, indices = nearest(x, x.flip(0), 1)
    assert torch.equal(distances, torch.zeros(50, 1))
    assert torch.equal(indices[:, 0], torch.arange(50).flip(0))


def test_reduced_matmul_precision_changes_nothing() -> None:
    x, y = normal(60, 100), normal(80, 100, seed=1)
    expected = nearest(x, y, 3)
    torch.set_float32_matmul_precision("medium")
    try:
        got = nearest(x, y, 3)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("k", [1, 5])
def test_agrees_with_prdc(k: int) -> None:
    real, fake = normal(300, 16), 0.8 * normal(200, 16, seed=1) + 0.3
    with contextlib.redirect_stdout(io.StringIO()):
        original = compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
    ours = precision_recall_density_coverage(real, fake, k)
    assert ours == pytest.approx({name: float(value) for name, value in original.items()}, abs=1e-12)
    assert 0.0 < ours["precision"] < 1.0
    assert 0.0 < ours["recall"] < 1.0


@pytest.mark.usefixtures("block_entries")
def test_balls_are_open_on_tied_distances() -> None:
    real, fake, k = grid(60, 3), grid(50, 3, seed=1), 3
    to_real = (real[:, None] - real[None]).square().sum(dim=2)
    to_fake = (fake[:, None] - fake[None]).square().sum(dim=2)
    between = (real[:, None] - fake[None]).square().sum(dim=2)
    real_radii, fake_radii = (np.sort(d.numpy(), axis=1)[:, k] for d in (to_real, to_fake))
    inside_real, inside_fake = between.numpy() < real_radii[:, None], between.numpy() < fake_radii[None]
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(
        {
            "precision": inside_real.any(axis=0).mean(),
            "recall": inside_fake.any(axis=1).mean(),
            "density": inside_real.sum(axis=0).mean() / k,
            "coverage": inside_real.any(axis=1).mean(),
        },
        abs=1e-12,
    )


def test_a_set_against_itself() -> None:
    """Each open ball holds its centre and the k − 1 nearest others, the k-th being exactly on its edge."""
    x = normal(200, 128) * 3.0 + 7.0
    assert precision_recall_density_coverage(x, x, 5) == {
        "precision": 1.0,
        "recall": 1.0,
        "density": pytest.approx(1.0, abs=1e-12),
        "coverage": 1.0,
    }


@settings(max_examples=25, deadline=None)
@given(n=st.integers(6, 30), m=st.integers(6, 30), d=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_laws(n: int, m: int, d: int, seed: int) -> None:
    # Integers, so that shifting and scaling are exact and ties stay ties.
    real, fake = grid(n, d, seed=seed), grid(m, d, seed=seed + 1)
    value = precision_recall_density_coverage(real, fake, 3)
    assert precision_recall_density_coverage(real.flip(0), fake.roll(1, 0), 3) == pytest.approx(value)
    assert precision_recall_density_coverage(real + 5.0, fake + 5.0, 3) == value
    assert precision_recall_density_coverage(2.0 * real, 2.0 * fake, 3) == value
    # Precision and recall are each other's mirror.
    mirrored = precision_recall_density_coverage(fake, real, 3)
    assert (mirrored["recall"], mirrored["precision"]) == (value["precision"], value["recall"])


def test_far_apart_sets_share_nothing() -> None:
    far = precision_recall_density_coverage(normal(50, 4), normal(50, 4, seed=1) + 100.0)
    assert set(far.values()) == {0.0}


def test_refuses_bad_input() -> None:
    x = normal(10, 3)
    with pytest.raises(ValueError, match=r"k must be an integer in \[1, 10\]; got 11"):
        nearest(x, x, 11)
    with pytest.raises(ValueError, match="as wide as y"):
        nearest(x, x[:, :2])
    with pytest.raises(ValueError, match="y must be finite"):
        nearest(x, x / 0.0)
    with pytest.raises(ValueError, match=r"k must be an integer in \[1, 4\]; got 5"):
        precision_recall_density_coverage(x, x[:5], 5)
    with pytest.raises(ValueError, match=r"x must be of shape \(N, D\)"):
        nearest(x[0], x)


@pytest.mark.usefixtures("block_entries")
def test_first_within_is_brute_force_where_products_are_blind() -> None:
    """Two far clusters whose members lie about one radius apart: float32 products see all as candidates."""
    centres = normal(2, 50).double() * 1e4
    x = centres[torch.arange(60) % 2] + 0.1 * normal(60, 50, seed=1)
    radius = 0.9
    close = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") <= radius
    assert 0.1 < float(close[::2, ::2].double().mean()) < 0.5
    assert torch.equal(neighbours.first_within(x, radius), close.int().argmax(dim=1))
