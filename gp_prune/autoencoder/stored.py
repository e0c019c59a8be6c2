"""Read the result of a run that has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gp_prune.autoencoder.run import RESULT
from gp_prune.autoencoder.settings import AutoencodeSettings
from gp_prune.base.files import MOST_JSON, read_file
from gp_prune.base.json_fields import parse_json, read_object
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.result_file import reading_result

_FIELDS = {
    "settings": dict, "best_cell": int, "validation_loss": float, "test_loss": float,
    "test_l1": float, "trivial_l1": float, "sparsity": float, "nodes": dict, "parameters": int,
    "widths": list, "cells": list, "pruning_events": int, "limits": list, "failures": list,
    "versions": dict,
}  # fmt: skip
_CELL = {
    "cell": int, "validation_loss": float, "sparsity": float, "pruned": int,
    "learning_rate": float,
}  # fmt: skip
_DECIDED = ("loss", "unit")
"""Settings that a run may decide by others."""


def read_report(folder: Path) -> dict[str, Any] | None:
    """Read the JSON object of the result of a run; return None where it has not ended.

    Nothing is loaded, trained or evaluated, and no file of the user's is run.

    Args:
        folder: the run folder.

    Raises:
        UserError: the settings or the result are damaged.
    """
    path = folder / RESULT
    if not path.exists() or not (folder / CONFIG).exists():
        return None
    settings = AutoencodeSettings.from_toml(folder / CONFIG).to_json()
    with reading_result(path):
        data = read_object(parse_json(read_file(path, MOST_JSON)), "the result", _FIELDS)
        decided = {name: data["settings"][name] for name in _DECIDED}
        if data["settings"] != {**settings, **decided}:
            return None
        data["cells"] = [read_object(cell, "a cell", _CELL) for cell in data["cells"]]
        data["nodes"] = {str(name): (int(a), int(n)) for name, (a, n) in data["nodes"].items()}
        for name in ("limits", "failures"):
            data[name] = list(map(str, data[name]))
    del data["versions"]
    return {"folder": str(folder), **data}
