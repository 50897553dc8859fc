"""The form of report.json: one schema for every command's report.

The schema itself is `schemas/report.schema.json` (JSON Schema, draft 2020-12). A sampling report holds the
feature extractor, the OT solve, the held-out real images (the floor of every figure) and one row a start;
a report with "claims" is that of `otprior verify`. An audit's has a schema of its own, `schemas/audit.schema.json`,
and so has a study of codes, `schemas/codes.schema.json`.
Rates lie in [0, 1], intervals are 95%, absent is null.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from otprior.utils.validation import invalid, require

FORMAT_VERSION = 1

# A tuple becomes an array in JSON, so it is one here.
_VALIDATOR = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "array", lambda _, value: isinstance(value, list | tuple)
    ),
)


@functools.cache
def report_schema() -> dict[str, Any]:
    """The JSON Schema of report.json, as shipped."""
    file = resources.files("otprior.report").joinpath("schemas/report.schema.json")
    return json.loads(file.read_text(encoding="utf-8"))


def report_row(**values: Any) -> dict[str, Any]:
    """A row of report.json: what is given, and null for each required value that is not.

    Raises:
        ValueError: If a name is not one of a row's.
    """
    row = report_schema()["$defs"]["row"]
    unknown = [name for name in values if not _is_known(name, row)]
    require(not unknown, "the names of a report row", "known to the schema", ", ".join(unknown))
    return dict.fromkeys(row["required"]) | values


def report_reference(n: int, figures: dict[str, Any], label: str | None = None) -> dict[str, Any]:
    """The part "reference" of report.json, from held-out real images measured as a row is.

    Arguments:
        n: Number of held-out images.
        figures: As for a row; "fid" becomes "fid_floor", and what only samples have is left out.
        label: What these images are called in the report.
    """
    renamed = {name.replace("fid", "fid_floor", 1): value for name, value in figures.items()}
    kept = {name: value for name, value in renamed.items() if not name.startswith(("source_", "seed_"))}
    return {"n": n, "label": label, "fid_floor": None, "copy_rate": None} | kept


@functools.cache
def audit_schema() -> dict[str, Any]:
    """The JSON Schema of an audit's report.json, as shipped."""
    file = resources.files("otprior.report").joinpath("schemas/audit.schema.json")
    return json.loads(file.read_text(encoding="utf-8"))


@functools.cache
def codes_schema() -> dict[str, Any]:
    """The JSON Schema of the report.json of a study of codes, as shipped."""
    file = resources.files("otprior.report").joinpath("schemas/codes.schema.json")
    return json.loads(file.read_text(encoding="utf-8"))


# Reports with a part of this name have a schema of their own.
_OWN_SCHEMAS = (("audit", audit_schema), ("codes", codes_schema))


def validate_report(report: dict[str, Any]) -> None:
    """Checks a report against its schema, that every number is finite and every interval ordered.

    Raises:
        ValueError: With the place of the first mistake, the rule, and what came.
    """
    schema = next((own() for name, own in _OWN_SCHEMAS if name in report), report_schema())
    errors = sorted(_VALIDATOR(schema).iter_errors(report), key=_position)
    if errors:
        others = f"{len(errors) - 1} more of the kind follow" if len(errors) > 1 else ""
        raise invalid(_place(errors[0]), _rule(errors[0]), _shown(errors[0].instance), others)
    for place, value in _leaves(report, "report"):
        # JSON has no NaN, and the schema's "number" would let one pass.
        if isinstance(value, float):
            require(math.isfinite(value), place, "finite, or null where nothing was measured", value)
        if place.endswith("interval") and isinstance(value, list | tuple) and None not in value:
            require(value[0] <= value[1], place, "[low, high] with low <= high", value)


def _is_known(name: str, row: dict[str, Any]) -> bool:
    return name in row["properties"] or any(re.search(rule, name) for rule in row["patternProperties"])


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value below `value` with its place, parents before children."""
    yield place, value
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from _leaves(child, f"{place}[{index}]")


def _position(error: ValidationError) -> str:
    return "/".join(f"{part:06d}" if isinstance(part, int) else part for part in error.absolute_path)


def _place(error: ValidationError) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return "report" + "".join(parts)


def _rule(error: ValidationError) -> str:
    """The rule that was broken, as words that follow "must be"."""
    limit = error.validator_value
    match error.validator:
        case "required":
            missing = [name for name in limit if name not in error.instance]
            return "an object with " + ", ".join(missing) + " (null where nothing was measured)"
        case "additionalProperties" | "unevaluatedProperties":
            return "an object without names of its own: " + error.message
        case "type":
            return " or ".join([limit] if isinstance(limit, str) else limit)
        case "enum":
            return "one of " + ", ".join("null" if value is None else value for value in limit)
        case "minimum":
            return f">= {limit}"
        case "maximum":
            return f"<= {limit}"
        case "const":
            return f"{limit}"
        case "minItems" | "maxItems":
            return "a pair [low, high]"
        case _:
            return error.message


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
