"""Outputs that are whole or absent: written under a temporary name in the target's folder, then moved.

A crash, a full disk or Ctrl-C leaves what stood there before as it was. Only earlier results are ever replaced: a
folder whose every file is named in its list of what was written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from otprior.utils.validation import require

# In each output folder: the list of its other files. What it does not name is a user's own.
WRITTEN = ".otprior"
# What systems put into any folder that is looked at.
_NOBODYS = {WRITTEN, ".DS_Store", "Thumbs.db"}


def check_output_dir(
    path: str | Path, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
) -> Path:
    """Refuses an output folder that must not or cannot be written, before any long work starts.

    Arguments:
        path: The folder to write.
        overwrite: Whether an earlier result may be replaced.
        inputs: Files and folders that the work reads; names at which there is nothing are passed over.

    Raises:
        FileExistsError: If `path` is a file, a pipe or a device; a mount point; an input or the current folder, or
            around one, or within an input; or a folder with content, unless that is an earlier result, all of it, and
            `overwrite` is true.
        OSError: If nothing can be written there.
    """
    path = Path(path)
    real = resolved(path)
    _check_target(path, overwrite)
    for each in inputs:
        if each is None or not Path(each).exists():
            continue
        source = resolved(each)
        if source.is_relative_to(real) or (real.is_relative_to(source) and source.is_dir()):
            raise FileExistsError(f"output folder {path} and input {each} overlap; name another folder")
    _probe(real)
    return path


def resolved(path: str | Path) -> Path:
    """Where a path leads, through links.

    Raises:
        ValueError: If that is a circle.
    """
    # (Path.resolve raises RuntimeError, or nothing, by the version of Python.)
    real = Path(os.path.realpath(path))
    require(not real.is_symlink(), str(path), "a path", "a link that leads to itself")
    return real


def _check_target(path: Path, overwrite: bool) -> None:
    if path.exists() and not path.is_dir():
        kind = "file" if path.is_file() else "pipe or device"
        raise FileExistsError(f"output folder {path} is a {kind}; name another folder")
    if path.is_mount() or Path.cwd().is_relative_to(resolved(path)):
        raise FileExistsError(
            f"output folder {path} cannot be moved into place; name a folder below it, such as {path / 'out'}"
        )
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(f"output folder {path} is not empty; pass --overwrite or name another")
        own = _written(path)
        strange = next((name for name in _contents(path) if name not in own), None)
        if strange is not None:
            raise FileExistsError(
                f"output folder {path} holds {strange}, which no earlier run wrote, and is not replaced; "
                "name another folder, or move that file"
            )


def _contents(folder: Path) -> Iterator[str]:
    """The files and links in a folder, by their paths from it; none of the systems'."""
    for path in sorted(folder.rglob("*")):
        if path.name not in _NOBODYS and (path.is_symlink() or not path.is_dir()):
            yield path.relative_to(folder).as_posix()


def _written(folder: Path) -> frozenset[str]:
    """What the run that wrote a folder put into it; nothing, if none of ours did."""
    try:
        content = read_json(folder / WRITTEN)
        return frozenset(content["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return frozenset()


def _probe(path: Path) -> None:
    """Writes a file into the nearest folder above `path` that exists, and removes it again."""
    parent = next(each for each in path.parents if each.exists())
    try:
        # (It has no name where the system can do without: a kill leaves nothing.)
        with tempfile.TemporaryFile(prefix=f".{path.name}.", dir=parent) as file:
            file.write(b"otprior")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise type(error)(f"nothing can be written to {parent}: {error.strerror}") from error


@contextlib.contextmanager
def output_dir(
    path: str | Path, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
) -> Iterator[Path]:
    """Claims an output folder: yields an empty one near `path` that takes its place when the block ends well.

    Enter it before the work, which then is the only one on `path`. What a killed run left there is recovered or removed
    first; of a block that fails nothing is left.

    Arguments:
        path, overwrite, inputs: As for `check_output_dir`.

    Raises:
        FileExistsError: As `check_output_dir`; or if another process is writing `path`.
        OSError: If nothing can be written there.
    """
    path = Path(path)
    check_output_dir(path, overwrite, inputs)
    path = resolved(path)  # a link stays, and what it leads to is replaced
    with contextlib.ExitStack() as undo:
        for parent in [each for each in path.parents if not each.exists()][::-1]:
            parent.mkdir(exist_ok=True)
            undo.callback(_remove_empty, parent)
        _clear_litter(path)
        prefix = f".{path.name}.{platform.node()}-{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".new", dir=path.parent))
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        _check_claims(path, temporary)
        # mkdtemp makes a private folder; the result gets what a plain mkdir would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        yield temporary
        # (It may have been filled meanwhile.)
        _check_target(path, overwrite)
        write_json(temporary / WRITTEN, {"files": list(_contents(temporary))})
        for name in _contents(temporary):
            _flush(temporary / name)
        _put_in_place(temporary, path)
        undo.pop_all()


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _put_in_place(temporary: Path, path: Path) -> None:
    """Moves a folder to where another may stand, which is removed."""
    if not path.exists():
        temporary.rename(path)
    elif _exchange(temporary, path):
        shutil.rmtree(temporary)
    else:
        old = temporary.with_suffix(".old")
        path.rename(old)
        try:
            temporary.rename(path)
        except BaseException:
            if not path.exists():
                old.rename(path)
            raise
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one call, so that a kill leaves either; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    current, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(current, os.fsencode(one), current, os.fsencode(other), exchange) == 0


def _left_over(path: Path) -> Iterator[tuple[Path, int, str]]:
    """What runs of this machine have near `path`: the folder, the process, and whether it is "new" or "old"."""
    # (A prior that is saved into an output that is not in place yet has one of its own beside that, with a dot more.)
    run = rf"{re.escape(path.name)}\.{re.escape(platform.node())}-(\d+)"
    pattern = re.compile(rf"(\.+){run}\..*\.(new|old)")
    for each in sorted(path.parent.iterdir()):
        match = pattern.fullmatch(each.name)
        if match is not None:
            yield each, int(match[2]), match[3] if match[1] == "." else "new"


def _clear_litter(path: Path) -> None:
    """Removes what killed runs left near `path`, and puts back what one had moved away."""
    for each, process, kind in _left_over(path):
        if _runs(process):
            continue
        if kind == "old" and not path.exists():
            each.rename(path)
        else:
            shutil.rmtree(each, ignore_errors=True)


def _check_claims(path: Path, own: Path) -> None:
    # (Two that begin at one moment may both be refused; never do both go on.)
    for each, process, _ in _left_over(path):
        if each != own:
            raise FileExistsError(
                f"output folder {path} is being written by process {process}; wait for it, name another folder, or "
                f"delete {each} if there is no such run"
            )


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush(path: Path) -> None:
    """Has the disk keep a file's bytes, so that a loss of power leaves no file without them."""
    if path.is_symlink() or not path.is_file():
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def output_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` that replaces it atomically when the block ends well.

    Raises:
        ValueError: If `path` is a folder, a pipe or a device, such as /dev/null, which is not to be replaced.
    """
    path = Path(path)
    require_regular(path, "output")
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_temporaries(path.parent, os.getpid())
    temporary = path.parent / f".{path.name}.{platform.node()}-{os.getpid()}.otprior"
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@functools.cache
def _clear_temporaries(folder: Path, own: int) -> None:
    """Removes what `output_file` left in a folder when it was killed; once in each process, whose id is `own`."""
    pattern = re.compile(rf"\..+\.{re.escape(platform.node())}-(\d+)\.otprior")
    for each in folder.iterdir():
        match = pattern.fullmatch(each.name)
        if match is not None and int(match[1]) != own and not _runs(int(match[1])):
            each.unlink(missing_ok=True)


def require_regular(path: str | Path, what: str = "file") -> None:
    """Refuses a pipe, a device or a folder in place of a file: reading it might never end.

    Arguments:
        path: The file; if there is nothing, whoever opens it says so.
        what: What it is for, as the error calls it.
    """
    path = Path(path)
    kind = "a folder" if path.is_dir() else "a pipe or device"
    require(path.is_file() or not path.exists(), f"{what} {path}", "a regular file", kind)


def read_json(path: str | Path, *names: str) -> Any:
    """The value of a JSON file.

    Arguments:
        path: The file.
        names: What it must hold, if it must be an object.

    Raises:
        ValueError: If it is not valid JSON, no regular file, or lacks a name; the message names the file.
    """
    path = Path(path)
    require_regular(path)
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {path.name} is not valid JSON: {error}") from error
    value = parse_json(text, str(path))
    missing = [name for name in names if not isinstance(value, dict) or name not in value]
    require(not missing, str(path), f"a JSON object with {', '.join(map(repr, missing))}", "none")
    return value


def parse_json(text: str, where: str) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: If it is not valid, or nested deeper than Python reads; the message names `where`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged: {Path(where).name} is not valid JSON: {error}") from error


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; refuses NaN, which is not JSON.

    A file's name that is no UTF-8 keeps its bytes: Python's stand-ins for them are written as JSON's escapes.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with output_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sha256(path: str | Path) -> str:
    """The SHA-256 digest of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: str | Path, *patterns: str) -> str:
    """One digest of the names and contents of a folder's files that match a pattern, in hexadecimal."""
    folder = Path(folder)
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    lines = [f"{path.relative_to(folder).as_posix()} {sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def mark_work(path: Path, mark: dict[str, Any], what: str) -> None:
    """Marks a work folder with all that its pieces depend on, so that no other job goes on with them.

    Arguments:
        path: The JSON file to write in the work folder. If it exists, it has to hold the same mark.
        mark: Settings, and SHA-256 of the files that they name; what JSON can hold, without tuples.
        what: Which job may use the folder, for the message: "of these settings".

    Raises:
        ValueError: If the folder is marked for another job.
    """
    if not path.is_file():
        write_json(path, mark)
        return
    hint = "Name another folder, or delete this one"
    require(read_json(path) == mark, f"work folder {path.parent}", f"empty, or {what}", "another's", hint)
