"""Pictures in a folder or a zip archive, in the order of their paths, with what says which class they are of.

Labels come from the first of these that is there:

- `dataset.json`: `{"labels": [["00000/img0.png", 6], …]}`, as StyleGAN and EDM have it;
- `metadata.jsonl` or `metadata.csv` with `file_name` and `label`, as the `datasets` library has it;
- the subfolders that pictures lie in, if there are two or more; names that are all whole numbers are labels themselves.

Names are looked at before anything is read: subfolders train and test are parts of a data set and no classes. Links
that lead out of the folder are not followed, hidden files are no data.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from otprior.data.pictures import OTHER_SUFFIXES, SUFFIXES
from otprior.data.sources.source import Item, Source
from otprior.utils.files import parse_json, require_regular, resolved
from otprior.utils.numpy_files import check_unpacked
from otprior.utils.validation import invalid, require

logger = logging.getLogger(__name__)

SPLITS = {
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
    "dev",
    "eval",
    "evaluation",
} | {"holdout", "held-out", "held_out"}
LABEL_FILES = ("dataset.json", "metadata.jsonl", "metadata.csv")
# What lies beside pictures without being meant as one.
SIDE_SUFFIXES = {
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".txt",
    ".md",
    ".rst",
    ".html",
    ".xml",
    ".yaml",
    ".yml",
    ".db",
    ".ini",
} | {".py", ".npz", ".npy", ".safetensors", ".tar", ".parquet", ".arrow", ".zip", ".gz", ".pdf"}
LARGEST_FILE = 1 << 28
LARGEST_LABEL = 1_000_000


class Tree(Protocol):
    """Named files."""

    path: Path

    def names(self) -> list[PurePosixPath]:
        """Names of all files that are not hidden."""

    def read(self, name: PurePosixPath) -> bytes | Path:
        """A file's content, or where it is."""


class FolderTree:
    """The files of a folder and those below it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[PurePosixPath]:
        root, found = resolved(self.path), []
        for place, folders, files in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                linked = Path(place, name).is_symlink()
                hint = "Name that folder itself, or copy the files"
                require(not linked, str(Path(place, name)), "a folder", "a link to one", hint)
            for name in files:
                if name.startswith("."):
                    continue
                path = Path(place, name)
                if path.suffix.lower() in SUFFIXES or name in LABEL_FILES:
                    _check_file(path, root)
                found.append(PurePosixPath(path.relative_to(self.path).as_posix()))
        return found

    def read(self, name: PurePosixPath) -> Path:
        return self.path / name


class ZipTree:
    """The files of a zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        require_regular(path, "data")
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged or not a zip archive: {error}") from error
        check_unpacked(path, self._archive.infolist())

    def names(self) -> list[PurePosixPath]:
        paths = (PurePosixPath(each.filename) for each in self._archive.infolist() if not each.is_dir())
        return [path for path in paths if not any(part.startswith((".", "__MACOSX")) for part in path.parts)]

    def read(self, name: PurePosixPath) -> bytes:
        where = f"{self.path}/{name}"
        try:
            info = self._archive.getinfo(str(name))
            require(not info.flag_bits & 1, where, "readable without a password", "an encrypted file")
            rule = f"of at most {LARGEST_FILE:,} bytes"
            require(info.file_size <= LARGEST_FILE, where, rule, f"{info.file_size:,}")
            return self._archive.read(info)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, NotImplementedError) as error:
            raise ValueError(f"{where} is damaged: {error}") from error


class TreeSource(Source):
    """Pictures of a tree of files, in the order of their paths."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.name, self.path = tree.path.stem, str(tree.path)
        names = tree.names()
        pictures = sorted((n for n in names if n.suffix.lower() in SUFFIXES), key=lambda n: n.parts)
        unread = sorted(str(n) for n in names if n.suffix.lower() in OTHER_SUFFIXES)
        hint = f"Convert them, or take them out: {', '.join(unread[:3])}"
        require(
            not unread,
            f"pictures of {tree.path}",
            "PNG, JPEG, WebP or the like",
            f"{len(unread)} others",
            hint,
        )
        require(len(pictures) > 0, "data", "a folder with image files", f"{tree.path}, which has none")
        self._report_others(names)
        self._pictures, self.count = pictures, len(pictures)
        self._labels, self.class_names = self._find_labels(names)

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        for row in range(len(self._pictures)) if rows is None else sorted(rows):
            name = self._pictures[row]
            label = None if self._labels is None else self._labels[row]
            yield Item(self._tree.read(name), label, f"{self._tree.path}/{name}")

    def _report_others(self, names: list[PurePosixPath]) -> None:
        known = SUFFIXES | SIDE_SUFFIXES
        others = Counter(n.suffix.lower() or "no suffix" for n in names if n.suffix.lower() not in known)
        if others:
            counts = ", ".join(f"{count:,} with {suffix}" for suffix, count in others.most_common(5))
            logger.warning(
                "%s: files that are no pictures by their names are left out: %s", self.path, counts
            )

    def _find_labels(self, names: list[PurePosixPath]) -> tuple[list[int] | None, tuple[str, ...] | None]:
        common = _common_folder(self._pictures)
        bases = [PurePosixPath("."), common]
        found = [(base, base / file) for base in bases for file in LABEL_FILES if base / file in set(names)]
        for base, file in found[:1]:
            labels = self._read_labels(file, base)
            if labels is not None:
                return numbered(labels, f"labels of {self._tree.path}/{file}")
        return labels_by_folder([name.relative_to(common) for name in self._pictures], self._tree.path)

    def _read_labels(self, file: PurePosixPath, base: PurePosixPath) -> list[Any] | None:
        """A label for each picture by a file that names them from `base` on; None if it knows of none."""
        where, content = f"{self._tree.path}/{file}", self._tree.read(file)
        if isinstance(content, Path):
            content = content.read_bytes()
        known = _parse_labels(content, file.suffix, where)
        if not known:
            return None
        labels = [known.get(str(name.relative_to(base))) for name in self._pictures]
        missing = [str(name) for name, label in zip(self._pictures, labels) if label is None]
        require(not missing, where, "a file with the label of every picture", f"none of {missing[:1]}")
        return labels


def labels_by_folder(
    names: Sequence[PurePosixPath], path: Path
) -> tuple[list[int] | None, tuple[str, ...] | None]:
    """Labels by top-level folder, and class names, if every picture lies in one and there are at least two.

    Raises:
        ValueError: If folders are parts of a data set rather than classes, or two stand for one label.
    """
    folders = sorted({name.parts[0] for name in names if len(name.parts) > 1})
    splits = [folder for folder in folders if folder.lower() in SPLITS]
    hint = f"Name the folder of one, such as {path / splits[0]}" if splits else ""
    require(len(splits) < 2, f"data {path}", "one part of a data set", f"{' and '.join(splits)}", hint)
    if len(folders) < 2 or any(len(name.parts) == 1 for name in names):
        return None, None
    if all(folder.isascii() and folder.isdigit() for folder in folders):
        values = {folder: int(folder) for folder in folders}
        twice = [folder for folder in folders if list(values.values()).count(values[folder]) > 1]
        require(not twice, f"folders of {path}", "one for each label", " and ".join(twice))
        if max(values.values()) < LARGEST_LABEL:
            return [values[name.parts[0]] for name in names], None
    index = {folder: label for label, folder in enumerate(folders)}
    return [index[name.parts[0]] for name in names], tuple(folders)


def numbered(labels: Sequence[Any], where: str) -> tuple[list[int], tuple[str, ...] | None]:
    """Labels as numbers, and class names where they were names, which stand for their place in the alphabet.

    Raises:
        ValueError: If they are neither all whole numbers nor all names.
    """
    if all(isinstance(label, str) and not label.isdigit() for label in labels):
        names = sorted(set(labels))
        index = {name: number for number, name in enumerate(names)}
        return [index[label] for label in labels], tuple(names)
    try:
        numbers = [int(label) for label in labels]
        whole = all(float(label) == number for label, number in zip(labels, numbers))
    except (TypeError, ValueError, OverflowError):
        whole = False
    require(whole, where, "whole numbers or names", f"such as {labels[0]!r}")
    return numbers, None


def _check_file(path: Path, root: Path) -> None:
    """Refuses what is no file, or not of the folder that was named."""
    if path.is_symlink():
        target = resolved(path)
        # (The Hugging Face cache keeps files beside its folders of links.)
        cached = "snapshots" in root.parts and target.parent.name == "blobs"
        inside = target.is_relative_to(root) or (cached and target.is_relative_to(_cache_of(root)))
        require(
            inside, str(path), "a file of its folder", f"a link to {target}", "Copy the files that it means"
        )
    require(path.exists(), f"picture {path}", "a file", "a link to nothing")
    require_regular(path, "picture")


def _cache_of(root: Path) -> Path:
    return Path(*root.parts[: root.parts.index("snapshots")])


def _common_folder(names: Sequence[PurePosixPath]) -> PurePosixPath:
    """The folder that all pictures lie in, however deep."""
    return PurePosixPath(os.path.commonpath([name.parent for name in names]) or ".")


def _parse_labels(content: bytes, suffix: str, where: str) -> dict[str, Any]:
    """Labels by file name; {} where there are none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is damaged: {error}") from error
    if suffix == ".json":
        value = parse_json(text, where)
        pairs = value.get("labels") if isinstance(value, dict) else None
        try:
            return {str(PurePosixPath(name)): label for name, label in pairs or ()}
        except (TypeError, ValueError):
            raise invalid(where, '{"labels": [[file name, label], …]}', "something else") from None
    if suffix == ".csv":
        rows: list[Any] = list(csv.DictReader(io.StringIO(text)))
    else:
        rows = [parse_json(line, where) for line in text.splitlines() if line.strip()]
    named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("file_name"), str)]
    require(len(named) == len(rows), where, "rows with a file_name", "one without")
    return {
        str(PurePosixPath(row["file_name"])): row["label"] for row in named if row.get("label") is not None
    }
