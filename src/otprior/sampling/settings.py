"""Settings files: where to start, with which scheduler and grid, as chosen by a search on validation images.

    {"format_version": 1, "chosen_on": "validation", "command": "...", "rows": {"coupled_5": {...}, ...}}

Each entry of "rows" is a `StartSpec`. `otprior tune` writes such files; `otprior fit` and `otprior sample` take them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otprior.sampling.start_spec import StartSpec
from otprior.utils.files import read_json, write_json
from otprior.utils.validation import require

FORMAT_VERSION = 1


def write_settings(
    path: str | Path, starts: dict[str, StartSpec], chosen_on: str, command: str, **facts: Any
) -> None:
    """Writes a settings file; `facts` are kept in the file and never read back.

    Examples:
        >>> write_settings("settings.json", {"mine": StartSpec("gaussian", 500, steps=5)}, "validation", "by hand")
    """
    content = {
        "format_version": FORMAT_VERSION,
        "chosen_on": chosen_on,
        "command": command,
        "rows": {name: start.to_json() for name, start in starts.items()},
        **facts,
    }
    write_json(path, content)


def read_settings(path: str | Path) -> dict[str, StartSpec]:
    """The starts of a settings file, by name.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, of another format version, or holds no start.

    Examples:
        >>> write_settings("settings.json", {"mine": StartSpec("gaussian", 500, steps=5)}, "validation", "by hand")
        >>> read_settings("settings.json")["mine"].start_timestep
        500
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"settings {path}: there is no such file; `otprior tune` writes one")
    content = read_json(path)
    require(isinstance(content, dict), f"settings {path}", "a JSON object", type(content).__name__)
    version = content.get("format_version")
    require(version == FORMAT_VERSION, f"format_version of {path}", str(FORMAT_VERSION), version)
    rows = content.get("rows")
    require(
        isinstance(rows, dict) and bool(rows), f"rows of {path}", "an object with one start or more", rows
    )
    try:
        return {name: StartSpec.from_json(values) for name, values in rows.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"settings {path} do not describe starts: {error}") from error


def start_of_steps(starts: dict[str, StartSpec], steps: int | None) -> StartSpec:
    """The start of so many steps that is made from a prior; without `steps` the only one.

    Raises:
        ValueError: If there is none, or more than one.
    """
    priors = [start for start in starts.values() if start.prior != "none"]
    found = [start for start in priors if steps is None or start.steps == steps]
    known = ", ".join(str(start.steps) for start in priors)
    rule = "a number of steps for which the settings have one start" if steps is not None else "given"
    require(len(found) == 1, "steps", rule, steps, f"The settings are for {known}")
    return found[0]
