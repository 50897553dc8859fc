"""Processes that sample: how they end, what they compile, where their networks run."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from otprior.data import bundled
from otprior.experiments.comparison import Comparison
from otprior.experiments.inputs import Inputs
from otprior.experiments.processes import compiles_networks, kept_processes, run_in_processes
from otprior.experiments.sampling import Block, Models, load_pipeline, sample_block
from otprior.sampling.start_spec import StartSpec

WHITE = StartSpec("none", 999, 2, spacing="trailing")


def test_a_machine_that_cannot_compile_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*args: Any) -> NoReturn:
        raise RuntimeError("no C++ compiler\nmore")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with (
        pytest.raises(ValueError, match=r"--compile must be .*C\+\+ compiler; got no C\+\+ compiler"),
        kept_processes(1, compiled=True),
    ):
        pass
    assert not compiles_networks()


def fail() -> None:
    raise ValueError("that one")


def write_late(path: Path) -> None:
    time.sleep(2)
    path.touch()


def end_at_once() -> None:
    os._exit(9)


def test_an_error_is_raised_when_no_task_runs_any_more_and_drops_those_that_wait(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    tasks: list[Any] = [(write_late, (paths[0],)), (fail, ()), *((write_late, (path,)) for path in paths[1:])]
    with pytest.raises(ValueError, match="that one"):
        run_in_processes(tasks, 2, 1, lambda _: None)
    there = sorted(tmp_path.iterdir())
    # (A pool holds a few tasks more than it has processes.)
    assert 1 <= len(there) < 10
    time.sleep(2.5)
    assert sorted(tmp_path.iterdir()) == there


def test_a_process_that_is_ended_from_outside_is_told_in_plain_words() -> None:
    with pytest.raises(ChildProcessError, match="use fewer workers"):
        run_in_processes([(end_at_once, ())], 1, 1, lambda _: None)


def hears_interrupts() -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_terminals_interrupt_reaches_no_worker_not_even_while_it_imports() -> None:
    heard: list[bool] = []
    run_in_processes([(hears_interrupts, ())], 1, 1, heard.append)
    assert heard == [False]
    assert hears_interrupts()


def test_networks_run_on_the_device_that_is_named(tmp_path: Path) -> None:
    comparison = Comparison("device", (WHITE,), 12, device="meta")
    models = Inputs.of(comparison).models(tmp_path, device=comparison.device)
    assert load_pipeline(models).device.type == "meta"
    assert load_pipeline(replace(models, device="cpu")).device.type == "cpu"


def compiled_graphs() -> int:
    """How many this process has compiled."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_compiled_networks_draw_the_same_images(tmp_path: Path) -> None:
    """Whole batches are compiled, the short last one is not; both are what they are otherwise, up to rounding."""
    models = Models(bundled.pipeline_path(), tmp_path, bundled.null_class_label())

    def draw(compiled: bool) -> np.ndarray:
        block = Block(WHITE, 0, 130, tmp_path / f"{compiled}.npz")
        with kept_processes(1, compiled=compiled):
            assert compiles_networks() is compiled
            run_in_processes([(sample_block, (models, block))], 1, 1, lambda block: None)
            graphs: list[int] = []
            run_in_processes([(compiled_graphs, ())], 1, 1, graphs.append)
            assert (graphs[0] > 0) is compiled
        pixels: np.ndarray = np.load(block.path)["pixels"]
        return pixels.astype(int)

    off = np.abs(draw(True) - draw(False))
    # A value on the edge between two of 256 may go either way.
    assert off.max() <= 1
    assert (off > 0).mean() < 0.001
    assert not off[125:].any()
