"""The protocols of the searches in benchmarks/results, whatever the default is now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gp_prune.search import archive
from gp_prune.search.objectives import WORST_ERROR, Objectives

WORST: Objectives = (WORST_ERROR, 1.0, 1.0)
"""Error, MACs, parameters."""

FINE_TUNED: dict[str, Any] = {
    "budget_kind": ("channels",),
    "objectives": ("tuned_error", "macs", "params"),
    "aggregate": "mean",
}
"""Settings by which candidates are judged after fine-tuning, at equal shares of channels."""


def hypervolume(front: Iterable[Objectives]) -> float:
    """Return what a front of errors, MACs and parameters dominates, from 0 to 2."""
    return archive.hypervolume(front, WORST)
