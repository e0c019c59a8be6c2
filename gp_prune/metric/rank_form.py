"""Shorten a formula as long as it ranks the same by construction: the rank form.

Scores decide a plan by their order alone. They are first divided by the normaliser within each
layer, then joined over the layers that produce the same channels, then ranked within the scope. So
what may be dropped follows from the conventions, and from whether layers are coupled: whether
some channels have several producers (a residual sum, a depthwise convolution, a
linear layer before an unflattened map), or several layers share a weight.

====================================  ==========================================================
dropped                               where
====================================  ==========================================================
a positive number as a factor         always, but in a divisor that may come near 0
a factor equal within each layer      channels: normaliser other than ``none``; without coupling
                                      also scope ``layer``. Weights: without coupling, normaliser
                                      other than ``none`` or scope ``layer`` or ``row``
a number that is added                without coupling: normaliser ``none`` or scope ``layer`` or
                                      ``row``. Coupled channels: normaliser ``none`` and join
                                      other than ``sum`` (channels may have different numbers of
                                      producers). Coupled weights, which are joined before they
                                      are normalised: normaliser ``none`` or scope ``layer`` or
                                      ``row``
a term equal within each layer        without coupling: scope ``layer`` or ``row``
an outer function that strictly       without coupling: normaliser ``none`` or scope ``layer`` or
increases, the same for all layers    ``row``. Coupled channels: normaliser ``none`` and join
                                      ``max``; the mean of scores is not the score of a mean
a factor or term equal within a row   weights without coupling: scope ``row``
====================================  ==========================================================

``isomorphic`` ranks several layers together, so it counts as ``global`` here. A factor that is not
a number is dropped only where its range shows that it is never 0, whatever the network: where it is
0 the formula ranks nothing of a layer, and without the factor it would. What a division treats as 0
counts as 0 in a divisor. Terms are dropped anywhere in the outermost sum, functions and normalisers
also below a sign. ``mean`` becomes ``sum`` where a factor equal within each layer is free.

All this holds for real numbers, and where no normaliser divides by what it treats as 0. In doubles,
a function that strictly increases may make values equal, as ``tanh`` does above 19, and ties go by
position; a search therefore compares the plans as well (see :mod:`gp_prune.search.reduction`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from gp_prune.formula.algebra import Ranges
from gp_prune.formula.simplify import simplify
from gp_prune.formula.tree_builder import TreeBuilder
from gp_prune.language import symbols
from gp_prune.language.axes import SCALAR, WEIGHT, Axes
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.metric.file import Conventions

_HOMOGENEOUS = frozenset(
    {"square", "root", "magnitude", "negate", "total", "mean", "largest", "smallest"}
    | {"norm", "magnitudes", "deviation", "variance"}
)
"""What a positive factor of the argument leaves as a positive factor of the value."""

_EVEN = frozenset({"square", "root", "magnitude", "norm", "magnitudes", "deviation", "variance"})
"""What a negative factor of the argument leaves as a positive factor of the value."""

_PLAIN = frozenset({0.0, 1.0, -1.0})
"""Constants that no rule makes plainer."""

_ROW = Axes("ik")


def rank_form(
    expression: Expression,
    primitives: PrimitiveSet,
    conventions: Conventions,
    *,
    coupled: bool = True,
) -> Expression:
    """Return a tree that ranks every layer as the expression does and that no rule shortens.

    Args:
        expression: a formula of type {o} or {o,i,k}, or {} for shares of layers.
        primitives: the vocabulary of the result.
        conventions: how the scores are used.
        coupled: whether layers may be coupled; false is right for networks without such layers
            alone, and then drops more.
    """
    rules = _Rules(TreeBuilder(primitives), conventions, expression.axes, coupled=coupled)
    best = simplify(expression, primitives)
    while (shorter := rules.shorten(best)) is not None:
        best = min(simplify(shorter, primitives), shorter, key=measure)
    return best


def measure(tree: Expression) -> tuple[int, int, int]:
    """Return what a reduction makes smaller: nodes, characters, constants but 0, 1 and -1."""
    constants = [node.value for node in tree.nodes() if node.value is not None]
    return tree.size, len(str(tree)), sum(value not in _PLAIN for value in constants)


def _replaced(tree: Expression, place: int, part: Expression) -> Iterator[Expression]:
    """Yield the tree with another argument; nothing where the operator refuses its type."""
    arguments = (*tree.arguments[:place], part, *tree.arguments[place + 1 :])
    try:
        found = Expression(tree.head, tree.over, arguments)
    except ExpressionError:
        return
    yield found


class _Rules:
    def __init__(
        self, build: TreeBuilder, conventions: Conventions, root: Axes, *, coupled: bool
    ) -> None:
        self._build = build
        self._ranges = Ranges(build.patterns)
        self._root = root
        weights = root is WEIGHT
        plain, join = conventions.normaliser == "none", conventions.join
        within = conventions.scope in ("layer", "row")
        self._row = weights and not coupled and conventions.scope == "row"
        if root is SCALAR:  # values of layers, of which no factor but a number is alike
            self._layer_factor = self._number = self._layer_term = self._increasing = False
        elif coupled:
            self._layer_factor = not weights and not plain
            self._number = (plain or within) if weights else (plain and join != "sum")
            self._layer_term = False
            self._increasing = not weights and plain and join == "max"
        else:
            self._layer_factor = not plain or within
            self._number = self._increasing = plain or within
            self._layer_term = within

    def shorten(self, tree: Expression) -> Expression | None:
        """Return a shorter tree that ranks alike; None if no rule has one."""
        for rule in (
            partial(self._below_signs, self._functions),
            partial(self._below_signs, self._rescaled),
            self._terms,
            self._factors,
        ):
            for found in rule(tree):
                if found.axes is tree.axes and measure(found) < measure(tree):
                    return found
        return None

    def _role(self, tree: Expression) -> str:
        return self._build.patterns.traits(tree).role

    def _below_signs(
        self, rule: Callable[[Expression], Iterator[Expression]], tree: Expression
    ) -> Iterator[Expression]:
        """Apply a rule to the tree, and to what it is the negative of."""
        yield from rule(tree)
        if self._role(tree) == "negate":
            for found in self._below_signs(rule, tree.arguments[0]):
                yield self._build.negate(found)

    def _functions(self, tree: Expression) -> Iterator[Expression]:
        """Drop an outer function that strictly increases where its argument lies."""
        if not self._increasing or len(tree.arguments) != 1:
            return
        (inner,) = tree.arguments
        role, (low, high) = self._role(tree), self._ranges.of(inner)
        if (
            role == "tanh"
            or (role in ("root", "square") and low >= 0)
            or (role == "logarithm" and low >= symbols.EPSILON)
            or (role == "exponential" and high <= symbols.EXP_LIMIT)
        ):
            yield inner

    def _terms(self, tree: Expression) -> Iterator[Expression]:
        """Drop a term of the outer sum that moves all scores that are compared alike."""
        role, arguments = self._role(tree), tree.arguments
        if role in ("add", "subtract"):
            if self._moves_alike(arguments[1]):
                yield arguments[0]
            if self._moves_alike(arguments[0]):
                yield arguments[1] if role == "add" else self._build.negate(arguments[1])
        number = [argument.value is not None for argument in arguments]
        for place, argument in enumerate(arguments):
            scaled = role == "multiply" and number[1 - place]
            scaled = scaled or (role == "divide" and place == 0 and number[1])
            if role in ("add", "subtract", "negate") or scaled:
                for found in self._terms(argument):
                    yield from _replaced(tree, place, found)

    def _moves_alike(self, term: Expression) -> bool:
        if term.value is not None:
            return self._number
        if self._row and term.axes.issubset(WEIGHT - _ROW):
            return True
        return self._layer_term and term.axes is SCALAR

    def _rescaled(self, tree: Expression) -> Iterator[Expression]:
        """Drop an outer normaliser that relates what is compared to one number alone."""
        traits = self._build.patterns.traits(tree)
        if not traits.rescales or not traits.shift_free:
            return
        if (self._layer_term and tree.over is self._root) or (self._row and tree.over is _ROW):
            yield tree.arguments[0]

    def _factors(
        self, tree: Expression, *, outer: bool = True, signless: bool = False
    ) -> Iterator[Expression]:
        """Drop a factor at a place from which factors go to the root.

        Args:
            tree: the part that is looked at.
            outer: whether no reduction or normaliser stands around it.
            signless: whether the sign of a factor is lost on the way to the root.
        """
        role, arguments = self._role(tree), tree.arguments
        if role in ("multiply", "divide"):
            for place, factor in enumerate(arguments):
                divisor = role == "divide" and place == 1
                sign = self._sign(factor, outer=outer, signless=signless, divisor=divisor)
                other = arguments[1 - place]
                if sign and (role == "multiply" or divisor):
                    yield other if sign > 0 else self._build.negate(other)
                elif sign:
                    yield from _replaced(tree, place, Expression.constant(sign))
        traits = self._build.patterns.traits(tree)
        alike = tree.over is tree.axes or (outer and self._row and tree.over is _ROW)
        if self._layer_factor and alike and traits.rescales and not traits.shift_free:
            yield arguments[0]
        if self._layer_factor and role == "mean" and self._build.has("total"):
            yield self._build.apply("total", *arguments, over=tree.over)
        if role in _HOMOGENEOUS or role in ("multiply", "divide"):
            inside = outer and not tree.over
            even = role in _EVEN or (signless and role in ("multiply", "divide", "negate"))
            for place, argument in enumerate(arguments):
                divisor = role == "divide" and place == 1
                if divisor and not self._never_zero(argument, symbols.EPSILON):
                    continue
                for found in self._factors(argument, outer=inside, signless=even):
                    if not divisor or self._never_zero(found, symbols.EPSILON):
                        yield from _replaced(tree, place, found)

    def _sign(self, factor: Expression, *, outer: bool, signless: bool, divisor: bool) -> int:
        """Return the sign that is left of a factor that may be dropped; 0 where it may not be."""
        if not self._never_zero(factor, symbols.EPSILON if divisor else 0.0):
            return 0
        sign = 1 if signless or self._ranges.nonnegative(factor) else -1
        if factor.value is not None:
            return sign
        row = outer and self._row and factor.axes.issubset(WEIGHT - _ROW)
        return sign if row or (self._layer_factor and factor.axes is SCALAR) else 0

    def _never_zero(self, tree: Expression, least: float) -> bool:
        """Return whether every magnitude is above ``least``, and all signs are the same."""
        low, high = self._ranges.of(tree)
        return low > least or high < -least
