"""Write a tree as an exact sympy formula.

The formula uses indexed symbols and the functions of :mod:`gp_prune.language.symbols`; it computes
exactly what the tree computes, protected operators included.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import sympy

from gp_prune.language import symbols
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.primitive import Operand, Operator, Signature
from gp_prune.language.symbols import Scope

MAX_TERMS = 10_000
"""Formulas that grow larger are refused; what a search may build is far smaller."""


def to_sympy(expression: Expression) -> Any:
    """Return the tree as a sympy formula; the axes of the root are written ``o``, ``i``, ``k``.

    Raises:
        ExpressionError: nested distances make the formula too large to write.
    """
    return _Writer().write(expression, Scope.of(expression.axes))


class _Writer:
    """A writer of trees; what is asked for twice in the same scope is written once."""

    def __init__(self) -> None:
        self._written: dict[Hashable, Any] = {}

    def write(self, node: Expression, scope: Scope) -> Any:
        scope = Scope({letter: scope.current[letter] for letter in node.axes}, scope.taken)
        key = node, tuple(scope.current.items()), scope.taken
        if key not in self._written:
            self._written[key] = self._formula(node, scope)
        return self._written[key]

    def _formula(self, node: Expression, scope: Scope) -> Any:
        if node.value is not None:
            return _number(node.value)
        if isinstance(node.head, Operand):
            return symbols.indexed(node.name, scope.indices(node.axes))
        assert isinstance(node.head, Operator)
        arguments: list[Callable[[Scope], Any]] = [
            partial(self.write, child) for child in node.arguments
        ]
        formula = node.head.write(arguments, scope, node.over)
        if isinstance(node.head.shape, Signature) and symbols.is_long(formula, MAX_TERMS):
            raise ExpressionError(
                f"the formula of {node.head.name!r} has more than {MAX_TERMS} terms because its "
                "argument is written more than once at each level; nest it less deeply"
            )
        return formula


def _number(value: float) -> Any:
    """Return a constant, exact where it is a whole number that a person would write out."""
    whole = value.is_integer() and abs(value) < 1e15
    return sympy.Integer(int(value)) if whole else sympy.Float(value)
