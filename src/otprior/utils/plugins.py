"""What other packages add to this one: the entry points of a group, by name.

Names are listed without importing anything that they stand for.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from otprior.utils.validation import require

PRIORS = "otprior.priors"


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
