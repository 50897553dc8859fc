"""What JSON configs give the classes of diffusers: values of the kinds that their constructors are annotated with.

diffusers checks none of them, and fails wherever it first computes with one.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from otprior.utils.validation import require

# Kinds of JSON values by what annotates or holds them. (Flags are written as numbers, too.)
_KINDS: dict[Any, str] = {
    bool: "a number",
    int: "a number",
    float: "a number",
    str: "text",
    Literal: "text",
    list: "a list",
    tuple: "a list",
    "ndarray": "a list",
    dict: "an object",
    NoneType: "null",
}
# A network that is built of more layers takes hours to build; no known one comes near.
_MOST_LAYERS = 1000
# (Autoencoders and networks take a height and a width, too, whatever is annotated.)
_SIZE = "sample_size"


def check_config(kind: Any, config: Mapping[str, Any], where: str) -> None:
    """Requires values of the kinds that the constructor of a class is annotated with.

    A null passes unless a number is needed: elsewhere diffusers takes it for "not given".

    Arguments:
        kind: A class of diffusers.
        config: Its arguments by name; names that it does not take are passed over.
        where: The file, for the error.

    Raises:
        ValueError: Naming the key, the file and what the value must be.

    Examples:
        >>> class Scheduler:
        ...     def __init__(self, shift: float = 1.0) -> None: ...
        >>> check_config(Scheduler, {"shift": 3}, "scheduler_config.json")
    """
    try:
        arguments = inspect.signature(kind.__init__, eval_str=True).parameters
    except NameError:
        return  # annotated with what is imported for type checkers alone
    for name, argument in arguments.items():
        allowed = _allowed(argument.annotation)
        if name == _SIZE:
            _check_size(config.get(name), f"{name} of {where}")
            continue
        if name not in config or not all(allowed):
            continue
        if argument.annotation not in (int, float):
            allowed.add("null")
        if argument.default is not inspect.Parameter.empty:
            allowed.add(_kind(argument.default))
        value = config[name]
        require(_kind(value) in allowed, f"{name} of {where}", " or ".join(sorted(allowed)), f"{value!r:.40}")
        most = value if "layers" in name and isinstance(value, int) else 0
        require(most <= _MOST_LAYERS, f"{name} of {where}", f"at most {_MOST_LAYERS:,}", value)


def _check_size(size: Any, name: str) -> None:
    parts = size if isinstance(size, list | tuple) else [size]
    require(size is None or all(isinstance(part, int) for part in parts), name, "integers", f"{size!r:.40}")


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "")


def _allowed(annotation: Any) -> set[str]:
    """Kinds of JSON values; "" among them where the annotation tells nothing."""
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        return {kind for each in get_args(annotation) for kind in _allowed(each)}
    # (Arrays by their name: NumPy is not loaded before paths have been looked at.)
    known = "ndarray" if getattr(origin, "__name__", "") == "ndarray" else origin
    return {_KINDS.get(known, "")}
