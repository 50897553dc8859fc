"""Claims about images, on fifty of them: the flow has the right law, and the figures are where theory puts them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from otprior_studies.claims import brenier_images, image_contraction, images, single_step
from otprior_studies.claims.claim import Effort, Verdict

FAST = Effort(fast=True)


@pytest.fixture(autouse=True, scope="module")
def _few_images() -> Iterator[None]:
    """Five images a class in place of a hundred."""
    patch = pytest.MonkeyPatch()
    caches = (images.images, images.image_flow, images.image_offsets)
    for cache in caches:
        cache.cache_clear()
    patch.setattr(images, "PER_CLASS", 5)
    yield
    patch.undo()
    for cache in caches:
        cache.cache_clear()


def test_flow_has_the_law_of_the_process_at_each_time() -> None:
    flow, rows = images.image_flow(FAST), images.images().double()
    assert rows.shape == (50, 784)
    assert flow.settled > 0.99
    square = float((rows**2).sum(dim=1).mean())
    for scales, points in zip(flow.moments, flow.points):
        found = (points.double() ** 2).sum(dim=1)
        expected = scales.alpha**2 * square + scales.sigma**2 * 784
        assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / len(found) ** 0.5
    # Every image is reached about equally often: 5 of 250 draws each.
    counts = torch.bincount(flow.basin, minlength=50).double()
    assert float(((counts - 5) ** 2 / 5).sum()) < 49 + 4 * math.sqrt(2 * 49)


def test_contraction_of_images_lies_between_its_bounds() -> None:
    found = image_contraction.vp_contraction_images.run(FAST)
    assert found.verdict is Verdict.WITHIN_ERROR
    for entry in found.details["by timestep"].values():
        assert entry["W2"][0] <= entry["W2"][1]
        assert entry["ratio"][0] < entry["ratio"][1] <= 1
    # Towards noise both ends are Gaussian's, and meet.
    last = found.details["by timestep"]["900"]["W2"]
    assert last[1] / last[0] < 1.05


def test_rate_of_images_is_one_and_two_at_both_ends() -> None:
    found = image_contraction.vp_rate_images.run(FAST)
    assert found.verdict is Verdict.WITHIN_ERROR
    assert found.details["as they are"]["slope of the lower bound"] == pytest.approx(1, abs=0.01)
    assert found.details["centred"]["slope of the upper bound"] == pytest.approx(2, abs=0.01)


def test_flow_and_transport_disagree_on_images() -> None:
    found = brenier_images.brenier_images.run(FAST)
    assert found.verdict is Verdict.FAILS
    # No map of the right masses can gain more than the optimal one.
    low, high = found.details["lost by the flow, interval"]
    assert 0 < low < high < 0.1
    assert found.details["E<z, F(z)> of the flow"] < found.details["E<z, T(z)> of transport, upper bound"]
    assert found.power is not None


def test_single_steps() -> None:
    end, middle = single_step.single_step_end.run(FAST), single_step.single_step_middle.run(FAST)
    assert end.interval[1] < 1
    assert middle.verdict is Verdict.FAILS
    table = middle.details["by timestep"]
    # Towards noise the gaussian map agrees with the flow to second order, and transport to none.
    assert table["900"]["gaussian"] < 1e-3 * table["900"]["transport"]
    assert table["900"]["transport"] == pytest.approx(table["900"]["N(0, I)"], rel=0.1)
