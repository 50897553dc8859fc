"""Outputs of the commands: nothing but an earlier result is ever replaced, and what is said about it is true."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import assert_refused, run, tree, write_images, write_model

from otprior.utils import files

COMMANDS = ("fit", "sample", "evaluate", "encode", "audit", "tune")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model, images, and the folder of an earlier result that holds images."""
    home = tmp_path / "home"
    (home / "data" / "more").mkdir(parents=True)
    write_model(home / "data" / "model")
    write_images(home / "data" / "images.npz")
    (home / "data" / "report.json").write_text('{"format_version": 1}')
    monkeypatch.chdir(home)
    return home


def arguments(command: str, out: str) -> list[str]:
    model, images = "data/model", "data/images.npz"
    own = {
        "fit": [model, images, "--prior", "gaussian"],
        "sample": [model, "--prior", "none", "--seeds", "0-1", "--steps", "1"],
        "evaluate": [images, "--reference", images, "--atoms", images, "--held-out", images],
        "encode": [model, images, "--class-label", "0", "--steps", "2"],
        "audit": [model, images],
        "tune": [model, images, "--validation", images],
    }
    return [command, *own[command], "--out", out, "--overwrite"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", ["data", "data/model/unet", "link", ".", ".."])
def test_inputs_and_what_is_around_them_stay(home: Path, command: str, out: str) -> None:
    if out == "data/model/unet" and command == "evaluate":
        pytest.skip("reads no model")
    (home / "link").symlink_to(home / "data")
    before = tree(home.parent)
    result = run(*arguments(command, out))
    assert_refused(result, "output folder")
    assert tree(home.parent) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_what_no_run_wrote_stays(home: Path, command: str) -> None:
    (home / "photographs").mkdir()
    (home / "photographs" / "a.png").write_bytes(b"precious")
    before = tree(home)
    assert_refused(run(*arguments(command, "photographs")), "photographs", "no earlier run wrote")
    assert tree(home) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), 2, "nothing can be written to"),
        (OSError(errno.EROFS, "Read-only file system"), 1, "Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space is left on the disk"),
    ],
)
def test_a_target_that_takes_nothing_is_refused_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str, error: OSError, code: int, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", refuse)
    before = tree(home)
    assert_refused(run(*arguments(command, "new")), words, code=code)
    assert tree(home) == before


def test_an_earlier_result_is_replaced_also_through_a_link(home: Path) -> None:
    assert run(*arguments("sample", "samples")).exit_code == 0
    (home / "link").symlink_to("samples")
    result = run(*arguments("sample", "link"), "--format", "npz")
    assert result.exit_code == 0, result.output
    assert (home / "link").is_symlink()
    assert sorted(os.listdir("samples")) == ["images.npz", "report.json", "starts.npz"]
    assert sorted(os.listdir(home)) == ["data", "link", "samples"]


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command line in a process of its own."""
    words = os.environ | environment | {"OTPRIOR": f"{sys.executable} -m otprior"}
    return subprocess.run(line, shell=True, capture_output=True, check=False, env=words)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_result_that_cannot_be_shown_is_written(home: Path) -> None:
    done = shell(f"$OTPRIOR {' '.join(arguments('sample', 'samples'))} > /dev/full")
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]
    assert lines == ["error: the result is written, but cannot be shown: [Errno 28] No space left on device"]
    assert b"Traceback" not in done.stderr
    assert done.returncode == 1
    assert json.loads((home / "samples" / "report.json").read_text())["rows"]


def test_a_terminal_of_few_letters_is_enough(home: Path) -> None:
    done = shell("$OTPRIOR audit sdxl", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    done = shell("$OTPRIOR fit --help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


def test_an_error_of_ours_is_one_line_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'x'")

    monkeypatch.setattr("otprior.cli.sample.load_model", broken)
    result = run(*arguments("sample", "samples"))
    assert_refused(result, "unexpected AttributeError", "--debug", code=1)
    result = run(*arguments("sample", "samples"), "--debug")
    assert isinstance(result.exception, AttributeError)
