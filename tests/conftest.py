"""One thread for every test: the suite is small matrices, which threads only slow down."""

import os

import pytest
import torch

# Read when triton is first imported, which diffusers does: without CUDA the tests interpret the kernel.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
