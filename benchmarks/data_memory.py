"""Peak memory of fitting priors to a zip archive of pictures, above that of the process before.

    python benchmarks/data_memory.py
    python benchmarks/data_memory.py --images 2000 --limit 500

Pictures of 64 x 64 in colour are made by a fixed seed (sums of a few waves, so that they differ and compress). Each
prior is fitted in a process of its own; memory is the largest resident set that the system counted.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

SIDE = 64
# The solve is broken off early: its memory does not grow with its length.
DRAWS = 5_000


def write_pictures(path: Path, count: int) -> None:
    """A zip archive of `count` PNG files."""
    from PIL import Image

    random, grid = np.random.default_rng(0), np.arange(SIDE) / SIDE
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(count):
            strength, down, across, phase = random.uniform((-1, 0, 0, 0), (1, 3, 3, 1), (3, 4, 4)).T[
                ..., None, None
            ]
            waves = strength * np.sin(2 * np.pi * (down * grid[:, None] + across * grid + phase))
            pixels = np.clip(128 + 60 * waves.sum(axis=0), 0, 255).astype(np.uint8).transpose(1, 2, 0)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
            archive.writestr(f"{k:06d}.png", file.getvalue())


def fit(path: Path, kind: str, limit: int | None) -> dict[str, float]:
    """Fits a prior here; seconds, and peak memory above the start in GiB."""
    from diffusers import DDPMScheduler

    from otprior.data import open_images
    from otprior.priors import GaussianPrior, SemiDiscretePrior

    before = resident()
    started = time.perf_counter()
    images = open_images(path)
    if limit is not None:
        images = images.sample(limit)
    if kind == "gaussian":
        GaussianPrior.fit(images, DDPMScheduler())
    else:
        SemiDiscretePrior.fit(images, DDPMScheduler(), max_draws=DRAWS, throw=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"gib": (peak - before) / 2**30, "seconds": time.perf_counter() - started}


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(path: Path, kind: str, limit: int | None) -> dict[str, float]:
    """`fit` in a fresh process."""
    command = [sys.executable, __file__, "--fit", kind, "--data", str(path)]
    command += [] if limit is None else ["--limit", str(limit)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--limit", type=int, help="images of the semidiscrete prior; 20,000 by default")
    parser.add_argument("--fit", choices=("gaussian", "semidiscrete"), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        print(json.dumps(fit(arguments.data, arguments.fit, arguments.limit)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pictures.zip")
        write_pictures(path, arguments.images)
        limit = min(arguments.limit or 20_000, arguments.images)
        for kind, count in (("gaussian", None), ("semidiscrete", limit)):
            found = measure(path, kind, count)
            size = (count or arguments.images) * 3 * SIDE**2 / 2**30
            print(
                f"{kind:12s} {count or arguments.images:6,} images: {found['gib']:.2f} GiB above the process, "
                f"{found['gib'] / size:.1f} times the 8-bit pixels, {found['seconds']:.0f} s"
            )


if __name__ == "__main__":
    main()
