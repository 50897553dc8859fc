"""The process-wide state of torch, which a caller may have set and no result of ours depends on.

| state | what it would change |
|---|---|
| default dtype, default device | every tensor that is made without naming them, also in diffusers |
| autocast | products in half precision |
| precision of float32 products: TF32, bfloat16 | the same, on some devices |

`plain_torch` sets all of these to what they are in a fresh process, for a block or, as a decorator, a call;
`plain_defaults` only the first row, for work with a network of the user's, who decides about the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

_ROUNDOFF = {"tf32": 2.0**-11, "high": 2.0**-11, "bf16": 2.0**-8, "medium": 2.0**-8}


@contextlib.contextmanager
def plain_defaults() -> Iterator[None]:
    """Makes new tensors float32, on the CPU, where nothing else is said."""
    with contextlib.ExitStack() as undo:
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            undo.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        # (The context costs a little in each call of torch.)
        if torch.get_default_device().type != "cpu":
            undo.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Does so, and computes in the precision of the tensors."""
    with plain_defaults(), contextlib.ExitStack() as undo:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        for products in _products():
            precision = products.fp32_precision
            if precision not in ("ieee", "none"):
                undo.callback(setattr, products, "fp32_precision", precision)
                products.fp32_precision = "ieee"
        if not _products() and torch.get_float32_matmul_precision() != "highest":
            undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread of the CPU, where the rounding of a sum decides more than its last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def product_roundoff_unit() -> float:
    """The unit roundoff of float32 matrix products, as torch is set now; the worst of the libraries that it calls."""
    # (torch before 2.9 has one setting for all. Later the one may raise, where the libraries differ.)
    found = [each.fp32_precision for each in _products()] or [torch.get_float32_matmul_precision()]
    return max(_ROUNDOFF.get(each, 2.0**-24) for each in found)


def _products() -> list[Any]:
    """What holds the precision of float32 matrix products, for each library that torch calls."""
    found = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    return [each for each in found if hasattr(each, "fp32_precision")]
