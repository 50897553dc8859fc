"""Arrays in .npz and .npy files: read only if headers agree with sizes, since a few bytes may claim terabytes.

Python objects are never loaded.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otprior.utils.files import require_regular
from otprior.utils.validation import require

# A zip archive that unpacks to more than this, and to so many times its size, was made to fill memory.
LARGEST_UNCHECKED, MOST_PACKED = 1 << 30, 200


def load_numpy(path: Path, names: Sequence[str] | None = None, what: str = "") -> dict[str, Any]:
    """Arrays of a .npz file by name; the one of a .npy file, mapped, as "images".

    Arguments:
        path: The file.
        names: Which are wanted, if they are there; for others the value is None. All by default.
        what: What an error calls the file, before its path.

    Raises:
        ValueError: If the file is damaged, no numpy file or no regular one, or holds Python objects.
    """
    name = f"{what} {path}".strip()
    require_regular(path, what or "data")
    try:
        with open(path, "rb") as file:
            packed = file.read(4) == b"PK\x03\x04"
        if not packed:
            # Mapped, so that a file larger than memory can be fitted; copied on write, as tensors are writable.
            return {"images": np.load(path, mmap_mode="c", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as loaded:
            check_unpacked(path, loaded.zip.infolist())
            found = dict.fromkeys(loaded)
            for key in loaded if names is None else [key for key in names if key in loaded]:
                found[key] = _member(loaded.zip, key)
        return found
    except Exception as error:
        # (numpy and zipfile raise a dozen kinds.)
        reason = f"damaged or not a numpy file: {error}"
        if isinstance(error, ValueError) and re.search("pickle|Python object", str(error)):
            reason = "damaged or holds Python objects, which are never loaded; save plain arrays"
        raise ValueError(f"{name} is {reason}") from error


def check_unpacked(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuses an archive that unpacks to more than anyone would store in it.

    Raises:
        ValueError: If it does.
    """
    size = sum(member.file_size for member in members)
    packed = size > LARGEST_UNCHECKED and size > MOST_PACKED * path.stat().st_size
    require(not packed, str(path), f"packed to 1/{MOST_PACKED} of its size at most", f"{size:,} bytes in it")


def _member(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """One array, after a look at whether its header fits its size."""
    info = archive.getinfo(f"{key}.npy" if f"{key}.npy" in archive.NameToInfo else key)
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        require(version in readers, key, "an array of format 1.0 or 2.0", version)
        shape, _, dtype = readers[version](file)
        if dtype.hasobject:
            raise ValueError("Python objects")
        held = info.file_size - file.tell()
        needed = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
        require(needed == held, key, f"an array of {needed:,} bytes, as its header says", f"{held:,}")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
