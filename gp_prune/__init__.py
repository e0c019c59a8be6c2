"""gp-prune: genetic programming that discovers pruning metrics.

The names below are imported when they are first used, so that ``import gp_prune`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gp_prune.application.prune import prune
    from gp_prune.application.saving import load_pruned, save_pruned
    from gp_prune.conventions import Conventions
    from gp_prune.metric import Metric
    from gp_prune.search.config import SearchConfig
    from gp_prune.search.evaluation import TaskSource
    from gp_prune.search.run import evolve
    from gp_prune.tasks import load_task

__version__ = "0.1.0"
__all__ = [
    "Conventions",
    "Metric",
    "SearchConfig",
    "TaskSource",
    "evolve",
    "load_pruned",
    "load_task",
    "prune",
    "save_pruned",
]

_HOMES = {
    "Conventions": "gp_prune.conventions",
    "Metric": "gp_prune.metric",
    "SearchConfig": "gp_prune.search.config",
    "TaskSource": "gp_prune.search.evaluation",
    "evolve": "gp_prune.search.run",
    "load_pruned": "gp_prune.application.saving",
    "load_task": "gp_prune.tasks",
    "prune": "gp_prune.application.prune",
    "save_pruned": "gp_prune.application.saving",
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
