"""Floor 8: the tasks that candidate metrics are tried on."""

from __future__ import annotations

from gp_prune.tasks.cache import CacheWarning
from gp_prune.tasks.catalogue import TASK_NAMES, check_task_name, is_trained, load_task
from gp_prune.tasks.evaluation import Split
from gp_prune.tasks.task import Task

__all__ = [
    "TASK_NAMES",
    "CacheWarning",
    "Split",
    "Task",
    "check_task_name",
    "is_trained",
    "load_task",
]
