"""The gallery: each script runs as it stands, in a process of its own, and leaves its figure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("plot_*.py"))


# One of a few seconds; the others are for the slow tests.
QUICK = {"plot_transport_cells"}


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.slow) for path in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_example_runs_and_saves_a_figure(script: Path, tmp_path: Path) -> None:
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    picture = tmp_path / "figure.png"
    subprocess.run(
        [sys.executable, "-W", "ignore", script, picture], check=True, cwd=tmp_path, env=environment
    )
    with Image.open(picture) as image:
        assert min(image.size) > 200
