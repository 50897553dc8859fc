"""Checkpoints of a long solve or training: tensors and numbers in one file.

A checkpoint belongs to one problem. Its fingerprint covers what decides it (of a solve: atoms, weights, seed and
tolerance), so that a run cannot resume from the state of another problem. It is written under a temporary name and
moved, so a killed process leaves the last whole one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otprior.utils.arrays import read_tensors, write_tensors
from otprior.utils.validation import require

FORMAT_VERSION = 2


def save_checkpoint(path: Path, problem: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Writes the checkpoint at `path`, replacing an earlier one; numbers must be JSON values."""
    header = {"format_version": FORMAT_VERSION, "problem": problem, "numbers": numbers}
    write_tensors(path, tensors, {"otprior": json.dumps(header)})


def load_checkpoint(
    path: Path, problem: str, parts: str = "atoms, weights, seed and tol"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and numbers of the checkpoint at `path`; `parts` names what its problem consists of, for errors.

    Raises:
        ValueError: If the file is no checkpoint, was changed, or is of another format version or problem.
    """
    tensors, facts = read_tensors(path, "checkpoint", own=True)
    try:
        header = json.loads(facts.get("otprior", "null"))
    except ValueError:
        header = None
    known = isinstance(header, dict) and {"format_version", "problem", "numbers"} <= set(header)
    require(known, "checkpoint", "one that was written by otprior", path)
    version = header["format_version"]
    require(
        version == FORMAT_VERSION, "checkpoint", f"of format version {FORMAT_VERSION}", f"{version} in {path}"
    )
    hint = "Delete it, or name another file"
    require(header["problem"] == problem, "checkpoint", f"of the same {parts}", f"another's: {path}", hint)
    for name, value in tensors.items():
        require(
            bool(torch.isfinite(value).all()), "checkpoint", "finite", f"NaN or infinity in {name} of {path}"
        )
    return tensors, header["numbers"]
