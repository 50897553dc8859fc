"""Where images come from, a module each: files, folders, and what Python hands over. `find_source` chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from otprior.data.pictures import SUFFIXES
from otprior.data.sources.source import Source
from otprior.utils.files import require_regular
from otprior.utils.validation import invalid, require

FILES = "a folder of images, or a .npz, .npy, .safetensors, .zip, .tar or .parquet file"


def find_source(data: Any) -> Source:
    """The source of what is at a path, or of an object.

    Raises:
        FileNotFoundError: If there is nothing at the path.
        ValueError: If it is of an unknown kind, damaged, or several parts of a data set.
    """
    if isinstance(data, str | Path):
        return _source_of_path(Path(data))
    if isinstance(data, Source):
        return data
    if isinstance(data, np.ndarray | Tensor):
        from otprior.data.sources.arrays import ArraySource

        return ArraySource(data, strict=False)
    if isinstance(data, Mapping):
        rule = "one part of a data set, such as data['train']"
        raise invalid("data", rule, f"{type(data).__name__} with {', '.join(map(str, list(data)[:5]))}")
    from otprior.data.sources.objects import HubDatasetSource, IterableSource

    if hasattr(data, "features") and hasattr(data, "cast_column"):
        return HubDatasetSource(data)
    # (Asked of its class: objects of diffusers look up whatever they are asked for.)
    kind = type(data)
    iterable = hasattr(kind, "__iter__") or (hasattr(kind, "__getitem__") and hasattr(kind, "__len__"))
    rule = "an array or tensor, a path, a data set, or something that yields images"
    require(iterable, "data", rule, type(data).__name__)
    return IterableSource(data)


def _source_of_path(path: Path) -> Source:
    from otprior.data.sources import arrays, parquet, sampled, shards, tree

    if not path.exists():
        raise FileNotFoundError(f"data {path}: there is no such file or folder")
    if path.is_dir():
        if (path / sampled.STARTS_FILE).is_file():
            return sampled.SampledSource(path)
        return _source_of_folder(path)
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy", ".safetensors"):
        return arrays.open_arrays(path)
    if suffix == ".zip":
        return tree.TreeSource(tree.ZipTree(path))
    if suffix == ".parquet":
        return parquet.ParquetSource([path], path)
    if suffix in (".tar", ".tgz") or path.name.lower().endswith((".tar.gz", ".tar.xz", ".tar.bz2")):
        return shards.ShardSource([path], path)
    require_regular(path, "data")
    raise invalid("data", FILES, path)


def _source_of_folder(path: Path) -> Source:
    """Of its pictures; where there are none, of its parquet or tar files, or of what `datasets` saved there."""
    from otprior.data.sources import parquet, shards, tree
    from otprior.data.sources.objects import HubDatasetSource

    files = sorted(each for each in path.rglob("*") if not each.name.startswith("."))
    suffixes = {each.suffix.lower() for each in files}
    if not suffixes & SUFFIXES:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            try:
                from datasets import load_from_disk
            except ImportError as error:
                hint = 'pip install "otprior[data]" brings it'
                raise invalid(
                    f"data {path}", "read with datasets", "an installation without it", hint
                ) from error
            saved = load_from_disk(str(path))
            return find_source(saved) if isinstance(saved, Mapping) else HubDatasetSource(saved)
        for suffix, kind in ((".parquet", parquet.ParquetSource), (".tar", shards.ShardSource)):
            found = [each for each in files if each.suffix.lower() == suffix]
            if found:
                return kind(found, path)
    return tree.TreeSource(tree.FolderTree(path))
