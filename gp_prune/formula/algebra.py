"""Take trees apart into sums and products, put them together, and bound their values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from gp_prune.formula.matching import OperatorPatterns
from gp_prune.formula.tree_builder import TreeBuilder
from gp_prune.language import symbols
from gp_prune.language.expression import Expression, canonical
from gp_prune.language.primitive import Operand

LINEAR = frozenset({"total", "mean"})
"""Reductions of which sums and factors can be taken out."""
DUAL = {"largest": "smallest", "smallest": "largest"}
"""The reduction of values with the other sign."""
_OF_MAGNITUDE = frozenset({"norm", "magnitudes", "deviation"})


class Ratio(NamedTuple):
    """The number above / below, kept apart so that a third stays a third."""

    above: float = 1.0
    below: float = 1.0

    def times(self, other: Ratio) -> Ratio:
        """Return the product of two numbers."""
        return Ratio(self.above * other.above, self.below * other.below)

    def plus(self, other: Ratio) -> Ratio:
        """Return the sum of two numbers."""
        if self.below == other.below:
            return Ratio(self.above + other.above, self.below)
        above = self.above * other.below + other.above * self.below
        return Ratio(above, self.below * other.below)

    @property
    def value(self) -> float:
        """Return the number as a double."""
        return self.above / self.below

    def shortest(self) -> Ratio:
        """Return the number, but for rounding, with as few digits as possible; the sign above."""
        if self.above == 0:
            return Ratio(0.0)
        sign = -1.0 if self.value < 0 else 1.0
        above, below = abs(self.above), abs(self.below)
        rounded = Ratio(float(f"{above / below:.15g}"))
        ways = [rounded, Ratio(above / below), Ratio(1.0, below / above), Ratio(above, below)]
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
        """Return the product of both."""
        return Product(
            self.ratio.times(other.ratio),
            Counter(self.powers) + Counter(other.powers),
            Counter(self.magnitudes) + Counter(other.magnitudes),
            Counter(self.roots) + Counter(other.roots),
        )


class Algebra:
    """Sums and products of trees.

    Args:
        build: builds trees of the vocabulary.
        ranges: where values lie.
    """

    def __init__(self, build: TreeBuilder, ranges: Ranges) -> None:
        self._build = build
        self._ranges = ranges
        self._first: dict[Expression, Expression] = {}
        self._products: dict[Expression, Product] = {}

    def role(self, tree: Expression) -> str:
        """Return what the head of a tree computes; empty for operands and unknown operators."""
        return self._build.patterns.traits(tree).role

    def same(self, tree: Expression) -> Expression:
        """Return the first seen of all trees that are equal but for the order of arguments."""
        return self._first.setdefault(canonical(tree), tree)

    def terms(self, tree: Expression) -> Terms:
        """Return the tree as a sum of multiples."""
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
        return [(ratio.times(factor), term) for factor, term in self.terms(tree)]

    @staticmethod
    def _divides(divisor: Expression) -> bool:
        return divisor.value is not None and abs(divisor.value) > symbols.EPSILON

    def sum_of(self, terms: Terms) -> Expression:
        """Return the tree of a sum; like terms are joined, and multiples by one number share it."""
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
                gained.append(self._build.scale(part, *size))
            else:
                lost.append(self._build.scale(self._build.join("add", minus), *size))
        return self._build.difference(gained, lost) or Expression.constant(0)

    def product(self, tree: Expression) -> Product:
        """Return the tree as a product of powers."""
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
        root = Ratio(*map(math.sqrt, ratio))
        if ratio != ONE and not inner.roots and root.times(root) == ratio:
            outside = self._root(replace(inner, ratio=ONE))
            return replace(outside, ratio=outside.ratio.times(root))
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
        """Take what is possible out of a function of one argument."""
        ratio = inner.ratio
        sign = Ratio(-1.0 if ratio.value < 0 else 1.0)
        traits = self._build.patterns.traits(tree)
        out, left = ONE, ratio  # what stands before the function, and what its argument keeps
        if role in LINEAR or (role in DUAL and (sign == ONE or self._build.has(DUAL[role]))):
            out, left = ratio, ONE
        elif role in _OF_MAGNITUDE:
            out, left = ratio.times(sign), ONE
        elif role == "variance":
            out, left = ratio.times(ratio), ONE
        elif role == "tanh" or traits.odd:
            out, left = sign, sign.times(ratio)
        if traits.scale_free:
            left = ONE if traits.odd else sign
        if left == ratio or ratio.value == 0:
            return Product(powers={self.same(tree): 1})
        body = self.product_of(replace(inner, ratio=left))
        head = tree.head
        if role in DUAL and sign != ONE:
            head = self._build.operator(DUAL[role])
        return Product(out, {self.same(Expression(head, tree.over, (body,))): 1})

    def product_of(self, product: Product) -> Expression:
        """Return the tree of a product."""
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
            if self._build.patterns.traits(base).is_indicator:
                powers[base] = min(powers[base], 1)
        factors = self._raised(+powers)
        for role, bases in (("magnitude", +magnitudes), ("root", +roots)):
            inside = self._build.join("multiply", list(bases))
            if inside is not None:
                factors.append(self._build.apply(role, inside))
        return self._build.scale(self._build.join("multiply", factors), *product.ratio.shortest())

    def without_signs(self, product: Product) -> Expression:
        """Return a tree that equals the product but for its signs."""
        above, below = product.ratio
        powers = Counter(product.powers) + Counter(product.magnitudes)
        return self.product_of(Product(Ratio(abs(above), abs(below)), powers, {}, product.roots))

    def _raised(self, powers: Mapping[Expression, int]) -> list[Expression]:
        factors = [base for base, exponent in powers.items() if exponent % 2]
        halves = {base: exponent // 2 for base, exponent in powers.items() if exponent > 1}
        inside = self._build.join("multiply", self._raised(halves)) if halves else None
        return factors if inside is None else [*factors, self._build.square(inside)]


_INF = math.inf


class Range(NamedTuple):
    """The interval of all values; either end may be infinite."""

    low: float = -_INF
    high: float = _INF


_INSIDE = frozenset({"mean", "largest", "smallest"})


class Ranges:
    """The ranges of trees, each computed once.

    Args:
        patterns: what the operators compute.
    """

    def __init__(self, patterns: OperatorPatterns) -> None:
        self._patterns = patterns
        self._known: dict[Expression, Range] = {}

    def of(self, tree: Expression) -> Range:
        """Return the range of a tree; operands have any value, or any that is not negative."""
        if tree not in self._known:
            self._known[tree] = self._worked_out(tree)
        return self._known[tree]

    def nonnegative(self, tree: Expression) -> bool:
        """Return whether no value is ever below 0."""
        return self.of(tree).low >= 0

    def _worked_out(self, tree: Expression) -> Range:
        if tree.value is not None:
            return Range(tree.value, tree.value)
        if isinstance(tree.head, Operand):
            return Range(0.0) if tree.head.nonnegative else Range()
        traits = self._patterns.traits(tree)
        if traits.is_indicator:
            return Range(0.0, 1.0)
        parts = [self.of(argument) for argument in tree.arguments]
        known = self._by_role(traits.role, parts)
        low, high = max(known.low, traits.bounds[0]), min(known.high, traits.bounds[1])
        if traits.nonnegative or (traits.keeps_sign and all(part.low >= 0 for part in parts)):
            return Range(max(low, 0.0), max(high, 0.0))
        return Range(low, high)

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
        if role == "logarithm":
            return Range(math.log(symbols.EPSILON))
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
