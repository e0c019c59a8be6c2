"""Build trees by what operators compute, whatever they are called."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

from gp_prune.formula.matching import OperatorPatterns
from gp_prune.language import symbols
from gp_prune.language.axes import SCALAR, Axes
from gp_prune.language.expression import Expression, ExpressionError, canonical
from gp_prune.language.primitive import Operand, Operator, PrimitiveSet

_LINEAR = frozenset({"total", "mean"})
_DUAL = {"largest": "smallest", "smallest": "largest"}
_OF_MAGNITUDE = frozenset({"norm", "magnitudes", "deviation"})


class Ratio(NamedTuple):
    """The number above / below, kept apart so that a third stays a third."""

    above: float = 1.0
    below: float = 1.0

    def times(self, other: Ratio) -> Ratio:
        """The product of two numbers."""
        return Ratio(self.above * other.above, self.below * other.below)

    def plus(self, other: Ratio) -> Ratio:
        """The sum of two numbers."""
        if self.below == other.below:
            return Ratio(self.above + other.above, self.below)
        above = self.above * other.below + other.above * self.below
        return Ratio(above, self.below * other.below)

    @property
    def value(self) -> float:
        """The number as a double."""
        return self.above / self.below

    def shortest(self) -> Ratio:
        """An equal number, the sign above, that is written with as few digits as possible."""
        if self.above == 0:
            return Ratio(0.0)
        sign = -1.0 if self.value < 0 else 1.0
        above, below = abs(self.above), abs(self.below)
        ways = [Ratio(above / below), Ratio(1.0, below / above), Ratio(above, below)]
        best = min(ways, key=lambda way: len(repr(way.above)) + len(repr(way.below)))
        return Ratio(sign * best.above, best.below)


ONE = Ratio()

Terms = list[tuple[Ratio, Expression | None]]
"""A sum of multiples of trees; a multiple of None is a number."""


@dataclass(frozen=True)
class Product:
    """A number times powers of trees, magnitudes of trees, and roots of magnitudes of trees."""

    ratio: Ratio = ONE
    powers: Mapping[Expression, int] = field(default_factory=dict)
    magnitudes: Mapping[Expression, int] = field(default_factory=dict)
    roots: Mapping[Expression, int] = field(default_factory=dict)

    def times(self, other: Product) -> Product:
        """The product of both."""
        return Product(
            self.ratio.times(other.ratio),
            Counter(self.powers) + Counter(other.powers),
            Counter(self.magnitudes) + Counter(other.magnitudes),
            Counter(self.roots) + Counter(other.roots),
        )


class Algebra:
    """Takes trees apart and puts them together.

    Args:
        build: builds trees of the vocabulary.
        ranges: where values lie.
    """

    def __init__(self, build: Builder, ranges: Ranges) -> None:
        self._build = build
        self._ranges = ranges
        self._first: dict[Expression, Expression] = {}
        self._products: dict[Expression, Product] = {}

    def role(self, tree: Expression) -> str:
        """What the head of a tree computes; empty for operands and unknown operators."""
        return self._build.forms.roles.get(tree.name, "") if tree.arguments else ""

    def same(self, tree: Expression) -> Expression:
        """The first seen of all trees that are equal but for the order of arguments."""
        return self._first.setdefault(canonical(tree), tree)

    def terms(self, tree: Expression) -> Terms:
        """The tree as a sum of multiples."""
        if tree.value is not None:
            return [(Ratio(tree.value), None)]
        role, arguments = self.role(tree), tree.arguments
        if role in ("add", "subtract"):
            sign = Ratio(1.0 if role == "add" else -1.0)
            return self.terms(arguments[0]) + self._multiples(arguments[1], sign)
        if role == "negate":
            return self._multiples(arguments[0], Ratio(-1.0))
        if role == "multiply":
            for factor, other in (arguments, arguments[::-1]):
                if factor.value is not None:
                    return self._multiples(other, Ratio(factor.value))
        if role == "divide" and self._divides(arguments[1]):
            return self._multiples(arguments[0], Ratio(1.0, arguments[1].value or 1.0))
        product = self.product(tree)
        if product.ratio == ONE:
            return [(ONE, tree)]
        return [(product.ratio, self.product_of(replace(product, ratio=ONE)))]

    def _multiples(self, tree: Expression, ratio: Ratio) -> Terms:
        return [(ratio.times(own), term) for own, term in self.terms(tree)]

    @staticmethod
    def _divides(divisor: Expression) -> bool:
        return divisor.value is not None and abs(divisor.value) > symbols.EPSILON

    def sum_of(self, terms: Terms) -> Expression:
        """The tree of a sum; like terms are joined, and multiples by one number share it."""
        joined: dict[Expression | None, Ratio] = {}
        for ratio, term in terms:
            key = None if term is None else self.same(term)
            joined[key] = joined[key].plus(ratio) if key in joined else ratio
        groups: dict[Ratio, tuple[list[Expression], list[Expression]]] = {}
        for term, ratio in joined.items():
            if ratio.above == 0:
                continue
            short = Ratio(ratio.value) if term is None else ratio.shortest()
            size = ONE if term is None else Ratio(abs(short.above), short.below)
            group = groups.setdefault(size, ([], []))
            group[short.above < 0].append(term or Expression.constant(abs(short.above)))
        gained: list[Expression] = []
        lost: list[Expression] = []
        for size, (plus, minus) in groups.items():
            if size == ONE:
                gained += plus
                lost += minus
            elif plus:
                part = self._build.difference(plus, minus)
                gained.append(self._build.scaled(part, *size))
            else:
                lost.append(self._build.scaled(self._build.joined("add", minus), *size))
        return self._build.difference(gained, lost) or Expression.constant(0)

    def product(self, tree: Expression) -> Product:
        """The tree as a product of powers."""
        if tree not in self._products:
            self._products[tree] = self._product(tree)
        return self._products[tree]

    def _product(self, tree: Expression) -> Product:
        if tree.value is not None:
            return Product(Ratio(tree.value))
        role = self.role(tree)
        parts = [self.product(argument) for argument in tree.arguments]
        if role == "multiply":
            return parts[0].times(parts[1])
        if role == "negate":
            return replace(parts[0], ratio=parts[0].ratio.times(Ratio(-1.0)))
        if role == "square":
            return parts[0].times(parts[0])
        if role == "magnitude":
            return self._magnitude(parts[0])
        if role == "root":
            return self._root(parts[0])
        if role == "divide":
            return self._quotient(tree, *parts)
        if len(parts) == 1:
            return self._outside(tree, role, parts[0])
        return Product(powers={self.same(tree): 1})

    @staticmethod
    def _magnitude(inner: Product) -> Product:
        odd = {base: 1 for base, exponent in inner.powers.items() if exponent % 2}
        even = {base: e - e % 2 for base, e in inner.powers.items() if e > 1}
        return Product(
            Ratio(abs(inner.ratio.above), abs(inner.ratio.below)),
            even,
            Counter(inner.magnitudes) + Counter(odd),
            inner.roots,
        )

    def _root(self, inner: Product) -> Product:
        ratio = Ratio(abs(inner.ratio.above), abs(inner.ratio.below))
        if ratio != ONE or inner.roots:
            return Product(roots={self.product_of(replace(inner, ratio=ratio)): 1})
        exponents = Counter(inner.powers) + Counter(inner.magnitudes)
        return Product(
            magnitudes={base: e // 2 for base, e in exponents.items() if e > 1},
            roots={base: 1 for base, e in exponents.items() if e % 2},
        )

    def _quotient(self, tree: Expression, above: Product, below: Product) -> Product:
        divisor = tree.arguments[1]
        if self._divides(divisor):
            return replace(above, ratio=above.ratio.times(Ratio(1.0, divisor.value or 1.0)))
        sign = Ratio(-1.0 if below.ratio.value < 0 else 1.0)
        numerator = self.product_of(replace(above, ratio=ONE))
        denominator = self.product_of(replace(below, ratio=below.ratio.times(sign)))
        if above.ratio == ONE and sign == ONE:
            return Product(powers={self.same(tree): 1})
        quotient = self._build.apply("divide", numerator, denominator)
        return Product(above.ratio.times(sign), {self.same(quotient): 1})

    def _outside(self, tree: Expression, role: str, inner: Product) -> Product:
        """What can be taken out of a function of one argument."""
        ratio = inner.ratio
        sign = Ratio(-1.0 if ratio.value < 0 else 1.0)
        odd = role == "tanh" or tree.name in self._build.forms.odd
        out = ONE
        if role in _LINEAR:
            out = ratio
        elif odd:
            out = sign
        elif role in _OF_MAGNITUDE:
            out = ratio.times(sign)
        elif role == "variance":
            out = ratio.times(ratio)
        elif role in _DUAL and (sign == ONE or self._build.has(_DUAL[role])):
            out = ratio
        if out in (ONE, Ratio(0.0)) or ratio.value == 0:
            return Product(powers={self.same(tree): 1})
        left = sign.times(ratio) if odd else ONE
        body = self.product_of(replace(inner, ratio=left))
        head = tree.head
        if role in _DUAL and sign != ONE:
            head = self._build.operator(_DUAL[role])
        return Product(out, {self.same(Expression(head, tree.over, (body,))): 1})

    def product_of(self, product: Product) -> Expression:
        """The tree of a product."""
        if product.ratio.above == 0:
            return Expression.constant(0)
        roots = Counter(product.roots)
        magnitudes = Counter(product.magnitudes)
        powers = Counter(product.powers)
        for base, count in product.roots.items():
            roots[base] = count % 2
            magnitudes[base] += count // 2
        for base, count in list(magnitudes.items()):
            plain = count if self._ranges.nonnegative(base) else count - count % 2
            magnitudes[base] -= plain
            powers[base] += plain
        for base in powers:
            if base.name in self._build.forms.indicators:
                powers[base] = min(powers[base], 1)
        factors = self._raised(+powers)
        for role, bases in (("magnitude", +magnitudes), ("root", +roots)):
            inside = self._build.joined("multiply", list(bases))
            if inside is not None:
                factors.append(self._build.apply(role, inside))
        return self._build.scaled(
            self._build.joined("multiply", factors), *product.ratio.shortest()
        )

    def unsigned(self, product: Product) -> Expression:
        """A tree that equals the product but for its signs, which need not be worked out."""
        above, below = product.ratio
        powers = Counter(product.powers) + Counter(product.magnitudes)
        return self.product_of(Product(Ratio(abs(above), abs(below)), powers, {}, product.roots))

    def _raised(self, powers: Mapping[Expression, int]) -> list[Expression]:
        factors = [base for base, exponent in powers.items() if exponent % 2]
        halves = {base: exponent // 2 for base, exponent in powers.items() if exponent > 1}
        inside = self._build.joined("multiply", self._raised(halves)) if halves else None
        return factors if inside is None else [*factors, self._build.squared(inside)]


_INF = math.inf


class Range(NamedTuple):
    """All values lie between ``low`` and ``high``, either of which may be infinite."""

    low: float = -_INF
    high: float = _INF


_INSIDE = frozenset({"mean", "largest", "smallest"})


class Ranges:
    """The ranges of trees, each worked out once.

    Args:
        forms: what the operators compute.
    """

    def __init__(self, forms: OperatorPatterns) -> None:
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
        found = self._by_role(self._forms.roles.get(tree.name, ""), parts)
        low, high = self._forms.bounds.get(tree.name, Range())
        found = Range(max(found.low, low), min(found.high, high))
        signs = tree.name in self._forms.nonnegative or (
            tree.name in self._forms.sign_keeping and all(part.low >= 0 for part in parts)
        )
        return Range(max(found.low, 0.0), max(found.high, 0.0)) if signs else found

    def _by_role(self, role: str, parts: list[Range]) -> Range:
        first = parts[0]
        if role in _INSIDE:
            return first
        if role == "tanh":
            return Range(-1.0, 1.0)
        if role == "negate":
            return Range(-first.high, -first.low)
        if role == "magnitude":
            low = max(first.low, -first.high, 0.0)
            return Range(low, max(abs(first.low), abs(first.high)))
        if role == "exponential":
            return Range(*(math.exp(min(end, symbols.EXP_LIMIT)) for end in first))
        if len(parts) == 2:
            return _of_two(role, first, parts[1])
        return Range()


def _of_two(role: str, a: Range, b: Range) -> Range:
    if role == "add":
        return Range(a.low + b.low, a.high + b.high)
    if role == "subtract":
        return Range(a.low - b.high, a.high - b.low)
    if role == "larger":
        return Range(max(a.low, b.low), max(a.high, b.high))
    if role == "smaller":
        return Range(min(a.low, b.low), min(a.high, b.high))
    if role == "multiply":
        ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
        return Range(min(ends), max(ends))
    return Range()


class Builder:
    """Applies operators by their role (see :class:`gp_prune.formula.matching.OperatorPatterns`).

    Args:
        primitives: the vocabulary.
    """

    def __init__(self, primitives: PrimitiveSet) -> None:
        self.primitives = primitives
        self.forms = OperatorPatterns(primitives)

    def has(self, *roles: str) -> bool:
        """Whether there is an operator for each of the roles."""
        return all(role in self.forms.by_role for role in roles)

    def operator(self, role: str) -> Operator:
        """The operator that computes this; ExpressionError if there is none."""
        found = self.forms.by_role.get(role)
        if found is None:
            raise ExpressionError(f"the vocabulary has no operator that computes: {role}")
        return found

    def apply(self, role: str, *values: Expression, over: Axes = SCALAR) -> Expression:
        """The operator with this role applied to values."""
        return Expression.apply(self.operator(role), *values, over=over)

    def negated(self, value: Expression) -> Expression:
        """The value with the other sign."""
        if value.value is not None:
            return Expression.constant(-value.value)
        if self.has("negate"):
            return self.apply("negate", value)
        return self.apply("multiply", Expression.constant(-1), value)

    def joined(self, role: str, values: Sequence[Expression]) -> Expression | None:
        """All values joined by a binary operator, as a low tree; None where there are none."""
        if len(values) < 2:
            return values[0] if values else None
        half = len(values) // 2
        left, right = (self.joined(role, part) for part in (values[:half], values[half:]))
        assert left is not None and right is not None
        return self.apply(role, left, right)

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
