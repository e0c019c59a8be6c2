"""Check the tasks that a search is given, and that a resumed one has the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gp_prune.apply.own_task import TaskOptions, check_task, full_name
from gp_prune.base.files import code_digest
from gp_prune.errors import UserError, brief
from gp_prune.runs.jobs import TaskSource, network_digest
from gp_prune.tasks import Task, is_task_name

_CHANGED = {"networks": "the network", "samples": "the data"}
"""Entry of the header of a run -> what it holds of each task."""


def name_of(task: Task | str) -> str:
    """Return the one name of a task."""
    return task.name if isinstance(task, Task) else full_name(task)


def find_held(tasks: Sequence[Task | str] | None) -> dict[str, Task]:
    """Return the tasks in memory by their names.

    Raises:
        UserError: there is something else among them, or a name is that of another task.
    """
    if isinstance(tasks, Task | str):
        raise UserError(f"tasks is {brief(tasks)}; give a list of tasks and names")
    held: dict[str, Task] = {}
    for task in tasks or ():
        if isinstance(task, str):
            continue
        if not isinstance(task, Task):
            raise UserError(
                f"tasks holds a value of type {type(task).__name__}; give gp_prune.Task(...) or a "
                "name"
            )
        if is_task_name(task.name):
            raise UserError(
                f"a task in memory is called {task.name!r}, as a built-in one; give the name as a "
                "text for the built-in task, or gp_prune.Task(..., name=...)"
            )
        if task.name in held:
            raise UserError(
                f"two tasks are called {task.name!r}; give each a name of its own, "
                "gp_prune.Task(..., name=...)"
            )
        held[task.name] = task
    return held


def check_resumed(names: Sequence[str], tasks: Sequence[Task | str] | None) -> None:
    """Raise UserError where a resumed run is given other tasks than it was begun with."""
    if tasks is not None and tuple(map(name_of, tasks)) != tuple(names):
        raise UserError(
            f"the run was begun with the tasks {', '.join(names)}, not "
            f"{', '.join(map(name_of, tasks))}; give the same ones, or start a new run"
        )


def check_tasks(names: Sequence[str], held: Mapping[str, Task]) -> None:
    """Raise UserError for a name that is none of a task in memory or of one that can be loaded."""
    for name in names:
        if name not in held:
            check_task(name)


def complete_source(
    source: TaskSource | None, options: TaskOptions, code: Iterable[str], held: Mapping[str, Task]
) -> TaskSource:
    """Return where tasks are, with what the settings say of them and the tasks in memory.

    Args:
        source: as it was given; None for the defaults.
        options: what the networks get that bring no data.
        code: the Python files that the settings execute.
        held: the tasks in memory.
    """
    return replace(
        source or TaskSource(),
        options=options,
        code=tuple((file, code_digest(file)) for file in code),
        held=dict(held),
    )


def check_unchanged(begun: Mapping[str, Any] | None, identity: Mapping[str, Any]) -> None:
    """Raise UserError where a task of a resumed run has another network or other data.

    Args:
        begun: what the run was begun with; None where it begins now.
        identity: what it has now.
    """
    if begun is None:
        return
    for entry, what in _CHANGED.items():
        before, now = begun.get(entry, {}), identity.get(entry, {})
        for name in now:
            if before.get(name, now[name]) != now[name]:
                raise UserError(
                    f"{what} of task {name!r} changed since the run was begun; put back what it "
                    "was or start a new run in another folder"
                )


def digest_tasks(tasks: Iterable[Task]) -> dict[str, dict[str, str]]:
    """Return the digests of all networks, and of the samples of those that are not built-in."""
    tasks = list(tasks)
    networks = {task.name: network_digest(task.model) for task in tasks}
    own = {task.name: task.digest for task in tasks if not is_task_name(task.name)}
    return {"networks": networks, **({"samples": own} if own else {})}
