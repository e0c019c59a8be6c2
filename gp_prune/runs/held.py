"""Tasks that a program holds in memory, on their way to the worker processes of its run.

They travel in private files that the run itself writes and deletes. These are the one kind of file
that is unpickled, and only where its SHA-256 is the one that the main process has sent.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cloudpickle

from gp_prune.base.files import try_lock
from gp_prune.errors import UserError, first_line
from gp_prune.tasks import Task

_PREFIX = "gp-prune-tasks-"
_LOCK = "lock"
"""A file in the folder of the tasks, locked as long as the process lives that wrote them."""
_YOUNG = 60.0
"""Seconds for which a folder without a lock is left alone."""


class HeldTask(NamedTuple):
    """A task that a program holds in memory, in a private file for the workers of one run.

    Attributes:
        name: name of the task.
        path: the file.
        digest: SHA-256 of the file.
    """

    name: str
    path: str
    digest: str


@contextmanager
def written(tasks: Mapping[str, Task]) -> Iterator[tuple[HeldTask, ...]]:
    """Write tasks to private files, which are deleted after the body.

    Files that a killed run has left behind are deleted first.

    Raises:
        UserError: a task cannot travel.
    """
    if not tasks:
        yield ()
        return
    _remove_leftovers()
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX) as folder,  # of this user alone
        open(Path(folder) / _LOCK, "wb") as lock,
    ):
        try_lock(lock)
        files = []
        for number, (name, task) in enumerate(tasks.items()):
            path = Path(folder) / f"{number}.task"
            try:
                content = cloudpickle.dumps(task)
            except Exception as error:  # whatever a part of the network raises
                raise UserError(
                    f"task {name!r} cannot be sent to worker processes ({first_line(error)}); use "
                    "workers=1, or a function in a file that makes it, FILE.py:FUNCTION"
                ) from error
            path.write_bytes(content)
            files.append(HeldTask(name, str(path), hashlib.sha256(content).hexdigest()))
        yield tuple(files)


def _remove_leftovers() -> None:
    """Remove folders of tasks of this user that no living process has locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            state = folder.lstat()
            own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
            # A folder that was made just now may not be locked yet.
            if not own or not stat.S_ISDIR(state.st_mode) or time.time() - state.st_mtime < _YOUNG:
                continue
            with open(folder / _LOCK, "ab") as lock:
                left = try_lock(lock)
        except OSError:  # another process removes it at the same time
            continue
        if left:
            shutil.rmtree(folder, ignore_errors=True)


def read_held(file: HeldTask) -> Task:
    """Read a task that the main process of this run has written, and nothing else.

    Raises:
        UserError: the file is not on this machine, or is not the one that was written.
    """
    try:
        content = Path(file.path).read_bytes()
    except OSError as error:
        raise UserError(
            f"task {file.name!r} is in the memory of the main process, and its file is not on this "
            "machine; on a cluster use a function in a file that makes it, FILE.py:FUNCTION"
        ) from error
    if hashlib.sha256(content).hexdigest() != file.digest:
        raise UserError(
            f"the file of task {file.name!r} changed since the run began; go on with --resume"
        )
    task: Task = pickle.loads(content)
    return task
