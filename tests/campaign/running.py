"""Runs one command: in a fork of this warm process, or in a process of its own; and judges how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from campaign.confine import confine

Action = Callable[[], None]
Tree = dict[str, tuple[int, ...]]

TRAINING = "train"  # stands for a command where words are given
SECONDS, SECONDS_OF_A_PROCESS, GIB = 20.0, 30.0, 4.0
# The clock goes on while other programs have the core; what a command may take is processor time, and so many times
# that by the clock, which ends what waits for ever.
PATIENCE = 4.0
ADDRESSES = (
    12 << 30
)  # beyond what is mapped already: more ends in MemoryError instead of in this machine's end


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Exit code; minus the signal that ended it; None if it was stopped for being too slow.
        out, err: What it printed.
        cpu, wall: Seconds, of its children too.
        gib: Largest resident set.
    """

    code: int | None
    out: str
    err: str
    cpu: float
    wall: float
    gib: float

    def fault(self, seconds: float = SECONDS) -> str | None:
        """What is wrong with this end by itself: neither a right run nor one clear line, or too slow or large."""
        if self.code is None or self.cpu > seconds:
            return "slow"
        if self.gib > GIB:
            return "memory"
        if "Traceback (most recent call last)" in self.err + self.out:
            return "traceback"
        if self.code < 0:
            return f"signal {-self.code}"
        if re.search(r"error: unexpected \w+", self.err):
            return "unexpected"
        lines = [line for line in self.err.splitlines() if re.match(r"(error|Error): ", line)]
        if self.code == 0:
            return "error line, but exit code 0" if lines else None
        return None if len(lines) == 1 else f"{len(lines)} error lines"


def warm_up() -> None:
    """Imports what commands import, so that forks have it; studies are shortened."""
    for name in ("diffusers", "matplotlib.pyplot", "scipy.stats", "jinja2", "pydantic", "rich.progress"):
        import_module(name)
    import diffusers
    import torch

    from otprior.cli.commands import Commands

    torch.set_num_threads(1)
    for name in ("UNet2DModel", "DDPMScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"):
        getattr(diffusers, name)
    shorten()
    commands = Commands()
    for name in commands:
        commands[name]


class _Here(Executor):
    """Does at once, in this process, what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def shorten() -> None:
    """In forks, studies sample in their own process; those of the bundled network become one of a user's."""
    from otprior.cli.user_inputs import UserInputs
    from otprior.experiments import chosen, processes, study
    from otprior.experiments.run import run_comparison
    from otprior.sampling import StartSpec

    def short(*_: Any) -> Any:
        inputs = UserInputs("model", "data.npz", Path("extractor"), tol=1.0)
        return inputs.comparison("short", (StartSpec("semidiscrete", 500, 1),), 12, "ref.npz", "held.npz")

    processes._processes = lambda *_, **__: _Here()  # type: ignore[assignment,return-value]
    chosen.demo = short  # type: ignore[assignment]
    study.Study.run = lambda self, request: {"": run_comparison(short(), request.work, workers=0)}  # type: ignore[method-assign]


def train(folder: Path) -> None:
    """Trains a small network: no command of its own, and interrupted like one."""
    from diffusers import DDPMScheduler

    from otprior.data import load_images
    from otprior_studies.training import loop
    from otprior_studies.training.network import NetworkPlan

    loop.SAVED_EVERY_SECONDS = 0.0
    plan = NetworkPlan(steps=8, batch_size=4, channels=(8, 32), layers=1, checkpoints=(50, 100))
    try:
        loop.train_network(load_images("data.npz"), DDPMScheduler(), plan, folder)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def forked(
    words: list[str],
    folder: Path,
    *,
    before: Action | None = None,
    during: Callable[[int], None] | None = None,
    seconds: float = SECONDS,
    label: str = "",
) -> Outcome:
    """Runs `otprior WORDS` in `folder`, in a fork of this process.

    Arguments:
        words: The command line.
        folder: Where; what it prints goes to a folder beside it.
        before: Called in the fork first.
        during: Called here with the fork's id.
        seconds: How long it may take.
        label: Tells apart what is printed by two commands in one folder.
    """
    printed = _place(folder, label)
    started = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _be_the_command(words, folder, printed, before)
    if during is not None:
        during(child)
    code, usage = _wait(child, started, seconds * PATIENCE)
    return _outcome(code, usage, started, printed)


def _be_the_command(words: list[str], folder: Path, printed: Path, before: Action | None) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        confine(folder, printed)
        # (A campaign in the background was started without it.)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(printed / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESSES,) * 2)
        sys.stdin = open(os.devnull)  # noqa: SIM115 (it stays open)
        sys.argv = ["otprior", *words]
        os.environ["TMPDIR"] = tempfile.tempdir = str(printed)
        if before is not None:
            before()
        from otprior.cli import main

        try:
            train(Path("out")) if words[0] == TRAINING else main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)


def process(
    words: list[str],
    folder: Path,
    *,
    seconds: float = SECONDS_OF_A_PROCESS,
    launcher: list[str] | None = None,
    during: Callable[[int], None] | None = None,
) -> Outcome:
    """Runs `otprior WORDS` in `folder` as a user does, in a process of its own.

    Arguments:
        words, folder, seconds: As for `forked`.
        launcher: What Python runs instead of `-m otprior`.
        during: Called with its id as soon as it has started.
    """
    printed = _place(folder)
    started = time.monotonic()
    command = [sys.executable, *(launcher or ["-m", "otprior"]), *words]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(printed)}
    with open(printed / "out", "wb") as out, open(printed / "err", "wb") as err:
        running = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: confine(folder, printed),
        )
    if during is not None:
        during(running.pid)
    code, usage = _wait(running.pid, started, seconds * PATIENCE)
    running.returncode = 0 if code is None else code
    return _outcome(code, usage, started, printed)


def _place(folder: Path, label: str = "") -> Path:
    """A fresh folder for what a command prints: all that it may write to but its own folder, whatever it is told."""
    printed = folder.with_name(f"{folder.name}.printed{label}")
    shutil.rmtree(printed, ignore_errors=True)
    printed.mkdir()
    return printed


def _wait(child: int, started: float, patience: float) -> tuple[int | None, resource.struct_rusage]:
    pause = 0.002
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            with contextlib.suppress(OSError):
                os.killpg(child, signal.SIGKILL)  # whatever it left running
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() - started > patience:
            with contextlib.suppress(OSError):
                os.killpg(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            return None, usage
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)


def _outcome(code: int | None, usage: resource.struct_rusage, started: float, printed: Path) -> Outcome:
    texts = [
        (printed / name).read_text(errors="replace") if (printed / name).exists() else ""
        for name in ("out", "err")
    ]
    wall = time.monotonic() - started
    return Outcome(code, *texts, usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / (1 << 20))


def listing(folder: Path) -> Tree:
    """Every path below a folder with what changes when it is written: kind, inode, size, time."""
    found: Tree = {}
    for base, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(base, name)
            about = path.lstat()
            is_folder = path.is_dir() and not path.is_symlink()
            facts = () if is_folder else (about.st_ino, about.st_size, about.st_mtime_ns)
            found[path.relative_to(folder).as_posix()] = (about.st_mode, *facts)
    return found
