"""The reproductions there are, by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from otprior.utils.validation import check_choice

if TYPE_CHECKING:
    from otprior_studies.papers.reproduction import Reproduction

# Imported when they are asked for, so that a command line is checked without waiting for torch.
MODULES = {
    "dpm-ot": "otprior_studies.papers.dpm_ot",
    "prior-mismatch": "otprior_studies.papers.prior_mismatch",
    "from-scratch": "otprior_studies.papers.from_scratch",
}


def names() -> tuple[str, ...]:
    """Of all reproductions, in the order in which they are listed."""
    return tuple(MODULES)


def find(name: str) -> Reproduction:
    """The reproduction of that name.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    check_choice("reproduction", name, names())
    return import_module(MODULES[name]).REPRODUCTION
