"""Pictures in parquet files: a column of encoded pictures, as the `datasets` library writes it, and perhaps labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from otprior.data.sources.source import IMAGE_KEYS, LABEL_KEYS, Item, Source
from otprior.data.sources.tree import SPLITS
from otprior.utils.files import parse_json, require_regular
from otprior.utils.validation import invalid, require

ROWS_AT_ONCE = 64


class ParquetSource(Source):
    """Pictures of parquet files, one after another.

    Arguments:
        paths: The files, in order.
        where: What was named.
    """

    def __init__(self, paths: Sequence[Path], where: Path) -> None:
        self._paths = list(paths)
        self.name, self.path = where.stem, str(where)
        parts = sorted({path.name.split("-")[0].lower() for path in paths} & SPLITS)
        require(
            len(parts) < 2, f"data {where}", "one part of a data set", " and ".join(parts), "Name its files"
        )
        files = [_opened(path) for path in self._paths]
        self.count = sum(file.metadata.num_rows for file in files)
        schema = files[0].schema_arrow
        self._image, self._label = _columns(schema, where)
        self.class_names = _class_names(schema, self._label, where)
        require(self.count > 0, f"data {where}", "parquet files with rows", "none")

    def items(self, rows: Collection[int] | None = None) -> Iterator[Item]:
        wanted, row = None if rows is None else frozenset(rows), -1
        columns = [self._image] if self._label is None else [self._image, self._label]
        for path in self._paths:
            try:
                batches = _opened(path).iter_batches(ROWS_AT_ONCE, columns=columns)
                for batch in batches:
                    images = batch.column(0)
                    labels = None if self._label is None else batch.column(1).to_pylist()
                    for k in range(len(batch)):
                        row += 1
                        if wanted is not None and row not in wanted:
                            continue
                        where = f"{path}, row {row}"
                        label = None if labels is None else labels[k]
                        yield Item(_encoded(images[k].as_py(), where), label, where)
            except (OSError, KeyError) as error:  # (pyarrow's errors are of these.)
                raise ValueError(f"{path} is damaged or not like the first file: {error}") from error


def _opened(path: Path) -> Any:
    require_regular(path, "data")
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        hint = f'pip install "otprior[data]" brings it: {error}'
        raise invalid(f"data {path}", "read with pyarrow", "an installation without it", hint) from error
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged or not a parquet file: {error}") from error


def _columns(schema: Any, where: Path) -> tuple[str, str | None]:
    """The columns of pictures and of labels."""
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    images = [field.name for field in schema if holds_bytes(field.type)]
    named = [name for name in images if name in IMAGE_KEYS]
    rule = "parquet files with one column of pictures, named 'image'"
    require(len(named) == 1 or len(images) == 1, f"data {where}", rule, f"{schema.names}")
    labels = [name for name in LABEL_KEYS if name in schema.names]
    simple = [
        name
        for name in labels
        if types.is_integer(schema.field(name).type) or types.is_string(schema.field(name).type)
    ]
    return (named or images)[0], simple[0] if simple else None


def _class_names(schema: Any, label: str | None, where: Path) -> tuple[str, ...] | None:
    """Names of the labels, where the `datasets` library noted them."""
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None or label is None:
        return None
    value = parse_json(noted.decode(errors="replace"), str(where))
    try:
        return tuple(map(str, value["info"]["features"][label]["names"]))
    except (KeyError, TypeError):
        return None


def _encoded(cell: Any, where: str) -> bytes:
    content: Any = cell.get("bytes") if isinstance(cell, dict) else cell
    # (A path in a stranger's table could be that of any file.)
    require(isinstance(content, bytes), where, "a picture in the table itself", "a path or nothing")
    assert isinstance(content, bytes)
    return content
