"""Read and check the names of built-in tasks, with their @SEED or :FILE."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from gp_prune.base.names import LANGUAGE_TASKS as LANGUAGE_TASKS
from gp_prune.base.names import TASK_NAMES as TASK_NAMES
from gp_prune.base.names import TEXT_TASKS, WEIGHTS_TASKS
from gp_prune.errors import SEED, UserError, check_value
from gp_prune.tasks.language_models import LANGUAGE_MODELS

_AT_SEED = "@"


FROM_FILES = dict(zip(WEIGHTS_TASKS, (3, 9), strict=True))
"""Tasks with weights from a file -> the residual blocks of each stage."""


def is_task_name(name: str) -> bool:
    """Return whether ``name`` is a built-in task, or one with ``@`` or ``:`` and anything then."""
    base, _, _ = name.partition(":")
    names = (*FROM_FILES, *TEXT_TASKS)
    return name.partition(_AT_SEED)[0] in TASK_NAMES or base.partition(_AT_SEED)[0] in names


def is_language_task(name: str) -> bool:
    """Return whether a name is that of a built-in task whose network is a language model."""
    model = name.partition(":")[0].partition(_AT_SEED)[0].partition("-")[0]
    return is_task_name(name) and model in LANGUAGE_MODELS


def check_task_name(name: str) -> None:
    """Raise UserError unless there is a task of that name, with its ``@SEED`` or ``:FILE``."""
    base, _, file = name.partition(":")
    if base not in FROM_FILES:
        read_name(name, 0)
    elif not file:
        raise UserError(
            f"task {name!r} has no file with its weights; write {base}:FILE, where FILE holds the "
            "state dict"
        )


def weights_file(name: str) -> str:
    """Return the file of a task with weights from a file; empty for the others."""
    base, _, file = name.partition(":")
    return file if base in FROM_FILES else ""


class _Name(NamedTuple):
    """The name of a task, the seed of its training and the file with its text, empty for none."""

    base: str
    seed: int
    text: str


def read_name(name: str, seed: int) -> _Name:
    """Return the parts of a name; the seed is ``seed`` where the name has none.

    Raises:
        UserError: there is no such task, the seed is not one, or a text is missing.
    """
    written, _, file = name.partition(":")
    if written.partition(_AT_SEED)[0] not in TEXT_TASKS:
        written, file = name, ""
    elif not file:
        raise UserError(f"task {name!r} has no file with its text; write {written}:FILE")
    base, at, text = written.partition(_AT_SEED)
    if base not in (*TASK_NAMES, *TEXT_TASKS):
        close = difflib.get_close_matches(base, TASK_NAMES, n=1)
        hint = f" (did you mean {close[0] + at + text!r}?)" if close else ""
        files = " or ".join(f"{known}:FILE" for known in (*FROM_FILES, *TEXT_TASKS))
        raise UserError(
            f"unknown task {name!r}{hint}; choose one of {', '.join(TASK_NAMES)}, or {files}"
        )
    if not at:
        return _Name(base, seed, file)
    if not (text.isascii() and text.isdecimal() and str(int(text)) == text):
        raise UserError(
            f"task {name!r} has {text!r} after the {_AT_SEED}; write the seed of its training as a "
            f"whole number, for instance {base + '@1'!r}"
        )
    check_value(f"the seed of task {name!r}", int(text), SEED)
    return _Name(base, int(text), file)
