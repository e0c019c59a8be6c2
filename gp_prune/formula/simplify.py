"""Find simpler formulas with the same values.

A rule may change a value by rounding and nothing else. That decides much: ``div(x, x)`` stays,
because it is 0 where x is near 0, and ``log(exp(x))`` stays where x may be above 50 or below the
logarithm of the epsilon. A normaliser drops a factor of its argument, although the threshold of
its protected division moves with it. Every step makes the tree smaller, or its text shorter at the
same size, or moves terms outward, so that simplifying ends and never enlarges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple

import numpy as np

from gp_prune.formula.algebra import DUAL, LINEAR, ONE, Algebra, Ranges
from gp_prune.formula.tree_builder import TreeBuilder
from gp_prune.language import numeric, symbols
from gp_prune.language.axes import SCALAR, Axes, Elementwise
from gp_prune.language.expression import Expression, ExpressionError, canonical
from gp_prune.language.primitive import Operator, PrimitiveSet
from gp_prune.language.symbols import Scope

MOST_NODES = 100_000
"""Nodes of all trees to which rules are applied; then the formula stays as it is.

A count, not seconds, so that the result does not depend on the speed of the machine or its load.
A tree of a search needs about 1,000; the limit is reached after some seconds.
"""

_EXTREMES = frozenset({"largest", "smallest"})
_NESTING = frozenset({"total", "mean", "norm", "magnitudes"}) | _EXTREMES
_SPREAD = frozenset({"deviation", "variance"})


class _TooMuchWork(Exception):
    """Rules were applied to as many nodes as are allowed."""


def simplify(
    expression: Expression, primitives: PrimitiveSet, most_nodes: int = MOST_NODES
) -> Expression:
    """Return a simpler tree with the same values and type; the tree itself if there is none.

    Args:
        expression: any tree.
        primitives: the vocabulary of the result.
        most_nodes: nodes of all trees to which rules are applied, together. Where more are needed,
            the result is the last whole pass, which may be the tree as it is.
    """
    simplifier = _Simplifier(primitives, most_nodes)
    best = expression
    try:
        # What a rule makes of two parts may be simplified in turn, until nothing is gained.
        while simplifier.better(simpler := simplifier.simplest(best).kept, best):
            best = simpler
    except _TooMuchWork:
        pass
    return best


class _Simplest(NamedTuple):
    """The simplest tree of the same type, and the simplest whose type may lack axes."""

    kept: Expression
    narrow: Expression


Rule = Callable[["_Simplifier", Expression], Iterator[Expression]]


class _Simplifier:
    def __init__(self, primitives: PrimitiveSet, most_nodes: int) -> None:
        self.build = TreeBuilder(primitives)
        self.ranges = Ranges(self.build.patterns)
        self.algebra = Algebra(self.build, self.ranges)
        self.nodes_left = most_nodes
        self.known: dict[Expression, _Simplest] = {}
        self.lengths: dict[Expression, int] = {}
        self.depths: dict[Expression, tuple[int, int]] = {}

    def length(self, tree: Expression) -> int:
        """Return the number of characters of the text."""
        if tree not in self.lengths:
            arguments = sum(self.length(argument) + 2 for argument in tree.arguments)
            brackets = 2 * len(tree.over) + 1 if tree.over else 0
            head = len(str(tree)) if not tree.arguments else len(tree.name) + brackets
            # Where nothing is negative, a plain sum is easier to read than one of magnitudes or
            # squares, although its name is longer.
            plainer = 2 if self.role(tree) in ("magnitudes", "norm") else 0
            self.lengths[tree] = head + arguments + plainer
        return self.lengths[tree]

    def depth(self, tree: Expression) -> tuple[int, int]:
        """Return the summed depth of leaves and roots, and their number; constants count twice."""
        if tree not in self.depths:
            parts = [self.depth(argument) for argument in tree.arguments]
            counted = sum(count for _, count in parts)
            here = 2 if tree.value is not None else int(not parts or self.role(tree) == "root")
            self.depths[tree] = sum(total for total, _ in parts) + counted, counted + here
        return self.depths[tree]

    def measure(self, tree: Expression) -> tuple[int, int, int]:
        """Return what is to be small: nodes, then characters, then depth of the leaves."""
        return tree.size, self.length(tree), self.depth(tree)[0]

    def better(self, tree: Expression, other: Expression) -> bool:
        """Return whether a tree is simpler than another."""
        return self.measure(tree) < self.measure(other)

    def simplest(self, tree: Expression) -> _Simplest:
        """Return the simplest forms of a tree."""
        if tree not in self.known:
            self.nodes_left -= tree.size
            if self.nodes_left < 0:
                raise _TooMuchWork
            self.known[tree] = self._simplest(tree)
        return self.known[tree]

    def _simplest(self, tree: Expression) -> _Simplest:
        if not tree.arguments:
            return _Simplest(tree, tree)
        parts = [self.simplest(argument) for argument in tree.arguments]
        kept, narrow = self._ruled(Expression(tree.head, tree.over, [p.kept for p in parts]))
        if all(part.narrow is part.kept for part in parts):
            return _Simplest(kept, narrow)
        try:
            other = Expression(tree.head, tree.over, [part.narrow for part in parts])
        except ExpressionError:  # the operator needs an axis that a narrow form lacks
            constant = self._reduced(tree, parts[0].narrow)
            forms = _Simplest(constant, constant) if constant else _Simplest(kept, narrow)
        else:
            forms = self._ruled(other)
        for form in forms:
            if form.axes is tree.axes and self.better(form, kept):
                kept = form
            if self.better(form, narrow):
                narrow = form
        return _Simplest(kept, narrow)

    def _reduced(self, tree: Expression, inner: Expression) -> Expression | None:
        """Reduce a number, where the result does not depend on the lengths of the axes."""
        role = self.role(tree)
        if inner.value is not None and role in _SPREAD:
            return Expression.constant(0)
        of_zero = inner.value == 0 and role in _NESTING
        if of_zero or (inner.value is not None and role in ("mean", *_EXTREMES)):
            return inner
        return None

    def _ruled(self, tree: Expression) -> _Simplest:
        """Return the simplest forms of a tree whose arguments are simple."""
        narrow = tree
        for rule in RULES:
            for result in self._results(rule, tree):
                if not self.better(result, tree):
                    continue
                forms = self.simplest(result)
                if result.axes is tree.axes:
                    return forms
                if self.better(forms.narrow, narrow):
                    narrow = forms.narrow
        return _Simplest(tree, narrow)

    def _results(self, rule: Rule, tree: Expression) -> Iterator[Expression]:
        try:
            yield from rule(self, tree)
        except ExpressionError:  # no operator for it in this vocabulary, or no legal type
            return

    def role(self, tree: Expression) -> str:
        """Return what the head of a tree computes."""
        return self.algebra.role(tree)

    def flat(self, tree: Expression, role: str) -> list[Expression]:
        """Return the values of which a tree is the largest (or smallest), however nested."""
        if self.role(tree) != role:
            return [tree]
        return [part for argument in tree.arguments for part in self.flat(argument, role)]

    def undominated(self, parts: list[Expression], role: str) -> list[Expression]:
        """Drop values that are never the largest (or smallest) alone; the first of equals stays."""
        kept: list[Expression] = []
        for part in parts:
            if any(self._decides(other, part, role) for other in kept):
                continue
            kept = [other for other in kept if not self._decides(part, other, role)]
            kept.append(part)
        return kept

    def _decides(self, one: Expression, other: Expression, role: str) -> bool:
        """Return whether the other value never matters beside this one."""
        low, high = (other, one) if role == "larger" else (one, other)
        return self.same(one, other) or self.ranges.of(low).high <= self.ranges.of(high).low

    def same(self, a: Expression, b: Expression) -> bool:
        """Return whether two trees are equal but for the order of arguments."""
        return canonical(a) == canonical(b)


def _laws(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Apply what operators declare: involutions, idempotence, evenness."""
    assert isinstance(tree.head, Operator)
    laws, inner = tree.head.laws, tree.arguments[0]
    if inner.head is tree.head and "involution" in laws:
        yield inner.arguments[0]
    if inner.head is tree.head and "idempotent" in laws:
        yield inner
    if "even" in laws or simplifier.role(tree) in ("norm", "magnitudes"):
        product = simplifier.algebra.product(inner)
        yield Expression(tree.head, tree.over, [simplifier.algebra.without_signs(product)])
    if "magnitude" in laws and simplifier.ranges.nonnegative(inner):
        yield inner


def _constants(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Compute an elementwise operator on numbers."""
    head, arguments = tree.head, tree.arguments
    assert isinstance(head, Operator)
    if not isinstance(head.shape, Elementwise) or any(a.value is None for a in arguments):
        return
    numbers = {f"x{n}": np.asarray(argument.value) for n, argument in enumerate(arguments)}
    writers = [lambda scope, name=name: symbols.indexed(name, ()) for name in numbers]
    formula = head.write(writers, Scope({}), SCALAR)
    yield Expression.constant(float(numeric.evaluate(formula, numbers, {}, "")))


def _sums(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Join like terms."""
    if simplifier.role(tree) in ("add", "subtract", "negate", "multiply", "divide"):
        yield simplifier.algebra.sum_of(simplifier.algebra.terms(tree))


def _products(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Join like factors; take out signs, numbers, magnitudes and roots."""
    yield simplifier.algebra.product_of(simplifier.algebra.product(tree))


def _common(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Take out common factors: a x + b x = (a + b) x, x / b + y / b = (x + y) / b; join sums."""
    if simplifier.role(tree) not in ("add", "subtract"):
        return
    left, right = tree.arguments
    role = simplifier.role(left)
    if left.head is not right.head or left.over is not right.over:
        return
    if role in ("total", "mean") and left.arguments[0].axes is right.arguments[0].axes:
        inner = Expression(tree.head, tree.over, (left.arguments[0], right.arguments[0]))
        yield Expression(left.head, left.over, (inner,))
    if role == "divide" and simplifier.same(left.arguments[1], right.arguments[1]):
        inner = Expression(tree.head, tree.over, (left.arguments[0], right.arguments[0]))
        yield Expression(left.head, left.over, (inner, left.arguments[1]))
    if role == "multiply":
        for a, x in (left.arguments, left.arguments[::-1]):
            for b, y in (right.arguments, right.arguments[::-1]):
                if simplifier.same(x, y):
                    factor = Expression(tree.head, tree.over, (a, b))
                    yield Expression(left.head, left.over, (factor, x))


def _quotients(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Apply 0 / b = a / 0 = 0, and |a| / |b| = |a / b|."""
    if simplifier.role(tree) != "divide":
        return
    above, below = tree.arguments
    if above.value == 0 or (below.value is not None and abs(below.value) <= symbols.EPSILON):
        yield Expression.constant(0)
    if simplifier.role(above) == simplifier.role(below) == "magnitude":
        inner = Expression(tree.head, tree.over, (above.arguments[0], below.arguments[0]))
        yield simplifier.build.apply("magnitude", inner)


def _extremes(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Decide the larger of ordered values, of opposites, and of two negatives; also the smaller."""
    role = simplifier.role(tree)
    if role not in ("larger", "smaller"):
        return
    build, (a, b) = simplifier.build, tree.arguments
    parts = simplifier.flat(tree, role)
    kept = simplifier.undominated(parts, role)
    if len(kept) < len(parts):
        yield reduce(partial(build.apply, role), kept)
    for one, other in ((a, b), (b, a)):
        low, high = (one, other) if role == "larger" else (other, one)
        if simplifier.ranges.of(low).high <= simplifier.ranges.of(high).low:
            yield other
        if simplifier.same(build.negate(one), other):
            larger = build.apply("magnitude", one)
            yield larger if role == "larger" else build.negate(larger)
        nested = simplifier.role(other) in ("larger", "smaller")
        if nested and any(simplifier.same(one, part) for part in other.arguments):
            yield other if simplifier.role(other) == role else one
    if simplifier.same(a, b):
        yield a
    if simplifier.role(a) == simplifier.role(b) == "negate":
        opposite = "smaller" if role == "larger" else "larger"
        yield build.negate(build.apply(opposite, a.arguments[0], b.arguments[0]))


def _over_axes(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Join reductions of reductions, sums of magnitudes and squares."""
    if not tree.over:
        return
    role, (inner,) = simplifier.role(tree), tree.arguments
    within = simplifier.role(inner)
    build = simplifier.build
    if role in _NESTING and inner.head is tree.head:
        yield Expression(tree.head, tree.over | inner.over, inner.arguments)
    if (
        build.patterns.traits(tree).idempotent
        and inner.head is tree.head
        and inner.over is tree.over
    ):
        yield inner
    outer, rescaled = build.patterns.traits(tree), build.patterns.traits(inner)
    if (
        rescaled.rescales
        and inner.over is tree.over
        and outer.scale_free
        and (outer.shift_free or not rescaled.shift_free)
    ):
        yield Expression(tree.head, tree.over, inner.arguments)
    if role == "total" and within == "magnitude":
        yield build.apply("magnitudes", *inner.arguments, over=tree.over)
    if role == "total" and within == "magnitudes":
        yield build.apply("magnitudes", *inner.arguments, over=tree.over | inner.over)
    if role == "total" and within == "square":
        (norm,) = inner.arguments
        if simplifier.role(norm) == "norm":
            squares = build.square(norm.arguments[0])
            yield build.apply("total", squares, over=tree.over | norm.over)
    if role == "magnitudes" and simplifier.ranges.nonnegative(inner):
        yield build.apply("total", inner, over=tree.over)
    if role == "norm" and within == "root":
        yield build.apply("root", build.apply("magnitudes", *inner.arguments, over=tree.over))


def _shifts(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Drop, or move outward, a term that is equal along the reduced axes."""
    role = simplifier.role(tree)
    dropped = role in _SPREAD or simplifier.build.patterns.traits(tree).shift_free
    if not dropped and role not in ("mean", *_EXTREMES):
        return
    (inner,) = tree.arguments
    if simplifier.role(inner) not in ("add", "subtract"):
        return
    for place, shift in _equal_along(tree.over, inner):
        moved = inner.arguments[1 - place]
        subtracted = place == 0 and simplifier.role(inner) == "subtract"
        if dropped:
            moved = simplifier.build.negate(moved) if subtracted else moved
            yield Expression(tree.head, tree.over, (moved,))
            continue
        dual = simplifier.build.operator(DUAL[role]) if role in DUAL else tree.head
        reduced = Expression(dual if subtracted else tree.head, tree.over, (moved,))
        parts = (shift, reduced) if place == 0 else (reduced, shift)
        yield Expression(inner.head, SCALAR, parts)


def _factors(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Move a factor that is equal along the axes of a sum or mean outward."""
    if simplifier.role(tree) not in LINEAR:
        return
    (inner,) = tree.arguments
    within = simplifier.role(inner)
    if within not in ("multiply", "divide"):
        return
    for place, factor in _equal_along(tree.over, inner):
        if place == 1 or within == "multiply":
            reduced = Expression(tree.head, tree.over, (inner.arguments[1 - place],))
            yield Expression(inner.head, SCALAR, (reduced, factor))


def _equal_along(over: Axes, pair: Expression) -> Iterator[tuple[int, Expression]]:
    """Yield the arguments of two that lack some axes, with their place, if the other has all."""
    for place, part in enumerate(pair.arguments):
        if not set(part.axes) & set(over) and pair.arguments[1 - place].axes is pair.axes:
            yield place, part


def _roots(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Resolve roots and squares of spreads and sums of squares, and of what is 0 or 1."""
    role, build = simplifier.role(tree), simplifier.build
    if role not in ("root", "square", "nonzero"):
        return
    (inner,) = tree.arguments
    within = simplifier.role(inner)
    if build.patterns.traits(inner).is_indicator:
        yield inner
    if {role, within} == {"root", "square"}:  # of numbers, which are no factors to the algebra
        yield build.apply("magnitude", *inner.arguments)
    if role == "nonzero" and (product := simplifier.algebra.product(inner)).ratio.value != 0:
        yield build.apply("nonzero", simplifier.algebra.product_of(replace(product, ratio=ONE)))
    if role == "nonzero" and within == "root":
        yield build.apply("nonzero", *inner.arguments)
    if role == "square" and within == "deviation":
        yield build.apply("variance", *inner.arguments, over=inner.over)
    if role == "root" and within == "variance":
        yield build.apply("deviation", *inner.arguments, over=inner.over)
    if role == "root" and within == "total":
        (squares,) = inner.arguments
        if simplifier.role(squares) == "square":
            yield build.apply("norm", *squares.arguments, over=inner.over)


def _logarithms(simplifier: _Simplifier, tree: Expression) -> Iterator[Expression]:
    """Undo exp(log x) and log(exp x), where neither the floor nor the limit is reached."""
    role = simplifier.role(tree)
    pair = {"exponential": "logarithm", "logarithm": "exponential"}.get(role)
    if pair is None or simplifier.role(tree.arguments[0]) != pair:
        return
    (inner,) = tree.arguments[0].arguments
    low, high = simplifier.ranges.of(inner)
    least, most = max(low, -high), max(abs(low), abs(high))
    if role == "exponential":
        if least >= symbols.EPSILON and most < math.exp(symbols.EXP_LIMIT):
            yield simplifier.build.apply("magnitude", inner)
    elif high <= symbols.EXP_LIMIT and low >= math.log(symbols.EPSILON):
        yield inner


RULES: tuple[Rule, ...] = (
    _laws,
    _constants,
    _sums,
    _products,
    _common,
    _quotients,
    _extremes,
    _over_axes,
    _shifts,
    _factors,
    _roots,
    _logarithms,
)
"""Each yields trees with the same values; one that is simpler is taken."""
