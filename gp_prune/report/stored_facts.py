"""Read what ``gp-prune show`` says of the bundled metrics, without importing sympy.

``evolved_metrics/facts.json`` is made by ``gp-prune list --facts``. It is used as long as the
metric files and the primitives are those that it was made from; a test compares it with what is
computed.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

from gp_prune.base.json_fields import parse_json
from gp_prune.base.names import bundled_metrics

FILE = "facts.json"


def read_stored_facts() -> dict[str, dict[str, Any]] | None:
    """Return name of a bundled metric -> its facts; None where they must be computed."""
    file = resources.files("gp_prune.evolved_metrics") / FILE
    if not file.is_file():
        return None
    stored = parse_json(file.read_text(encoding="utf-8"))
    if stored["made_from"] != digest_content():
        return None
    facts: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in stored["metrics"]}
    return facts


def digest_content() -> str:
    """Return the SHA-256 of the bundled metric files and of the primitives, names included."""
    primitives = {
        file.name: file
        for file in resources.files("gp_prune.primitives").iterdir()
        if file.name.endswith(".py")
    }
    digest = hashlib.sha256()
    for files in (bundled_metrics(), primitives):
        for name, file in sorted(files.items()):
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return "sha256:" + digest.hexdigest()
