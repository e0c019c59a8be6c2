"""The append-only record of a run, from which a killed run is resumed.

Every line is one JSON object. A run is a function of its settings, so a resumed run starts from
the beginning, and the result of every job that the journal holds is read from it. In memory stay
digests and positions of lines alone: about 250 MB for a million jobs and as many other entries.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Generic, Self

from gp_prune.errors import UserError
from gp_prune.runs.jobs import Decoder, Job, R

NAME = "journal.jsonl"
_SYNC_SECONDS = 0.5
_LOCKED_BYTE = 2**31 - 2
"""Windows locks bytes of a file; this one is far beyond the end of a journal."""


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
        self._lines: dict[bytes, int] = {}  # digest of a job's key -> where its line begins
        self._lent: Mapping[str, R] = {}
        self._events: set[bytes] = set()
        self._begun: dict[str, Any] | None = None
        self._size = 0
        with self._writing():
            # Without a buffer: what could not be written is not tried again at the end.
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
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
        content = self.path.read_bytes()
        lines = content.splitlines(keepends=True)
        for line, entry in zip(lines, entries(content, self.path, self._interpret), strict=False):
            if isinstance(entry, tuple):
                self._lines[digest(entry[0])] = self._size
            elif entry["event"] == "begin":
                self._begun = entry["run"]
            else:
                self._events.add(_identity(entry))
            self._size += len(line)

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

    def write_header(self, run: dict[str, Any], digested: Mapping[str, str] | None = None) -> None:
        """Write all that decides the results of this run, or check that it is still the same.

        Args:
            run: what decides the results, by name.
            digested: name -> what it is, where a value says nothing to a person, such as a digest;
                for instance ``"the data 'digits'"``.

        Raises:
            UserError: the run was begun with something else, so its results would not fit.
        """
        if self._begun is None:
            self._begun = run
            self._write({"event": "begin", "run": run})
            return
        for name in sorted({*run, *self._begun}):
            if run.get(name) == self._begun.get(name):
                continue
            if digested and name in digested:
                raise UserError(
                    f"{digested[name]} changed since the run was begun; put back what it was or "
                    "start a new run in another folder"
                )
            entry, before, now = _difference(name, self._begun.get(name), run.get(name))
            raise UserError(
                f"the run was begun with {entry} = {before!r}, not {now!r}; put that back or "
                "start a new run in another folder"
            )

    def known(self, key: str) -> R | None:
        """Return the recorded result of the job with a key, if there is one."""
        start = self._lines.get(digest(key))
        if start is None:
            return None
        self._reader.seek(start)
        return self._interpret(json.loads(self._reader.readline()))

    def outcome(self, job: Job[R], result: R) -> None:
        """Record the result of a job; an earlier one of the same job is replaced."""
        entry = {"event": "evaluation", "key": job.key, **result._asdict()}
        if not result.failure:
            del entry["failure"]
        start = self._size
        self._write(entry)
        self._lines[digest(job.key)] = start

    def event(self, entry: dict[str, Any]) -> None:
        """Record something that a person may want to read, once."""
        identity = _identity(entry)
        if identity not in self._events:
            self._events.add(identity)
            self._write(entry)

    def holds(self, entry: dict[str, Any]) -> bool:
        """Tell whether something was recorded by :meth:`event`, perhaps before a resumption."""
        return _identity(entry) in self._events

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
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


def reader(result: type[R]) -> Decoder[R]:
    """Return a decoder of named tuples of one type, which reads lists as tuples.

    What is read equals what was written, if the results hold no lists.

    Args:
        result: the type; its field ``failure`` is ``""`` by default.
    """
    names: tuple[str, ...] = getattr(result, "_fields")  # noqa: B009 - no protocol has it

    def read(entry: Mapping[str, Any]) -> R:
        return result(**{name: _tuples(entry[name]) for name in names if name in entry})

    return read


def _tuples(value: Any) -> Any:
    """Return plain data with tuples in the place of lists."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return value


def entries(
    content: bytes, path: Path, read: Decoder[R]
) -> Iterator[dict[str, Any] | tuple[str, R]]:
    """Read the lines of a journal, without a torn last one: results with the key of their job.

    Args:
        content: the journal.
        path: its path, for the error message.
        read: makes a result of a line.

    Raises:
        UserError: a line is damaged.
    """
    valid = content.rfind(b"\n") + 1
    for number, line in enumerate(content[:valid].splitlines(), start=1):
        try:
            entry = json.loads(line)
            if entry["event"] == "begin" and not isinstance(entry["run"], dict):
                raise TypeError
            if entry["event"] == "evaluation":
                json.dumps(entry, allow_nan=False)  # json reads NaN, too, and 1e999 as infinite
                entry = (_text(entry["key"]), read(entry))
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"journal {str(path)!r} is damaged in line {number}; "
                "restore it or start a new run in another folder"
            ) from None
        yield entry


def _text(value: Any) -> str:
    """Return a text that can be written; raise TypeError or ValueError for all else."""
    if not isinstance(value, str):
        raise TypeError
    value.encode()
    return value


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


def digest(text: str) -> bytes:
    """Return 16 bytes that tell a text from all others."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _identity(entry: dict[str, Any]) -> bytes:
    return digest(json.dumps(entry, sort_keys=True))


def _lock(file: FileIO, path: Path) -> None:
    """Keep other runs out until the file is closed (the system sees to it after a kill)."""
    if sys.platform == "win32":
        import msvcrt

        def take() -> None:
            # The same byte in every run, and none of a line: Windows refuses to read locked ones.
            os.lseek(file.fileno(), _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        def take() -> None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    try:
        take()
        # A run that could not begin may have removed the file since it was opened here.
        taken = not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        taken = True
    if taken:
        raise UserError(
            f"another run is writing to {str(path)!r}; wait for it, or give another --out"
        )
