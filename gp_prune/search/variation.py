"""Random trees of a grammar, and crossover and mutation that keep types and limits.

All draws come from an explicit source of randomness. DEAP's own generator dead-ends on typed sets
(an IndexError in a quarter to a half of all calls); here only productions that can still be
completed in the height that is left are drawn. The variation operators try a few times, leave
parents unchanged, and return a copy of the parent where nothing valid and different came out.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

from gp_prune.language.axes import SCALAR, Axes, Elementwise, Normaliser, Reduction
from gp_prune.search.grammar import Constant, Grammar, Individual, Production

CROSSOVER = "crossover"
PRODUCTS = ("mul", "div")
"""Operators that put two factors together."""

TRIES = 10
"""Number of times that a variation operator is tried."""

_INNER_SHARE = 0.9
"""Share of the picked nodes that are inner ones."""

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


def is_finite_number(value: float) -> bool:
    """Tell whether a constant may stand in a tree."""
    return math.isfinite(value) and abs(value) <= 1e6


def _retried(
    change: Callable[[Variation, Individual], Individual],
) -> Callable[[Variation, Individual], Individual]:
    """Try a change until its child keeps the limits and differs from the parent, a few times."""

    @wraps(change)
    def mutate(variation: Variation, parent: Individual) -> Individual:
        for _ in range(TRIES):
            child = change(variation, parent)
            if variation.generator.limits.hold(child) and not _same(child, parent):
                return child
        return Individual(parent)

    return mutate


class Variation:
    """The variation operators of one search.

    Args:
        generator: grammar, random source and limits.
        seeds: trees from which the seed graft takes its pieces.
    """

    def __init__(self, generator: Generator, seeds: Sequence[Individual] = ()) -> None:
        self.generator = generator
        self.grammar: Grammar = generator.grammar
        self.rng: random.Random = generator.rng
        self.seeds = list(seeds)
        self.mutations: dict[str, tuple[Callable[[Individual], Individual], float]] = {
            "subtree": (self.subtree, 3.0),
            "node": (self.node, 2.0),
            "constant": (self.constant_step, 1.0),
            "insert": (self.insert, 1.5),
            "shrink": (self.shrink, 1.5),
            "graft": (self.graft, 1.0 if self.seeds else 0.0),
            "factor": (self.factor, 2.0 if generator.factors else 0.0),
        }

    def mutate(self, parent: Individual) -> Individual:
        """Return a mutant by one of the operators, drawn by weight among those that apply."""
        names = [name for name, (_, weight) in self.mutations.items() if weight > 0]
        weights = [self.mutations[name][1] for name in names]
        (name,) = self.rng.choices(names, weights)
        return self.apply(name, parent)

    def apply(self, name: str, parent: Individual) -> Individual:
        """Return a mutant by the operator of a name."""
        return self.mutations[name][0](parent)

    def crossover(self, first: Individual, second: Individual) -> tuple[Individual, Individual]:
        """Swap two subtrees of one type; the pick is by node and prefers inner nodes.

        Only types that are really present in both trees are considered, and identical subtrees
        are not swapped. Both children keep within the limits, or copies of the parents come back.
        """
        by_type: dict[type, list[int]] = defaultdict(list)
        for position, node in enumerate(second):
            by_type[node.ret].append(position)
        for _ in range(TRIES):
            cut = self._pick(first)
            partners = by_type.get(first[cut].ret, [])
            if not partners:
                continue
            here = first.searchSubtree(cut)
            there = second.searchSubtree(self.rng.choice(partners))
            if _same(first[here], second[there]):
                continue
            children = _replace(first, here, second[there]), _replace(second, there, first[here])
            if all(self.generator.limits.hold(child) for child in children):
                return children
        return Individual(first), Individual(second)

    @_retried
    def subtree(self, parent: Individual) -> Individual:
        """Replace a subtree by a random one of the same type."""
        old = parent.searchSubtree(self._pick(parent))
        axes = self._axes(parent[old.start])
        room = self.generator.limits.size - len(parent) + (old.stop - old.start)
        new = self.generator.subtree(axes, self.rng.randint(0, 4), size=room)
        return _replace(parent, old, new)

    @_retried
    def node(self, parent: Individual) -> Individual:
        """Replace one node by another of the same argument types and result."""
        position = self.rng.randrange(len(parent))
        node = parent[position]
        if node.arity == 0:
            return _replace_node(parent, position, self.generator.leaf(self._axes(node)))
        options = [
            other
            for other in self.grammar.deap.primitives[node.ret]
            if other.args == node.args and other.name != node.name
        ]
        return _replace_node(parent, position, self.rng.choice(options)) if options else parent

    def constant_step(self, parent: Individual) -> Individual:
        """Scale a constant by a log-normal factor; a tree without constants mutates a subtree."""
        has_constants = any(isinstance(node, Constant) for node in parent)
        return self._scale_constant(parent) if has_constants else self.subtree(parent)

    @_retried
    def _scale_constant(self, parent: Individual) -> Individual:
        """Scale a constant; one that cannot be scaled (zero, or too large) is drawn again."""
        position = self.rng.choice([p for p, n in enumerate(parent) if isinstance(n, Constant)])
        value = three_digits(parent[position].value * self.rng.lognormvariate(0.0, 0.5))
        if value == 0.0 or not is_finite_number(value):
            value = draw_constant(self.rng)
        return _replace_node(parent, position, self.grammar.constant(value))

    @_retried
    def insert(self, parent: Individual) -> Individual:
        """Put a new operator above a subtree, which becomes one of its arguments."""
        old = parent.searchSubtree(self._pick(parent))
        axes = self._axes(parent[old.start])
        production = self.generator.production(axes, self.generator.limits.height)
        if production is None or axes not in production.arguments:
            return parent
        kept = self.rng.choice([p for p, type_ in enumerate(production.arguments) if type_ is axes])
        new: list[Any] = [self.grammar.nodes[production.name]]
        for position, type_ in enumerate(production.arguments):
            new += parent[old] if position == kept else self.generator.subtree(type_, 1, size=10)
        return _replace(parent, old, new)

    @_retried
    def shrink(self, parent: Individual) -> Individual:
        """Replace a subtree by a smaller one of the same type inside it."""
        old = parent.searchSubtree(self._pick(parent))
        type_ = parent[old.start].ret
        inner = [p for p in range(old.start + 1, old.stop) if parent[p].ret is type_]
        if not inner:
            return parent
        return _replace(parent, old, parent[parent.searchSubtree(self.rng.choice(inner))])

    @_retried
    def graft(self, parent: Individual) -> Individual:
        """Replace a subtree by a piece of a seed, of the same type."""
        seed = self.rng.choice(self.seeds)
        piece = seed.searchSubtree(self._pick(seed))
        fitting = [p for p, node in enumerate(parent) if node.ret is seed[piece.start].ret]
        if not fitting:
            return parent
        old = parent.searchSubtree(self.rng.choice(fitting))
        return _replace(parent, old, seed[piece])

    @_retried
    def factor(self, parent: Individual) -> Individual:
        """Multiply or divide a subtree by a part that reads other measurements.

        In half of all cases the subtree is the whole tree.
        """
        whole = self.rng.random() < 0.5
        old = parent.searchSubtree(0 if whole else self._pick(parent))
        axes = self._axes(parent[old.start])
        product = self.generator.product_of(axes, axes)
        if product is None:
            return parent
        kept = self.rng.choice([p for p, type_ in enumerate(product.arguments) if type_ is axes])
        new = self.generator.factor(product.arguments[1 - kept])
        if not unlike(self.grammar, parent[old], new):
            return parent
        parts = [parent[old], new] if kept == 0 else [new, parent[old]]
        return _replace(parent, old, [self.grammar.nodes[product.name], *parts[0], *parts[1]])

    def _pick(self, tree: Individual) -> int:
        """Return the position of a random node, an inner one nine times in ten."""
        inner = [position for position, node in enumerate(tree) if node.arity > 0]
        if inner and self.rng.random() < _INNER_SHARE:
            return self.rng.choice(inner)
        return self.rng.randrange(len(tree))

    def _axes(self, node: Any) -> Axes:
        return self.grammar.axes_of[node.ret]


def _replace(tree: Individual, old: slice, nodes: Sequence[Any]) -> Individual:
    """Return a new tree in which the nodes of a subtree are replaced."""
    return Individual([*list(tree)[: old.start], *nodes, *list(tree)[old.stop :]])


def _replace_node(tree: Individual, position: int, node: Any) -> Individual:
    return _replace(tree, slice(position, position + 1), [node])


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(
        a.name == b.name and a.ret is b.ret for a, b in zip(first, second, strict=True)
    )
