"""Every candidate of a run, and the Pareto front of the best."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

from deap import tools

from gp_prune.language.expression import MAX_NODES, Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.runs.disk import ScratchDatabase
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
        """The objectives on a rung on which it was tried."""
        return (*self.earlier, self.objectives)[rung]

    @property
    def order(self) -> tuple[int, str]:
        """Smaller formulas first, then by text: a total order."""
        return self.expression.size, str(self.expression)


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether ``first`` is nowhere greater than ``second`` and somewhere less."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def thinned(front: Sequence[Candidate], count: int) -> list[Candidate]:
    """At most ``count`` of a front: those of least error and the most spread out of the others.

    The half with the least errors stays; the others are chosen by crowding distance.
    """
    if len(front) <= count:
        return list(front)
    best = list(front[: (count + 1) // 2])
    individuals = []
    for candidate in front[len(best) :]:
        individual = Individual([])
        individual.fitness.values = candidate.objectives
        individual.candidate = candidate
        individuals.append(individual)
    spread = tools.selNSGA2(individuals, count - len(best))
    kept = {id(individual.candidate) for individual in spread} | {id(c) for c in best}
    return [candidate for candidate in front if id(candidate) in kept]


_TABLES = """
    CREATE TABLE formulas (text TEXT PRIMARY KEY, size INTEGER, behaviour TEXT) WITHOUT ROWID;
    CREATE INDEX twins ON formulas (behaviour, size, text);
    CREATE TABLE results (
        behaviour TEXT PRIMARY KEY, reason TEXT, rung INTEGER, error REAL, macs REAL, params REAL,
        by_task TEXT, earlier TEXT
    ) WITHOUT ROWID;
"""
_TRIED = "FROM formulas JOIN results USING (behaviour) WHERE reason = ''"
_PARSED = 512
"""So many formulas are kept as trees, those that were wanted last."""


class Archive:
    """All candidates of a run by the text of their canonical form, on the disk.

    Candidates with the same behaviour have the same results.

    Args:
        primitives: the vocabulary of the formulas.
        top: the rung of candidates that were tried in full.
    """

    def __init__(self, primitives: PrimitiveSet, top: int = 0) -> None:
        self.top = top
        self._rows = ScratchDatabase(_TABLES)
        self._formula = lru_cache(_PARSED)(partial(parse, primitives=primitives))

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate that is new; all that behave like it get its results."""
        self._rows.write(
            "INSERT INTO formulas VALUES (?, ?, ?)",
            str(candidate.expression), candidate.expression.size, candidate.behaviour,
        )  # fmt: skip
        self.settle(candidate)

    def settle(self, found: Candidate) -> None:
        """Give all candidates that behave like this one the same results."""
        self._rows.write(
            "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            found.behaviour, found.reason, found.rung, *found.objectives,
            json.dumps(dict(found.by_task)), json.dumps(found.earlier),
        )  # fmt: skip

    def smallest(self, behaviour: Behaviour) -> Candidate | None:
        """The smallest formula with a behaviour, if there is one."""
        twins = self._candidates("behaviour = ? ORDER BY size, text LIMIT 1", behaviour)
        return next(twins, None)

    def get(self, expression: Expression) -> Candidate | None:
        """The candidate of a formula in canonical form, if it was tried."""
        return next(self._candidates("text = ?", str(expression)), None)

    def _candidates(self, condition: str, value: str) -> Iterator[Candidate]:
        rows = self._rows.rows(
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
        return self._rows.number("SELECT count(*) FROM formulas WHERE text = ?", text) > 0

    def __len__(self) -> int:
        return self._rows.number("SELECT count(*) FROM formulas")

    @property
    def assessed(self) -> int:
        """Number of distinct formulas that were really tried on all tasks."""
        return self._rows.number(f"SELECT count(*) {_TRIED}")

    @property
    def behaviours(self) -> int:
        """Number of distinct behaviours among them."""
        return self._rows.number("SELECT count(*) FROM results WHERE reason = ''")

    @property
    def complete(self) -> int:
        """Number of these that were tried in full."""
        return self._rows.number(
            "SELECT count(*) FROM results WHERE reason = '' AND rung = ?", self.top
        )

    def front(self, readable: int | None = None) -> list[Candidate]:
        """The candidates tried in full that no other one dominates, one for each objectives.

        Of several with the same objectives, so of all with the same behaviour, the smallest
        formula is taken. Sorted by error, then by size and text.

        Args:
            readable: of formulas of at most so many nodes alone.
        """
        rows = self._rows.rows(
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
        """At most ``count`` candidates to compare in full: the front, thinned, by error.

        Long formulas may crowd out all that a person can read. So at least a third are formulas of
        at most ``readable`` nodes, if there are as many that no other such formula dominates.
        """
        front = self.front()
        reserved = self.front(readable)[: count // 3]
        chosen = thinned(front, count)
        if sum(c.expression.size <= readable for c in chosen) < len(reserved):
            kept = thinned([c for c in front if c not in reserved], count - len(reserved))
            chosen = [*kept, *reserved]
        return sorted(chosen, key=lambda c: (c.objectives[0], c.order))


def _objectives(values: Sequence[float]) -> Objectives:
    error, macs, params = values
    return error, macs, params
