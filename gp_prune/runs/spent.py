"""What the sessions of a run have spent: a file in the run folder.

Times are never the same twice, so they stand neither in the journal nor in the result.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gp_prune.base.files import MOST_JSON, read_file
from gp_prune.base.json_fields import parse_json, read_object, write_json
from gp_prune.errors import UserError
from gp_prune.runs.executors import Runner
from gp_prune.runs.folder import CONFIG, writing

SPENT = "spent.json"
"""The file in the run folder."""

_KIND = "gp-prune times of a run"
_SCHEMA = 1


class Spent(NamedTuple):
    """What the sessions of a run have spent together, those that were killed left out.

    Attributes:
        sessions: number of times that the run was begun or resumed, and ended by itself or by an
            interrupt.
        seconds: time on the clock.
        processor_seconds: time of the processor, of this machine alone, workers included.
    """

    sessions: int
    seconds: float
    processor_seconds: float


@contextmanager
def record_spent(folder: Path, runner: Runner) -> Iterator[None]:
    """Add the time that the body takes to the file of a run folder, which the caller has locked.

    Args:
        folder: the run folder; nothing is written where the run did not begin.
        runner: of the jobs; closed, because the system counts the time of processes that ended.

    Raises:
        UserError: the file is damaged; before the body runs.
    """
    before = _read_sessions(folder)
    started, used = time.monotonic(), _processor_seconds()
    try:
        yield
    finally:
        runner.close()
        if (folder / CONFIG).is_file():
            session = {
                "seconds": round(time.monotonic() - started, 3),
                "processor_seconds": round(_processor_seconds() - used, 3),
            }
            sessions = [*before, session]
            with writing(folder):
                write_json(folder / SPENT, {"kind": _KIND, "schema": _SCHEMA, "sessions": sessions})


def read_spent(folder: Path) -> Spent | None:
    """Return what the sessions of a run have spent; None where no session has ended.

    Raises:
        UserError: the file is damaged.
    """
    sessions = _read_sessions(folder)
    if not sessions:
        return None
    seconds = sum(session["seconds"] for session in sessions)
    processor = sum(session["processor_seconds"] for session in sessions)
    return Spent(len(sessions), seconds, processor)


def _read_sessions(folder: Path) -> list[dict[str, Any]]:
    path = folder / SPENT
    if not path.exists():
        return []
    fields = {"kind": str, "schema": int, "sessions": list}
    session = {"seconds": float, "processor_seconds": float}
    try:
        data = read_object(parse_json(read_file(path, MOST_JSON)), "the file", fields)
        if data["kind"] != _KIND or data["schema"] != _SCHEMA:
            raise ValueError(f"its kind is {data['kind']!r}, schema {data['schema']}")
        return [read_object(entry, "a session", session) for entry in data["sessions"]]
    except (OSError, ValueError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"the times {str(path)!r} cannot be read: {reason}; remove the file"
        ) from None


def _processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
