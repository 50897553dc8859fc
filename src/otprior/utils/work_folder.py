"""Work folders: pieces of a long job, marked with all that they depend on, so that only that job goes on with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otprior.utils.files import read_json, write_json
from otprior.utils.validation import require


def mark_work(path: Path, mark: dict[str, Any], what: str) -> None:
    """Writes what the pieces beside `path` depend on; where that is written already, it has to be the same.

    Arguments:
        path: The JSON file to write in the work folder.
        mark: Settings, and SHA-256 of the files that they name; what JSON can hold, without tuples.
        what: In words for the message: "of these settings".

    Raises:
        ValueError: If the folder is marked with something else.
    """
    if not path.is_file():
        write_json(path, mark)
        return
    hint = "Name another folder, or delete this one"
    require(read_json(path) == mark, f"work folder {path.parent}", f"empty, or {what}", "another's", hint)
