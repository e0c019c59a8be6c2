"""The lines of a journal: how results are written and read, and how damage is found."""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple

from gp_prune.errors import Rule, UserError
from gp_prune.runs.jobs import Decoder, R
from gp_prune.runs.line_index import DIGEST_BYTES, digest

MOST_BYTES = 2**24
"""Longest line; what is longer was not written by a run."""


_CHECK = ', "check": "%s"}\n'


_TAIL = len(_CHECK % ("0" * DIGEST_BYTES))


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
    check_journal_file(path)
    for line in read_lines(path, read):
        yield line.entry if line.result is None else (line.entry["key"], line.result)


class Line(NamedTuple, Generic[R]):
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


DAMAGE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What the content of a damaged line raises."""


def read_lines(path: Path, read: Decoder[R]) -> Iterator[Line[R]]:
    """Read a journal line by line, so that its size does not matter; leave out a torn last line."""
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MOST_BYTES), b""), start=1):
            if not line.endswith(b"\n") and len(line) < MOST_BYTES:
                return
            try:
                yield parse_line(line, read)
            except DAMAGE:
                old = " (it has no digest, as in earlier versions)" if _unsealed(line) else ""
                raise DamagedJournal(
                    f"journal {str(path)!r} is damaged in line {number}; restore it or start a new "
                    f"run in another folder{old}"
                ) from None


def parse_line(line: bytes, read: Decoder[R]) -> Line[R]:
    """Read a line; any of the errors in ``DAMAGE`` means damage."""
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
    return Line(entry, result, identity, len(line))


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
    except DAMAGE:
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


def identify(entry: Mapping[str, Any]) -> bytes:
    """Return the digest of an entry that its line ends with."""
    return _identity(_body(entry))


def _identity(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest()


def check_journal_file(path: Path) -> None:
    """Raise UserError for a link, a pipe or a device in the place of a journal."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # what is missing is made, and other errors are said when it is opened
        return
    if not stat.S_ISREG(mode):
        raise DamagedJournal(f"journal {str(path)!r} is no regular file; put it back")
