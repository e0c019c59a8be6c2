"""Strict reading of exchanged JSON objects, and digests of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gp_prune.errors import UserError
from gp_prune.errors import check_type as check_type


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
            raise UserError(f"{what} has an unknown field {name!r}; remove it")
    for name, kind in fields.items():
        if name not in data:
            raise UserError(f"{what} has no field {name!r}; add it")
        check_type(data[name], kind, f"field {name!r} of {what}")
    return {name: float(data[name]) if fields[name] is float else data[name] for name in fields}


def plain(data: Any) -> Any:
    """``data`` as JSON reads it back: tuples become lists."""
    return json.loads(json.dumps(data, allow_nan=False))


def canonical_digest(data: Any) -> str:
    """SHA-256 (hexadecimal) of the canonical JSON text: sorted keys, no blanks, ASCII."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
