"""Floor 3: build trees by what operators compute, whatever they are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from gp_prune.axes import SCALAR, Axes
from gp_prune.expression import Expression, ExpressionError
from gp_prune.forms import Forms
from gp_prune.primitive import Operator, PrimitiveSet


class Builder:
    """Applies operators by their meaning (see :class:`gp_prune.forms.Forms`).

    Args:
        primitives: the vocabulary.
    """

    def __init__(self, primitives: PrimitiveSet) -> None:
        self.primitives = primitives
        self.forms = Forms(primitives)

    def has(self, *meanings: str) -> bool:
        """Whether there is an operator for each of the meanings."""
        return all(meaning in self.forms.arithmetic for meaning in meanings)

    def operator(self, meaning: str) -> Operator:
        """The operator that computes this; ExpressionError if there is none."""
        found = self.forms.arithmetic.get(meaning)
        if found is None:
            raise ExpressionError(f"the vocabulary has no operator that computes: {meaning}")
        return found

    def apply(self, meaning: str, *values: Expression, over: Axes = SCALAR) -> Expression:
        """The operator with this meaning applied to values."""
        return Expression.apply(self.operator(meaning), *values, over=over)

    def negated(self, value: Expression) -> Expression:
        """The value with the other sign."""
        if value.value is not None:
            return Expression.constant(-value.value)
        if self.has("negate"):
            return self.apply("negate", value)
        return self.apply("multiply", Expression.constant(-1), value)

    def joined(self, meaning: str, values: Sequence[Expression]) -> Expression | None:
        """All values joined by a binary operator, as a low tree; None where there are none."""
        if len(values) < 2:
            return values[0] if values else None
        half = len(values) // 2
        left, right = (self.joined(meaning, part) for part in (values[:half], values[half:]))
        assert left is not None and right is not None
        return self.apply(meaning, left, right)

    def difference(
        self, gained: Sequence[Expression], lost: Sequence[Expression]
    ) -> Expression | None:
        """The sum of some values less the sum of others; None where there are none."""
        plus, minus = self.joined("add", gained), self.joined("add", lost)
        if minus is None:
            return plus
        if plus is None:
            return self.negated(minus)
        if self.has("subtract"):
            return self.apply("subtract", plus, minus)
        return self.apply("add", plus, self.negated(minus))

    def scaled(self, value: Expression | None, above: float, below: float = 1.0) -> Expression:
        """``above / below`` times a value, or that number where there is no value."""
        if value is None:
            return Expression.constant(above / below)
        if below == 1:
            if abs(above) != 1:
                return self.apply("multiply", Expression.constant(above), value)
            return value if above == 1 else self.negated(value)
        if not self.has("divide"):
            return self.scaled(value, above / below)
        return self.apply("divide", self.scaled(value, above), Expression.constant(below))

    def power(self, value: Expression, exponent: Fraction) -> Expression:
        """A positive power by squares and, for binary fractions, roots of what is not negative."""
        whole = int(exponent)
        if whole != exponent:
            root = self.apply("root", self.power(value, 2 * (exponent - whole)))
            if not whole:
                return root
            return self.apply("multiply", self.power(value, Fraction(whole)), root)
        if whole == 1:
            return value
        half = self.power(value, Fraction(whole // 2))
        even = self.squared(half)
        return self.apply("multiply", even, value) if whole % 2 else even

    def squared(self, value: Expression) -> Expression:
        """The square of a value."""
        if self.has("square"):
            return self.apply("square", value)
        return self.apply("multiply", value, value)


def by_text(values: Iterable[Expression]) -> list[Expression]:
    """The values in the order of their text, which no name of an index can change."""
    return sorted(values, key=str)
