"""Memory of fitting: a gaussian prior takes no more for more images; a semidiscrete one a few copies of its atoms."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "data_memory.py"))


@pytest.mark.slow
def test_memory_of_fitting(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    BENCHMARK["write_pictures"](path, 6_000)
    few, all_of_them = (BENCHMARK["measure"](path, "gaussian", limit)["gib"] for limit in (2_000, None))
    assert all_of_them < 1.0
    # 4,000 further pictures are 0.05 GiB as bytes, 0.2 GiB in single precision.
    assert all_of_them - few < 0.05
    # Three to four times the atoms in single precision (0.27 GiB), and half a gibibyte of libraries and blocks.
    assert BENCHMARK["measure"](path, "semidiscrete", 6_000)["gib"] < 1.5
