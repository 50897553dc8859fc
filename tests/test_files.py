"""Outputs are whole or absent, and what stood there before a failure still stands."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from otprior.utils import files
from otprior.utils.files import (
    WRITTEN,
    check_output_dir,
    folder_sha256,
    mark_work,
    output_dir,
    output_file,
    sha256,
    write_json,
)


class Crash(Exception):
    pass


def tree(folder: Path) -> dict[str, str]:
    """The files of a folder, less the lists of what was written."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != WRITTEN)
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An earlier result."""
    with output_dir(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("old")
    return tmp_path / "out"


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with output_dir(target) as folder:
        (folder / "b.txt").write_text("new")
        (folder / "sub").mkdir()
        (folder / "sub" / "c.txt").write_text("newer")
        assert not target.exists()
    assert tree(tmp_path) == {"deep/out/b.txt": "new", "deep/out/sub/c.txt": "newer"}
    plain = tmp_path / "plain"
    plain.mkdir()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_overwriting_replaces_everything(old: Path) -> None:
    with output_dir(old, overwrite=True) as folder:
        (folder / "b.txt").write_text("new")
        assert tree(old) == {"a.txt": "old"}
    assert tree(old.parent) == {"out/b.txt": "new"}


@pytest.mark.parametrize(
    "error", [Crash(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failure_in_the_block_keeps_the_old_folder(old: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), output_dir(old, overwrite=True) as folder:  # noqa: PT012
        (folder / "b.txt").write_text("half")
        raise error
    assert tree(old.parent) == {"out/a.txt": "old"}
    with pytest.raises(type(error)), output_dir(old.parent / "deep" / "new") as folder:
        raise error
    assert [path.name for path in old.parent.iterdir()] == ["out"]


def test_a_failure_of_the_move_itself_puts_the_old_folder_back(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"), output_dir(old, overwrite=True) as folder:
        (folder / "b.txt").write_text("new")
    assert tree(old.parent) == {"out/a.txt": "old"}
    assert [path.name for path in old.parent.iterdir()] == ["out"]


def test_a_folder_that_is_not_empty_is_refused_before_the_work(old: Path) -> None:
    with pytest.raises(FileExistsError, match=r"output folder .*out is not empty; pass --overwrite"):
        check_output_dir(old)
    with pytest.raises(FileExistsError), output_dir(old):
        pytest.fail("the block must not run")
    assert check_output_dir(old, overwrite=True) == old
    assert check_output_dir(old.parent / "none") == old.parent / "none"
    (old.parent / "empty").mkdir()
    check_output_dir(old.parent / "empty")
    with output_dir(old.parent / "empty") as folder:
        (folder / "x").write_text("1")
    assert tree(old.parent / "empty") == {"x": "1"}


@pytest.mark.parametrize("strange", ["mine.txt", "deep/er/mine.txt", "link", ".hidden"])
def test_what_is_not_in_the_list_of_what_was_written_stays(old: Path, strange: str) -> None:
    (old / ".DS_Store").write_text("a view")  # a system's own, which says nothing
    assert check_output_dir(old, overwrite=True) == old
    (old / strange).parent.mkdir(parents=True, exist_ok=True)
    if strange == "link":
        (old / strange).symlink_to(old.parent)
    else:
        (old / strange).write_text("mine")
    before = tree(old)
    with pytest.raises(FileExistsError, match=f"holds {strange}, which no earlier run wrote"):
        check_output_dir(old, overwrite=True)
    with pytest.raises(FileExistsError), output_dir(old, overwrite=True):
        pytest.fail("the block must not run")
    assert tree(old) == before


@pytest.mark.parametrize("damage", [None, "", "[]", "3", '{"files": 3}', "[" * 100_000])
def test_a_folder_without_a_list_of_what_was_written_stays(old: Path, damage: str | None) -> None:
    (old / WRITTEN).unlink()
    if damage is not None:
        (old / WRITTEN).write_text(damage)
    with pytest.raises(FileExistsError, match=r"holds a\.txt, which no earlier run wrote"):
        check_output_dir(old, overwrite=True)


def test_an_output_is_written_by_one_process_at_a_time(old: Path) -> None:
    program = (
        "import sys\nfrom otprior.utils.files import output_dir\nwith output_dir(sys.argv[1], True): pass"
    )
    with output_dir(old, overwrite=True) as folder:
        (folder / "b.txt").write_text("new")
        other = subprocess.run([sys.executable, "-c", program, str(old)], capture_output=True, check=False)
        assert f"is being written by process {os.getpid()}".encode() in other.stderr
        assert tree(old) == {"a.txt": "old"}
    assert tree(old.parent) == {"out/b.txt": "new"}
    assert sorted(os.listdir(old.parent)) == ["out"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_replacing_a_folder_leaves_nothing_else(
    old: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    (old.parent / "link").symlink_to(old)
    with output_dir(old.parent / "link", overwrite=True) as folder:
        (folder / "b.txt").write_text("new")
    assert (old.parent / "link").is_symlink()
    assert sorted(os.listdir(old.parent)) == ["link", "out"]
    assert sorted(os.listdir(old)) == [WRITTEN, "b.txt"]


def test_what_overlaps_an_input_is_refused(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (old.parent / "link").symlink_to(old)
    for out, given in (
        (old, old),
        (old, old / "a.txt"),
        (old.parent / "link", old),
        (old, old.parent / "link"),
        (old / "sub", old),
    ):
        with pytest.raises(FileExistsError, match=r"overlap; name another folder"):
            check_output_dir(out, True, ("bundled", None, given))
    # A file does not stand for the folder that it is in.
    check_output_dir(old / "sub", True, (old / "a.txt",))
    (old / "below").mkdir()
    monkeypatch.chdir(old / "below")
    with pytest.raises(FileExistsError, match="name a folder below it"):
        check_output_dir(old, overwrite=True)


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"^nothing can be written to .*: Permission denied$"):
        check_output_dir(tmp_path / "deep" / "out")
    assert os.listdir(tmp_path) == []


def test_a_killed_run_is_cleared_away(old: Path) -> None:
    program = (
        "import os, sys\n"
        "from otprior.utils import files\n"
        "files._exchange = lambda one, other: False\n"
        "files.Path.rename, rename = (\n"
        "    lambda self, to: (rename(self, to), os._exit(9) if sys.argv[2] == 'moved' else None)[0],\n"
        "    files.Path.rename,\n"
        ")\n"
        "with files.output_dir(sys.argv[1], overwrite=True) as folder:\n"
        "    if sys.argv[2] == 'nested':\n"
        "        with files.output_dir(folder):\n"
        "            os._exit(9)\n"
        "    (folder / 'b.txt').write_text('new')\n"
        "    if sys.argv[2] == 'work':\n"
        "        os._exit(9)\n"
    )
    for when, left in (("work", 2), ("moved", 2), ("nested", 3)):
        ended = subprocess.run([sys.executable, "-c", program, str(old), when], check=False)
        assert ended.returncode == 9
        assert len(os.listdir(old.parent)) == left
        with pytest.raises(Crash), output_dir(old, overwrite=True):  # noqa: PT012
            # What was moved away is back, and what was half written is gone.
            assert tree(old) == {"a.txt": "old"}
            assert len(os.listdir(old.parent)) == 2
            raise Crash
        assert os.listdir(old.parent) == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_never_replaced(old: Path, overwrite: bool) -> None:
    with pytest.raises(FileExistsError, match="is a file; name another folder"):
        check_output_dir(old / "a.txt", overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_pipe_or_device_in_the_way_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    # (As root it would be exchanged for the folder: so /dev/null was lost.)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(FileExistsError, match="pipe"), output_dir(path, overwrite):
        raise AssertionError
    with pytest.raises(ValueError, match="pipe"), output_file(path):
        raise AssertionError
    assert path.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "x.bin"
    with output_file(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    with pytest.raises(Crash), output_file(target) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise Crash
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["x.bin"]


def test_a_file_that_a_killed_run_began_is_cleared_away(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from otprior.utils.files import check_output_dir, output_file\n"
        "os.unlink = os.remove = lambda *_, **__: os._exit(8)\n"
        "check_output_dir(sys.argv[1] + '/out')\n"
        "with output_file(sys.argv[1] + '/x.bin') as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os._exit(9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert ended.returncode == 9, "a file with a name was made to see whether the folder can be written"
    assert len(os.listdir(tmp_path)) == 1
    (tmp_path / ".mine.99999999.tmp").touch()
    with output_file(tmp_path / "another.bin") as temporary:
        temporary.write_bytes(b"whole")
    assert sorted(os.listdir(tmp_path)) == [".mine.99999999.tmp", "another.bin"]


def test_json_is_whole_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"α": 1.5, "rows": [None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"α": 1.5, "rows": [None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["α"] == 1.5
    assert os.listdir(tmp_path) == ["x.json"]


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"otprior" * 100_000)
    assert sha256(path) == hashlib.sha256(b"otprior" * 100_000).hexdigest()


def test_a_folder_that_nothing_can_be_moved_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="name a folder below it"):
        check_output_dir(".")
    with pytest.raises(FileExistsError, match="name a folder below it"):
        check_output_dir("/", overwrite=True)


def test_what_was_put_there_meanwhile_is_kept(tmp_path: Path) -> None:
    def slow_work() -> None:
        with output_dir(tmp_path / "out") as folder:
            (folder / "mine").write_text("mine")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "another's").write_text("another's")

    with pytest.raises(FileExistsError, match="is not empty"):
        slow_work()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["another's"]


def test_a_folder_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "unet").mkdir(parents=True)
        (tmp_path / folder / "unet" / "weights").write_bytes(b"1")
        (tmp_path / folder / "README.md").write_text(folder)
    first = folder_sha256(tmp_path / "one", "unet/*")
    assert folder_sha256(tmp_path / "two", "unet/*", "un*/*") == first  # wherever it lies, each file once
    assert folder_sha256(tmp_path / "two", "*", "unet/*") != first
    (tmp_path / "two" / "unet" / "weights").rename(tmp_path / "two" / "unet" / "others")
    assert folder_sha256(tmp_path / "two", "unet/*") != first


def test_only_the_same_job_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "job.work" / "settings.json"
    mark_work(path, {"steps": 5, "images": [1, 2]}, "of these settings")
    mark_work(path, {"steps": 5, "images": [1, 2]}, "of these settings")
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"job\.work must be empty, or of these settings; got another's\. Name"
    ):
        mark_work(path, {"steps": 6, "images": [1, 2]}, "of these settings")
    assert path.read_bytes() == before


def test_a_damaged_mark_is_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json is not valid JSON"):
        mark_work(path, {}, "of these settings")
