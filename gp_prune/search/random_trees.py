"""Random trees of a grammar.

All draws come from an explicit source of randomness. DEAP's own generator dead-ends on typed sets
(an IndexError in a quarter to a half of all calls); here only productions that can still be
completed in the height that is left are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from gp_prune.language.axes import SCALAR, Axes, Elementwise, Normaliser, Reduction
from gp_prune.search.grammar import Grammar, Individual, Production

PRODUCTS = ("mul", "div")
"""Operators that put two factors together."""

TRIES = 10
"""Number of times that a variation operator is tried."""

_CONSTANT_SHARE = 0.9
"""Share of {} leaves that are constants where the type has operands too."""

_GROUP_WEIGHTS = {"reduction": 3.0, "binary": 3.0, "unary": 2.0, "normaliser": 1.0, "special": 0.5}
"""How often a group of operators is drawn.

A type has one or two ``special`` operators, with their own signature, if any; this weight makes one
about as frequent as one reduction.
"""


_FACTOR_HEIGHT = 2
"""Greatest height of a factor that is drawn, unless its type needs more."""


class Limits(NamedTuple):
    """Size and height that no tree of a search exceeds."""

    size: int = 75
    height: int = 12

    def hold(self, tree: Any) -> bool:
        """Tell whether a DEAP tree is within the limits."""
        return len(tree) <= self.size and tree.height <= self.height


def draw_constant(rng: random.Random) -> float:
    """Draw a constant of three digits, log-uniform over 1e-4 ... 1e2, one in five negative."""
    value = 10.0 ** rng.uniform(-4, 2)
    return three_digits(-value if rng.random() < 0.2 else value)


def three_digits(value: float) -> float:
    """Round to three significant digits: a constant that a formula can print."""
    return float(f"{value:.3g}")


class Generator:
    """Draws random trees.

    Args:
        grammar: the grammar of the trees.
        rng: the source of randomness; every draw comes from it.
        limits: size and height that no tree exceeds.
        factors: whether half of the individuals are products or ratios of two parts that read
            different measurements, as most published metrics are.
    """

    def __init__(
        self,
        grammar: Grammar,
        rng: random.Random,
        limits: Limits = Limits(),
        *,
        factors: bool = False,
    ) -> None:
        self.grammar = grammar
        self.rng = rng
        self.limits = limits
        self.factors = factors

    def individual(self, least: int = 1, most: int = 5) -> Individual:
        """Draw a tree of the root type; half of them full, half grown, height about least..most.

        The height is at most ``limits.height``, and at least what the root type needs.
        """
        if self.factors and self.rng.random() < 0.5:
            return self.product()
        height = self.rng.randint(least, most)
        return Individual(self.subtree(self.grammar.root, height, full=self.rng.random() < 0.5))

    def product(self) -> Individual:
        """Draw a product or a ratio of two parts that read different measurements.

        Where no draw of a few is one, any tree.
        """
        for _ in range(TRIES):
            product = self.product_of(self.grammar.root)
            if product is None:
                break
            parts = [self.factor(axes) for axes in product.arguments]
            tree = Individual([self.grammar.nodes[product.name], *parts[0], *parts[1]])
            if unlike(self.grammar, *parts) and self.limits.hold(tree):
                return tree
        return Individual(self.factor(self.grammar.root))

    def factor(self, axes: Axes) -> list[Any]:
        """Draw a small tree of a type; return its nodes in prefix order."""
        return self.subtree(axes, self.rng.randint(0, _FACTOR_HEIGHT))

    def product_of(self, axes: Axes, one: Axes | None = None) -> Production | None:
        """Draw a product or a ratio of a type, one of whose arguments has the type ``one``.

        None where the grammar has none.
        """
        usable = {
            name: [p for p in self.grammar.by_result[axes].get(name, ())
                   if one is None or one in p.arguments]
            for name in PRODUCTS
        }  # fmt: skip
        names = [name for name, productions in usable.items() if productions]
        return self.rng.choice(usable[self.rng.choice(names)]) if names else None

    def subtree(
        self, axes: Axes, height: int, *, full: bool = False, size: int | None = None
    ) -> list[Any]:
        """Draw a tree of a type; return its nodes in prefix order.

        Args:
            axes: type of the tree.
            height: height to keep within; raised to what the type needs.
            full: whether branches end only where they must.
            size: number of nodes to keep within; the limit by default.

        Returns:
            A complete tree. Where no draw of a few keeps within ``size``, the smallest one.
        """
        size = self.limits.size if size is None else size
        height = min(max(height, self.grammar.least_height[axes]), self.limits.height)
        best: list[Any] = []
        for attempt in range(8):
            nodes: list[Any] = []
            self._grow(axes, max(height - attempt, self.grammar.least_height[axes]), full, nodes)
            if len(nodes) <= size:
                return nodes
            if not best or len(nodes) < len(best):
                best = nodes
        return best

    def _grow(self, axes: Axes, height: int, full: bool, nodes: list[Any]) -> None:
        """Append a random tree of a type and at most that height."""
        leaf = self.leaf(axes)
        stop = 0.0 if full else 0.2
        if height == 0 or (leaf is not None and self.rng.random() < stop):
            nodes.append(leaf)
            return
        production = self.production(axes, height)
        if production is None:
            nodes.append(leaf)
            return
        nodes.append(self.grammar.nodes[production.name])
        for argument in production.arguments:
            self._grow(argument, height - 1, full, nodes)

    def leaf(self, axes: Axes) -> Any:
        """Draw a leaf of a type; None where it has none."""
        operands = self.grammar.terminals(axes)
        if axes is SCALAR and (not operands or self.rng.random() < _CONSTANT_SHARE):
            return self.grammar.constant(draw_constant(self.rng))
        return self.rng.choice(operands) if operands else None

    def production(self, axes: Axes, height: int) -> Production | None:
        """Draw a production of a type that can be completed within a height.

        The group of operators is drawn first, then the operator, then its types, so that the many
        typed uses of binary operators do not crowd out the reductions.
        """
        least = self.grammar.least_height
        fitting: dict[str, dict[str, list[Production]]] = {}
        for name, productions in self.grammar.by_result[axes].items():
            usable = [p for p in productions if all(least[a] < height for a in p.arguments)]
            if usable:
                fitting.setdefault(_group(usable[0]), {})[name] = usable
        if not fitting:
            return None
        groups = sorted(fitting)
        (group,) = self.rng.choices(groups, [_GROUP_WEIGHTS[group] for group in groups])
        operator = self.rng.choice(sorted(fitting[group]))
        return self.rng.choice(fitting[group][operator])


def unlike(grammar: Grammar, first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Tell whether two parts read measurements, and none that both read."""
    one, other = (
        {grammar.operands[node.name].needs for node in part if node.name in grammar.operands}
        for part in (first, second)
    )
    return bool(one and other) and not one & other


def _group(production: Production) -> str:
    shape = production.operator.shape
    if isinstance(shape, Reduction):
        return "reduction"
    if isinstance(shape, Normaliser):
        return "normaliser"
    if isinstance(shape, Elementwise):
        return "unary" if shape.arity == 1 else "binary"
    return "special"
