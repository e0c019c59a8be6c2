"""Provide the tasks that a candidate metric is tried on: a model, its data and its error.

May import ``training`` and the packages below it; open ``task.py`` first.
"""

from __future__ import annotations

from gp_prune.tasks.cache import CacheWarning
from gp_prune.tasks.catalogue import TASK_NAMES, is_trained, load_task
from gp_prune.tasks.data import Split
from gp_prune.tasks.names import check_task_name, is_language_task, is_task_name
from gp_prune.tasks.task import Task

__all__ = [
    "TASK_NAMES",
    "CacheWarning",
    "Split",
    "Task",
    "check_task_name",
    "is_language_task",
    "is_task_name",
    "is_trained",
    "load_task",
]
