"""A folder of photographs such as a newcomer has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_photographs(folder: Path, count: int = 12) -> Path:
    """Pictures of mixed sizes, upright only by their EXIF, some grey."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for k in range(count):
        small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        image = small.resize((40 + k, 30), Image.Resampling.BICUBIC)
        exif = image.getexif()
        exif[0x0112] = 1 + k % 8
        (image.convert("L") if k % 5 == 0 else image).save(folder / f"{k:02d}.jpg", exif=exif)
    return folder
