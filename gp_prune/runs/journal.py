"""The append-only record of a run, from which a killed run is resumed.

Every line is one JSON object, whose last entry is a digest of the others. A run is a function of
its settings, so a resumed run starts from the beginning, and the result of every job that the
journal holds is read from it. In memory stay digests and positions of lines alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import sys
import time
from array import array
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self

from gp_prune._io import sync_folder, try_lock
from gp_prune.errors import Rule, UserError, brief
from gp_prune.runs.jobs import Decoder, Job, R
from gp_prune.runs.line_index import DIGEST_BYTES, LineIndex, digest

NAME = "journal.jsonl"
_SYNC_SECONDS = 0.5
_MOST_BYTES = 2**24
"""Longest line; what is longer was not written by a run."""

_CHECK = ', "check": "%s"}\n'
_TAIL = len(_CHECK % ("0" * DIGEST_BYTES))


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
        _check_regular(self.path)
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
        for line in _lines(self.path, self._interpret):
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
            line = _parse(self._reader.readline(_MOST_BYTES), self._interpret)
        except _DAMAGE:
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
        start, identity = self._size, _identity(_body(entry))
        if identity not in self._index:
            self._write(entry)
            self._index.add(identity, start)

    def holds(self, entry: dict[str, Any]) -> bool:
        """Tell whether something was recorded by :meth:`event`, perhaps before a resumption."""
        return _identity(_body(entry)) in self._index

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


def reader(result: type[R], rules: Mapping[str, Rule] | None = None) -> Decoder[R]:
    """Return a decoder of named tuples of one type, which reads lists as tuples.

    What is read equals what was written, if the results hold no lists.

    Args:
        result: the type; its field ``failure`` is ``""`` by default.
        rules: name of a field -> what it must be; ``failure`` is always a text.
    """
    names: tuple[str, ...] = getattr(result, "_fields")  # noqa: B009 - no protocol has it
    checks = {"failure": TEXT, **(rules or {})}

    def read(entry: Mapping[str, Any]) -> R:
        values = {name: _tuples(entry[name]) for name in names if name in entry}
        for name, value in values.items():
            if name in checks and not checks[name].accepts(value):
                raise ValueError(name)
        return result(**values)

    return read


TEXT = Rule(lambda value: isinstance(value, str), "a text")


def optional(rule: Rule) -> Rule:
    """Return the rule that accepts None, too."""
    return Rule(lambda value: value is None or rule.accepts(value), f"{rule.words}, or nothing")


def each(rule: Rule) -> Rule:
    """Return the rule for a tuple whose entries fit a rule."""
    return Rule(
        lambda value: isinstance(value, tuple) and all(map(rule.accepts, value)),
        f"a list, each {rule.words}",
    )


def _tuples(value: Any) -> Any:
    """Return plain data with tuples in the place of lists."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return value


class DamagedJournal(UserError):
    """A journal cannot be read; the message names its file and the line."""


def entries(path: Path, read: Decoder[R]) -> Iterator[dict[str, Any] | tuple[str, R]]:
    """Read the lines of a journal, without a torn last one: results with the key of their job.

    Args:
        path: the journal.
        read: makes a result of a line.

    Raises:
        DamagedJournal: a line is damaged, or the journal is no regular file.
        OSError: the file cannot be read.
    """
    _check_regular(path)
    for line in _lines(path, read):
        yield line.entry if line.result is None else (line.entry["key"], line.result)


class _Line(NamedTuple, Generic[R]):
    """A line of a journal.

    Attributes:
        entry: what it says.
        result: of a job; None where it is an event.
        identity: a digest of the entry.
        size: its bytes.
    """

    entry: dict[str, Any]
    result: R | None
    identity: bytes
    size: int

    @property
    def begins(self) -> bool:
        """Tell whether it is the one that says what decides the results."""
        return bool(self.entry["event"] == "begin")


_DAMAGE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What the content of a damaged line raises."""


def _lines(path: Path, read: Decoder[R]) -> Iterator[_Line[R]]:
    """Read a journal line by line, so that its size does not matter; leave out a torn last line."""
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MOST_BYTES), b""), start=1):
            if not line.endswith(b"\n") and len(line) < _MOST_BYTES:
                return
            try:
                yield _parse(line, read)
            except _DAMAGE:
                old = " (it has no digest, as in earlier versions)" if _unsealed(line) else ""
                raise DamagedJournal(
                    f"journal {str(path)!r} is damaged in line {number}; restore it or start a new "
                    f"run in another folder{old}"
                ) from None


def _parse(line: bytes, read: Decoder[R]) -> _Line[R]:
    """Read a line; any of the errors in ``_DAMAGE`` means damage."""
    body = line[:-_TAIL]
    identity = _identity(body)
    if line[-_TAIL:] != _tail(identity):
        raise ValueError("digest")
    entry = _DECODER.decode(body.decode() + "}")
    if not isinstance(entry["event"], str) or (
        entry["event"] == "begin" and not isinstance(entry["run"], dict)
    ):
        raise TypeError("event")
    result = None
    if entry["event"] == "evaluation":
        if not isinstance(entry["key"], str):
            raise TypeError("key")
        digest(entry["key"])  # refuses what cannot be written
        result = read(entry)
    return _Line(entry, result, identity, len(line))


def _finite(text: str) -> float:
    """Read a number; refuse NaN and the infinities, which Python reads although JSON has none."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def _unsealed(line: bytes) -> bool:
    """Tell whether a line is JSON without a digest, as earlier versions wrote it."""
    try:
        entry = json.loads(line)
    except _DAMAGE:
        return False
    return isinstance(entry, dict) and "event" in entry and "check" not in entry


def seal(entry: Mapping[str, Any]) -> bytes:
    """Return an entry as a line of a journal, which ends with a digest of what precedes it.

    Raises:
        ValueError: a number is not finite.
    """
    body = _body(entry)
    return body + _tail(_identity(body))


def _body(entry: Mapping[str, Any]) -> bytes:
    """Return an entry as JSON without the closing brace."""
    return json.dumps(entry, allow_nan=False).encode()[:-1]


def _tail(identity: bytes) -> bytes:
    return (_CHECK % identity[: DIGEST_BYTES // 2].hex()).encode()


def _identity(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()


def _check_regular(path: Path) -> None:
    """Raise UserError for a link, a pipe or a device in the place of a journal."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # what is missing is made, and other errors are said when it is opened
        return
    if not stat.S_ISREG(mode):
        raise DamagedJournal(f"journal {str(path)!r} is no regular file; put it back")


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
