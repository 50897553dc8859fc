"""Finding the class of a prior: by its `kind`, which options and reports name, or by its class's name, as folders do.

Known are the classes that were imported, and those that a package registers as entry points of the group
`otprior.priors`, which are imported when they are asked for:

    [project.entry-points."otprior.priors"]
    mean = "my_package.mean:MeanPrior"

The group `otprior.rivals` holds starts that a study compares with priors; commands that fit do not offer them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otprior.utils.plugins import PRIORS, RIVALS, find_plugin, load_plugin, plugins
from otprior.utils.validation import invalid, require

if TYPE_CHECKING:
    from otprior.priors.base import Prior

# By module and name: a class that is defined again, as in a notebook, replaces its former self.
_imported: dict[tuple[str, str], type[Prior]] = {}


def register(prior_class: type[Prior], module: str) -> None:
    """Makes a class known under its `kind` and its name."""
    _imported[module, prior_class.__qualname__] = prior_class


def find_prior(kind: str) -> type[Prior]:
    """The class of the priors of a kind.

    Raises:
        ValueError: If there is none, or more than one, or if its package cannot be imported.

    Examples:
        >>> find_prior("mixture").__name__
        'MixturePrior'
    """
    registered = find_plugin(PRIORS, kind) or find_plugin(RIVALS, kind)
    if registered is not None:
        found: type[Prior] = load_plugin(registered)
        rule = f"the kind of the class that is registered under this name, {registered.value}"
        named = getattr(found, "kind", None)
        require(named == kind, "kind", rule, repr(named))
        return found
    found_here = _only([each for each in _imported.values() if each.kind == kind], f"prior {kind!r}")
    if found_here is None:
        raise invalid("prior", "one of " + ", ".join(prior_kinds()), repr(kind))
    return found_here


def find_class(name: str) -> type[Prior] | None:
    """The class of this name, whose priors can be loaded; None if there is none.

    Raises:
        ValueError: If there is more than one, or if its package cannot be imported.
    """
    broken = []
    for entry in (*plugins(PRIORS), *plugins(RIVALS)):
        if entry.attr == name:
            try:
                load_plugin(entry)
            except ValueError as error:
                broken.append(error)
    loadable = [each for each in _imported.values() if each.__name__ == name and each.loadable]
    if broken and not loadable:
        raise broken[0]
    return _only(loadable, f"class {name}")


def prior_kinds() -> list[str]:
    """The kinds of priors that are known, rivals of studies among them, in alphabetical order.

    Examples:
        >>> "gaussian" in prior_kinds()
        True
    """
    registered = {entry.name for entry in (*plugins(PRIORS), *plugins(RIVALS))}
    return sorted(registered | {each.kind for each in _imported.values()})


def _only(found: list[type[Prior]], what: str) -> type[Prior] | None:
    places = " and ".join(sorted(module for (module, _), each in _imported.items() if each in found))
    require(len(found) < 2, what, "defined in one module", places, "Rename one of them.")
    return found[0] if found else None
