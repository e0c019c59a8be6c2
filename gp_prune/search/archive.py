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

from deap import tools

from gp_prune.errors import UserError
from gp_prune.language.expression import MAX_NODES, Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.runs import evolution
from gp_prune.search.evaluation import WORST_ERROR
from gp_prune.search.grammar import Individual

Objectives = tuple[float, float, float]
Behaviour = str
"""A digest of the plans that a formula causes on all tasks and steps of the ladder."""

WORST: Objectives = (WORST_ERROR, 1.0, 1.0)
"""Finite and dominated by nothing better than itself: what a candidate gets that ranks nothing."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A formula that was tried.

    Attributes:
        expression: the formula in canonical form.
        objectives: error, MACs kept, parameters kept; means over tasks and ladder. The error is
            that of the highest rung on which the candidate was tried, and comparable with that of
            candidates of the same rung alone.
        behaviour: equal exactly for candidates that prune alike on all tasks.
        by_task: the three objectives for each task.
        reason: why it could not be tried; empty if it was.
        rung: the highest rung on which it was tried.
        earlier: its objectives on the rungs below, lowest first.
    """

    expression: Expression
    objectives: Objectives
    behaviour: Behaviour
    by_task: Mapping[str, Objectives] = field(default_factory=dict)
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


def hypervolume(front: Iterable[Objectives]) -> float:
    """Return the volume of all objectives that a front dominates and that are below the worst.

    It lies between 0 (nothing better than the worst) and 2 (no error with nothing kept).
    """
    return evolution.hypervolume(front, WORST)


def individuals_of(
    candidates: Sequence[Candidate], objectives: Sequence[Objectives]
) -> list[Individual]:
    """Return individuals without trees, as DEAP's selection needs them."""
    individuals = []
    for candidate, values in zip(candidates, objectives, strict=True):
        individual = Individual([])
        individual.fitness.values = values
        individual.candidate = candidate
        individuals.append(individual)
    return individuals


def thin(front: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return at most ``count`` of a front, in its order.

    The half with the least errors stays; the others are chosen by crowding distance.
    """
    if len(front) <= count:
        return list(front)
    best, others = front[: (count + 1) // 2], front[(count + 1) // 2 :]
    individuals = individuals_of(others, [candidate.objectives for candidate in others])
    spread = tools.selNSGA2(individuals, count - len(best))
    kept = {id(individual.candidate) for individual in spread} | {id(c) for c in best}
    return [candidate for candidate in front if id(candidate) in kept]


_TABLES = """
    PRAGMA cache_size = -512;  -- kilobytes that stay in memory
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE TABLE formulas (text TEXT PRIMARY KEY, size INTEGER, behaviour TEXT) WITHOUT ROWID;
    CREATE INDEX twins ON formulas (behaviour, size, text);
    CREATE TABLE results (
        behaviour TEXT PRIMARY KEY, reason TEXT, rung INTEGER, error REAL, macs REAL, params REAL,
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
        top: the rung of candidates that were tried in full.

    Raises:
        UserError: the temporary folder is full or cannot be written; so do the methods.
    """

    def __init__(self, primitives: PrimitiveSet, top: int = 0) -> None:
        self.top = top
        with _reachable():
            # A run may begin in one thread and be taken apart by another; SQLite has locks.
            self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._database.close)
            self._database.executescript(_TABLES)
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
        self._rows(
            "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            candidate.behaviour, candidate.reason, candidate.rung, *candidate.objectives,
            json.dumps(dict(candidate.by_task)), json.dumps(candidate.earlier),
        )  # fmt: skip

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
            "SELECT text, behaviour, reason, rung, error, macs, params, by_task, earlier "
            f"FROM formulas JOIN results USING (behaviour) WHERE {condition}", value
        )  # fmt: skip
        for text, behaviour, reason, rung, error, macs, params, by_task, earlier in rows:
            tasks = {name: _objectives(values) for name, values in json.loads(by_task).items()}
            yield Candidate(
                self._formula(text), (error, macs, params), behaviour, tasks, reason, rung,
                tuple(map(_objectives, json.loads(earlier))),
            )  # fmt: skip

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
        rows = self._rows(
            f"SELECT error, macs, params, text {_TRIED} AND rung = ? AND size <= ? "
            "ORDER BY error, macs, params, size, text",
            self.top, MAX_NODES if readable is None else readable,
        )  # fmt: skip
        # In this order a row can only be dominated by one that comes before it.
        best: dict[Objectives, str] = {}
        for *objectives, text in rows:
            point = _objectives(objectives)
            if point not in best and not any(dominates(kept, point) for kept in best):
                best[point] = text
        front = [c for text in best.values() for c in self._candidates("text = ?", text)]
        return sorted(front, key=lambda c: (c.objectives[0], c.order))

    def shortlist(self, count: int, readable: int) -> list[Candidate]:
        """Return at most ``count`` candidates to compare in full: the front, thinned, by error.

        Long formulas may crowd out all that a person can read. So at least a third are formulas of
        at most ``readable`` nodes, if there are as many that no other such formula dominates.
        """
        front = self.front()
        reserved = self.front(readable)[: count // 3]
        chosen = thin(front, count)
        if sum(c.expression.size <= readable for c in chosen) < len(reserved):
            kept = thin([c for c in front if c not in reserved], count - len(reserved))
            chosen = [*kept, *reserved]
        return sorted(chosen, key=lambda c: (c.objectives[0], c.order))


def _objectives(values: Sequence[float]) -> Objectives:
    error, macs, params = values
    return error, macs, params


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
