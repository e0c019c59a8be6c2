"""What a long run must remember and seldom reads, on the disk instead of in memory."""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic

from gp_prune.errors import UserError
from gp_prune.runs.jobs import Decoder, R

_IN_MEMORY = 512
"""Kilobytes of a database that was used last, which stay in memory."""


class ScratchDatabase:
    """A SQLite database in a temporary file, which vanishes with it, also when it is killed.

    It needs no protection from crashes, because all that is in it can be made again.

    Args:
        schema: statements that make its tables.

    Raises:
        UserError: the temporary folder is full or cannot be written; so do the methods.
    """

    def __init__(self, schema: str) -> None:
        with _reachable():
            # A run may begin in one thread and be taken apart by another; SQLite has locks.
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._connection.close)
            self._connection.executescript(
                f"PRAGMA cache_size = -{_IN_MEMORY}; PRAGMA journal_mode = OFF; "
                f"PRAGMA synchronous = OFF; {schema}"
            )

    def write(self, statement: str, *values: str | float) -> int:
        """Run a statement in which a ``?`` stands for each value; the number of rows written."""
        with _reachable():
            return self._connection.execute(statement, values).rowcount

    def rows(self, query: str, *values: str | float) -> Iterator[tuple[Any, ...]]:
        """What a query finds, row by row."""
        with _reachable():
            yield from self._connection.execute(query, values)

    def number(self, query: str, *values: str | float) -> int:
        """The only number that a query finds."""
        ((number,),) = self.rows(query, *values)
        assert isinstance(number, int)
        return number


class DiskSet:
    """Texts, each once, like a set that takes no more memory the longer it gets."""

    def __init__(self) -> None:
        self._rows = ScratchDatabase("CREATE TABLE texts (text TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, text: str) -> bool:
        """Put in a text; whether it was new."""
        return self._rows.write("INSERT OR IGNORE INTO texts VALUES (?)", text) > 0

    def __contains__(self, text: str) -> bool:
        return self._rows.number("SELECT count(*) FROM texts WHERE text = ?", text) > 0


class Results(Generic[R]):
    """Results of jobs by key, like a dictionary that takes no more memory the longer it gets.

    Args:
        read: makes a result of its fields, for instance :func:`~.journal.reader`.
    """

    def __init__(self, read: Decoder[R]) -> None:
        self._read = read
        self._rows = ScratchDatabase(
            "CREATE TABLE results (key TEXT PRIMARY KEY, fields TEXT) WITHOUT ROWID"
        )

    def put(self, key: str, result: R) -> None:
        """Put in a result; an earlier one of the same job is replaced.

        Raises:
            ValueError: a number is not finite.
        """
        fields = json.dumps(result._asdict(), allow_nan=False)
        self._rows.write("INSERT OR REPLACE INTO results VALUES (?, ?)", key, fields)

    def get(self, key: str) -> R | None:
        """The result of the job with a key, if there is one."""
        for (fields,) in self._rows.rows("SELECT fields FROM results WHERE key = ?", key):
            return self._read(json.loads(fields))
        return None

    def __getitem__(self, key: str) -> R:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __contains__(self, key: str) -> bool:
        return self._rows.number("SELECT count(*) FROM results WHERE key = ?", key) > 0


@contextmanager
def _reachable() -> Iterator[None]:
    """Say in one sentence that the temporary folder is full or out of reach."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if type(error) not in (sqlite3.DatabaseError, sqlite3.OperationalError):
            raise  # a mistake of the program
        raise UserError(
            f"the temporary file that holds what a run knows cannot be used: {error}; make room in "
            "the temporary folder, or name another one in the environment variable SQLITE_TMPDIR "
            "(on Windows TMP), and go on with --resume"
        ) from error
