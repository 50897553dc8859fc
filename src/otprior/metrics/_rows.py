"""Checks of the metrics' input: images or features as the rows of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from otprior.utils.validation import as_numbers, check_finite, require


def as_rows(name: str, values: Tensor, minimum: int = 1) -> Tensor:
    """Reshapes `values`, (N, ...), to an (N, D) matrix without its graph; copies only if needed.

    Raises:
        ValueError: If `values` has no second axis, is not floating point, has fewer than `minimum` rows, or
            holds NaN or infinity.
    """
    values = as_numbers(name, values)
    require(values.ndim >= 2, name, "of shape (N, D) or (N, C, H, W)", tuple(values.shape))
    hint = "Map 8-bit images to [-1, 1] first" if values.dtype == torch.uint8 else ""
    require(values.is_floating_point(), name, "floating point", values.dtype, hint)
    require(len(values) >= minimum, name, f"at least {minimum} rows", f"{len(values)}")
    check_finite(name, values)
    return values.flatten(1)


def check_same_width(name: str, x: Tensor, other_name: str, y: Tensor) -> None:
    """Requires that two matrices have equally many columns."""
    require(x.shape[1] == y.shape[1], name, f"as wide as {other_name} ({y.shape[1]} columns)", x.shape[1])
