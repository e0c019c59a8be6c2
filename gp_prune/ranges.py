"""Floor 3: between which numbers the value of a tree lies, whatever the layer."""

from __future__ import annotations

import math
from typing import NamedTuple

from gp_prune import symbols
from gp_prune.expression import Expression
from gp_prune.forms import Forms
from gp_prune.primitive import Operand

_INF = math.inf


class Range(NamedTuple):
    """All values lie between ``low`` and ``high``, either of which may be infinite."""

    low: float = -_INF
    high: float = _INF


_FIXED = {
    "tanh": Range(-1.0, 1.0),
    "min max": Range(0.0, 1.0),
    "sum share": Range(-1.0, 1.0),
    "max share": Range(-1.0, 1.0),
}
_INSIDE = frozenset({"mean", "largest", "smallest"})


class Ranges:
    """The ranges of trees, each worked out once.

    Args:
        forms: what the operators compute.
    """

    def __init__(self, forms: Forms) -> None:
        self._forms = forms
        self._known: dict[Expression, Range] = {}

    def of(self, tree: Expression) -> Range:
        """The range of a tree; operands have any value, or any that is not negative."""
        if tree not in self._known:
            self._known[tree] = self._worked_out(tree)
        return self._known[tree]

    def nonnegative(self, tree: Expression) -> bool:
        """Whether no value is ever below 0."""
        return self.of(tree).low >= 0

    def _worked_out(self, tree: Expression) -> Range:
        if tree.value is not None:
            return Range(tree.value, tree.value)
        if isinstance(tree.head, Operand):
            return Range(0.0) if tree.head.nonnegative else Range()
        if tree.name in self._forms.indicators:
            return Range(0.0, 1.0)
        parts = [self.of(argument) for argument in tree.arguments]
        found = self._by_meaning(self._forms.meanings.get(tree.name, ""), parts)
        signs = tree.name in self._forms.nonnegative or (
            tree.name in self._forms.sign_keeping and all(part.low >= 0 for part in parts)
        )
        return Range(max(found.low, 0.0), max(found.high, 0.0)) if signs else found

    def _by_meaning(self, meaning: str, parts: list[Range]) -> Range:
        if meaning in _FIXED:
            return _FIXED[meaning]
        first = parts[0]
        if meaning in _INSIDE:
            return first
        if meaning == "negate":
            return Range(-first.high, -first.low)
        if meaning == "magnitude":
            low = max(first.low, -first.high, 0.0)
            return Range(low, max(abs(first.low), abs(first.high)))
        if meaning == "exponential":
            return Range(*(math.exp(min(end, symbols.EXP_LIMIT)) for end in first))
        if len(parts) == 2:
            return _of_two(meaning, first, parts[1])
        return Range()


def _of_two(meaning: str, a: Range, b: Range) -> Range:
    if meaning == "add":
        return Range(a.low + b.low, a.high + b.high)
    if meaning == "subtract":
        return Range(a.low - b.high, a.high - b.low)
    if meaning == "larger":
        return Range(max(a.low, b.low), max(a.high, b.high))
    if meaning == "smaller":
        return Range(min(a.low, b.low), min(a.high, b.high))
    if meaning == "multiply":
        ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
        return Range(min(ends), max(ends))
    return Range()
