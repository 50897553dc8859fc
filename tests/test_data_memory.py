"""Memory of fitting: a gaussian prior takes no more for more images; a semidiscrete one holds its atoms once."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "data_memory.py"))


@pytest.mark.slow
def test_memory_of_fitting(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    BENCHMARK["write_pictures"](path, 6_000)
    few, all_of_them = (BENCHMARK["measure"](path, "gaussian", limit)["gib"] for limit in (3_000, None))
    assert all_of_them < 1.0
    # 3,000 further pictures are 0.03 GiB as bytes, 0.14 GiB in single precision. (Of few its blocks are not yet full.)
    assert all_of_them - few < 0.05
    # The atoms in single precision once (0.14 GiB), and a quarter of a gibibyte of libraries and blocks.
    # (A first run measured up to 0.2 GiB more than a second, on the same pictures.)
    assert min(BENCHMARK["measure"](path, "semidiscrete", 3_000)["gib"] for _ in range(2)) < 0.4
