"""What other packages add to this one: the entry points of a group, by name.

Names are listed without importing anything that they stand for.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from otprior.utils.validation import invalid, require

PRIORS = "otprior.priors"
# Starts that a study compares with priors: made from a fitted prior, and not to be fitted by a user.
RIVALS = "otprior.rivals"


@cache
def plugins(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group, in alphabetical order; equal ones once."""
    found = {(entry.name, entry.value): entry for entry in entry_points(group=group)}
    return tuple(found[key] for key in sorted(found))


def find_plugin(group: str, name: str) -> EntryPoint | None:
    """The entry point of a name; None if there is none.

    Raises:
        ValueError: If several packages register different objects under it.
    """
    found = [entry for entry in plugins(group) if entry.name == name]
    values = " and ".join(entry.value for entry in found)
    require(len(found) < 2, f"{name!r} of {group}", "registered by one package", values)
    return found[0] if found else None


def load_plugin(entry: EntryPoint) -> Any:
    """The object that an entry point names.

    Raises:
        ValueError: If its package cannot be imported, whatever that raises, or has no such object.
    """
    try:
        return entry.load()
    except Exception as error:
        rule = f"{entry.value}, which can be imported"
        got = f"{type(error).__name__}: {error}"
        raise invalid(f"{entry.name!r} of {entry.group}", rule, got) from error
