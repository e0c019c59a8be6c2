"""Floor 9: the append-only record of a run, from which a killed run goes on.

Every line is one JSON object. A search is a function of its settings, so a resumed run starts
from the beginning, and every evaluation that the journal holds is taken from it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from gp_prune.errors import UserError
from gp_prune.search.evaluation import Evaluation, Outcome

NAME = "journal.jsonl"
_SYNC_SECONDS = 0.5


class Journal:
    """The journal of a run folder, open for writing.

    Lines are written at once and forced to the disk at least every half second of writing, so a
    crash of the machine costs at most that; a crash of the program costs nothing.

    Args:
        folder: the run folder.

    Raises:
        UserError: the journal exists and is damaged elsewhere than in a torn last line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._known: dict[str, Outcome] = {}
        self._events: set[str] = set()
        valid = self._read() if self.path.exists() else 0
        self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
        # A torn last line, from a kill in the middle of a write, is cut off before going on.
        self._file.truncate(valid)
        self._synced = time.monotonic()

    def _read(self) -> int:
        """Take in all complete lines; gives the number of bytes that they fill."""
        content = self.path.read_bytes()
        valid = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:valid].splitlines(), start=1):
            try:
                entry = json.loads(line)
                if entry["event"] == "evaluation":
                    self._known[entry["key"]] = Outcome(
                        entry["validation"], entry["test"], entry["raw"]
                    )
                else:
                    self._events.add(_identity(entry))
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"journal {str(self.path)!r} is damaged in line {number}; "
                    "restore it or start a new run in another folder"
                ) from None
        return valid

    def known(self, evaluation: Evaluation) -> Outcome | None:
        """The recorded outcome of an evaluation, if there is one."""
        return self._known.get(evaluation.key)

    def outcome(self, evaluation: Evaluation, outcome: Outcome) -> None:
        """Record an outcome."""
        self._known[evaluation.key] = outcome
        self._write({"event": "evaluation", "key": evaluation.key, **outcome._asdict()})

    def event(self, entry: dict[str, Any]) -> None:
        """Record something that a person may want to read; what stands there already is kept."""
        identity = _identity(entry)
        if identity not in self._events:
            self._events.add(identity)
            self._write(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Force all lines to the disk."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Force all lines to the disk and close the file."""
        self.sync()
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _identity(entry: dict[str, Any]) -> str:
    """What makes an event the same after a resume: all but the time it took."""
    return json.dumps({name: v for name, v in entry.items() if name != "seconds"}, sort_keys=True)
