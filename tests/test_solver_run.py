"""Checkpoints and several processes: the same result, however often it was stopped and however it was shared."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from generators.mixtures import mixture
from safetensors.torch import load_file, save_file

from otprior import solve_semidiscrete
from otprior.transport import run
from otprior.transport.cells.search import LaguerreCells
from otprior.transport.distributed import Processes
from otprior.transport.measure import DiscreteMeasure
from otprior.transport.solution import Progress
from otprior.transport.stopping import StoppingRule

ATOMS, DIM = 400, 130

# Solves the problem of this file, perhaps with a checkpoint, perhaps as one of several processes.
SOLVE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from generators.mixtures import mixture
from generators.windows import windows
from otprior.transport import Processes, run, solve_semidiscrete
torch.set_num_threads(1)
run.CHECKPOINT_SECONDS = 0.05
run.KEPT_FROM_SECONDS = 0.0
processes = Processes.join()
slow = (lambda progress: __import__("time").sleep(0.02)) if sys.argv[4] == "slow" else None
run.PROGRESS_SECONDS = 0.0 if slow else 0.5
options = {"tol": 0.03, "checkpoint": sys.argv[2] or None, "processes": processes, "progress": slow}
atoms = {"sgd": mixture(400, 130), "block newton": windows(400, 12)}[sys.argv[5]]
solution = solve_semidiscrete(atoms, **options)
assert solution.stats["method"] == sys.argv[5]
if processes.first:
    torch.save({"potential": solution.potential, "chi2": solution.chi2.value}, sys.argv[3])
processes.leave()
"""


def solve_in_process(
    tmp_path: Path, checkpoint: str, out: str, ranks: int = 1, method: str = "sgd"
) -> dict[str, object]:
    script = tmp_path / "solve.py"
    script.write_text(SOLVE)
    launcher = [sys.executable]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher += ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    command = [
        *launcher,
        str(script),
        str(Path(__file__).parent),
        checkpoint,
        str(tmp_path / out),
        "fast",
        method,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return torch.load(tmp_path / out, weights_only=True)


def reference() -> torch.Tensor:
    return solve_semidiscrete(mixture(ATOMS, DIM), tol=0.03).potential


def test_a_solve_that_was_interrupted_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by an exception at every few reports, a dozen times."""
    monkeypatch.setattr(run, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(run, "KEPT_FROM_SECONDS", 0.0)
    atoms, path = mixture(ATOMS, DIM), tmp_path / "state.safetensors"
    whole = solve_semidiscrete(atoms, tol=0.03)
    stops = 0
    while stops < 100:
        left = 4

        def stop(_: Progress) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        try:
            solution = solve_semidiscrete(atoms, tol=0.03, checkpoint=path, progress=stop)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 5
    assert torch.equal(solution.potential, whole.potential)
    assert solution.chi2 == whole.chi2
    assert solution.stats["draws"] == whole.stats["draws"]
    # A solved problem is not solved again.
    assert torch.equal(solve_semidiscrete(atoms, tol=0.03, checkpoint=path).potential, whole.potential)


def test_a_resumed_solve_heeds_a_smaller_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(run, "KEPT_FROM_SECONDS", 0.0)
    atoms, path, draws = mixture(ATOMS, DIM), tmp_path / "state.safetensors", 0

    def stop(progress: Progress) -> None:
        nonlocal draws
        draws = progress.draws
        if draws > 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_semidiscrete(atoms, tol=0.03, checkpoint=path, progress=stop)
    options = {"tol": 0.03, "checkpoint": path, "throw": False}
    solution = solve_semidiscrete(atoms, max_draws=draws, **options)
    # The rest of the budget goes to Newton's method, which is for so few atoms.
    assert solution.stats["draws"] <= draws


def test_a_checkpoint_below_a_file_is_refused_before_the_solve(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoint must be a file in a folder"):
        solve_semidiscrete(mixture(20, 2), checkpoint=tmp_path / "file" / "sub" / "state.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "block newton"])
def test_a_killed_process_goes_on_bit_for_bit(tmp_path: Path, method: str) -> None:
    expected = solve_in_process(tmp_path, "", "whole.pt", method=method)
    state = tmp_path / "state.safetensors"
    command = [
        sys.executable,
        str(tmp_path / "solve.py"),
        str(Path(__file__).parent),
        str(state),
        "never.pt",
        "slow",
        method,
    ]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    found = solve_in_process(tmp_path, str(state), "resumed.pt", method=method)
    assert torch.equal(found["potential"], expected["potential"])  # type: ignore[arg-type]
    assert found["chi2"] == expected["chi2"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sgd", "block newton"])
def test_two_processes_find_what_one_finds(tmp_path: Path, method: str) -> None:
    one = solve_in_process(tmp_path, "", "one.pt", method=method)
    two = solve_in_process(tmp_path, "", "two.pt", ranks=2, method=method)
    assert torch.equal(one["potential"], two["potential"])  # type: ignore[arg-type]
    assert one["chi2"] == two["chi2"]


def test_processes_share_every_piece_once() -> None:
    parts = [Processes(rank, 3).share(range(10)) for rank in range(3)]
    assert sorted(piece for part in parts for piece in part) == list(range(10))
    assert Processes().agree(1.5) == 1.5
    assert Processes(0, 1).first
    assert not Processes(1, 2).first


def test_rough_measurements_take_no_draws_of_the_rule() -> None:
    measure = DiscreteMeasure.build(mixture(50, 8))
    cells = LaguerreCells.build(measure, 3)
    one, other = StoppingRule(cells, 0.1), StoppingRule(cells, 0.1)
    h = torch.zeros(50, dtype=torch.float64)
    rough = one.rough_chi_squared(h)
    assert one.chi_squared(h) == other.chi_squared(h)
    assert rough != one.rough_chi_squared(h + torch.linspace(0, 1, 50))


# Bad checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture
def always_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "KEPT_FROM_SECONDS", 0.0)


def test_a_short_solve_leaves_nothing_behind(tmp_path: Path) -> None:
    solve_semidiscrete(mixture(50, 8), checkpoint=tmp_path / "state.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("always_kept")
def test_a_checkpoint_of_another_problem_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    solve_semidiscrete(mixture(50, 8), checkpoint=path)
    before = path.read_bytes()
    for arguments in ({"tol": 0.04}, {"generator": torch.Generator().manual_seed(1)}):
        with pytest.raises(ValueError, match="checkpoint must be of the same atoms, weights, seed and tol"):
            solve_semidiscrete(mixture(50, 8), checkpoint=path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="checkpoint must be of the same atoms"):
        solve_semidiscrete(mixture(51, 8), checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("always_kept")
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    solve_semidiscrete(mixture(50, 8), checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"checkpoint .*state\.safetensors is damaged"):
        solve_semidiscrete(mixture(50, 8), checkpoint=path)
    save_file({"iterate": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="must be a file that otprior wrote"):
        solve_semidiscrete(mixture(50, 8), checkpoint=path)
    path.write_bytes(whole)
    monkeypatch.setattr("otprior.transport.checkpoint.FORMAT_VERSION", 9)
    with pytest.raises(ValueError, match="of format version 9; got 2"):
        solve_semidiscrete(mixture(50, 8), checkpoint=path)
    assert set(load_file(path)) == {"iterate", "average", "gaps", "expected"}
