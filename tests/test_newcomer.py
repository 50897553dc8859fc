"""From a wheel in an empty environment to images of a text-to-image pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_newcomer_fits_and_samples_a_pipeline_with_prompts() -> None:
    script = Path(__file__).with_name("newcomer.sh")
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
