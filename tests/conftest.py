"""One thread for every test: the suite is small matrices, which threads only slow down."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
