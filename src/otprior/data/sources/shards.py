"""Pictures in tar files, as webdataset has them: files of one name but for the suffix are one sample.

The picture is the first file of a sample that is one by its suffix. Its label is the number or name in `.cls`, or under
`label` or `cls` in `.json`; other files, such as captions, are passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath

from otprior.data.pictures import SUFFIXES
from otprior.data.sources.source import LABEL_KEYS, Item, Source
from otprior.data.sources.tree import LARGEST_FILE
from otprior.utils.files import parse_json, require_regular
from otprior.utils.validation import require


class ShardSource(Source):
    """Pictures of tar files, one after another.

    Arguments:
        paths: The files, in order.
        where: What was named.
    """

    def __init__(self, paths: Sequence[Path], where: Path) -> None:
        self._paths = list(paths)
        self.name, self.path = where.stem, str(where)
        for path in self._paths:
            require_regular(path, "data")
        self.count = sum(1 for _ in self._samples(read=False))
        require(self.count > 0, f"data {where}", "tar files with image files in them", "none")

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        wanted = None if rows is None else frozenset(rows)
        for row, item in enumerate(self._samples(wanted)):
            if wanted is None or row in wanted:
                yield item

    def _samples(self, wanted: Collection[int] | None = None, read: bool = True) -> Iterator[Item]:
        row = 0
        for path in self._paths:
            try:
                with tarfile.open(path) as archive:
                    for key, members in groupby(_files(archive), key=_key):
                        parts = {_suffix(member): member for member in members}
                        suffix = next((suffix for suffix in parts if f".{suffix}" in SUFFIXES), None)
                        if suffix is None:
                            continue
                        needed = read and (wanted is None or row in wanted)
                        row += 1
                        where = f"{path}/{key}.{suffix}"
                        image = _read(archive, parts[suffix], where) if needed else b""
                        yield Item(image, _label(archive, parts, where) if needed else None, where)
            except (tarfile.TarError, EOFError, OSError) as error:
                raise ValueError(f"{path} is damaged or not a tar file: {error}") from error


def _files(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Regular files, in order; links, devices and hidden files are none."""
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # (It keeps all that it has seen.)
        if member.isreg() and not PurePosixPath(member.name).name.startswith("."):
            yield member


def _key(member: tarfile.TarInfo) -> str:
    path = PurePosixPath(member.name)
    return str(path.parent / path.name.split(".")[0])


def _suffix(member: tarfile.TarInfo) -> str:
    """What follows the first dot, as in webdataset; of "a.seg.png" the last part is not what it is."""
    return PurePosixPath(member.name).name.partition(".")[2].lower()


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    require(member.size <= LARGEST_FILE, where, f"of at most {LARGEST_FILE:,} bytes", f"{member.size:,}")
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _label(archive: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], where: str) -> int | str | None:
    if "cls" in parts:
        text = _read(archive, parts["cls"], where).decode(errors="replace").strip()
        return int(text) if text.isascii() and text.isdigit() else text
    if "json" not in parts:
        return None
    value = parse_json(_read(archive, parts["json"], where).decode(errors="replace"), where)
    known = [value[key] for key in LABEL_KEYS if isinstance(value, dict) and key in value]
    return known[0] if known and isinstance(known[0], int | str) else None
