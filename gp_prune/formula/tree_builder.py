"""Build trees by what operators compute, whatever they are called.

A formula is blind to axes along which it is constant: ``sub(b, b)`` is of type {o}, but its
formula is 0. Where an operator or a result needs such an axis, a zero that has it is added.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction

from gp_prune.formula.matching import OperatorPatterns
from gp_prune.language.axes import LEGAL_AXES, SCALAR, Axes, Signature
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.primitive import Operator, PrimitiveSet
from gp_prune.language.record import NEEDS

_NEEDS = list(NEEDS)  # the cheap ones first


class TreeBuilder:
    """A builder that applies operators by their role.

    See :class:`gp_prune.formula.matching.OperatorPatterns` for the roles.

    Args:
        primitives: the vocabulary.
    """

    def __init__(self, primitives: PrimitiveSet) -> None:
        self.primitives = primitives
        self.patterns = OperatorPatterns(primitives)

    def has(self, *roles: str) -> bool:
        """Return whether there is an operator for each of the roles."""
        return all(role in self.patterns.by_role for role in roles)

    def operator(self, role: str) -> Operator:
        """Return the operator with this role; ExpressionError if there is none."""
        if role not in self.patterns.by_role:
            raise ExpressionError(f"the vocabulary has no operator that computes: {role}")
        return self.patterns.by_role[role]

    def apply(self, role: str, *values: Expression, over: Axes = SCALAR) -> Expression:
        """Apply the operator with this role."""
        return Expression.apply(self.operator(role), *values, over=over)

    def negate(self, value: Expression) -> Expression:
        """Return the value with the other sign."""
        if value.value is not None:
            return Expression.constant(-value.value)
        if self.has("negate"):
            return self.apply("negate", value)
        return self.apply("multiply", Expression.constant(-1), value)

    def join(self, role: str, values: Sequence[Expression]) -> Expression | None:
        """Join values by a binary operator, as a low tree; None where there are none."""
        if len(values) < 2:
            return values[0] if values else None
        half = len(values) // 2
        left, right = (self.join(role, part) for part in (values[:half], values[half:]))
        assert left is not None and right is not None
        return self.apply(role, left, right)

    def difference(
        self, gained: Sequence[Expression], lost: Sequence[Expression]
    ) -> Expression | None:
        """Return the sum of some values less the sum of others; None where there are none."""
        plus, minus = self.join("add", gained), self.join("add", lost)
        if minus is None:
            return plus
        if plus is None:
            return self.negate(minus)
        if self.has("subtract"):
            return self.apply("subtract", plus, minus)
        return self.apply("add", plus, self.negate(minus))

    def scale(self, value: Expression | None, above: float, below: float = 1.0) -> Expression:
        """Return ``above / below`` times a value, or that number where there is no value."""
        if value is None:
            return Expression.constant(above / below)
        if below == 1:
            if abs(above) != 1:
                return self.apply("multiply", Expression.constant(above), value)
            return value if above == 1 else self.negate(value)
        if not self.has("divide"):
            return self.scale(value, above / below)
        return self.apply("divide", self.scale(value, above), Expression.constant(below))

    def power(self, value: Expression, exponent: Fraction) -> Expression:
        """Return a positive power by squares and, for binary fractions, roots of |value|."""
        whole = int(exponent)
        if whole != exponent:
            root = self.apply("root", self.power(value, 2 * (exponent - whole)))
            if not whole:
                return root
            return self.apply("multiply", self.power(value, Fraction(whole)), root)
        if whole == 1:
            return value
        half = self.power(value, Fraction(whole // 2))
        even = self.square(half)
        return self.apply("multiply", even, value) if whole % 2 else even

    def square(self, value: Expression) -> Expression:
        """Return the square of a value."""
        if self.has("square"):
            return self.apply("square", value)
        return self.apply("multiply", value, value)


def sort_by_text(values: Iterable[Expression]) -> list[Expression]:
    """Sort values by their text, which no name of an index can change."""
    return sorted(values, key=str)


class AxisPadding(TreeBuilder):
    """A builder that also adds and removes axes, which changes no value.

    Args:
        primitives: the vocabulary.
        used: names of operands that the formula has; zeros are made of these where possible, so
            that the tree needs no further measurement.
    """

    def __init__(self, primitives: PrimitiveSet, used: Collection[str]) -> None:
        super().__init__(primitives)
        self._operands = primitives.operands
        self._used = frozenset(used) & set(self._operands)
        self._needed = frozenset().union(*(self._operands[name].needs for name in self._used))

    def zero(self, axes: Axes) -> Expression:
        """Return a tree of the given type whose value is 0 everywhere."""
        fitting = [o for o in self._operands.values() if axes.issubset(o.axes)]
        if not fitting:
            return self._zero_by_operator(axes)
        operand = min(
            fitting,
            key=lambda o: (
                max((_NEEDS.index(need) for need in o.needs - self._needed), default=-1),
                len(o.axes),
                o.name not in self._used,
            ),
        )
        carrier = self.remove_axes(Expression.of(operand), operand.axes - axes)
        return self.apply("multiply", Expression.constant(0), carrier)

    def _zero_by_operator(self, axes: Axes) -> Expression:
        """Return a zero with axes that no operand has, by an operator of fixed types."""
        for operator in self.primitives.operators.values():
            shape = operator.shape
            if isinstance(shape, Signature) and axes.issubset(shape.to):
                value = Expression.apply(operator, *map(self.zero, shape.arguments))
                value = self.remove_axes(value, shape.to - axes)
                return self.apply("multiply", Expression.constant(0), value)
        raise ExpressionError(f"no operand has the axes {axes}")

    def add_axes(self, value: Expression, axes: Axes, over: Axes = SCALAR) -> Expression:
        """Return the value with at least these axes, and a legal type once ``over`` is removed."""
        wanted = value.axes | axes
        if wanted is value.axes and (wanted - over).legal:
            return value
        types = [t for t in LEGAL_AXES if wanted.issubset(t) and (t - over).legal]
        if not types:
            raise ExpressionError(f"no value has the axes {wanted}")
        zero = self.zero(types[0])
        return zero if value.value == 0 else self.apply("add", value, zero)

    def remove_axes(self, value: Expression, axes: Axes) -> Expression:
        """Return the value without axes along which it is constant."""
        for role in ("largest", "smallest", "mean"):
            if axes and self.has(role) and (value.axes - axes).legal:
                return self.apply(role, value, over=axes)
        return value

    def fit_axes(self, value: Expression, axes: Axes) -> Expression:
        """Return the value with exactly these axes."""
        value = self.add_axes(value, axes)
        value = self.remove_axes(value, value.axes - axes)
        if value.axes is not axes:
            raise ExpressionError(f"the formula has the axes {value.axes}, not {axes}")
        return value

    def reduce(self, operator: Operator, over: Axes, value: Expression) -> Expression:
        """Return a reduction over axes that the value may lack."""
        shown = value.axes - over
        full = self.add_axes(value, over, over)
        result = Expression.apply(operator, full, over=over)
        return self.remove_axes(result, result.axes - shown)

    def length(self, letter: str) -> Expression:
        """Return the number of entries along an axis, as a scalar tree."""
        return self.reduce(self.operator("total"), Axes(letter), Expression.constant(1))
