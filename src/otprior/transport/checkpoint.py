"""Checkpoints of a long solve or training: tensors and numbers in one file.

A checkpoint belongs to one problem. Its fingerprint covers what decides it (of a solve: atoms, weights, seed and
tolerance), so that a run cannot resume from the state of another problem. It is written under a temporary name and
moved, so a killed process leaves the last whole one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from otprior.utils.files import output_file
from otprior.utils.validation import invalid, require

FORMAT_VERSION = 1
BYTES_PER_BLOCK = 1 << 26


def fingerprint(*parts: Tensor | str | float) -> str:
    """Computes a digest of tensors, texts and numbers."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, Tensor):
            digest.update(repr(part).encode())
            continue
        digest.update(repr((tuple(part.shape), str(part.dtype))).encode())
        rows = max(1, BYTES_PER_BLOCK // max(1, part[0].numel() * part.element_size())) if len(part) else 1
        for block in part.split(rows):
            digest.update(block.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, problem: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Writes the checkpoint at `path`, replacing an earlier one; numbers must be JSON values."""
    header = {"format_version": FORMAT_VERSION, "problem": problem, "numbers": numbers}
    with output_file(path) as temporary:
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, temporary, metadata={"otprior": json.dumps(header)})


def load_checkpoint(
    path: Path, problem: str, parts: str = "atoms, weights, seed and tol"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and numbers of the checkpoint at `path`; `parts` names what its problem consists of, for errors.

    Raises:
        ValueError: If the file is no checkpoint, of another format version, or of another problem.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("otprior", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise invalid("checkpoint", "a whole safetensors file", f"{path}: {error}") from error
    require(isinstance(header, dict), "checkpoint", "one that a solve wrote", path)
    version = header.get("format_version")
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
