"""The one door: every figure equals the metric behind it, and known faults show up in the right figure."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from otprior.metrics import (
    Reference,
    evaluate,
    frechet_distance,
    kernel_distance,
    precision_recall_density_coverage,
)

N = 120
METRICS = {
    "fid",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "copy_rate",
    "source_rate",
    "duplicate_rate",
    "nearest_pixel_distance",
    "nearest_feature_distance",
    "nearest_pixel_below_1pct",
    "nearest_feature_below_1pct",
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, seed: int) -> Tensor:
    """Smooth random images in (-1, 1), shape (n, 1, 8, 8)."""
    return torch.tanh(torch.randn(n, 1, 8, 8, generator=generator(seed)).cumsum(3) / 3.0)


def features(pixels: Tensor) -> Tensor:
    return torch.relu(pixels.flatten(1) @ torch.randn(64, 16, generator=generator(77)) / 8.0 + 0.1)


@pytest.fixture(scope="module")
def reference() -> Reference:
    atoms, held_out = images(300, 1), images(N, 2)
    return Reference.build(features(images(N, 3)), atoms, features(atoms), held_out, features(held_out))


def report(samples: Tensor, reference: Reference, **kwargs: Any) -> dict[str, Any]:
    return evaluate(features(samples), samples, reference=reference, generator=generator(), **kwargs)


def test_names_and_figures(reference: Reference) -> None:
    samples = images(N, 4)
    row = report(samples, reference, sources=torch.arange(N))
    assert set(row) == METRICS | {f"{name}_interval" for name in METRICS}
    assert row["fid"] == frechet_distance(features(samples), reference.features)
    assert row["kid"] == kernel_distance(features(samples), reference.features)
    shares = precision_recall_density_coverage(reference.features, features(samples))
    assert {name: row[name] for name in shares} == pytest.approx(shares)
    # What a report stores: no NaN, no tensors.
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    for name in METRICS - {"recall", "coverage", "duplicate_rate"}:
        lo, hi = row[f"{name}_interval"]
        assert lo <= row[name] <= hi
    for name in ("recall", "coverage", "duplicate_rate"):
        assert row[f"{name}_interval"] is None


def test_real_images_show_no_fault(reference: Reference) -> None:
    row = report(images(N, 4), reference)
    assert row["duplicate_rate"] == 0.0
    assert row["source_rate"] is None
    assert row["source_rate_interval"] is None
    assert row["copy_rate"] < 0.05
    assert row["nearest_pixel_below_1pct"] < 0.05
    assert row["precision"] > 0.7


def test_handing_training_images_back_is_seen(reference: Reference) -> None:
    """A perfect quality score, and every copying figure at its worst."""
    sources = torch.arange(N)
    row = report(images(300, 1)[:N], reference, sources=sources)
    assert (row["copy_rate"], row["source_rate"], row["duplicate_rate"]) == (1.0, 1.0, 0.0)
    assert (row["nearest_pixel_distance"], row["nearest_feature_distance"]) == (0.0, 0.0)
    assert (row["nearest_pixel_below_1pct"], row["nearest_feature_below_1pct"]) == (1.0, 1.0)
    assert report(images(300, 1)[:N], reference, sources=sources.roll(1))["source_rate"] == 0.0


def test_a_collapsed_sampler_is_seen(reference: Reference) -> None:
    row = report(images(1, 4).expand(N, 1, 8, 8) + 0.0, reference)
    assert row["duplicate_rate"] == pytest.approx((N - 1) / N)
    assert row["recall"] < 0.05
    assert row["fid"] > 5 * report(images(N, 4), reference)["fid"]


def test_white_noise_is_seen(reference: Reference) -> None:
    row = report(torch.randn(N, 1, 8, 8, generator=generator(5)), reference)
    clean = report(images(N, 4), reference)
    assert row["fid"] > 3 * clean["fid"]
    assert row["kid"] > 3 * abs(clean["kid"])
    assert row["nearest_pixel_distance"] > clean["nearest_pixel_distance"]


def test_order_of_samples_does_not_matter(reference: Reference) -> None:
    samples, sources = images(N, 4), torch.arange(N)
    row, flipped = (
        report(x, reference, sources=s) for x, s in ((samples, sources), (samples.flip(0), sources.flip(0)))
    )
    for name in METRICS:
        assert flipped[name] == pytest.approx(row[name], abs=1e-9)


def test_is_a_function_of_its_generator(reference: Reference) -> None:
    assert report(images(N, 4), reference) == report(images(N, 4), reference)


def test_equal_atoms_are_merged(reference: Reference) -> None:
    atoms, held_out = images(300, 1), images(N, 2)
    twice = torch.cat([atoms, atoms])
    doubled = Reference.build(reference.features, twice, features(twice), held_out, features(held_out))
    samples = atoms[:N] + 0.01 * torch.randn(N, 1, 8, 8, generator=generator(6))
    expected = report(samples, reference, sources=torch.arange(N))
    assert report(samples, doubled, sources=torch.arange(300, 300 + N)) == expected
    assert expected["copy_rate"] == 1.0


def test_refuses_what_does_not_fit(reference: Reference) -> None:
    x = images(N, 4)
    with pytest.raises(ValueError, match="features must be at least 6 rows"):
        report(x[:5], reference)
    with pytest.raises(ValueError, match="pixels must be 120 rows, one a row of features; got 119"):
        evaluate(features(x), x[:-1], reference=reference, generator=generator())
    with pytest.raises(ValueError, match=r"as wide as the reference's features \(16 columns\)"):
        evaluate(features(x)[:, :8], x, reference=reference, generator=generator())
    with pytest.raises(ValueError, match=r"as wide as the reference's atoms \(64 columns\)"):
        evaluate(features(x), x[..., :4], reference=reference, generator=generator())
    with pytest.raises(ValueError, match="pixels must be finite"):
        evaluate(features(x), x / 0.0, reference=reference, generator=generator())
    same = x[:1].expand(8, 1, 8, 8)
    with pytest.raises(ValueError, match="two different images at least; got 1"):
        Reference.build(reference.features, same, features(same), x, features(x))
    with pytest.raises(ValueError, match="atom_features must be 120 rows, one an atom; got 100"):
        Reference.build(reference.features, x, features(x)[:100], x, features(x))
