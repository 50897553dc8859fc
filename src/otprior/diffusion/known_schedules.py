"""Noise schedules of well-known models, as scheduler configs that come with the package.

Each file of `data/assets/schedulers/` holds a diffusers scheduler config in the form of a `scheduler_config.json`, its
origin and the shape of the samples. They come without a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otprior.utils.configs import check_config
from otprior.utils.files import read_json
from otprior.utils.validation import invalid, require

FOLDER = Path(__file__).parents[1] / "data" / "assets" / "schedulers"
CONFIG_FILE = "scheduler_config.json"


@dataclass(frozen=True)
class KnownSchedule:
    """A schedule with its origin.

    Attributes:
        name: Short name, as commands take it.
        title: Usual name.
        about: Source.
        space: Kind of sample: pixels or latents.
        shape: (C, H, W) of a sample.
        scheduler: An instance of a diffusers scheduler.
    """

    name: str
    title: str
    about: str
    space: str
    shape: tuple[int, int, int]
    scheduler: Any


def known_names() -> list[str]:
    """All short names, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def known_schedule(name: str) -> KnownSchedule:
    """Reads the schedule of that short name.

    Raises:
        ValueError: If there is none.
    """
    if name not in known_names():
        raise invalid("schedule", "one of " + ", ".join(known_names()), name)
    path = FOLDER / f"{name}.json"
    facts = read_json(path)
    channels, height, width = facts["sample_shape"]
    return KnownSchedule(
        name=facts["name"],
        title=facts["title"],
        about=facts["about"],
        space=facts["space"],
        shape=(channels, height, width),
        scheduler=_make(facts["scheduler"], path),
    )


def read_scheduler(path: Path) -> Any:
    """A scheduler from a `scheduler_config.json`, or from a folder that holds one.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it does not describe a scheduler of diffusers.
    """
    file = path / CONFIG_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{path}: there is no {CONFIG_FILE} in it")
    config = read_json(file)
    require(isinstance(config, dict), str(file), "a JSON object", type(config).__name__)
    return _make(config, file)


def _make(config: dict[str, Any], path: Path) -> Any:
    import diffusers

    name = config.get("_class_name")
    known = isinstance(name, str) and name.endswith("Scheduler") and hasattr(diffusers, name)
    require(known, f"_class_name of {path}", "a scheduler of diffusers", name)
    kind = getattr(diffusers, str(name))
    check_config(kind, config, str(path))
    try:
        return kind.from_config(config)
    except Exception as error:  # (diffusers and torch raise a dozen kinds)
        raise ValueError(f"{path} does not describe a {name}: {error}") from error
