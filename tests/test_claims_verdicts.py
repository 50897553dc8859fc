"""How a verdict follows from an interval, and that claims are found, named and reproducible."""

from __future__ import annotations

import math

import pytest
import torch

from otprior_studies.claims.claim import LARGEST_UNSEEN_ROTATION, Claim, Effort, Finding, Verdict, judge
from otprior_studies.claims.power import excess_cost, rotate, smallest_caught
from otprior_studies.claims.registry import all_claims, find_claims, run_claims


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.0, 1.0), Verdict.WITHIN_ERROR),
        ((0.9, 1.1), Verdict.UNDECIDED),
        ((1.0, 1.1), Verdict.UNDECIDED),
        ((1.01, 1.1), Verdict.FAILS),
    ],
)
def test_verdicts(interval: tuple[float, float], verdict: Verdict) -> None:
    assert judge(interval, 1.0) is verdict
    exact = Verdict.HOLDS if verdict is Verdict.WITHIN_ERROR else verdict
    assert judge(interval, 1.0, exact=True) is exact


def test_a_test_that_would_miss_a_large_rotation_lets_nothing_hold() -> None:
    assert judge((0.0, 0.0), 1e-9, unseen_rotation=LARGEST_UNSEEN_ROTATION) is Verdict.WITHIN_ERROR
    assert judge((0.0, 0.0), 1e-9, unseen_rotation=LARGEST_UNSEEN_ROTATION + 1) is Verdict.UNDECIDED
    # What it does see, it sees.
    assert judge((0.1, 0.2), 1e-9, unseen_rotation=90.0) is Verdict.FAILS


def test_intervals_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="interval must be"):
        judge((1.0, 0.0), 1.0)


def test_claims_are_many_distinct_and_say_what_they_are() -> None:
    claims = all_claims()
    assert len({claim.id for claim in claims}) == len(claims) >= 18
    for claim in claims:
        assert claim.statement.endswith(".")
        assert "arXiv:" in claim.paper


def test_claims_by_name_and_by_beginning() -> None:
    assert [claim.id for claim in find_claims(["vp-rate"])] == ["vp-rate"]
    assert {claim.id for claim in find_claims(["brenier"])} == {
        "brenier-line",
        "brenier-plane",
        "brenier-images",
    }
    assert len(find_claims(["vp-rate", "vp-rate"])) == 1
    with pytest.raises(ValueError, match=r"claim must be one of .*vp-rate.*; got nothing"):
        find_claims(["nothing"])


def test_draws_depend_on_seed_and_stream_alone() -> None:
    one = Effort(seed=3).normal("a", 4)
    assert torch.equal(one, Effort(fast=True, seed=3).normal("a", 4))
    assert not torch.equal(one, Effort(seed=3).normal("b", 4))
    assert not torch.equal(one, Effort(seed=4).normal("a", 4))


def test_running_reports_what_was_found() -> None:
    finding = Finding(0.5, (0.4, 0.6), 1.0, "Because.")
    seen = []
    claim = Claim("id", "arXiv:0", "Something.", lambda effort: finding)
    (result,) = run_claims([claim], Effort(), lambda done, claim: seen.append((done, claim.id)))
    assert seen == [(0, "id")]
    assert result.row() == {
        "id": "id",
        "paper": "arXiv:0",
        "statement": "Something.",
        "statistic": 0.5,
        "interval": [0.4, 0.6],
        "power": None,
        "threshold": 1.0,
        "verdict": "holds within error",
    }


# Power ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_rotation_keeps_lengths_and_turns_by_the_angle(dim: int) -> None:
    z = Effort().normal("rotation", 500, dim)
    turned = rotate(z, 30.0, torch.Generator().manual_seed(0))
    assert torch.allclose(turned.norm(dim=1), z.norm(dim=1))
    cosine = (turned * z).sum() / (z * z).sum()
    # One axis is left as it is in odd dimensions; 500 draws know E z² along it to 6 %.
    expected = (math.cos(math.radians(30)) * 2 * (dim // 2) + dim % 2) / dim
    assert float(cosine) == pytest.approx(expected, abs=1e-12 if dim == 2 else 0.02)


def test_excess_of_an_optimal_map_is_zero_and_of_a_permutation_known() -> None:
    z = Effort().normal("excess", 200, 3)
    stretched = z @ torch.diag(torch.tensor([0.1, 2.0, 5.0], dtype=torch.float64)) + 1
    assert abs(excess_cost(z, stretched)) < 1e-13
    # On the line the best pairing is by order.
    x = z[:, :1]
    mixed = x[torch.randperm(200, generator=torch.Generator().manual_seed(0))] * 2
    best = float((x.sort(dim=0).values - mixed.sort(dim=0).values).square().sum())
    given = float((x - mixed).square().sum())
    assert excess_cost(x, mixed) == pytest.approx((given - best) / best, rel=1e-10)


def test_smallest_rotation_is_found_by_bisection() -> None:
    assert smallest_caught(lambda degrees: degrees > 3.0, steps=12) == pytest.approx(3.0, rel=0.01)
    assert smallest_caught(lambda degrees: False) == 90.0


def test_a_pair_of_points_needs_a_right_angle_to_be_noticed() -> None:
    """Two points are paired better crosswise only if ⟨x_1 − x_2, R (x_1 − x_2)⟩ < 0: the power of n = 2."""
    z = Effort().normal("two", 2, 2)

    def caught(degrees: float) -> bool:
        return excess_cost(z, rotate(z, degrees, torch.Generator().manual_seed(0))) > 1e-12

    assert not caught(89.9)
    assert caught(90.1)
