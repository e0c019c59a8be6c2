"""gp-prune: genetic programming that discovers pruning metrics.

The names below are imported when they are first used, so that ``import gp_prune`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gp_prune.application.export import export_onnx, export_torch
    from gp_prune.application.prune import prune
    from gp_prune.application.saving import load_pruned, save_pruned
    from gp_prune.application.tuning import tune_pruned
    from gp_prune.application.tuning_data import own_data
    from gp_prune.conventions import Conventions
    from gp_prune.evolution.source import TaskSource
    from gp_prune.guided.autoencode.run import autoencode
    from gp_prune.guided.autoencode.settings import AutoencodeSettings
    from gp_prune.guided.genetic.pruner import GeneticPruner
    from gp_prune.guided.genetic.settings import GeneticSettings
    from gp_prune.metric import Metric
    from gp_prune.search.config import SearchConfig
    from gp_prune.search.run import evolve
    from gp_prune.tasks import load_task
    from gp_prune.tuning import FineTuning, fine_tune, recalibrate

__version__ = "0.1.0"
__all__ = [
    "AutoencodeSettings",
    "Conventions",
    "FineTuning",
    "GeneticPruner",
    "GeneticSettings",
    "Metric",
    "SearchConfig",
    "TaskSource",
    "autoencode",
    "evolve",
    "export_onnx",
    "export_torch",
    "fine_tune",
    "load_pruned",
    "load_task",
    "own_data",
    "prune",
    "recalibrate",
    "save_pruned",
    "tune_pruned",
]

_HOMES = {
    "AutoencodeSettings": "gp_prune.guided.autoencode.settings",
    "Conventions": "gp_prune.conventions",
    "FineTuning": "gp_prune.tuning",
    "GeneticPruner": "gp_prune.guided.genetic.pruner",
    "GeneticSettings": "gp_prune.guided.genetic.settings",
    "Metric": "gp_prune.metric",
    "SearchConfig": "gp_prune.search.config",
    "TaskSource": "gp_prune.evolution.source",
    "autoencode": "gp_prune.guided.autoencode.run",
    "evolve": "gp_prune.search.run",
    "export_onnx": "gp_prune.application.export",
    "export_torch": "gp_prune.application.export",
    "fine_tune": "gp_prune.tuning",
    "load_pruned": "gp_prune.application.saving",
    "load_task": "gp_prune.tasks",
    "own_data": "gp_prune.application.tuning_data",
    "prune": "gp_prune.application.prune",
    "recalibrate": "gp_prune.tuning",
    "save_pruned": "gp_prune.application.saving",
    "tune_pruned": "gp_prune.application.tuning",
}
"""Public name -> the module that has it."""


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gp_prune' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
