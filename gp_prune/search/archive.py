"""Every candidate of a run, and the Pareto front of the best."""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from gp_prune.errors import UserError
from gp_prune.language.expression import MAX_NODES, Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.runs import evolution
from gp_prune.search.objectives import SIZE, Objectives
from gp_prune.search.selection import thin

Behaviour = str
"""A digest of the plans that a formula causes on all tasks and budgets."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A formula that was tried.

    Attributes:
        expression: the formula in canonical form.
        objectives: a value for each objective of the search, over all tasks and budgets. An error
            is that of the highest rung on which the candidate was tried, and comparable with that
            of candidates of the same rung alone.
        behaviour: equal exactly for candidates that prune alike on all tasks.
        by_task: for each task the errors, the shares of MACs and parameters that are kept and, as
            far as it is an objective, the latency; each over the budgets.
        reason: why it could not be tried; empty if it was.
        rung: the highest rung on which it was tried.
        earlier: its objectives on the rungs below, lowest first.
    """

    expression: Expression
    objectives: Objectives
    behaviour: Behaviour
    by_task: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    reason: str = ""
    rung: int = 0
    earlier: tuple[Objectives, ...] = ()

    def on(self, rung: int) -> Objectives:
        """Return the objectives on a rung on which it was tried."""
        return (*self.earlier, self.objectives)[rung]

    @property
    def order(self) -> tuple[int, str]:
        """Return a key that sorts by size, then by text: a total order."""
        return self.expression.size, str(self.expression)


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Tell whether ``first`` is nowhere greater than ``second`` and somewhere less."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def hypervolume(front: Iterable[Objectives], worst: Objectives) -> float:
    """Return the volume of all objectives that a front dominates and that are below the worst.

    Args:
        front: vectors of objectives.
        worst: the worst value of each, see :attr:`~gp_prune.search.config.SearchConfig.worst`.
    """
    return evolution.hypervolume(front, worst)


_TABLES = """
    PRAGMA cache_size = -512;  -- kilobytes that stay in memory
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE TABLE formulas (text TEXT PRIMARY KEY, size INTEGER, behaviour TEXT) WITHOUT ROWID;
    CREATE INDEX twins ON formulas (behaviour, size, text);
    CREATE TABLE results (
        behaviour TEXT PRIMARY KEY, reason TEXT, rung INTEGER, {measured},
        by_task TEXT, earlier TEXT
    ) WITHOUT ROWID;
"""
_TRIED = "FROM formulas JOIN results USING (behaviour) WHERE reason = ''"
_PARSED = 512
"""Number of formulas that are kept as trees, those that were wanted last."""


class Archive:
    """All candidates of a run by the text of their canonical form.

    Candidates with the same behaviour have the same results. They are kept in a SQLite database in
    a temporary file, which vanishes with the archive, also when it is killed: a million of them
    would take 500 MB of memory.

    Args:
        primitives: the vocabulary of the formulas.
        objectives: the names of the objectives, in the order of their values in candidates; the
            size of a formula is its own, all others are measured of its behaviour.
        top: the rung of candidates that were tried in full.

    Raises:
        UserError: the temporary folder is full or cannot be written; so do the methods.
    """

    def __init__(self, primitives: PrimitiveSet, objectives: Sequence[str], top: int = 0) -> None:
        self.objectives = tuple(objectives)
        self.top = top
        self._size = objectives.index(SIZE) if SIZE in objectives else None
        with _reachable():
            # A run may begin in one thread and be taken apart by another; SQLite has locks.
            self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._database.close)
            measured = ", ".join(f"{name} REAL" for name in objectives if name != SIZE)
            self._database.executescript(_TABLES.format(measured=measured))
        self._formula = lru_cache(_PARSED)(partial(parse, primitives=primitives))

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate that is new; all that behave like it get its results."""
        self._rows(
            "INSERT INTO formulas VALUES (?, ?, ?)",
            str(candidate.expression), candidate.expression.size, candidate.behaviour,
        )  # fmt: skip
        self.update(candidate)

    def update(self, candidate: Candidate) -> None:
        """Give all candidates that behave like this one the same results."""
        measured = [value for n, value in enumerate(candidate.objectives) if n != self._size]
        values: list[str | float] = [
            candidate.behaviour, candidate.reason, candidate.rung, *measured,
            json.dumps({task: dict(part) for task, part in candidate.by_task.items()}),
            json.dumps(candidate.earlier),
        ]  # fmt: skip
        marks = ", ".join("?" * len(values))
        self._rows(f"INSERT OR REPLACE INTO results VALUES ({marks})", *values)

    def smallest(self, behaviour: Behaviour) -> Candidate | None:
        """Return the smallest formula with a behaviour, if there is one."""
        twins = self._candidates("behaviour = ? ORDER BY size, text LIMIT 1", behaviour)
        return next(twins, None)

    def get(self, expression: Expression) -> Candidate | None:
        """Return the candidate of a formula in canonical form, if it was tried."""
        return next(self._candidates("text = ?", str(expression)), None)

    def _rows(self, statement: str, *values: str | float) -> Iterator[tuple[Any, ...]]:
        """Run a statement in which a ``?`` stands for each value; return an iterator of rows."""
        with _reachable():
            cursor = self._database.execute(statement, values)
        return _fetch(cursor)

    def _number(self, query: str, *values: str | float) -> int:
        ((number,),) = self._rows(query, *values)
        assert isinstance(number, int)
        return number

    def _candidates(self, condition: str, value: str) -> Iterator[Candidate]:
        rows = self._rows(
            f"SELECT text, behaviour, reason, rung, by_task, earlier, size, "
            f"{', '.join(self.objectives)} "
            f"FROM formulas JOIN results USING (behaviour) WHERE {condition}", value
        )  # fmt: skip
        for text, behaviour, reason, rung, by_task, earlier, size, *objectives in rows:
            yield Candidate(
                self._formula(text), tuple(map(float, objectives)), behaviour, json.loads(by_task),
                reason, rung, tuple(self._sized(values, size) for values in json.loads(earlier)),
            )  # fmt: skip

    def _sized(self, values: Sequence[float], size: int) -> Objectives:
        """Return objectives that were measured of a behaviour as those of a formula of a size."""
        return tuple(float(size) if n == self._size else v for n, v in enumerate(values))

    def __contains__(self, text: str) -> bool:
        return self._number("SELECT count(*) FROM formulas WHERE text = ?", text) > 0

    def __len__(self) -> int:
        return self._number("SELECT count(*) FROM formulas")

    @property
    def assessed(self) -> int:
        """Return the number of distinct formulas that were really tried on all tasks."""
        return self._number(f"SELECT count(*) {_TRIED}")

    @property
    def behaviours(self) -> int:
        """Return the number of distinct behaviours among them."""
        return self._number("SELECT count(*) FROM results WHERE reason = ''")

    @property
    def complete(self) -> int:
        """Return the number of these that were tried in full."""
        return self._number("SELECT count(*) FROM results WHERE reason = '' AND rung = ?", self.top)

    def front(self, readable: int | None = None) -> list[Candidate]:
        """Return the candidates tried in full that no other one dominates, one per objectives.

        Of several with the same objectives, so of all with the same behaviour, the smallest
        formula is taken. Sorted by error, then by size and text.

        Args:
            readable: most nodes of the formulas that are considered; None for any number.
        """
        columns = ", ".join(self.objectives)
        rows = self._rows(
            f"SELECT text, {columns} {_TRIED} AND rung = ? AND size <= ? "
            f"ORDER BY {columns}, size, text",
            self.top, MAX_NODES if readable is None else readable,
        )  # fmt: skip
        # In this order a row can only be dominated by one that comes before it.
        best: dict[Objectives, str] = {}
        for text, *objectives in rows:
            point = tuple(map(float, objectives))
            if point not in best and not any(dominates(kept, point) for kept in best):
                best[point] = text
        front = [c for text in best.values() for c in self._candidates("text = ?", text)]
        return sorted(front, key=lambda c: (c.objectives[0], c.order))

    def shortlist(self, count: int, readable: int, weights: Sequence[float]) -> list[Candidate]:
        """Return at most ``count`` candidates to compare in full: the front, thinned, by error.

        Long formulas may crowd out all that a person can read. So at least a third are formulas of
        at most ``readable`` nodes, if there are as many that no other such formula dominates.

        Args:
            count: most candidates.
            readable: most nodes of a formula that a person can read.
            weights: one for each objective, see :func:`~gp_prune.search.selection.thin`.
        """
        front = self.front()
        reserved = self.front(readable)[: count // 3]
        chosen = thin(front, count, weights)
        if sum(c.expression.size <= readable for c in chosen) < len(reserved):
            others = [c for c in front if c not in reserved]
            chosen = [*thin(others, count - len(reserved), weights), *reserved]
        return sorted(chosen, key=lambda c: (c.objectives[0], c.order))


def _fetch(cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    with _reachable():
        yield from cursor


@contextmanager
def _reachable() -> Iterator[None]:
    """Turn a full or unreachable temporary folder into one sentence."""
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
