"""Floor 3: give a tree axes that its formula does not show.

A formula is blind to axes along which it is constant: ``sub(b, b)`` is of type {o}, but its
formula is 0. Where an operator or a result needs such an axis, a zero that has it is added.
"""

from __future__ import annotations

from collections.abc import Collection

from gp_prune.axes import LEGAL_AXES, SCALAR, Axes
from gp_prune.building import Builder
from gp_prune.expression import Expression, ExpressionError
from gp_prune.layer import NEEDS
from gp_prune.primitive import Operator, Signature

_NEEDS = list(NEEDS)  # the cheap ones first


class Padding:
    """Adds and removes axes without changing a value.

    Args:
        build: builds trees of the vocabulary.
        used: names of operands that the formula has; zeros are made of these where possible, so
            that the tree needs no further measurement.
    """

    def __init__(self, build: Builder, used: Collection[str]) -> None:
        self._build = build
        self._operands = build.primitives.operands
        self._used = frozenset(used) & set(self._operands)
        self._needed = frozenset().union(*(self._operands[name].needs for name in self._used))

    def zero(self, axes: Axes) -> Expression:
        """A tree of the given type whose value is 0 everywhere."""
        fitting = [o for o in self._operands.values() if axes.issubset(o.axes)]
        if not fitting:
            return self._made(axes)
        operand = min(
            fitting,
            key=lambda o: (
                max((_NEEDS.index(need) for need in o.needs - self._needed), default=-1),
                len(o.axes),
                o.name not in self._used,
            ),
        )
        carrier = self.without(Expression.of(operand), operand.axes - axes)
        return self._build.apply("multiply", Expression.constant(0), carrier)

    def _made(self, axes: Axes) -> Expression:
        """A zero with axes that no operand has, by way of an operator of fixed types."""
        for operator in self._build.primitives.operators.values():
            shape = operator.shape
            if isinstance(shape, Signature) and axes.issubset(shape.to):
                value = Expression.apply(operator, *map(self.zero, shape.arguments))
                value = self.without(value, shape.to - axes)
                return self._build.apply("multiply", Expression.constant(0), value)
        raise ExpressionError(f"no operand has the axes {axes}")

    def with_axes(self, value: Expression, axes: Axes, over: Axes = SCALAR) -> Expression:
        """The same value with at least these axes, and a legal type once ``over`` is removed."""
        wanted = value.axes | axes
        if wanted is value.axes and (wanted - over).legal:
            return value
        types = [t for t in LEGAL_AXES if wanted.issubset(t) and (t - over).legal]
        if not types:
            raise ExpressionError(f"no value has the axes {wanted}")
        zero = self.zero(types[0])
        return zero if value.value == 0 else self._build.apply("add", value, zero)

    def without(self, value: Expression, axes: Axes) -> Expression:
        """The same value without axes along which it is constant."""
        for meaning in ("largest", "smallest", "mean"):
            if axes and self._build.has(meaning) and (value.axes - axes).legal:
                return self._build.apply(meaning, value, over=axes)
        return value

    def exactly(self, value: Expression, axes: Axes) -> Expression:
        """The same value with exactly these axes."""
        value = self.with_axes(value, axes)
        value = self.without(value, value.axes - axes)
        if value.axes is not axes:
            raise ExpressionError(f"the formula has the axes {value.axes}, not {axes}")
        return value

    def reduced(self, operator: Operator, over: Axes, value: Expression) -> Expression:
        """A reduction over axes that the value may lack."""
        shown = value.axes - over
        full = self.with_axes(value, over, over)
        result = Expression.apply(operator, full, over=over)
        return self.without(result, result.axes - shown)

    def length(self, letter: str) -> Expression:
        """The number of entries along an axis, as a scalar tree."""
        total = self._build.operator("total")
        return self.reduced(total, Axes(letter), Expression.constant(1))
