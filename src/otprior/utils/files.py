"""Outputs that are whole or absent: written under a temporary name beside the target, then moved.

A crash, a full disk or Ctrl-C leaves whatever stood there before as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otprior.utils.validation import require


def check_output_dir(path: str | Path, overwrite: bool = False) -> Path:
    """Refuses an output folder that exists and is not empty, before any long work starts.

    Raises:
        FileExistsError: If `path` is a file, a folder with content and `overwrite` is false, or one that nothing can
            be moved to: the current folder, or a mount point.
    """
    path = Path(path)
    if path.is_file():
        raise FileExistsError(f"output folder {path} is a file; name another folder")
    if path.is_mount() or path.resolve() == Path.cwd():
        raise FileExistsError(
            f"output folder {path} cannot be moved into place; name a folder below it, such as {path / 'out'}"
        )
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(f"output folder {path} is not empty; pass --overwrite or name another")
    return path


@contextlib.contextmanager
def output_dir(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside `path` that takes its place when the block ends well."""
    path = check_output_dir(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        # mkdtemp makes a private folder; the result gets what a plain mkdir would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        yield temporary
        # (It may have been filled meanwhile.)
        check_output_dir(path, overwrite)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            try:
                path.rename(old / path.name)
                temporary.rename(path)
            except BaseException:
                if not path.exists():
                    (old / path.name).rename(path)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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
