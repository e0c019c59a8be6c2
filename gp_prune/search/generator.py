"""Random trees of a typed set, complete and within the limits by construction.

DEAP's own generator dead-ends on typed sets (an IndexError in a quarter to a half of all calls);
here only productions that can still be completed in the height that is left are drawn.
"""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple

from gp_prune.language.axes import SCALAR, Axes
from gp_prune.language.primitive import Elementwise, Normaliser, Reduction
from gp_prune.search.grammar import Grammar, Individual, Production


class Limits(NamedTuple):
    """What every tree of a search keeps within."""

    size: int = 75
    height: int = 12

    def hold(self, tree: Any) -> bool:
        """Whether a DEAP tree is within the limits."""
        return len(tree) <= self.size and tree.height <= self.height


_CONSTANT_SHARE = 0.9
"""Share of {} leaves that are constants where the type has operands too."""


def draw_constant(rng: random.Random) -> float:
    """A constant of three digits, log-uniform over 1e-4 ... 1e2, one in five negative."""
    value = 10.0 ** rng.uniform(-4, 2)
    return three_digits(-value if rng.random() < 0.2 else value)


def three_digits(value: float) -> float:
    """The value rounded to three significant digits: a constant that a formula can print."""
    return float(f"{value:.3g}")


class Generator:
    """Draws random trees.

    Args:
        grammar: the typed set.
        rng: the source of randomness; every draw comes from it.
        limits: size and height that no tree exceeds.
    """

    def __init__(self, grammar: Grammar, rng: random.Random, limits: Limits = Limits()) -> None:
        self.grammar = grammar
        self.rng = rng
        self.limits = limits

    def individual(self, least: int = 1, most: int = 5) -> Individual:
        """A random tree of the root type; half of them full, half grown, height about least..most.

        The height is at most ``limits.height``, and at least what the root type needs.
        """
        height = self.rng.randint(least, most)
        return Individual(self.subtree(self.grammar.root, height, full=self.rng.random() < 0.5))

    def subtree(
        self, axes: Axes, height: int, *, full: bool = False, size: int | None = None
    ) -> list[Any]:
        """The nodes, in prefix order, of a random tree of a type.

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
        """A random leaf of a type; None where it has none."""
        operands = self.grammar.terminals(axes)
        if axes is SCALAR and (not operands or self.rng.random() < _CONSTANT_SHARE):
            return self.grammar.constant(draw_constant(self.rng))
        return self.rng.choice(operands) if operands else None

    def production(self, axes: Axes, height: int) -> Production | None:
        """A random production of a type that can be completed within a height.

        The kind of operator is drawn first, then the operator, then its types, so that the many
        typed uses of binary operators do not crowd out the reductions.
        """
        least = self.grammar.least_height
        fitting: dict[str, dict[str, list[Production]]] = {}
        for name, productions in self.grammar.by_result[axes].items():
            usable = [p for p in productions if all(least[a] < height for a in p.arguments)]
            if usable:
                fitting.setdefault(_kind(usable[0]), {})[name] = usable
        if not fitting:
            return None
        kinds = sorted(fitting)
        (kind,) = self.rng.choices(kinds, [_KIND_WEIGHTS[kind] for kind in kinds])
        operator = self.rng.choice(sorted(fitting[kind]))
        return self.rng.choice(fitting[kind][operator])


_KIND_WEIGHTS = {"reduction": 3.0, "binary": 3.0, "unary": 2.0, "normaliser": 1.0, "special": 1.0}


def _kind(production: Production) -> str:
    shape = production.operator.shape
    if isinstance(shape, Reduction):
        return "reduction"
    if isinstance(shape, Normaliser):
        return "normaliser"
    if isinstance(shape, Elementwise):
        return "unary" if shape.arity == 1 else "binary"
    return "special"


def is_finite_number(value: float) -> bool:
    """Whether a constant may stand in a tree."""
    return math.isfinite(value) and abs(value) <= 1e6
