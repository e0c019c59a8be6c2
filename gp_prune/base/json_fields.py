"""Write JSON, and read JSON objects strictly: every field by its name and type."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gp_prune.base.files import write_text
from gp_prune.errors import UserError, brief

_TYPE_NAMES = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false",
    list: "a list", dict: "an object",
}  # fmt: skip

MOST_WHOLE = 2**63 - 1
"""The largest whole number in a file, as in an int64."""


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` by ``data`` as indented JSON, as one step; refuse NaN and infinity."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, escape_json(text) + "\n")


def escape_json(text: str) -> str:
    r"""Return JSON in which characters that steer a terminal are written as ``\u009b``.

    JSON itself asks for that below the blank alone. The text means the same.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def parse_json(content: str | bytes) -> Any:
    """Return what JSON text holds; refuse NaN and infinities, which are not of JSON.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def check_type(value: Any, kind: type, what: str) -> None:
    """Check that a value read from JSON or TOML has a type.

    Args:
        value: what was read.
        kind: the type; ``float`` also takes a whole number, ``object`` anything, and true and
            false are of type ``bool`` alone.
        what: what the value is called in the message.

    Raises:
        UserError: it has another type, or is a whole number that no int64 can hold.
    """
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)
    wrong_bool = isinstance(value, bool) and kind not in (bool, object)
    if wrong_bool or not isinstance(value, accepted):
        raise UserError(f"{what} is {brief(value)}; it must be {_TYPE_NAMES[kind]}")
    if kind in (int, float) and isinstance(value, int) and abs(value) > MOST_WHOLE:
        raise UserError(f"{what} is {brief(value)}; it must be between -2^63 and 2^63")


def read_object(data: Any, what: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """Check a JSON object against its fields and return a copy of it.

    Args:
        data: what was read.
        what: what the object is called in an error message.
        fields: name -> type of every field; a ``float`` field also takes a whole number,
            an ``object`` field anything.

    Raises:
        UserError: ``data`` is no object, a field is unknown or missing, or has the wrong type.
    """
    if not isinstance(data, dict):
        raise UserError(f"{what} must be an object, not {type(data).__name__}")
    for name in data:
        if name not in fields:
            raise UserError(f"{what} has an unknown field {brief(name)}; remove it")
    for name, kind in fields.items():
        if name not in data:
            raise UserError(f"{what} has no field {name!r}; add it")
        check_type(data[name], kind, f"field {name!r} of {what}")
        if kind is float and not math.isfinite(data[name]):
            raise UserError(f"field {name!r} of {what} is {data[name]}; it must be finite")
    return {name: float(data[name]) if fields[name] is float else data[name] for name in fields}


def canonical_digest(data: Any) -> str:
    """Return the SHA-256 of the canonical JSON text: sorted keys, no blanks, ASCII."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_header(fields: dict[str, Any], kind: str, schema: int) -> None:
    """Raise UserError unless the file says that it is a ``kind`` of version ``schema``."""
    if fields["kind"] != kind:
        raise UserError(f"the file holds a {fields['kind']!r}; give a file with a {kind}")
    if fields["schema_version"] != schema:
        raise UserError(
            f"the {kind} has schema_version {fields['schema_version']}, this version reads "
            f"{schema}; install the gp-prune that wrote it"
        )


def check_digest(found: str, written: str, what: str) -> None:
    """Raise UserError unless the digest that a file carries fits its content."""
    if found != written:
        raise UserError(f"the {what} does not fit its digest; it was changed or damaged")
