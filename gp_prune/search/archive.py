"""Floor 9: every candidate of a run, and the Pareto front of the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deap import tools

from gp_prune.expression import Expression
from gp_prune.search.evaluation import WORST_ERROR
from gp_prune.search.typed_set import Individual

Objectives = tuple[float, float, float]
Behaviour = tuple[str, ...]

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


def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates that no other dominates, one for each behaviour and vector of objectives.

    Of several with the same behaviour or the same objectives the smallest formula is taken.
    Sorted by error, then by size and text.
    """
    best: dict[Objectives, Candidate] = {}
    for candidate in sorted((c for c in candidates if not c.reason), key=lambda c: c.order):
        best.setdefault(candidate.objectives, candidate)
    front: list[Candidate] = []
    # In this order a candidate can only be dominated by one that comes before it.
    for objectives in sorted(best):
        if not any(dominates(kept.objectives, objectives) for kept in front):
            front.append(best[objectives])
    return sorted(front, key=lambda c: (c.objectives[0], c.order))


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


class Archive:
    """All candidates of a run by the text of their canonical form.

    Args:
        top: the rung of candidates that were tried in full.
    """

    def __init__(self, top: int = 0) -> None:
        self.top = top
        self._by_text: dict[str, Candidate] = {}
        self._texts: dict[Behaviour, list[str]] = {}
        self._nodes: dict[Expression, Expression] = {}

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate that is new."""
        text = str(candidate.expression)
        self._by_text[text] = replace(candidate, expression=self._shared(candidate.expression))
        self._texts.setdefault(candidate.behaviour, []).append(text)

    def _shared(self, expression: Expression) -> Expression:
        """The same formula with one object for every subtree that several formulas have."""
        known = self._nodes.get(expression)
        if known is None:
            arguments = tuple(map(self._shared, expression.arguments))
            known = Expression(expression.head, expression.over, arguments, expression.value)
            self._nodes[known] = known
        return known

    def settle(self, found: Candidate) -> None:
        """Give all candidates that behave like this one the same results."""
        for text in self._texts[found.behaviour]:
            self._by_text[text] = replace(found, expression=self._by_text[text].expression)

    def smallest(self, behaviour: Behaviour) -> Candidate | None:
        """The smallest formula with a behaviour, if there is one."""
        twins = [self._by_text[text] for text in self._texts.get(behaviour, ())]
        return min(twins, key=lambda c: c.order, default=None)

    def get(self, expression: Expression) -> Candidate | None:
        """The candidate of a formula in canonical form, if it was tried."""
        return self._by_text.get(str(expression))

    def __contains__(self, text: str) -> bool:
        return text in self._by_text

    def __len__(self) -> int:
        return len(self._by_text)

    @property
    def assessed(self) -> int:
        """Number of distinct formulas that were really tried on all tasks."""
        return sum(not candidate.reason for candidate in self._by_text.values())

    @property
    def behaviours(self) -> int:
        """Number of distinct behaviours among them."""
        return len({c.behaviour for c in self._by_text.values() if not c.reason})

    def complete(self) -> list[Candidate]:
        """The candidates that were tried in full."""
        return [c for c in self._by_text.values() if c.rung == self.top and not c.reason]

    def front(self) -> list[Candidate]:
        """The Pareto front of the candidates that were tried in full."""
        return pareto_front(self.complete())

    def shortlist(self, count: int, readable: int) -> list[Candidate]:
        """At most ``count`` candidates to compare in full: the front, thinned, by error.

        Long formulas may crowd out all that a person can read. So at least a third are formulas of
        at most ``readable`` nodes, if there are as many that no other such formula dominates.
        """
        front = self.front()
        short = pareto_front(c for c in self.complete() if c.expression.size <= readable)
        reserved = short[: count // 3]
        chosen = thinned(front, count)
        if sum(c.expression.size <= readable for c in chosen) < len(reserved):
            kept = thinned([c for c in front if c not in reserved], count - len(reserved))
            chosen = [*kept, *reserved]
        return sorted(chosen, key=lambda c: (c.objectives[0], c.order))
