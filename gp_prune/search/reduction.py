"""Shorten the formulas of the front as long as every plan stays the same.

A search keeps the first formula that it meets with a behaviour, with all that drift has added:
constants that change nothing, a ``tanh`` around the whole. Here a part is replaced by one of its
arguments, or by 0 or 1, or a number by one with fewer digits, as long as what is cut stays the
same on every task, at every budget of the ladder and of the comparison. So the evaluations stay
the same, too, and reducing costs scoring alone. What is tried, and in which order, follows from
the formula; a resumed run reduces again and finds the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from gp_prune.errors import DegenerateScores
from gp_prune.formula.simplify import simplify
from gp_prune.language.expression import Expression, ExpressionError, canonical, format_constant
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.language.record import MissingMeasurement
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric, probe
from gp_prune.metric.rank_form import measure, rank_form
from gp_prune.pruning.plan.weights import Target
from gp_prune.pruning.select.scores import MOST_TIES
from gp_prune.search.scorer import TaskScorer
from gp_prune.tasks.likeness import Probes
from gp_prune.tasks.probe_networks import measure_probe_networks

CONSTANTS = (0.0, 1.0)
"""Numbers that a part is replaced by."""

MOST_DIGITS = 3
"""Digits of the numbers by which longer ones are replaced; fewer are tried first."""


class Shorter(NamedTuple):
    """A shorter formula, and what was done to get it.

    Attributes:
        expression: the whole formula.
        step: the part that was replaced, ``->`` and what took its place, or the name of the rules
            that gave the formula.
    """

    expression: Expression
    step: str


def single_reductions(tree: Expression) -> Iterator[Shorter]:
    """Yield every tree that replacing one node makes shorter, whatever it computes.

    A node is replaced by one of its arguments, by 0 or 1, or, if it is a number, by one with fewer
    digits. Trees of another type are left out.
    """
    for replacement in _replacements(tree):
        if replacement.axes is tree.axes and measure(replacement) < measure(tree):
            yield Shorter(replacement, f"{tree} -> {replacement}")
    yield from (
        found
        for found in _below(tree)
        if found.expression.axes is tree.axes and measure(found.expression) < measure(tree)
    )


def _below(tree: Expression) -> Iterator[Shorter]:
    """Yield the tree with one node replaced that is not its root."""
    for place, argument in enumerate(tree.arguments):
        parts = [Shorter(r, f"{argument} -> {r}") for r in _replacements(argument)]
        for part, step in [*parts, *_below(argument)]:
            arguments = (*tree.arguments[:place], part, *tree.arguments[place + 1 :])
            try:
                yield Shorter(Expression(tree.head, tree.over, arguments), step)
            except ExpressionError:  # the operator refuses the type of the part
                continue


def _replacements(node: Expression) -> Iterator[Expression]:
    yield from dict.fromkeys(node.arguments)
    for value in CONSTANTS:
        if node.value != value:
            yield Expression.constant(value)
    if node.value is not None:
        shorter = (float(f"{node.value:.{digits}g}") for digits in range(1, MOST_DIGITS + 1))
        for value in dict.fromkeys(shorter):
            if len(format_constant(value)) < len(format_constant(node.value)):
                yield Expression.constant(value)


@dataclass(frozen=True)
class PlanSetting:
    """Where plans must stay the same.

    Attributes:
        conventions: how scores are used.
        budgets: the shares to keep, and the patterns.
        noise_seeds: gives the seeds of further draws of random operands, for a task and a budget.
    """

    conventions: Conventions
    budgets: tuple[Target, ...]
    noise_seeds: Callable[[str, Target], Sequence[int]] = lambda task, budget: ()


class PlanKey(NamedTuple):
    """What is compared of a plan: what is cut where, and the share of equal scores."""

    cut: str
    ties: float


@dataclass(frozen=True)
class Reduction:
    """A formula in its shortest form found.

    Attributes:
        expression: the form, canonical.
        original: the formula as it was found.
        steps: what was dropped, in order.
    """

    expression: Expression
    original: Expression
    steps: tuple[str, ...] = ()


class Reducer:
    """Shortens formulas whose plans stay the same.

    Args:
        primitives: the vocabulary.
        scorers: the tasks, each prepared.
        setting: where plans must stay the same.
    """

    def __init__(
        self, primitives: PrimitiveSet, scorers: Sequence[TaskScorer], setting: PlanSetting
    ) -> None:
        self._primitives = primitives
        self._scorers = scorers
        self._setting = setting
        self._measured: dict[AbstractSet[str], Probes] = {}

    def reduce(self, expression: Expression) -> Reduction:
        """Return the shortest form that single steps lead to; of several steps the largest.

        In the end no single reduction of the form keeps all plans. A formula that cannot be
        ranked everywhere stays as it is.
        """
        best = canonical(expression)
        try:
            wanted = list(self._plans(best))
        except (DegenerateScores, MissingMeasurement):
            return Reduction(best, best)
        steps: list[str] = []
        refused: set[Expression] = set()
        while (found := self._next(best, wanted, refused)) is not None:
            best = found.expression
            steps.append(found.step)
        return Reduction(best, canonical(expression), tuple(steps))

    def find_published(self, expression: Expression, published: Sequence[Metric]) -> Metric | None:
        """Return the first metric that cuts the same everywhere and ranks the probe layers alike.

        Args:
            expression: a formula.
            published: metrics of the same granularity.
        """
        try:
            wanted = self.plans(expression)
        except (DegenerateScores, MissingMeasurement):
            return None
        for metric in published:
            if "noise" in metric.needs or not self.same_plans(metric.expression, wanted):
                continue
            probes = self._probes(expression.needs | metric.needs)
            if probes.rank_alike(expression, metric.expression, self._setting.conventions):
                return metric
        return None

    def _probes(self, needs: AbstractSet[str]) -> Probes:
        """Return the probe networks with all that two formulas read; measured once."""
        if needs not in self._measured:
            self._measured[needs] = Probes(measure_probe_networks(needs))
        return self._measured[needs]

    def _next(
        self, tree: Expression, wanted: Sequence[PlanKey], refused: set[Expression]
    ) -> Shorter | None:
        """Return the shortest form of one step with the same plans; None if there is none."""
        for found in self.candidates(tree):
            if found.expression in refused:
                continue
            if self.same_plans(found.expression, wanted):
                return found
            refused.add(found.expression)
        return None

    def candidates(self, tree: Expression) -> list[Shorter]:
        """Return the forms of one step that are shorter, the shortest first."""
        ranked = rank_form(tree, self._primitives, self._setting.conventions)
        simple = simplify(tree, self._primitives)
        found = [
            Shorter(ranked, "what changes no ranking"),
            Shorter(simple, "what changes no value"),
            *single_reductions(tree),
        ]
        forms = [Shorter(canonical(form), step) for form, step in found]
        shorter = [form for form in forms if measure(form.expression) < measure(tree)]
        return sorted(shorter, key=lambda s: (*measure(s.expression), str(s.expression)))

    def plans(self, expression: Expression) -> list[PlanKey]:
        """Return what is compared of all plans of a formula.

        Raises:
            DegenerateScores: the scores rank nothing somewhere.
            MissingMeasurement: a task offers too little for an operand.
        """
        return list(self._plans(expression))

    def is_rankable(self, expression: Expression) -> bool:
        """Return whether a formula ranks something on every task, and not by rounding alone."""
        if not all(map(math.isfinite, probe(expression))):
            return False
        try:
            ties = [plan.ties for plan in self._plans(expression)]
        except (DegenerateScores, MissingMeasurement):
            return False
        return max(ties) <= MOST_TIES and not any(
            scorer.find_rounding(expression) for scorer in self._scorers
        )

    def same_plans(self, expression: Expression, wanted: Sequence[PlanKey]) -> bool:
        """Return whether a formula has these plans, with no more ties, and is no rounding."""
        if not all(map(math.isfinite, probe(expression))):
            return False
        try:
            for plan, other in zip(self._plans(expression), wanted, strict=True):
                if plan.cut != other.cut or plan.ties > other.ties:
                    return False
        except (DegenerateScores, MissingMeasurement):
            return False
        return not any(scorer.find_rounding(expression) for scorer in self._scorers)

    def _plans(self, expression: Expression) -> Iterator[PlanKey]:
        noisy = "noise" in expression.needs
        for scorer in self._scorers:
            for budget in self._setting.budgets:
                draws: list[int | None] = [None]
                if noisy:
                    draws += self._setting.noise_seeds(scorer.task.name, budget)
                for draw in draws:
                    cut = scorer.plan(expression, self._setting.conventions, budget, draw)
                    yield PlanKey(cut.key, cut.plan.ties)
