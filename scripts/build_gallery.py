"""Runs the gallery and keeps what the documentation shows: a picture under 60 kB and the printed lines of each script.

    python scripts/build_gallery.py              # all of them
    python scripts/build_gallery.py copying tune # some, by name

They are written to docs/images/gallery/. Each script may take a minute of one core.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs/images/gallery"
LARGEST = 60_000


def run(script: Path, picture: Path) -> str:
    """Runs a script on one core; returns what it printed."""
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", script, picture]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, check=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
    return done.stdout


def shrink(picture: bytes) -> bytes:
    """The picture with as many colours as fit into `LARGEST` bytes."""
    with Image.open(io.BytesIO(picture)) as image:
        image = image.convert("RGB")
    for colours in (256, 128, 64, 32, 16, 8):
        content = io.BytesIO()
        # (The usual method would turn thin lines grey in a picture of grey noise.)
        few = image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(content, "PNG", optimize=True)
        if len(content.getvalue()) < LARGEST:
            return content.getvalue()
    raise ValueError(f"a picture of {len(picture)} bytes does not fit into {LARGEST}")


def main() -> None:
    """Runs the scripts that the command line names."""
    paths = sorted((ROOT / "examples").glob("plot_*.py"))
    scripts = {path.stem.removeprefix("plot_"): path for path in paths}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or list(scripts)
    if unknown := sorted(set(names) - set(scripts)):
        parser.error(f"there is no example {', '.join(unknown)}")
    for name in names:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "picture.png"
            printed = run(scripts[name], picture)
            content = shrink(picture.read_bytes())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        (PICTURES / f"{name}.png").write_bytes(content)
        if printed:
            (PICTURES / f"{name}.txt").write_text(printed, encoding="utf-8")
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{name}: {spent:.0f} s of a core, {len(content):,} bytes", flush=True)


if __name__ == "__main__":
    main()
