"""Rivals at equal copying: the t* at which a falling rate takes a value."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from otprior.sampling.start_spec import StartSpec
from otprior_studies.comparisons.equal_copying import STARTS, matching_timestep_of, moved

RIVAL = StartSpec("random_atom", 525, 5)


def logistic(timestep: float) -> float:
    return 1 / (1 + math.exp((timestep - 260) / 40))


@pytest.mark.parametrize("target", [160, 237, 301, 480])
def test_a_logistic_rate_is_matched_exactly(target: int) -> None:
    """Linear in t on the scale that is interpolated on, but for half a sample in ten million on either side."""
    rates = [logistic(t) for t in STARTS]
    assert matching_timestep_of(STARTS, rates, logistic(target), 10_000_000) == target


def test_noise_that_is_not_monotone_is_smoothed_first() -> None:
    """A dip and a bump about 0.2: their common mean, in the middle of what they span."""
    found = matching_timestep_of((100, 200, 300, 400), (0.5, 0.18, 0.22, 0.01), 0.2, 1000)
    assert 200 <= found <= 300


def test_outside_of_what_was_measured_the_nearest_end() -> None:
    rates = [0.4, 0.2, 0.1]
    assert matching_timestep_of((100, 200, 300), rates, 0.9, 1000) == 100
    assert matching_timestep_of((100, 200, 300), rates, 0.0, 1000) == 300
    assert matching_timestep_of((300, 100, 200), [0.1, 0.4, 0.2], 0.2, 1000) == 200  # in any order


def test_labels_say_where_and_why() -> None:
    assert (
        moved(RIVAL, 238, "equal copying").label == "random image + fresh noise, t* = 238, equal copying, 5"
    )
    boosted = replace(RIVAL, prior="boosted_atom", options=(("direction", "mean"),))
    assert moved(boosted, 300).label == "the same, boosted (mean), t* = 300, 5"
    assert moved(RIVAL, 238).start_timestep == 238
