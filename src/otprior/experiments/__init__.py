"""Comparing and tuning starts for any model: starts, inputs, pieces of work, processes, search; and studies of them.

Names are imported on first use, so that `otprior.experiments.study` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Comparison": "comparison",
    "CopyLimit": "gates",
    "Part": "study",
    "Request": "study",
    "Study": "study",
    "find_study": "study",
    "run_comparison": "run",
    "tune": "search",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
