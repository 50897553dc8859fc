"""Arrays and tensors in files: .npz, and .safetensors with a digest in the header. Nothing in them is executed.

Whatever is wrong with a file is one `ValueError` that names it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from otprior.utils.files import output_file, require_regular
from otprior.utils.numpy_files import load_numpy
from otprior.utils.validation import require

BYTES_PER_BLOCK = 1 << 26
DIGEST = "sha256"
_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def fingerprint(*parts: Tensor | str | float) -> str:
    """Computes a digest of tensors, texts and numbers."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, Tensor):
            digest.update(repr(part).encode())
            continue
        digest.update(repr((tuple(part.shape), str(part.dtype))).encode())
        for block in part.detach().reshape(-1).split(BYTES_PER_BLOCK // part.element_size()):
            # (NumPy knows no bfloat16.)
            digest.update(block.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Writes a .safetensors file, whole or not at all; a digest of all that is in it joins the header."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # (safetensors' own writers copy all tensors; or ignore the umask, and raise no OSError where the disk is full.)
    entries: dict[str, Any] = {"__metadata__": dict(header) | {DIGEST: _digest(whole, header)}}
    # The largest entries first, so that each is aligned.
    names, end = sorted(whole, key=lambda name: (-whole[name].element_size(), name)), 0
    for name in names:
        tensor, start = whole[name], end
        end += tensor.numel() * tensor.element_size()
        shape, kind = list(tensor.shape), _KINDS[tensor.dtype]
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    with output_file(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(whole[name].reshape(-1).view(torch.uint8).numpy().data)


def read_tensors(
    path: str | Path, what: str = "file", *, own: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and its header, in which `DIGEST` is the digest if there is one.

    Arguments:
        path: The file.
        what: What it is, for the error.
        own: Whether only `write_tensors` writes such files; those of other programs have no digest.

    Raises:
        ValueError: If it is damaged, no such file, or its content is not that which its digest was made of.
    """
    require_regular(path, what)
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} {path} is damaged or no .safetensors file: {error}") from error
    known = header.get(DIGEST)
    require(known is not None or not own, f"{what} {path}", "a file that otprior wrote", "one without digest")
    same = known is None or known == _digest(tensors, header)
    require(same, f"{what} {path}", "as it was written", "other content, by its digest")
    return tensors, header


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    facts = sorted((name, text) for name, text in header.items() if name != DIGEST)
    parts = [part for name in sorted(tensors) for part in (name, tensors[name])]
    return fingerprint(str(facts), *parts)


def write_arrays(path: str | Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Writes an .npz file, whole or not at all."""
    # (Given a name, numpy would add a suffix to it.)
    with output_file(path) as temporary, open(temporary, "wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def read_arrays(path: str | Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name.

    Arguments:
        path: The file.
        names: Those that it must hold.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, holds Python objects, or lacks an array.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    require_regular(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is damaged or no .npz file")
    arrays: dict[str, np.ndarray] = load_numpy(Path(path))
    missing = [name for name in names if name not in arrays]
    require(not missing, str(path), f"a file with the array {', '.join(map(repr, missing))}", sorted(arrays))
    return arrays
