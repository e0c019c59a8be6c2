"""The append-only record of a run, from which a killed run is resumed.

Every line is one JSON object, whose last entry is a digest of the others. A run is a function of
its settings, so a resumed run starts from the beginning, and the result of every job that the
journal holds is read from it. In memory stay digests and positions of lines alone.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Generic, Self

from gp_prune.base.files import sync_folder, try_lock
from gp_prune.errors import UserError, brief
from gp_prune.runs.jobs import Decoder, Job, R
from gp_prune.runs.journal_lines import (
    DAMAGE,
    MOST_BYTES,
    check_journal_file,
    identify,
    parse_line,
    read_lines,
    seal,
)
from gp_prune.runs.line_index import LineIndex, digest

NAME = "journal.jsonl"
_SYNC_SECONDS = 0.5


class Journal(Generic[R]):
    """The journal of a run folder, open for reading and writing.

    Lines are written at once and forced to the disk at least every half second of writing, so a
    crash of the machine costs at most that; a crash of the program costs nothing.

    Args:
        folder: the run folder.
        read: makes a result of what was written of it, for instance :func:`reader`.

    Raises:
        UserError: the journal exists and is damaged elsewhere than in a torn last line.
    """

    def __init__(self, folder: Path, read: Decoder[R]) -> None:
        self.path = folder / NAME
        self._interpret = read
        self._lent: Mapping[str, R] = {}
        self._begun: dict[str, Any] | None = None
        self._size = 0
        check_journal_file(self.path)
        with self._writing():
            # Without a buffer: what could not be written is not tried again at the end.
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
            sync_folder(folder)
        try:
            _lock(self._file, self.path)
            with self._writing():
                self._read()
                # A torn last line, from a kill in the middle of a write, is cut off.
                self._file.truncate(self._size)
                self._reader = open(self.path, "rb")  # noqa: SIM115 - closed by close()
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn an error of the system into one sentence about the journal."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"journal {str(self.path)!r} cannot be written: {error.strerror}; what stands in "
                "it is safe, mend this and go on with --resume"
            ) from error

    def _read(self) -> None:
        """Take in all complete lines."""
        digests, starts = bytearray(), array("Q")
        for line in read_lines(self.path, self._interpret):
            if line.begins:
                self._begun = line.entry["run"]
            else:
                # A result is found by its job, an event by its content.
                digests += line.identity if line.result is None else digest(line.entry["key"])
                starts.append(self._size)
            self._size += line.size
        self._index = LineIndex(digests, starts)

    @property
    def begun(self) -> Mapping[str, Any] | None:
        """Return what decides the results of the run; None where it has not begun."""
        return self._begun

    def lend(self, outcomes: Mapping[str, R]) -> None:
        """Let results of another run, by the keys of their jobs, be used and then recorded."""
        self._lent = outcomes

    def lent(self, key: str) -> R | None:
        """Return the result of the job with a key in another run, if it was lent."""
        return self._lent.get(key)

    def write_header(
        self,
        run: dict[str, Any],
        digested: Mapping[str, str] | None = None,
        adjustable: Collection[str] = (),
    ) -> None:
        """Write all that decides the results of this run, or check that it is still the same.

        Args:
            run: what decides the results, by name.
            digested: name -> what it is, where a value says nothing to a person, such as a digest;
                for instance ``"the data 'digits'"``.
            adjustable: names that may have another value than at the beginning.

        Raises:
            UserError: the run was begun with something else, so its results would not fit.
        """
        if self._begun is None:
            self._begun = run
            self._write({"event": "begin", "run": run})
            return
        for name in sorted({*run, *self._begun}):
            if name in adjustable or run.get(name) == self._begun.get(name):
                continue
            if digested and name in digested:
                raise UserError(
                    f"{digested[name]} changed since the run was begun; put back what it was or "
                    "start a new run in another folder"
                )
            entry, before, now = _difference(name, self._begun.get(name), run.get(name))
            raise UserError(
                f"the run was begun with {entry} = {brief(before)}, not {brief(now)}; put that "
                "back or start a new run in another folder"
            )

    def known(self, key: str) -> R | None:
        """Return the recorded result of the job with a key, if there is one."""
        start = self._index.get(digest(key))
        if start is None:
            return None
        self._reader.seek(start)
        try:
            line = parse_line(self._reader.readline(MOST_BYTES), self._interpret)
        except DAMAGE:
            raise UserError(f"journal {str(self.path)!r} changed while it was read") from None
        return line.result if line.entry.get("key") == key else None

    def outcome(self, job: Job[R], result: R) -> None:
        """Record the result of a job; an earlier one of the same job is replaced."""
        entry = {"event": "evaluation", "key": job.key, **result._asdict()}
        if not result.failure:
            del entry["failure"]
        start = self._size
        self._write(entry)
        self._index.add(digest(job.key), start)

    def event(self, entry: dict[str, Any]) -> None:
        """Record something that a person may want to read, once."""
        start, identity = self._size, identify(entry)
        if identity not in self._index:
            self._write(entry)
            self._index.add(identity, start)

    def holds(self, entry: dict[str, Any]) -> bool:
        """Tell whether something was recorded by :meth:`event`, perhaps before a resumption."""
        return identify(entry) in self._index

    def _write(self, entry: dict[str, Any]) -> None:
        line = seal(entry)
        with self._writing():
            try:
                _write_all(self._file, line)
            except OSError:
                # The journal ends with a whole line, even if nobody resumes the run.
                self._file.truncate(self._size)
                raise
        self._size += len(line)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Force all lines to the disk."""
        with self._writing():
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    @property
    def empty(self) -> bool:
        """Tell whether it has no lines."""
        return self._size == 0

    def discard(self) -> None:
        """Close and remove an empty journal."""
        self._reader.close()
        if sys.platform == "win32":
            self._file.close()  # there, an open file cannot be removed
        self.path.unlink(missing_ok=True)
        self._file.close()

    def close(self) -> None:
        """Force all lines to the disk and close the file."""
        if self._file.closed:
            return
        self._reader.close()
        try:
            self.sync()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _write_all(file: FileIO, line: bytes) -> None:
    """Write a line; a disk that is nearly full takes a part of it before it refuses."""
    rest = memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]


def _difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """Return the first entry in which two values differ: its path, and its two values."""
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(key for key in sorted({*before, *now}) if before.get(key) != now.get(key))
        return _difference(f"{name}.{key}", before.get(key), now.get(key))
    return name, before, now


def _lock(file: FileIO, path: Path) -> None:
    """Keep other runs out until the file is closed (the system sees to it after a kill)."""
    try:
        # A run that could not begin may have removed the file since it was opened here.
        taken = not try_lock(file) or not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        taken = True
    if taken:
        raise UserError(
            f"another run is writing to {str(path)!r}; wait for it, or give another --out"
        )
