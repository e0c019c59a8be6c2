"""Floor 4: the same tree as an exact sympy formula, and its LaTeX.

The formula uses indexed symbols and the functions of :mod:`gp_prune.symbols`; it computes exactly
what the tree computes, protected operators included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import sympy

from gp_prune import symbols
from gp_prune.binding import Scope
from gp_prune.expression import Expression
from gp_prune.primitive import Operand, Operator


def to_sympy(expression: Expression) -> Any:
    """The tree as a sympy formula; the axes of the root are written ``o``, ``i``, ``k``."""
    return _write(expression, Scope.of(expression.axes))


def _write(node: Expression, scope: Scope) -> Any:
    scope = Scope({letter: scope.current[letter] for letter in node.axes}, scope.taken)
    if node.value is not None:
        return (
            sympy.Integer(int(node.value)) if node.value.is_integer() else sympy.Float(node.value)
        )
    if isinstance(node.head, Operand):
        return symbols.indexed(node.name, scope.indices(node.axes))
    assert isinstance(node.head, Operator)
    arguments: list[Callable[[Scope], Any]] = [partial(_write, child) for child in node.arguments]
    return node.head.write(arguments, scope, node.over)
