"""Outputs that are whole or absent: written under a temporary name in the target's folder, then moved.

A crash, a full disk or Ctrl-C leaves what stood there before as it was. Only earlier results are ever replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
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

# A folder with one of these files, which holds such a key, is an earlier result: reports, settings, searches, priors
# and feature extractors.
_RESULTS = ("report.json", "settings.json", "trials.json", "config.json")
_RESULT_KEYS = {"format_version", "trials"}


def check_output_dir(
    path: str | Path, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
) -> Path:
    """Refuses an output folder that must not or cannot be written, before any long work starts.

    Arguments:
        path: The folder to write.
        overwrite: Whether an earlier result may be replaced.
        inputs: Files and folders that the work reads; names at which there is nothing are passed over.

    Raises:
        FileExistsError: If `path` is a file; a mount point; an input or the current folder, or around one, or within an
            input; or a folder with content, unless that is an earlier result and `overwrite` is true.
        OSError: If nothing can be written there.
    """
    path = Path(path)
    real = path.resolve()
    _check_target(path, overwrite)
    for each in inputs:
        if each is None or not Path(each).exists():
            continue
        source = Path(each).resolve()
        if source.is_relative_to(real) or (real.is_relative_to(source) and source.is_dir()):
            raise FileExistsError(f"output folder {path} and input {each} overlap; name another folder")
    if path.is_dir() and any(path.iterdir()) and not _is_result(path):
        raise FileExistsError(
            f"output folder {path} holds what no earlier run wrote, and is not replaced; name another folder"
        )
    _probe(real)
    return path


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_file():
        raise FileExistsError(f"output folder {path} is a file; name another folder")
    if path.is_mount() or Path.cwd().is_relative_to(path.resolve()):
        raise FileExistsError(
            f"output folder {path} cannot be moved into place; name a folder below it, such as {path / 'out'}"
        )
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(f"output folder {path} is not empty; pass --overwrite or name another")


def _is_result(folder: Path) -> bool:
    for name in _RESULTS:
        with contextlib.suppress(OSError, ValueError):
            content = read_json(folder / name)
            if isinstance(content, dict) and not _RESULT_KEYS.isdisjoint(content):
                return True
    return False


def _probe(path: Path) -> None:
    """Writes a file into the nearest folder above `path` that exists, and removes it again."""
    parent = next(each for each in path.parents if each.exists())
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=parent) as file:
            file.write(b"otprior")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise type(error)(f"nothing can be written to {parent}: {error.strerror}") from error


@contextlib.contextmanager
def output_dir(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder near `path` that takes its place when the block ends well.

    What a killed run left there is recovered or removed first.
    """
    path = Path(path)
    _check_target(path, overwrite)
    path = path.resolve()  # a link stays, and what it leads to is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_litter(path)
    prefix = f".{path.name}.{platform.node()}-{os.getpid()}."
    temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".new", dir=path.parent))
    try:
        # mkdtemp makes a private folder; the result gets what a plain mkdir would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        yield temporary
        # (It may have been filled meanwhile.)
        _check_target(path, overwrite)
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
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one call, so that a kill leaves either; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    current, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(current, os.fsencode(one), current, os.fsencode(other), exchange) == 0


def _clear_litter(path: Path) -> None:
    """Removes what killed runs of this machine left near `path`, and puts back what one had moved away."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{re.escape(platform.node())}-(\d+)\..*\.(new|old)")
    for each in path.parent.iterdir():
        match = pattern.fullmatch(each.name)
        if match is None or _runs(int(match[1])):
            continue
        if match[2] == "old" and not path.exists():
            each.rename(path)
        else:
            shutil.rmtree(each, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def output_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` that replaces it atomically when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: str | Path) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: If it is not valid JSON; the message names the file.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {path.name} is not valid JSON: {error}") from error


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; refuses NaN, which is not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with output_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
