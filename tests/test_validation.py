"""Complaints have one form: what, the rule, what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from otprior.utils.validation import check_choice, check_finite, check_integer, invalid, require


def test_the_form() -> None:
    assert str(invalid("tol", "positive", -1)) == "tol must be positive; got -1"
    assert str(invalid("tol", "positive", -1, "Try 0.05.")) == "tol must be positive; got -1. Try 0.05."
    require(True, "tol", "positive", 1)
    with pytest.raises(ValueError, match=r"^tol must be positive; got 0$"):
        require(False, "tol", "positive", 0)


def test_choice() -> None:
    check_choice("noise", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"^noise must be one of 'a', 'b'; got 'c'$"):
        check_choice("noise", "c", ("a", "b"))


@pytest.mark.parametrize("value", [0, 7, -1, np.int64(3)])
def test_integers(value: int) -> None:
    check_integer("n", value, -1)
    check_integer("n", value, -1, 7)


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1", None, 0, 8])
def test_not_integers_or_out_of_range(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^n must be an integer in \[1, 7\]; got "):
        check_integer("n", value, 1, 7)


def test_finite() -> None:
    check_finite("x", torch.zeros(0, 3))
    check_finite("x", torch.zeros(3, 2))
    check_finite("x", torch.tensor(1.0))
    check_finite("x", torch.tensor([1, 2]))  # integers always are
    bad = torch.zeros(4, 2, 2)
    bad[1, 0, 1], bad[3, 1, 0] = float("nan"), float("inf")
    with pytest.raises(
        ValueError, match=r"^x must be finite; got NaN or infinity in 2 of 4 rows, first in row 1$"
    ):
        check_finite("x", bad)
    with pytest.raises(ValueError, match="x must be finite"):
        check_finite("x", torch.tensor(float("nan")))
